//! From text to tree, by precedence climbing.

use super::decimal::Decimal;
use super::evaluate::Budget;
use super::item::Item;
use super::lexer::{self, Token};
use super::pattern::Pattern;
use super::quantity::Quantity;
use super::syntax::{Call, Expression, Function, Operator, Step, Variable};
use super::temporal::Kind;
use super::types::TypeName;
use super::{CompileError, CompileErrorKind, EXPRESSION_BYTES_MAX, EXPRESSION_DEPTH_MAX, EvaluateError};

/// `budget` is what regular expressions may take; there is none for the specification's own rules.
pub(super) fn parse(text: &str, budget: Option<&Budget>) -> Result<Expression, CompileError> {
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(CompileError { position: 0, kind: CompileErrorKind::TooLong });
    }
    let mut parser =
        Parser { tokens: lexer::tokens(text)?, next: 0, depth_left: EXPRESSION_DEPTH_MAX, budget };
    let (expression, _) = parser.expression(0)?;
    match parser.peek() {
        Token::End => Ok(expression),
        _ => Err(parser.unexpected()),
    }
}

struct Parser<'b> {
    tokens: Vec<(Token, usize)>,
    next: usize,
    /// How much deeper the parser itself may go: parentheses nest and make no tree.
    depth_left: usize,
    budget: Option<&'b Budget>,
}

type Parsed<T> = Result<T, CompileError>;

/// What was read and how deep its tree is: whatever walks the tree needs stack for every level of it.
type Tree<T> = Parsed<(T, usize)>;

/// What stands between two operands: an operator, or a test of type.
enum Infix {
    Operator(Operator),
    Is,
    As,
}

impl Infix {
    /// How tightly the symbol or word binds; the larger the tighter.
    fn of(token: &Token) -> Option<(Self, u8)> {
        let (Token::Symbol(_) | Token::Word(_)) = token else { return None };
        let word = match token {
            Token::Symbol(symbol) => symbol,
            Token::Word(word) => word.as_str(),
            _ => return None,
        };
        let (operator, power) = match word {
            "*" => (Operator::Multiply, 10),
            "/" => (Operator::Divide, 10),
            "div" => (Operator::Div, 10),
            "mod" => (Operator::Mod, 10),
            "+" => (Operator::Add, 9),
            "-" => (Operator::Subtract, 9),
            "&" => (Operator::Concatenate, 9),
            "is" => return Some((Self::Is, 8)),
            "as" => return Some((Self::As, 8)),
            "|" => (Operator::Union, 7),
            "<=" => (Operator::LessOrEqual, 6),
            "<" => (Operator::Less, 6),
            ">" => (Operator::Greater, 6),
            ">=" => (Operator::GreaterOrEqual, 6),
            "=" => (Operator::Equal, 5),
            "~" => (Operator::Equivalent, 5),
            "!=" => (Operator::NotEqual, 5),
            "!~" => (Operator::NotEquivalent, 5),
            "in" => (Operator::In, 4),
            "contains" => (Operator::Contains, 4),
            "and" => (Operator::And, 3),
            "or" => (Operator::Or, 2),
            "xor" => (Operator::Xor, 2),
            "implies" => (Operator::Implies, 1),
            _ => return None,
        };
        Some((Self::Operator(operator), power))
    }
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |(token, _)| token)
    }

    fn position(&self) -> usize {
        self.tokens.get(self.next).map_or(0, |(_, position)| *position)
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn error<T>(&self, kind: CompileErrorKind) -> Parsed<T> {
        Err(CompileError { position: self.position(), kind })
    }

    fn unexpected(&self) -> CompileError {
        let end = matches!(self.peek(), Token::End);
        let kind = if end { CompileErrorKind::UnexpectedEnd } else { CompileErrorKind::Unexpected };
        CompileError { position: self.position(), kind }
    }

    fn skip_if(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(next) if *next == symbol);
        self.next += usize::from(found);
        found
    }

    fn demand(&mut self, symbol: &str) -> Parsed<()> {
        if self.skip_if(symbol) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// An expression whose operators bind tighter than `power`.
    fn expression(&mut self, power: u8) -> Tree<Expression> {
        self.deeper()?;
        let (mut left, mut depth) = self.operand()?;
        while let Some((infix, own)) = Infix::of(self.peek()).filter(|(_, own)| *own > power) {
            self.next += 1;
            left = match infix {
                Infix::Is => Expression::Path(Box::new(left), vec![Step::Is(self.type_name()?)]),
                Infix::As => Expression::Path(Box::new(left), vec![Step::As(self.type_name()?)]),
                Infix::Operator(operator) => {
                    let (right, right_depth) = self.expression(own)?;
                    depth = depth.max(right_depth);
                    Expression::Binary(operator, Box::new(left), Box::new(right))
                }
            };
            depth = self.above(depth)?;
        }
        self.depth_left += 1;
        Ok((left, depth))
    }

    fn deeper(&mut self) -> Parsed<()> {
        match self.depth_left.checked_sub(1) {
            Some(left) => {
                self.depth_left = left;
                Ok(())
            }
            None => self.error(CompileErrorKind::TooDeep),
        }
    }

    /// The depth of a tree of which the deepest part is `depth` deep.
    fn above(&self, depth: usize) -> Parsed<usize> {
        if depth < EXPRESSION_DEPTH_MAX { Ok(depth + 1) } else { self.error(CompileErrorKind::TooDeep) }
    }

    /// A term with its signs and all that follows it after dots and in brackets.
    fn operand(&mut self) -> Tree<Expression> {
        let negative = self.skip_if("-");
        if negative || self.skip_if("+") {
            self.deeper()?;
            let (operand, depth) = self.operand()?;
            self.depth_left += 1;
            return if negative {
                Ok((Expression::Negate(Box::new(operand)), self.above(depth)?))
            } else {
                Ok((operand, depth))
            };
        }
        let (start, mut steps, mut depth) = self.term()?;
        loop {
            let (step, own) = if self.skip_if(".") {
                self.invocation(false)?
            } else if self.skip_if("[") {
                let (index, own) = self.expression(0)?;
                self.demand("]")?;
                (Step::Index(index), own)
            } else if steps.is_empty() {
                return Ok((start, depth));
            } else {
                return Ok((Expression::Path(Box::new(start), steps), self.above(depth)?));
            };
            steps.push(step);
            depth = depth.max(own);
        }
    }

    /// What a path starts with: a value, or the focus and a first step.
    fn term(&mut self) -> Parsed<(Expression, Vec<Step>, usize)> {
        let plain = |expression| Ok((expression, Vec::new(), 1));
        match self.peek() {
            Token::Symbol("(") => {
                self.next += 1;
                let (inner, depth) = self.expression(0)?;
                self.demand(")")?;
                Ok((inner, Vec::new(), depth))
            }
            Token::Symbol("{") => {
                self.next += 1;
                self.demand("}")?;
                plain(Expression::Nothing)
            }
            Token::Text(_) | Token::Number(_) | Token::Temporal(..) => plain(self.literal()?),
            Token::Variable(name) => {
                let variable = variable(name);
                self.next += 1;
                plain(Expression::Variable(variable))
            }
            Token::Special(name) => {
                let expression = match name.as_str() {
                    "this" => Expression::Focus,
                    "index" => Expression::Index,
                    "total" => Expression::Total,
                    _ => return self.error(CompileErrorKind::Unexpected),
                };
                self.next += 1;
                plain(expression)
            }
            Token::Word(word) if word == "true" || word == "false" => {
                let literal = Item::Boolean(word == "true");
                self.next += 1;
                plain(Expression::Literal(literal))
            }
            Token::Word(_) | Token::Quoted(_) => {
                let (step, depth) = self.invocation(true)?;
                Ok((Expression::Focus, vec![step], depth.max(1)))
            }
            _ => Err(self.unexpected()),
        }
    }

    fn literal(&mut self) -> Parsed<Expression> {
        let position = self.position();
        let invalid = CompileError { position, kind: CompileErrorKind::Literal };
        let item = match self.take() {
            Token::Text(text) => Item::String(text.into()),
            Token::Temporal(kind, value) => match kind {
                Kind::Date => Item::Date(value),
                Kind::DateTime => Item::DateTime(value),
                Kind::Time => Item::Time(value),
            },
            Token::Number(digits) => match self.unit() {
                Some(unit) => {
                    let value = Decimal::parse(&digits).ok_or(invalid)?;
                    Item::Quantity(Box::new(Quantity::with(value, unit.into()).ok_or(invalid)?))
                }
                None if digits.contains('.') => Item::Decimal(Decimal::parse(&digits).ok_or(invalid)?),
                None => match digits.parse::<i32>() {
                    Ok(integer) => Item::Integer(integer.into()),
                    // One more than the largest may be meant to be negated.
                    Err(_) => digits.parse().map(Item::Integer).map_err(|_| invalid)?,
                },
            },
            _ => return Err(invalid),
        };
        Ok(Expression::Literal(item))
    }

    /// The unit that follows a number: a text in UCUM, or a word of the calendar.
    fn unit(&mut self) -> Option<String> {
        let unit = match self.peek() {
            Token::Text(unit) => unit.clone(),
            Token::Word(word) if Quantity::is_calendar_word(word) => word.clone(),
            _ => return None,
        };
        self.next += 1;
        Some(unit)
    }

    /// A name or a call, and the depth of what is within the call.
    fn invocation(&mut self, first: bool) -> Tree<Step> {
        let position = self.position();
        let (name, plain) = match self.peek() {
            Token::Word(name) => (name.clone(), true),
            Token::Quoted(name) => (name.clone(), false),
            _ => return Err(self.unexpected()),
        };
        self.next += 1;
        if plain && self.skip_if("(") {
            return self.call(&name, position);
        }
        if first && name.starts_with(|letter: char| letter.is_ascii_uppercase()) {
            let of_type = TypeName::parse(Some("FHIR"), &name);
            return Ok((Step::Start(name.into(), of_type), 0));
        }
        Ok((Step::Child(name.into()), 0))
    }

    fn call(&mut self, name: &str, position: usize) -> Tree<Step> {
        let of_type = match name {
            "is" => Some(Step::Is as fn(TypeName) -> Step),
            "as" => Some(Step::As as fn(TypeName) -> Step),
            "ofType" => Some(Step::OfType as fn(TypeName) -> Step),
            _ => None,
        };
        if let Some(step) = of_type {
            let name = self.type_name()?;
            self.demand(")")?;
            return Ok((step(name), 0));
        }
        let (function, min, max) = Function::parse(name)
            .ok_or(CompileError { position, kind: CompileErrorKind::UnknownFunction })?;
        let (mut arguments, mut depth) = (Vec::new(), 0);
        if !self.skip_if(")") {
            loop {
                let (argument, own) = self.expression(0)?;
                arguments.push(argument);
                depth = depth.max(own);
                if self.skip_if(")") {
                    break;
                }
                self.demand(",")?;
            }
        }
        if !(min..=max).contains(&arguments.len()) {
            return Err(CompileError { position, kind: CompileErrorKind::Arguments });
        }
        let pattern = match (function, arguments.first()) {
            (Function::Matches | Function::ReplaceMatches, Some(Expression::Literal(Item::String(text)))) => {
                let pattern = match self.budget {
                    Some(budget) => Pattern::compile(text, budget),
                    None => Pattern::of_rule(text),
                };
                let kind = |error| match error {
                    EvaluateError::TooCostly => CompileErrorKind::TooManyPatterns,
                    _ => CompileErrorKind::Pattern,
                };
                Some(pattern.map_err(|error| CompileError { position, kind: kind(error) })?)
            }
            _ => None,
        };
        Ok((Step::Call(Call { function, arguments, pattern }), depth))
    }

    /// `Patient`, `FHIR.Patient`, `System.String`.
    fn type_name(&mut self) -> Parsed<TypeName> {
        let position = self.position();
        let mut name = self.word()?;
        let mut namespace = None;
        if matches!(name.as_str(), "FHIR" | "System") && self.skip_if(".") {
            namespace = Some(std::mem::take(&mut name));
            name = self.word()?;
        }
        TypeName::parse(namespace.as_deref(), &name)
            .ok_or(CompileError { position, kind: CompileErrorKind::UnknownType })
    }

    fn word(&mut self) -> Parsed<String> {
        match self.peek() {
            Token::Word(name) | Token::Quoted(name) => {
                let name = name.clone();
                self.next += 1;
                Ok(name)
            }
            _ => Err(self.unexpected()),
        }
    }
}

fn variable(name: &str) -> Variable {
    let prefixed = |prefix: &str, base: &str| {
        name.strip_prefix(prefix).map(|rest| Variable::Constant(format!("{base}{rest}").into()))
    };
    match name {
        "resource" => Variable::Resource,
        "rootResource" => Variable::RootResource,
        "context" => Variable::Context,
        "ucum" => Variable::Constant("http://unitsofmeasure.org".into()),
        "sct" => Variable::Constant("http://snomed.info/sct".into()),
        "loinc" => Variable::Constant("http://loinc.org".into()),
        _ => prefixed("vs-", "http://hl7.org/fhir/ValueSet/")
            .or_else(|| prefixed("ext-", "http://hl7.org/fhir/StructureDefinition/"))
            .unwrap_or_else(|| Variable::Other(name.into())),
    }
}
