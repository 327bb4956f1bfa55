//! The functions of text.

use super::evaluate::{Evaluated, Evaluator, Items, Scope, integer, text};
use super::item::Item;
use super::pattern::Pattern;
use super::syntax::{Call, Expression, Function};
use super::{EvaluateError, TEXT_BYTES_MAX};

impl<'v> Evaluator<'_, 'v> {
    pub(super) fn text_function(
        &self,
        call: &'v Call,
        input: &[Item<'v>],
        scope: &Scope<'_, 'v>,
    ) -> Evaluated<Items<'v>> {
        use Function as F;
        let argument = |position: usize| {
            self.expression(call.arguments.get(position).unwrap_or(&Expression::Nothing), scope)
        };
        let first = argument(0)?;
        if call.function == F::Join {
            return self.join(input, text(&first)?.unwrap_or_default());
        }
        let Some(whole) = text(input)? else { return Ok(Vec::new()) };
        self.budget.spend_text(whole.len())?;
        let truth = |truth: bool| Ok(vec![Item::Boolean(truth)]);
        let made = |text: String| {
            self.budget.text(text.len())?;
            Ok(vec![Item::String(text.into())])
        };
        let count = |count: usize| Ok(vec![Item::Integer(i64::try_from(count).unwrap_or(i64::MAX))]);
        match call.function {
            F::Length => return count(whole.chars().count()),
            F::Upper => return made(whole.to_uppercase()),
            F::Lower => return made(whole.to_lowercase()),
            F::Trim => return made(whole.trim().to_owned()),
            F::ToChars => {
                self.budget.room(whole.len())?;
                self.budget.spend(whole.len())?;
                return Ok(whole.chars().map(|letter| Item::String(letter.to_string().into())).collect());
            }
            F::Substring => {
                let (Some(start), second) = (integer(&first)?, argument(1)?) else { return Ok(Vec::new()) };
                return substring(whole, start, integer(&second)?).map_or(Ok(Vec::new()), made);
            }
            _ => {}
        }
        let Some(part) = text(&first)? else { return Ok(Vec::new()) };
        self.budget.spend_text(part.len())?;
        match call.function {
            F::StartsWith => truth(whole.starts_with(part)),
            F::EndsWith => truth(whole.ends_with(part)),
            F::Contains => truth(whole.contains(part)),
            F::IndexOf => match whole.find(part) {
                Some(at) => count(whole.get(..at).unwrap_or_default().chars().count()),
                None => Ok(vec![Item::Integer(-1)]),
            },
            F::Split => {
                let mut parts = Vec::new();
                for one in whole.split(part) {
                    self.budget.room(parts.len())?;
                    parts.push(Item::String(one.to_owned().into()));
                }
                Ok(parts)
            }
            F::Replace => {
                let second = argument(1)?;
                let Some(by) = text(&second)? else { return Ok(Vec::new()) };
                // Nothing is found before and after every letter.
                let places = if part.is_empty() { whole.len() + 1 } else { whole.len() / part.len() };
                self.bound(whole.len(), places, by.len(), || whole.matches(part).count())?;
                made(whole.replace(part, by))
            }
            F::Matches | F::ReplaceMatches => {
                let compiled;
                let pattern = match &call.pattern {
                    Some(pattern) => pattern,
                    None => {
                        compiled = Pattern::compile(part, self.budget)?;
                        &compiled
                    }
                };
                if call.function == F::Matches {
                    return truth(pattern.is_in(whole, self.budget)?);
                }
                let second = argument(1)?;
                let Some(by) = text(&second)? else { return Ok(Vec::new()) };
                // What matches everywhere replaces nothing.
                if part.is_empty() {
                    return made(whole.to_owned());
                }
                made(pattern.replace(whole, by, self.budget)?)
            }
            _ => Err(EvaluateError::WrongType),
        }
    }

    fn join(&self, input: &[Item<'v>], separator: &str) -> Evaluated<Items<'v>> {
        if input.is_empty() {
            return Ok(Vec::new());
        }
        let mut joined = String::new();
        for (index, item) in input.iter().enumerate() {
            let part = item.text().ok_or(EvaluateError::WrongType)?;
            self.budget.spend_text(separator.len() + part.len())?;
            if joined.len() + separator.len() + part.len() > TEXT_BYTES_MAX {
                return Err(EvaluateError::TooCostly);
            }
            if index > 0 {
                joined.push_str(separator);
            }
            joined.push_str(part);
        }
        Ok(vec![Item::String(joined.into())])
    }

    /// Fails if text of this length, with at most so many places each made longer, may become too long.
    fn bound(
        &self,
        length: usize,
        places_max: usize,
        longer: usize,
        places: impl FnOnce() -> usize,
    ) -> Evaluated<()> {
        if length.saturating_add(places_max.saturating_mul(longer)) > TEXT_BYTES_MAX {
            return self.budget.text(length.saturating_add(places().saturating_mul(longer)));
        }
        Ok(())
    }
}

/// Counted in characters from 0; nothing if the start is not within.
fn substring(whole: &str, start: i64, length: Option<i64>) -> Option<String> {
    let start = usize::try_from(start).ok()?;
    let mut letters = whole.chars().skip(start).peekable();
    letters.peek()?;
    let length = length.map_or(usize::MAX, |length| usize::try_from(length).unwrap_or(0));
    Some(letters.take(length).collect())
}
