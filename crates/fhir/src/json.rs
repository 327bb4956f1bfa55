//! JSON in, exactly: RFC 8259 with the ambiguities refused.
//!
//! The parser is ours, not serde_json's, for three reasons: duplicate keys must be refused (two readers of the same
//! body must never see different resources), numbers must keep their text (`1.00` is not `1.0` in FHIR, and
//! serde_json turns `1e3` into `1e+3`), and an error must say where, never what.

use serde_json::{Map, Number, Value};

/// What is refused for its size alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest text, in bytes.
    pub bytes: usize,
    /// The deepest nesting of arrays and objects; `[]` has depth 1.
    pub depth: usize,
}

impl Default for Limits {
    /// 16 MiB, depth 100: four times as deep as the deepest example of the specification.
    fn default() -> Self {
        Self { bytes: 16 << 20, depth: 100 }
    }
}

/// Why a text is not acceptable JSON, and where. Holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at line {line}, column {column}")]
pub struct JsonError {
    /// Counted from 1; 0 if the place is not known because the text was not looked at.
    pub line: usize,
    /// Counted in bytes from 1; 0 as for `line`.
    pub column: usize,
    /// What is wrong.
    pub kind: JsonErrorKind,
}

/// What is wrong with a text. Always the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonErrorKind {
    /// Longer than [`Limits::bytes`].
    #[error("longer than is accepted")]
    TooLong,
    /// Deeper than [`Limits::depth`].
    #[error("nested deeper than is accepted")]
    TooDeep,
    /// Not UTF-8.
    #[error("invalid utf-8")]
    InvalidUtf8,
    /// The text ends within a value; truncated, perhaps.
    #[error("unexpected end of text")]
    UnexpectedEnd,
    /// A character that cannot stand there.
    #[error("unexpected character")]
    UnexpectedCharacter,
    /// Something follows the value.
    #[error("trailing characters")]
    TrailingCharacters,
    /// A key stands twice in one object.
    #[error("duplicate key")]
    DuplicateKey,
    /// A number that JSON does not allow.
    #[error("invalid number")]
    InvalidNumber,
    /// An escape that JSON does not allow, or half a surrogate pair.
    #[error("invalid escape")]
    InvalidEscape,
    /// A control character that is not escaped.
    #[error("control character in a string")]
    ControlCharacter,
}

/// Parses `bytes`, one JSON value with nothing but whitespace around it.
///
/// Numbers keep their text and objects their order: for compact input whose strings are escaped as serde_json
/// escapes them, `to_string` of the result is the input.
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Value, JsonError> {
    if bytes.len() > limits.bytes {
        return Err(JsonError { line: 0, column: 0, kind: JsonErrorKind::TooLong });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| located(bytes, error.valid_up_to(), JsonErrorKind::InvalidUtf8))?;
    let mut parser = Parser { text, bytes, position: 0, depth_left: limits.depth };
    parser.document().map_err(|kind| located(bytes, parser.position, kind))
}

fn located(bytes: &[u8], position: usize, kind: JsonErrorKind) -> JsonError {
    let before = bytes.get(..position).unwrap_or(bytes);
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    JsonError { line, column: before.len() - line_start + 1, kind }
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    position: usize,
    depth_left: usize,
}

type Parsed<T> = Result<T, JsonErrorKind>;

impl Parser<'_> {
    fn document(&mut self) -> Parsed<Value> {
        let value = self.value()?;
        match self.next_token() {
            None => Ok(value),
            Some(_) => Err(JsonErrorKind::TrailingCharacters),
        }
    }

    fn value(&mut self) -> Parsed<Value> {
        match self.next_token() {
            Some(b'"') => self.string().map(Value::String),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => Err(JsonErrorKind::UnexpectedCharacter),
            None => Err(JsonErrorKind::UnexpectedEnd),
        }
    }

    fn nested(&mut self, inner: fn(&mut Self) -> Parsed<Value>) -> Parsed<Value> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or(JsonErrorKind::TooDeep)?;
        self.position += 1;
        let value = inner(self)?;
        self.depth_left += 1;
        Ok(value)
    }

    fn object(&mut self) -> Parsed<Value> {
        let mut object = Map::new();
        if self.next_token() == Some(b'}') {
            self.position += 1;
            return Ok(Value::Object(object));
        }
        loop {
            if self.next_token() != Some(b'"') {
                return Err(self.unexpected());
            }
            let key_position = self.position;
            let key = self.string()?;
            if self.next_token() != Some(b':') {
                return Err(self.unexpected());
            }
            self.position += 1;
            let value = self.value()?;
            if object.insert(key, value).is_some() {
                self.position = key_position;
                return Err(JsonErrorKind::DuplicateKey);
            }
            match self.next_token() {
                Some(b',') => self.position += 1,
                Some(b'}') => {
                    self.position += 1;
                    return Ok(Value::Object(object));
                }
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn array(&mut self) -> Parsed<Value> {
        let mut array = Vec::new();
        if self.next_token() == Some(b']') {
            self.position += 1;
            return Ok(Value::Array(array));
        }
        loop {
            array.push(self.value()?);
            match self.next_token() {
                Some(b',') => self.position += 1,
                Some(b']') => {
                    self.position += 1;
                    return Ok(Value::Array(array));
                }
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn number(&mut self) -> Parsed<Value> {
        let start = self.position;
        self.skip_if(|byte| byte == b'-');
        if self.skip_if(|byte| byte == b'0') {
            if self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
                return Err(JsonErrorKind::InvalidNumber);
            }
        } else {
            self.digits()?;
        }
        if self.skip_if(|byte| byte == b'.') {
            self.digits()?;
        }
        if self.skip_if(|byte| matches!(byte, b'e' | b'E')) {
            self.skip_if(|byte| matches!(byte, b'+' | b'-'));
            self.digits()?;
        }
        let text = self.slice(start, self.position)?;
        // The only constructor that keeps the text. It is hidden from serde_json's documentation, so a test here
        // holds it to its promise; the grammar has just been checked.
        Ok(Value::Number(Number::from_string_unchecked(text.to_owned())))
    }

    fn digits(&mut self) -> Parsed<()> {
        if !self.skip_if(|byte| byte.is_ascii_digit()) {
            return Err(match self.peek() {
                Some(_) => JsonErrorKind::InvalidNumber,
                None => JsonErrorKind::UnexpectedEnd,
            });
        }
        while self.skip_if(|byte| byte.is_ascii_digit()) {}
        Ok(())
    }

    fn string(&mut self) -> Parsed<String> {
        self.position += 1;
        let start = self.position;
        self.skip_plain();
        let plain = self.slice(start, self.position)?;
        if self.peek() == Some(b'"') {
            let plain = plain.to_owned();
            self.position += 1;
            return Ok(plain);
        }
        let mut string = plain.to_owned();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.position += 1;
                    return Ok(string);
                }
                Some(b'\\') => {
                    self.position += 1;
                    string.push(self.escape()?);
                }
                Some(_) => return Err(JsonErrorKind::ControlCharacter),
                None => return Err(JsonErrorKind::UnexpectedEnd),
            }
            let start = self.position;
            self.skip_plain();
            string.push_str(self.slice(start, self.position)?);
        }
    }

    /// Skips what stands for itself in a string. Stops only at ASCII, so on a character boundary.
    fn skip_plain(&mut self) {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let special = |byte: &u8| matches!(*byte, b'"' | b'\\' | 0..=0x1f);
        self.position += rest.iter().position(special).unwrap_or(rest.len());
    }

    fn escape(&mut self) -> Parsed<char> {
        let letter = self.peek().ok_or(JsonErrorKind::UnexpectedEnd)?;
        let character = match letter {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => return Err(JsonErrorKind::InvalidEscape),
        };
        self.position += 1;
        Ok(character)
    }

    fn unicode_escape(&mut self) -> Parsed<char> {
        let first = self.code_unit()?;
        if !(0xD800..=0xDBFF).contains(&first) {
            return char::from_u32(first).ok_or(JsonErrorKind::InvalidEscape);
        }
        if !self.skip_if(|byte| byte == b'\\') || self.peek() != Some(b'u') {
            return Err(JsonErrorKind::InvalidEscape);
        }
        let second = self.code_unit()?;
        if !(0xDC00..=0xDFFF).contains(&second) {
            return Err(JsonErrorKind::InvalidEscape);
        }
        char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))
            .ok_or(JsonErrorKind::InvalidEscape)
    }

    /// The four digits after `u`, at which the parser stands.
    fn code_unit(&mut self) -> Parsed<u32> {
        self.position += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let byte = self.peek().ok_or(JsonErrorKind::UnexpectedEnd)?;
            let digit = char::from(byte).to_digit(16).ok_or(JsonErrorKind::InvalidEscape)?;
            unit = unit << 4 | digit;
            self.position += 1;
        }
        Ok(unit)
    }

    fn word(&mut self, word: &str, value: Value) -> Parsed<Value> {
        for expected in word.bytes() {
            if !self.skip_if(|byte| byte == expected) {
                return Err(self.unexpected());
            }
        }
        Ok(value)
    }

    /// The first byte after whitespace, not consumed.
    fn next_token(&mut self) -> Option<u8> {
        while self.skip_if(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')) {}
        self.peek()
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    fn skip_if(&mut self, wanted: impl Fn(u8) -> bool) -> bool {
        let found = self.peek().is_some_and(wanted);
        self.position += usize::from(found);
        found
    }

    fn unexpected(&self) -> JsonErrorKind {
        match self.peek() {
            Some(_) => JsonErrorKind::UnexpectedCharacter,
            None => JsonErrorKind::UnexpectedEnd,
        }
    }

    /// Never fails: both ends stand next to ASCII.
    fn slice(&self, start: usize, end: usize) -> Parsed<&str> {
        self.text.get(start..end).ok_or(JsonErrorKind::InvalidUtf8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(text: &str) -> String {
        parse(text.as_bytes(), &Limits::default()).unwrap().to_string()
    }

    fn refused(bytes: &[u8]) -> (JsonErrorKind, usize, usize) {
        let error = parse(bytes, &Limits { bytes: 64, depth: 3 }).unwrap_err();
        (error.kind, error.line, error.column)
    }

    #[test]
    fn numbers_and_order_are_kept() {
        for text in
            ["1.00", "1e3", "1E+03", "-0", "0.0", "123456789012345678901234567890.5", r#"{"b":1,"a":[]}"#]
        {
            assert_eq!(round(text), text);
        }
        assert_eq!(round(" { \"a\" : [ true , null ] }\r\n"), r#"{"a":[true,null]}"#);
    }

    #[test]
    fn escapes_mean_what_they_mean() {
        let value = parse(br#""a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00z""#, &Limits::default()).unwrap();
        assert_eq!(value, "a\"\\/\u{8}\u{c}\n\r\té😀z");
    }

    #[test]
    fn what_is_ambiguous_or_malformed_is_refused_with_its_place() {
        use JsonErrorKind::*;
        assert_eq!(refused(b"{\"a\":1,\n \"a\":2}"), (DuplicateKey, 2, 2));
        assert_eq!(refused(b"{\"a\":1,\"\\u0061\":2}"), (DuplicateKey, 1, 8));
        assert_eq!(refused(b"[[[[1]]]]"), (TooDeep, 1, 4));
        assert_eq!(refused(&[b' '; 65]), (TooLong, 0, 0));
        assert_eq!(refused(b"\"\xff\""), (InvalidUtf8, 1, 2));
        assert_eq!(refused(b"{} x"), (TrailingCharacters, 1, 4));
        assert_eq!(refused(b"\"a\nb\""), (ControlCharacter, 1, 3));
        for text in ["", " ", "{", "{\"a\"", "{\"a\":", "[1,", "\"a", "tru", "-", "1.", "1e", "\"\\u12"] {
            assert_eq!(refused(text.as_bytes()).0, UnexpectedEnd, "{text}");
        }
        for text in [
            "{a:1}",
            "{\"a\" 1}",
            "[1 2]",
            "[1,]",
            "{\"a\":1,}",
            "nul1",
            "+1",
            ".5",
            "NaN",
            "'a'",
            "\u{feff}1",
        ] {
            assert_eq!(refused(text.as_bytes()).0, UnexpectedCharacter, "{text}");
        }
        for text in ["01", "-a", "1.a", "1e+a"] {
            assert_eq!(refused(text.as_bytes()).0, InvalidNumber, "{text}");
        }
        for text in [r#""\x""#, r#""\ud800""#, r#""\ud800\u0041""#, r#""\udc00""#, r#""\u00g0""#] {
            assert_eq!(refused(text.as_bytes()).0, InvalidEscape, "{text}");
        }
    }
}
