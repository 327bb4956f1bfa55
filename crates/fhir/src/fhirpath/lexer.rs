//! The tokens of FHIRPath (<https://hl7.org/fhirpath/N1/grammar.html>).

use super::temporal::{Kind, Temporal};
use super::{CompileError, CompileErrorKind};

#[derive(Clone, PartialEq)]
pub(super) enum Token {
    /// A name, or a word that the grammar may take for an operator.
    Word(String),
    /// A name in backquotes, which is nothing else.
    Quoted(String),
    Text(String),
    Number(String),
    Temporal(Kind, Temporal),
    /// What follows `%`.
    Variable(String),
    /// What follows `$`.
    Special(String),
    Symbol(&'static str),
    End,
}

/// Longer symbols first.
const SYMBOLS: &[&str] = &[
    "<=", ">=", "!=", "!~", "=", "<", ">", "~", "+", "-", "*", "/", "&", "|", ".", ",", "(", ")", "[", "]",
    "{", "}",
];

/// Every token of `text` with its position; the last is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<(Token, usize)>, CompileError> {
    let mut lexer = Lexer { text, position: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks()?;
        let start = lexer.position;
        let token = lexer.token().map_err(|kind| CompileError { position: start, kind })?;
        let last = token == Token::End;
        tokens.push((token, start));
        if last {
            return Ok(tokens);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    position: usize,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.position..).unwrap_or_default()
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|letter| !wanted(letter)).unwrap_or(rest.len());
        self.position += end;
        rest.get(..end).unwrap_or_default()
    }

    fn skip_blanks(&mut self) -> Result<(), CompileError> {
        loop {
            self.take_while(|letter| matches!(letter, ' ' | '\t' | '\r' | '\n' | '\u{a0}'));
            let rest = self.rest();
            if rest.starts_with("//") {
                self.take_while(|letter| !matches!(letter, '\r' | '\n'));
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let Some(length) = comment.find("*/") else {
                    let position = self.position;
                    return Err(CompileError { position, kind: CompileErrorKind::UnexpectedEnd });
                };
                self.position += length + 4;
            } else {
                return Ok(());
            }
        }
    }

    fn token(&mut self) -> Result<Token, CompileErrorKind> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        match first {
            'A'..='Z' | 'a'..='z' | '_' => Ok(Token::Word(self.name().to_owned())),
            '0'..='9' => Ok(Token::Number(self.number().to_owned())),
            '\'' => self.quoted('\'').map(Token::Text),
            '`' | '"' => self.quoted(first).map(Token::Quoted),
            '@' => self.temporal(),
            '$' => {
                self.position += 1;
                Ok(Token::Special(self.name().to_owned()))
            }
            '%' => {
                self.position += 1;
                let name = match self.rest().chars().next() {
                    Some(quote @ ('`' | '\'' | '"')) => self.quoted(quote)?,
                    // R4 writes %vs-name and %ext-name without quotes too.
                    _ => {
                        let name = self.take_while(|letter| {
                            letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-')
                        });
                        name.to_owned()
                    }
                };
                if name.is_empty() { Err(CompileErrorKind::Unexpected) } else { Ok(Token::Variable(name)) }
            }
            _ => {
                let symbol = SYMBOLS
                    .iter()
                    .find(|symbol| rest.starts_with(**symbol))
                    .ok_or(CompileErrorKind::Unexpected)?;
                self.position += symbol.len();
                Ok(Token::Symbol(symbol))
            }
        }
    }

    fn name(&mut self) -> &'t str {
        self.take_while(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    }

    /// `12` or `1.5`; in `1.abs()` the point is not part of it.
    fn number(&mut self) -> &'t str {
        let start = self.position;
        self.take_while(|letter| letter.is_ascii_digit());
        let fraction = self.rest().strip_prefix('.');
        if fraction.is_some_and(|digits| digits.starts_with(|digit: char| digit.is_ascii_digit())) {
            self.position += 1;
            self.take_while(|letter| letter.is_ascii_digit());
        }
        self.text.get(start..self.position).unwrap_or_default()
    }

    fn temporal(&mut self) -> Result<Token, CompileErrorKind> {
        self.position += 1;
        let rest = self.rest();
        let (kind, value, length) = Temporal::scan(rest).ok_or(CompileErrorKind::Literal)?;
        self.position += length;
        Ok(Token::Temporal(kind, value))
    }

    fn quoted(&mut self, quote: char) -> Result<String, CompileErrorKind> {
        self.position += 1;
        let mut out = String::new();
        let rest = self.rest();
        let mut letters = rest.char_indices();
        while let Some((at, letter)) = letters.next() {
            if letter == quote {
                self.position += at + 1;
                return Ok(out);
            }
            if letter != '\\' {
                out.push(letter);
                continue;
            }
            let (_, escaped) = letters.next().ok_or(CompileErrorKind::UnexpectedEnd)?;
            out.push(match escaped {
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let digits = rest.get(at + 2..at + 6).ok_or(CompileErrorKind::Literal)?;
                    letters.nth(3);
                    // `+123` would be read as a number too.
                    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                    let code = plain.then(|| u32::from_str_radix(digits, 16).ok()).flatten();
                    code.and_then(char::from_u32).ok_or(CompileErrorKind::Literal)?
                }
                '\\' | '/' | '\'' | '"' | '`' => escaped,
                _ => return Err(CompileErrorKind::Literal),
            });
        }
        Err(CompileErrorKind::UnexpectedEnd)
    }
}
