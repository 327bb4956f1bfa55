//! What an expression says by the mere presence of elements, found out without evaluating it.
//!
//! Most rules of the specification are of the kind `a.exists() or b.empty()`: which elements are there decides them,
//! or nearly always does. A validator has a bit for each element that it saw, and asks here first.

use super::item::Item;
use super::syntax::{Call, Expression, Function, Operator, Step};

/// A formula over the bits of the elements that are present.
#[derive(Debug, PartialEq)]
pub(crate) enum Presence {
    /// Yes if the element is there.
    Has(u64),
    /// This if one of the elements is not there, unknown otherwise.
    Without(u64, Answer),
    Not(Box<Presence>),
    And(Box<Presence>, Box<Presence>),
    Or(Box<Presence>, Box<Presence>),
    Xor(Box<Presence>, Box<Presence>),
    Unknown,
}

/// What an expression says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No,
    /// It finds nothing.
    Nothing,
    /// It must be evaluated.
    Unknown,
}

impl Presence {
    /// What the expression says of an object that has these elements.
    pub(crate) fn answer(&self, present: u64) -> Answer {
        use Answer::{No, Nothing, Unknown, Yes};
        match self {
            Self::Has(bit) => {
                if present & bit != 0 {
                    Yes
                } else {
                    No
                }
            }
            Self::Without(bits, answer) => {
                if present & bits != *bits {
                    *answer
                } else {
                    Unknown
                }
            }
            Self::Not(inner) => not(inner.answer(present)),
            Self::And(left, right) => and(left.answer(present), right.answer(present)),
            Self::Or(left, right) => not(and(not(left.answer(present)), not(right.answer(present)))),
            Self::Xor(left, right) => match (left.answer(present), right.answer(present)) {
                (Unknown, _) | (_, Unknown) => Unknown,
                (Nothing, _) | (_, Nothing) => Nothing,
                (left, right) if left == right => No,
                _ => Yes,
            },
            Self::Unknown => Unknown,
        }
    }

    /// Whether the bits alone decide, and the answer is never that there is nothing.
    fn is_exact(&self) -> bool {
        match self {
            Self::Has(_) => true,
            Self::Not(inner) => inner.is_exact(),
            Self::And(left, right) | Self::Or(left, right) | Self::Xor(left, right) => {
                left.is_exact() && right.is_exact()
            }
            Self::Without(..) | Self::Unknown => false,
        }
    }
}

fn not(answer: Answer) -> Answer {
    match answer {
        Answer::Yes => Answer::No,
        Answer::No => Answer::Yes,
        other => other,
    }
}

fn and(left: Answer, right: Answer) -> Answer {
    use Answer::{No, Nothing, Unknown, Yes};
    match (left, right) {
        (No, _) | (_, No) => No,
        (Unknown, _) | (_, Unknown) => Unknown,
        (Nothing, _) | (_, Nothing) => Nothing,
        (Yes, Yes) => Yes,
    }
}

/// The formula of an expression; `number` gives the number of an element of the focus by its name.
pub(super) fn compile(expression: &Expression, number: &dyn Fn(&str) -> Option<u32>) -> Presence {
    let boxed = |expression: &Expression| Box::new(compile(expression, number));
    match expression {
        Expression::Binary(operator, left, right) => match operator {
            Operator::And => Presence::And(boxed(left), boxed(right)),
            Operator::Or => Presence::Or(boxed(left), boxed(right)),
            Operator::Implies => Presence::Or(Box::new(Presence::Not(boxed(left))), boxed(right)),
            Operator::Xor => Presence::Xor(boxed(left), boxed(right)),
            Operator::Equal | Operator::NotEqual => {
                let (one, two) = (boxed(left), boxed(right));
                if one.is_exact() && two.is_exact() {
                    let differ = Presence::Xor(one, two);
                    return if *operator == Operator::NotEqual {
                        differ
                    } else {
                        Presence::Not(Box::new(differ))
                    };
                }
                without(needed(left, number) | needed(right, number), Answer::Nothing)
            }
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                if let (Some(bit), Expression::Literal(Item::Integer(literal))) =
                    (counted(left, number), &**right)
                {
                    let ordering = 0.cmp(literal);
                    let holds = match operator {
                        Operator::Less => ordering.is_lt(),
                        Operator::LessOrEqual => ordering.is_le(),
                        Operator::Greater => ordering.is_gt(),
                        _ => ordering.is_ge(),
                    };
                    return Presence::Without(bit, if holds { Answer::Yes } else { Answer::No });
                }
                without(needed(left, number) | needed(right, number), Answer::Nothing)
            }
            Operator::In => without(needed(left, number), Answer::Nothing),
            Operator::Contains => without(needed(right, number), Answer::Nothing),
            _ => Presence::Unknown,
        },
        Expression::Path(start, steps) => path(start, steps, number),
        _ => Presence::Unknown,
    }
}

fn without(bits: u64, answer: Answer) -> Presence {
    if bits == 0 { Presence::Unknown } else { Presence::Without(bits, answer) }
}

/// The element that is counted, if the expression is a count of what is found from there.
fn counted(expression: &Expression, number: &dyn Fn(&str) -> Option<u32>) -> Option<u64> {
    let Expression::Path(start, steps) = expression else { return None };
    let (Step::Call(Call { function: Function::Count, .. }), before) = steps.split_last()? else {
        return None;
    };
    let (bit, rest) = begin(start, before, number)?;
    rest.iter().all(keeps_nothing).then_some(bit)
}

/// The elements without any of which the expression finds nothing.
fn needed(expression: &Expression, number: &dyn Fn(&str) -> Option<u32>) -> u64 {
    match expression {
        Expression::Path(start, steps) => match begin(start, steps, number) {
            Some((bit, rest)) if rest.iter().all(keeps_nothing) => bit,
            _ => 0,
        },
        _ => 0,
    }
}

/// The element that a path begins with, and the steps from there.
fn begin<'s>(
    start: &Expression,
    steps: &'s [Step],
    number: &dyn Fn(&str) -> Option<u32>,
) -> Option<(u64, &'s [Step])> {
    let Expression::Focus = start else { return None };
    match steps.split_first()? {
        (Step::Child(name), rest) => number(name).map(|number| (1 << number, rest)),
        // The name of the type itself.
        (Step::Start(..), rest) => match rest.split_first()? {
            (Step::Child(name), rest) => number(name).map(|number| (1 << number, rest)),
            _ => None,
        },
        _ => None,
    }
}

fn path(start: &Expression, steps: &[Step], number: &dyn Fn(&str) -> Option<u32>) -> Presence {
    let Some((Step::Call(last), before)) = steps.split_last() else {
        return begin(start, steps, number)
            .filter(|(_, rest)| rest.iter().all(keeps_nothing))
            .map_or(Presence::Unknown, |(bit, _)| without(bit, Answer::Nothing));
    };
    if last.function == Function::Not {
        let inner = if before.is_empty() { compile(start, number) } else { path(start, before, number) };
        return Presence::Not(Box::new(inner));
    }
    let Some((bit, rest)) = begin(start, before, number) else { return Presence::Unknown };
    if !rest.iter().all(keeps_nothing) {
        return Presence::Unknown;
    }
    let exact = rest.is_empty() && last.arguments.is_empty();
    match last.function {
        Function::Exists if exact => Presence::Has(bit),
        Function::Empty if exact => Presence::Not(Box::new(Presence::Has(bit))),
        Function::Exists | Function::HasValue | Function::AnyTrue | Function::AnyFalse => {
            without(bit, Answer::No)
        }
        Function::Empty | Function::All | Function::AllTrue | Function::AllFalse | Function::IsDistinct => {
            without(bit, Answer::Yes)
        }
        _ if call_keeps_nothing(last) => without(bit, Answer::Nothing),
        _ => Presence::Unknown,
    }
}

/// Whether the step finds nothing in nothing.
fn keeps_nothing(step: &Step) -> bool {
    match step {
        Step::Child(_) | Step::Start(..) | Step::Index(_) | Step::Is(_) | Step::As(_) | Step::OfType(_) => {
            true
        }
        Step::Call(call) => call_keeps_nothing(call),
    }
}

fn call_keeps_nothing(call: &Call) -> bool {
    use Function as F;
    matches!(
        call.function,
        F::Where
            | F::Select
            | F::Repeat
            | F::First
            | F::Last
            | F::Tail
            | F::Skip
            | F::Take
            | F::Single
            | F::Distinct
            | F::Intersect
            | F::Exclude
            | F::Children
            | F::Descendants
            | F::Extension
            | F::Resolve
            | F::Trace
            | F::Not
            | F::Matches
            | F::StartsWith
            | F::EndsWith
            | F::Contains
            | F::Substring
            | F::ReplaceMatches
            | F::Length
            | F::ToString
            | F::ToInteger
    )
}
