//! The profiles that a validation draws on, each read once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::{BASES_MAX, DEFINITIONS_MAX, Definitions, Profile, ProfileError, ProfileErrorKind, is_specified};
use crate::terminology::{self, split_canonical};

/// What a definition costs that turns out to be none: how far it was read is not known.
const UNUSABLE_STEPS: usize = 100_000;

/// What there is under a canonical URL.
#[derive(Clone)]
pub(super) enum Known {
    Profile(Arc<Profile>),
    /// Nothing.
    Absent,
    /// Something that is no profile, or none that can be understood.
    Unusable(Arc<ProfileError>),
}

/// Why the library has no answer.
pub(super) enum Unread<E> {
    TooMany,
    Definitions(E),
}

/// The source of definitions for those who take turns with it.
pub(super) struct Shared<'d, D>(pub(super) &'d RefCell<&'d mut D>);

impl<D: Definitions> terminology::Definitions for Shared<'_, D> {
    type Error = D::Error;

    fn code_system(&mut self, url: &str, version: Option<&str>) -> Result<Option<Arc<Value>>, D::Error> {
        self.0.borrow_mut().code_system(url, version)
    }

    fn value_set(&mut self, url: &str, version: Option<&str>) -> Result<Option<Arc<Value>>, D::Error> {
        self.0.borrow_mut().value_set(url, version)
    }
}

pub(super) struct Library<'d, D> {
    definitions: &'d RefCell<&'d mut D>,
    profiles: HashMap<Box<str>, Known>,
    read: HashMap<Box<str>, Option<Arc<Value>>>,
}

impl<'d, D: Definitions> Library<'d, D> {
    pub(super) fn new(definitions: &'d RefCell<&'d mut D>) -> Self {
        Self { definitions, profiles: HashMap::new(), read: HashMap::new() }
    }

    /// The profile with this canonical URL, and what it cost to compile if that was now.
    pub(super) fn profile(&mut self, canonical: &str) -> Result<(Known, usize), Unread<D::Error>> {
        if let Some(known) = self.profiles.get(canonical) {
            return Ok((known.clone(), 0));
        }
        let known = self.load(canonical)?;
        let cost = match &known {
            Known::Profile(profile) => profile.cost,
            Known::Absent => 0,
            Known::Unusable(_) => UNUSABLE_STEPS,
        };
        self.profiles.insert(canonical.into(), known.clone());
        Ok((known, cost))
    }

    /// The type that a profile is for, if that is known.
    pub(super) fn type_of(&mut self, canonical: &str) -> Result<Option<String>, Unread<D::Error>> {
        let definition = self.definition(canonical)?;
        let kind = definition.as_ref().and_then(|definition| definition.get("type")?.as_str());
        Ok(kind.map(str::to_owned))
    }

    fn load(&mut self, canonical: &str) -> Result<Known, Unread<D::Error>> {
        let unusable = |kind| Ok(Known::Unusable(Arc::new(ProfileError { element: None, kind })));
        // From the profile down to what it is based on, as far as that is needed.
        let mut chain: Vec<Arc<Value>> = Vec::new();
        let mut next = canonical.to_owned();
        while !is_specified(&next) {
            if chain.len() >= BASES_MAX {
                return unusable(ProfileErrorKind::Circular);
            }
            let Some(definition) = self.definition(&next)? else {
                return if chain.is_empty() {
                    Ok(Known::Absent)
                } else {
                    unusable(ProfileErrorKind::UnknownBase)
                };
            };
            let base = definition.get("baseDefinition").and_then(Value::as_str).unwrap_or_default();
            next = base.to_owned();
            let elements = |view: &str| definition.get(view)?.get("element")?.as_array().map(Vec::len);
            let is_whole = elements("snapshot").is_some_and(|count| count > 0);
            chain.push(definition);
            if is_whole || next.is_empty() {
                break;
            }
        }
        let mut profile: Option<Profile> = None;
        for definition in chain.iter().rev() {
            let compiled = match &profile {
                Some(base) => Profile::compile_upon(definition, base),
                None => Profile::compile(definition),
            };
            match compiled {
                Ok(compiled) => profile = Some(compiled),
                Err(error) => return Ok(Known::Unusable(Arc::new(error))),
            }
        }
        Ok(profile.map_or(Known::Absent, |profile| Known::Profile(Arc::new(profile))))
    }

    fn definition(&mut self, canonical: &str) -> Result<Option<Arc<Value>>, Unread<D::Error>> {
        if let Some(known) = self.read.get(canonical) {
            return Ok(known.clone());
        }
        if self.read.len() >= DEFINITIONS_MAX {
            return Err(Unread::TooMany);
        }
        let (url, version) = split_canonical(canonical);
        let found = self.definitions.borrow_mut().structure_definition(url, version);
        let found = found.map_err(Unread::Definitions)?;
        self.read.insert(canonical.into(), found.clone());
        Ok(found)
    }
}
