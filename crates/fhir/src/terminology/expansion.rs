//! The codes of a value set, each once, in order.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::{CODES_MAX, Fault, Steps, list, text};
use crate::search::normalize_string;

/// A code takes so many steps to hold.
const CODE_STEPS: usize = 4;

/// A code of a value set.
#[derive(Clone, Debug)]
pub struct Coded {
    /// The code system.
    pub system: Arc<str>,
    /// Its version, if the value set or the code system says.
    pub version: Option<Arc<str>>,
    /// The code.
    pub code: Arc<str>,
    /// Its name for people.
    pub display: Option<Arc<str>>,
    /// Whether it only groups others.
    pub is_abstract: bool,
    /// Whether it is not to be used any more.
    pub is_inactive: bool,
}

/// The codes of a value set.
#[derive(Clone, Debug, Default)]
pub struct Expansion {
    codes: Vec<Coded>,
    systems: HashMap<Arc<str>, Within>,
}

/// The codes out of one code system.
#[derive(Clone, Debug, Default)]
struct Within {
    /// Whether codes that differ in case are the same.
    folds: bool,
    /// Where each code is.
    places: HashMap<Arc<str>, usize>,
}

impl Within {
    /// Lets case be of no matter from now on, for the codes that are there as well: of two that are the same then, the
    /// first counts.
    fn fold(&mut self) {
        let places = std::mem::take(&mut self.places);
        for (code, place) in places {
            let first = self.places.entry(code.to_lowercase().into()).or_insert(place);
            *first = place.min(*first);
        }
        self.folds = true;
    }

    fn place(&self, code: &str) -> Option<usize> {
        let folded = self.folds.then(|| code.to_lowercase());
        self.places.get(folded.as_deref().unwrap_or(code)).copied()
    }
}

impl Expansion {
    /// All codes, in the order of the value set.
    pub fn codes(&self) -> &[Coded] {
        &self.codes
    }

    /// The code, out of this code system or, if none is named, out of any.
    pub fn find(&self, system: Option<&str>, code: &str) -> Option<&Coded> {
        let place = match system {
            Some(system) => self.systems.get(system)?.place(code),
            None => self.systems.values().filter_map(|within| within.place(code)).min(),
        };
        place.and_then(|place| self.codes.get(place))
    }

    /// The codes that hold these words, in their name or themselves. Case and accents do not count.
    pub fn matching<'e>(&'e self, words: &str) -> Vec<&'e Coded> {
        let words = normalize_string(words);
        let holds = |text: &str| normalize_string(text).contains(&words);
        let meets = |coded: &&Coded| holds(&coded.code) || coded.display.as_deref().is_some_and(holds);
        self.codes.iter().filter(meets).collect()
    }

    /// Adds a code unless it is there. `folds` says whether case is of no matter to its code system.
    pub(super) fn add(&mut self, coded: Coded, folds: bool, steps: &mut Steps) -> Result<(), Fault> {
        steps.take(CODE_STEPS)?;
        let within = self.systems.entry(Arc::clone(&coded.system)).or_default();
        if folds && !within.folds {
            steps.take(within.places.len())?;
            within.fold();
        }
        let key = if within.folds { coded.code.to_lowercase().into() } else { Arc::clone(&coded.code) };
        if within.places.contains_key(&key) {
            return Ok(());
        }
        if self.codes.len() >= CODES_MAX {
            return Err(Fault::TooManyCodes);
        }
        within.places.insert(key, self.codes.len());
        self.codes.push(coded);
        Ok(())
    }

    /// Adds all codes of another.
    pub(super) fn extend(&mut self, other: &Self, steps: &mut Steps) -> Result<(), Fault> {
        other.codes.iter().try_for_each(|coded| self.add(coded.clone(), other.folds(coded), steps))
    }

    /// What is left of it if only some codes are kept.
    pub(super) fn kept(&self, keep: impl Fn(&Coded) -> bool, steps: &mut Steps) -> Result<Self, Fault> {
        let mut kept = Self::default();
        steps.take(self.codes.len())?;
        let mut chosen = self.codes.iter().filter(|coded| keep(coded));
        chosen.try_for_each(|coded| kept.add(coded.clone(), self.folds(coded), steps))?;
        Ok(kept)
    }

    /// Whether it has the code.
    pub(super) fn has(&self, coded: &Coded) -> bool {
        self.find(Some(&coded.system), &coded.code).is_some()
    }

    fn folds(&self, coded: &Coded) -> bool {
        self.systems.get(&coded.system).is_some_and(|within| within.folds)
    }
}

/// The codes of an expansion that was worked out elsewhere, and stands in a ValueSet.
pub(super) fn stated(expansion: &Value, steps: &mut Steps) -> Result<Vec<Coded>, Fault> {
    let (mut codes, mut concepts) = (Vec::new(), 0_u64);
    let mut open = vec![list(expansion, "contains").iter()];
    while let Some(siblings) = open.last_mut() {
        let Some(one) = siblings.next() else {
            open.pop();
            continue;
        };
        steps.take(CODE_STEPS)?;
        concepts += 1;
        open.push(list(one, "contains").iter());
        let (Some(system), Some(code)) = (text(one, "system"), text(one, "code")) else { continue };
        let flag = |name: &str| one.get(name).and_then(Value::as_bool) == Some(true);
        codes.push(Coded {
            system: system.into(),
            version: text(one, "version").map(Into::into),
            code: code.into(),
            display: text(one, "display").map(Into::into),
            is_abstract: flag("abstract"),
            is_inactive: flag("inactive"),
        });
    }
    let number = |name: &str| expansion.get(name).and_then(Value::as_u64).unwrap_or_default();
    // What was worked out for somebody who looked for words, or was cut off.
    let narrowed = list(expansion, "parameter")
        .iter()
        .any(|one| matches!(text(one, "name"), Some("filter" | "limitedExpansion")));
    if narrowed || number("total") > concepts || number("offset") > 0 {
        return Err(Fault::PartialExpansion);
    }
    Ok(codes)
}
