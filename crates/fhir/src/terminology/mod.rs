//! Terminology (<https://hl7.org/fhir/R4/terminology-module.html>): which codes a value set has, what a code system
//! says of a code, and which code is a kind of another.
//!
//! Definitions are resources that whoever calls has; [`Definitions`] gives them by their canonical URL. What cannot be
//! told for certain, because a definition is not there or holds a part of its codes only, is an error and never a
//! guess: a search by half a value set would leave out patients without a word.
//!
//! All work is bounded, whatever the definitions say: value sets that lead to themselves end in an error, as does what
//! takes too many steps, nests too deeply or has too many codes.

mod answer;
mod code_system;
mod coding;
mod compose;
mod expansion;
mod filter;
pub mod specification;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::outcome::IssueCode;

pub(crate) use code_system::codes_are_distinct;

pub use answer::{Part, expanded, looked_up, outcome_of_subsumption, validated};
pub use code_system::{CodeSystem, Concept, Subsumption};
pub use coding::{Coding, Verdict};
pub use expansion::{Coded, Expansion};

/// The most concepts of one code system.
const CONCEPTS_MAX: usize = 200_000;
/// The most codes of one value set.
const CODES_MAX: usize = 100_000;
/// How deep value sets may draw on each other.
const NESTED_MAX: usize = 16;
/// The most definitions that one question draws on.
const DEFINITIONS_MAX: usize = 100;
/// The most steps of one question: a concept that is read, gone through or put into a value set takes a few.
const STEPS_MAX: usize = 4_000_000;

/// Where definitions come from.
pub trait Definitions {
    /// Why a definition cannot be read.
    type Error;

    /// The CodeSystem with this URL and, if one is named, this version.
    ///
    /// # Errors
    /// What keeps it from being read; that there is none is no error.
    fn code_system(&mut self, url: &str, version: Option<&str>) -> Result<Option<Arc<Value>>, Self::Error>;

    /// The ValueSet with this URL and, if one is named, this version.
    ///
    /// # Errors
    /// As for [`Definitions::code_system`].
    fn value_set(&mut self, url: &str, version: Option<&str>) -> Result<Option<Arc<Value>>, Self::Error>;
}

/// Why a question about codes has no answer. The words say what to do, and nothing of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A code system is not there.
    #[error("a code system that this needs is not stored here: store its CodeSystem, with all of its codes")]
    UnknownCodeSystem,
    /// A value set is not there.
    #[error(
        "a value set that this needs is not stored here: store it as a ValueSet, under the URL by which it is named"
    )]
    UnknownValueSet,
    /// The stored code system says that it does not hold all of its codes.
    #[error(
        "of a code system that this needs, only a part of the codes is stored, so no answer is certain: store all of it, \
         with `content` = complete"
    )]
    PartialCodeSystem,
    /// The value set has a part of its expansion only.
    #[error(
        "a value set that this needs holds a part of its expansion only: store all of it, or its `compose`"
    )]
    PartialExpansion,
    /// The value set says nothing of its codes.
    #[error("a value set that this needs has neither `compose` nor `expansion`")]
    NoContent,
    /// The code system has no such code.
    #[error("the code system has no such code")]
    UnknownCode,
    /// The hierarchy is of parts or groups, not of kinds.
    #[error(
        "the hierarchy of this code system is one of parts or groups: no code of it is a kind of another"
    )]
    NoKinds,
    /// A value set leads to itself.
    #[error("a value set draws on itself, by way of others perhaps: break the circle in their `compose`")]
    Circular,
    /// Value sets in value sets in value sets.
    #[error("value sets draw on each other more than {NESTED_MAX} deep")]
    TooDeep,
    /// Too many codes.
    #[error(
        "a value set has more than {CODES_MAX} codes, or a code system more than {CONCEPTS_MAX}: narrow it down"
    )]
    TooManyCodes,
    /// Too much to do.
    #[error("this takes too much work: let the value set draw on fewer or smaller ones, or split it")]
    TooCostly,
    /// A filter names a property that the code system does not have.
    #[error("a filter of a value set asks for a property that the code system does not define")]
    UnknownProperty,
    /// A filter cannot be understood.
    #[error(
        "a filter of a value set is not one that is understood: its operator, its value or its regular expression"
    )]
    Filter,
    /// A part of a definition is not as FHIR has it.
    #[error("a value set or code system that this needs is not as FHIR defines it: validate it")]
    Malformed,
}

impl Fault {
    /// What kind of issue it is.
    pub const fn code(self) -> IssueCode {
        match self {
            Self::UnknownCodeSystem | Self::UnknownValueSet | Self::UnknownCode => IssueCode::NotFound,
            Self::PartialCodeSystem | Self::PartialExpansion => IssueCode::Incomplete,
            Self::NoContent | Self::Malformed => IssueCode::Invalid,
            Self::Circular => IssueCode::BusinessRule,
            Self::NoKinds | Self::UnknownProperty | Self::Filter => IssueCode::NotSupported,
            Self::TooDeep | Self::TooManyCodes | Self::TooCostly => IssueCode::TooCostly,
        }
    }

    /// Whether something that is needed is not there: then what was worked out before will do.
    const fn is_absence(self) -> bool {
        matches!(
            self,
            Self::UnknownCodeSystem
                | Self::UnknownValueSet
                | Self::PartialCodeSystem
                | Self::PartialExpansion
        )
    }
}

/// Why a question about codes could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum TerminologyError<E> {
    /// For what the definitions say.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A definition cannot be read.
    #[error("a definition cannot be read")]
    Definitions(E),
}

/// Answers one question, and remembers what it has read for it.
pub struct Terminology<D: Definitions> {
    definitions: D,
    steps: Steps,
    loaded: usize,
    code_systems: HashMap<Canonical, Option<Arc<CodeSystem>>>,
    expansions: HashMap<Canonical, Arc<Expansion>>,
    /// The value sets that are being worked out, each for the one before.
    under_way: Vec<Canonical>,
}

type Canonical = (String, Option<String>);
type Answer<T, D> = Result<T, TerminologyError<<D as Definitions>::Error>>;

impl<D: Definitions> Terminology<D> {
    /// Nothing is read yet.
    pub fn new(definitions: D) -> Self {
        Self {
            definitions,
            steps: Steps(STEPS_MAX),
            loaded: 0,
            code_systems: HashMap::new(),
            expansions: HashMap::new(),
            under_way: Vec::new(),
        }
    }

    /// The code system with this URL.
    ///
    /// # Errors
    /// [`Fault::UnknownCodeSystem`] if there is none, [`Fault::TooManyCodes`] if it is too large.
    pub fn code_system(&mut self, url: &str, version: Option<&str>) -> Answer<Arc<CodeSystem>, D> {
        Ok(self.known_code_system(url, version)?.ok_or(Fault::UnknownCodeSystem)?)
    }

    /// This code system.
    ///
    /// # Errors
    /// [`Fault::TooManyCodes`] if it is too large.
    pub fn code_system_of(&mut self, resource: &Value) -> Answer<Arc<CodeSystem>, D> {
        Ok(Arc::new(CodeSystem::read(resource, &mut self.steps)?))
    }

    /// The codes of the value set with this canonical URL, which may name a version after `|`.
    ///
    /// # Errors
    /// [`Fault::UnknownValueSet`] if there is none; any fault of what it draws on.
    pub fn expand(&mut self, canonical: &str) -> Answer<Arc<Expansion>, D> {
        let (url, version) = split_canonical(canonical);
        self.expand_version(url, version)
    }

    /// As [`Terminology::expand`], with the version beside the URL.
    ///
    /// # Errors
    /// As [`Terminology::expand`].
    pub fn expand_version(&mut self, url: &str, version: Option<&str>) -> Answer<Arc<Expansion>, D> {
        let key = (url.to_owned(), version.map(str::to_owned));
        if let Some(known) = self.expansions.get(&key) {
            return Ok(Arc::clone(known));
        }
        if self.under_way.contains(&key) {
            return Err(Fault::Circular.into());
        }
        if self.under_way.len() >= NESTED_MAX {
            return Err(Fault::TooDeep.into());
        }
        let set = self.value_set(url, version)?;
        self.under_way.push(key.clone());
        let expansion = self.expand_resource(&set);
        self.under_way.pop();
        let expansion = expansion?;
        self.expansions.insert(key, Arc::clone(&expansion));
        Ok(expansion)
    }

    /// The value set with this URL.
    ///
    /// # Errors
    /// [`Fault::UnknownValueSet`] if there is none.
    pub fn value_set(&mut self, url: &str, version: Option<&str>) -> Answer<Arc<Value>, D> {
        self.load()?;
        let found = self.definitions.value_set(url, version).map_err(TerminologyError::Definitions)?;
        Ok(found.ok_or(Fault::UnknownValueSet)?)
    }

    /// Whether people may call a code of a value set by this name.
    ///
    /// # Errors
    /// Any fault of its code system, but that there is none.
    pub fn is_called(&mut self, coded: &Coded, display: &str) -> Answer<bool, D> {
        if coded.display.as_deref().is_none_or(|own| coding::same_words(own, display)) {
            return Ok(true);
        }
        let system = self.known_code_system(&coded.system, coded.version.as_deref())?;
        let concept = system.as_ref().and_then(|system| system.concept(&coded.code));
        Ok(concept.is_some_and(|concept| concept.is_called(display)))
    }

    /// The code system with this URL, if there is one.
    fn known_code_system(&mut self, url: &str, version: Option<&str>) -> Answer<Option<Arc<CodeSystem>>, D> {
        let key = (url.to_owned(), version.map(str::to_owned));
        if let Some(known) = self.code_systems.get(&key) {
            return Ok(known.clone());
        }
        self.load()?;
        let found = self.definitions.code_system(url, version).map_err(TerminologyError::Definitions)?;
        let found = match found {
            Some(resource) => Some(Arc::new(CodeSystem::read(&resource, &mut self.steps)?)),
            None => None,
        };
        self.code_systems.insert(key, found.clone());
        Ok(found)
    }

    fn load(&mut self) -> Result<(), Fault> {
        self.loaded += 1;
        if self.loaded > DEFINITIONS_MAX { Err(Fault::TooCostly) } else { Ok(()) }
    }
}

/// A canonical URL and the version after `|`, if there is one.
pub fn split_canonical(canonical: &str) -> (&str, Option<&str>) {
    match canonical.split_once('|') {
        Some((url, version)) => (url, Some(version).filter(|version| !version.is_empty())),
        None => (canonical, None),
    }
}

/// What is left to do for one question.
struct Steps(usize);

impl Steps {
    fn take(&mut self, steps: usize) -> Result<(), Fault> {
        self.0 = self.0.checked_sub(steps).ok_or(Fault::TooCostly)?;
        Ok(())
    }
}

/// The text at `key`.
fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key).and_then(Value::as_str)
}

/// The items at `key`; none if it is no array.
fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
