//! FHIRPath 2.0.0 over R4 resources (<https://hl7.org/fhirpath/N1/>, <https://hl7.org/fhir/R4/fhirpath.html>).
//!
//! An [`Expression`] is compiled once and evaluated as often as needed. Evaluation knows the types of the
//! specification's definitions, so that `value` finds `valueQuantity`, `ofType(Quantity)` and `is Patient` mean what
//! they say, and a primitive carries its `_sibling`. What the definitions do not know is not found.
//!
//! Expressions and resources may both be hostile: text, nesting, steps, items and lengths have bounds, named here,
//! and whatever goes wrong is an error that holds nothing of either.
//!
//! Where N1 leaves a choice, or the rules of R4 need it:
//! - `as` of several items keeps those of the type, as `ofType` does; the standard search parameters count on it.
//! - `matches` looks for a match anywhere in the text, and `.` matches a line's end too.
//! - Times of which only one has a zone cannot be compared: the answer is empty.
//! - Quantities of different units are compared if both units are of a small table; otherwise the answer is empty.
//! - `memberOf` knows the value sets of required bindings; `conformsTo` knows the types themselves.
//! - `trace` gives its input back and writes nothing.
//! - A number or a time of more than a hundred bytes, or a unit of more than a kilobyte, is found and not computed with.

mod convert;
mod decimal;
mod equality;
mod evaluate;
mod function;
mod item;
mod lexer;
mod parser;
mod pattern;
mod presence;
mod quantity;
mod syntax;
mod temporal;
mod text;
mod types;

use serde_json::Value;
use ward_base::Timestamp;

use crate::ResourceType;

pub use decimal::Decimal;
pub use item::{Element, Item, Text};
pub use quantity::Quantity;
pub use temporal::Temporal;

pub(crate) use evaluate::Budget;
pub(crate) use presence::{Answer, Presence};

/// The longest text that is compiled, in bytes.
const EXPRESSION_BYTES_MAX: usize = 16 << 10;

/// The deepest nesting of an expression, in parentheses and in its tree; so many operands may follow each other without
/// parentheses too.
const EXPRESSION_DEPTH_MAX: usize = 100;

/// How much an evaluation may do: places looked at and items made, every 64 bytes of text, and what regular expressions
/// take.
pub(crate) const STEPS_MAX: u64 = 2_000_000;

/// The most items in one collection.
const ITEMS_MAX: usize = 200_000;

/// The longest text that a function makes, in bytes.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// The deepest nesting of JSON that is looked into.
pub(crate) const RESOURCE_DEPTH_MAX: usize = 128;

/// The longest regular expression, in bytes.
const PATTERN_BYTES_MAX: usize = 1000;

/// The most regular expressions that are written in one expression: each takes a millisecond to compile.
const PATTERNS_MAX: u32 = 20;

/// An expression that has been understood.
pub struct Expression {
    root: syntax::Expression,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What it compares with may be out of a record.
        formatter.write_str("Expression(..)")
    }
}

impl Expression {
    /// Compiles `text`. Fails if it is not in the grammar of FHIRPath 2.0.0, names a function or a type that does
    /// not exist, or is beyond a bound.
    pub fn compile(text: &str) -> Result<Self, CompileError> {
        Self::compile_within(text, &Budget::of(u64::from(PATTERNS_MAX * pattern::PATTERN_STEPS)))
    }

    /// The same, with what is left of a budget for the regular expressions of several.
    pub(crate) fn compile_within(text: &str, budget: &Budget) -> Result<Self, CompileError> {
        parser::parse(text, Some(budget)).map(|root| Self { root })
    }

    /// Compiles a rule of the specification.
    pub(crate) fn compile_rule(text: &str) -> Result<Self, CompileError> {
        parser::parse(text, None).map(|root| Self { root })
    }

    /// What the expression finds, from the resource of `context` on.
    pub fn evaluate<'v>(&'v self, context: &Context<'v>) -> Result<Vec<Item<'v>>, EvaluateError> {
        self.evaluate_at(Item::resource(context.resource), context)
    }

    /// What the expression finds from `focus` on, a part of the resource of `context`.
    pub fn evaluate_at<'v>(
        &'v self,
        focus: Item<'v>,
        context: &Context<'v>,
    ) -> Result<Vec<Item<'v>>, EvaluateError> {
        self.evaluate_within(focus, context, &Budget::of(STEPS_MAX))
    }

    /// The same, with what is left of a budget that several evaluations share.
    pub(crate) fn evaluate_within<'v>(
        &'v self,
        focus: Item<'v>,
        context: &Context<'v>,
        budget: &Budget,
    ) -> Result<Vec<Item<'v>>, EvaluateError> {
        evaluate::evaluate(&self.root, focus, context, budget)
    }

    /// What the expression says of `focus`: yes, no, or nothing if it finds nothing. A single item that is no boolean
    /// is a yes. The budget is what several evaluations share.
    pub(crate) fn says_within<'v>(
        &'v self,
        focus: Item<'v>,
        context: &Context<'v>,
        budget: &Budget,
    ) -> Result<Option<bool>, EvaluateError> {
        let found = self.evaluate_within(focus, context, budget)?;
        match found.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one.boolean().unwrap_or(true))),
            _ => Err(EvaluateError::NotSingle),
        }
    }

    /// What can be said of the expression from the presence of elements alone; `number` gives the bit of each.
    pub(crate) fn presence(&self, number: &dyn Fn(&str) -> Option<u32>) -> Presence {
        presence::compile(&self.root, number)
    }
}

/// What an evaluation may look at beside its focus.
#[derive(Clone, Copy)]
pub struct Context<'v> {
    /// `%resource`: the resource that the focus is part of.
    pub resource: &'v Value,
    /// `%rootResource`: the resource that contains it, or the same.
    pub root_resource: &'v Value,
    /// Finds what a reference, given as its text, refers to. What is contained is found without it.
    pub resolver: Option<&'v Resolver<'v>>,
    /// What time it is; without it, `now()` and its kin are an error.
    pub now: Option<Timestamp>,
    /// What other names after `%` stand for.
    pub variables: &'v [(&'v str, Vec<Item<'v>>)],
}

impl<'v> Context<'v> {
    /// A context of a resource that is contained in no other, with nothing to look up.
    pub const fn of(resource: &'v Value) -> Self {
        Self { resource, root_resource: resource, resolver: None, now: None, variables: &[] }
    }
}

/// Gives what a reference's text refers to, if it can be had.
pub type Resolver<'v> = dyn Fn(&str) -> Option<Resolved<'v>> + 'v;

/// What a reference refers to.
#[derive(Clone, Copy)]
pub enum Resolved<'v> {
    /// The resource itself.
    Resource(&'v Value),
    /// A resource of which only the type is known: it has that type and no elements.
    Type(ResourceType),
}

impl std::fmt::Debug for Resolved<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Resolved(..)")
    }
}

/// Why an expression cannot be compiled, and where. Whoever wrote it is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {position} of the expression")]
pub struct CompileError {
    /// In bytes from 0.
    pub position: usize,
    /// What is wrong.
    pub kind: CompileErrorKind,
}

/// What is wrong with the text of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileErrorKind {
    /// Longer than is accepted.
    #[error("longer than is accepted")]
    TooLong,
    /// Nested deeper than is accepted, in parentheses or by operators that follow each other.
    #[error("nested deeper than is accepted")]
    TooDeep,
    /// A character or word that cannot stand there.
    #[error("unexpected text")]
    Unexpected,
    /// The text ends too early, within quotes or parentheses perhaps.
    #[error("unexpected end")]
    UnexpectedEnd,
    /// A number, date, time or escape that cannot be.
    #[error("invalid literal")]
    Literal,
    /// No function has that name.
    #[error("unknown function")]
    UnknownFunction,
    /// The function takes more or fewer arguments.
    #[error("wrong number of arguments")]
    Arguments,
    /// No type has that name.
    #[error("unknown type")]
    UnknownType,
    /// The regular expression cannot be read, is too large, or looks around.
    #[error("unacceptable regular expression")]
    Pattern,
    /// More regular expressions than are accepted, or than those before have left.
    #[error("more regular expressions than are accepted")]
    TooManyPatterns,
}

/// Why an evaluation has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// More steps, more items in a collection, or longer text or units would be needed than are accepted.
    #[error("the expression needs more work than is accepted")]
    TooCostly,
    /// The resource is nested deeper than is accepted.
    #[error("the resource is nested deeper than is accepted")]
    TooDeep,
    /// Several items stand where there may be one.
    #[error("the expression finds several items where one is needed")]
    NotSingle,
    /// An operator or function does not take items of that type.
    #[error("the expression applies an operator or a function to a type that it does not take")]
    WrongType,
    /// A name after `%` that stands for nothing here.
    #[error("the expression uses a variable that is not known here")]
    UnknownVariable,
    /// `now()`, `today()` or `timeOfDay()` where no time is given.
    #[error("the expression asks for the time, which is not known here")]
    NoClock,
    /// A regular expression that cannot be read, is too large, or looks around.
    #[error("the expression uses an unacceptable regular expression")]
    Pattern,
    /// A value set or profile that is not known here.
    #[error("the expression needs a value set or profile that is not known here")]
    NotKnown,
}

#[cfg(test)]
mod tests;
