//! Regular expressions, and what it may take to compile and to match them.

use regex::{Captures, Regex, RegexBuilder};

use super::evaluate::{Budget, Evaluated};
use super::{EvaluateError, PATTERN_BYTES_MAX, TEXT_BYTES_MAX};

/// Compiling a regular expression is as much work as this many steps.
pub(super) const PATTERN_STEPS: u32 = 50_000;

/// How large an automaton may become, in bytes, and how many steps a byte of text may then take: a hostile text keeps
/// every state busy.
const SIZES: [(usize, usize); 3] = [(4 << 10, 8), (16 << 10, 32), (64 << 10, 128)];

pub(super) struct Pattern {
    regex: Regex,
    /// For each byte that is looked at.
    steps: usize,
}

impl Pattern {
    /// Fails if the text cannot be read, is too long, becomes too large or looks around, or if the budget does not allow
    /// for another.
    pub(super) fn compile(text: &str, budget: &Budget) -> Evaluated<Self> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(EvaluateError::Pattern);
        }
        budget.spend(PATTERN_STEPS as usize)?;
        SIZES
            .into_iter()
            .find_map(|(size, steps)| Self::sized(text, size, steps))
            .ok_or(EvaluateError::Pattern)
    }

    /// One of the specification's own, of which one is large and none is slow.
    pub(super) fn of_rule(text: &str) -> Evaluated<Self> {
        Self::sized(text, 1 << 20, 1).ok_or(EvaluateError::Pattern)
    }

    fn sized(text: &str, size: usize, steps: usize) -> Option<Self> {
        let mut builder = RegexBuilder::new(text);
        builder.dot_matches_new_line(true).size_limit(size).dfa_size_limit(size).nest_limit(50);
        builder.build().ok().map(|regex| Self { regex, steps })
    }

    /// Whether it matches anywhere in the text.
    pub(super) fn is_in(&self, text: &str, budget: &Budget) -> Evaluated<bool> {
        self.look_at(text.len(), budget)?;
        Ok(self.regex.is_match(text))
    }

    /// The text with every match replaced; `$1` and `${name}` stand for what a group matched.
    pub(super) fn replace(&self, text: &str, by: &str, budget: &Budget) -> Evaluated<String> {
        let template = groups(by);
        // A replacement may repeat what was found: as often as it has `$`.
        let repeats = by.matches('$').count();
        let (mut replaced, mut copied, mut next) = (String::new(), 0, 0);
        while let Some(found) = self.find(text, next, budget)? {
            let Some(whole) = found.get(0) else { break };
            next = if whole.is_empty() { after(text, whole.end()) } else { whole.end() };
            // What is empty and touches the match before is none.
            if whole.is_empty() && whole.end() == copied && copied > 0 {
                continue;
            }
            let longer = template.len().saturating_add(repeats.saturating_mul(whole.len()));
            if longer.saturating_add(replaced.len()) > TEXT_BYTES_MAX {
                return Err(EvaluateError::TooCostly);
            }
            budget.spend_text(longer)?;
            replaced.push_str(text.get(copied..whole.start()).unwrap_or_default());
            found.expand(&template, &mut replaced);
            copied = whole.end();
        }
        replaced.push_str(text.get(copied..).unwrap_or_default());
        Ok(replaced)
    }

    /// The first match from a position on. Each may look at all that is left, however near it is found.
    fn find<'t>(&self, text: &'t str, from: usize, budget: &Budget) -> Evaluated<Option<Captures<'t>>> {
        let Some(left) = text.len().checked_sub(from) else { return Ok(None) };
        self.look_at(left, budget)?;
        Ok(self.regex.captures_at(text, from))
    }

    fn look_at(&self, bytes: usize, budget: &Budget) -> Evaluated<()> {
        budget.spend(bytes.saturating_add(1).saturating_mul(self.steps))
    }
}

/// Where the letter at `position` ends; beyond the text if there is none.
fn after(text: &str, position: usize) -> usize {
    let letter = text.get(position..).and_then(|rest| rest.chars().next());
    position + letter.map_or(1, char::len_utf8)
}

/// `$1` and `${name}` as the crate writes them: a digit after `$` ends the name.
fn groups(replacement: &str) -> String {
    let mut out = String::with_capacity(replacement.len());
    let mut letters = replacement.chars().peekable();
    while let Some(letter) = letters.next() {
        out.push(letter);
        if letter == '$' {
            let mut digits = String::new();
            while let Some(digit) = letters.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            if !digits.is_empty() {
                out.push_str(&format!("{{{digits}}}"));
            }
        }
    }
    out
}
