//! From a ValueSet's `compose` to its codes (<https://hl7.org/fhir/R4/valueset.html#compositions>).

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use super::code_system::{CodeSystem, Concept};
use super::expansion::{Coded, Expansion, stated};
use super::{Answer, Definitions, Fault, Terminology, TerminologyError, filter, list, text};

impl<D: Definitions> Terminology<D> {
    /// The codes of this value set. What its `compose` says counts; if something that it needs is not there, what was
    /// worked out before and stands in the resource.
    ///
    /// # Errors
    /// Any [`Fault`] of it or what it draws on.
    pub fn expand_resource(&mut self, set: &Value) -> Answer<Arc<Expansion>, D> {
        let before = set.get("expansion");
        let expansion = match set.get("compose") {
            Some(compose) => match (self.compose(compose), before) {
                (Err(TerminologyError::Fault(fault)), Some(before)) if fault.is_absence() => {
                    self.restate(before)
                }
                (composed, _) => composed,
            },
            None => self.restate(before.ok_or(Fault::NoContent)?),
        };
        Ok(Arc::new(expansion?))
    }

    fn compose(&mut self, compose: &Value) -> Answer<Expansion, D> {
        let mut expansion = Expansion::default();
        for include in list(compose, "include") {
            let part = self.part(include)?;
            expansion.extend(&part, &mut self.steps)?;
        }
        for exclude in list(compose, "exclude") {
            let part = self.part(exclude)?;
            expansion = expansion.kept(|coded| !part.has(coded), &mut self.steps)?;
        }
        if compose.get("inactive").and_then(Value::as_bool) == Some(false) {
            expansion = expansion.kept(|coded| !coded.is_inactive, &mut self.steps)?;
        }
        Ok(expansion)
    }

    /// What an expansion in a resource says.
    fn restate(&mut self, expansion: &Value) -> Answer<Expansion, D> {
        let mut restated = Expansion::default();
        for coded in stated(expansion, &mut self.steps)? {
            let system = self.known_code_system(&coded.system, coded.version.as_deref())?;
            restated.add(coded, system.is_some_and(|system| system.folds()), &mut self.steps)?;
        }
        Ok(restated)
    }

    /// What one `include` or `exclude` names: what is in the code system, as far as it says, and in all value sets.
    fn part(&mut self, part: &Value) -> Answer<Expansion, D> {
        let mut found = match text(part, "system") {
            Some(system) => Some(self.of_system(part, system)?),
            None => None,
        };
        for canonical in list(part, "valueSet") {
            let canonical = canonical.as_str().ok_or(Fault::Malformed)?;
            let other = self.expand(canonical)?;
            found = Some(match found {
                Some(found) => found.kept(|coded| other.has(coded), &mut self.steps)?,
                None => other.kept(|_| true, &mut self.steps)?,
            });
        }
        Ok(found.ok_or(Fault::Malformed)?)
    }

    fn of_system(&mut self, part: &Value, url: &str) -> Answer<Expansion, D> {
        let version = text(part, "version");
        let mut found = Expansion::default();
        let (concepts, filters) = (list(part, "concept"), list(part, "filter"));
        if !concepts.is_empty() && !filters.is_empty() {
            return Err(Fault::Malformed.into());
        }
        if !concepts.is_empty() {
            // What is listed needs no code system; one that is there tells names, and whether case matters.
            let system = self.known_code_system(url, version)?;
            let url: Arc<str> = url.into();
            for concept in concepts {
                let code = text(concept, "code").ok_or(Fault::Malformed)?;
                let known = system.as_ref().and_then(|system| system.concept(code));
                let coded = Coded {
                    system: Arc::clone(&url),
                    version: version.map(Into::into),
                    code: known.map_or_else(|| code.into(), |known| Arc::clone(&known.code)),
                    display: text(concept, "display")
                        .map(Into::into)
                        .or_else(|| known.and_then(|known| known.display.clone())),
                    is_abstract: known.is_some_and(Concept::is_abstract),
                    is_inactive: known.is_some_and(Concept::is_inactive),
                };
                found.add(coded, system.as_ref().is_some_and(|system| system.folds()), &mut self.steps)?;
            }
            return Ok(found);
        }
        let system = self.code_system(url, version)?;
        if !system.is_complete() {
            return Err(Fault::PartialCodeSystem.into());
        }
        let mut chosen: Option<HashSet<usize>> = None;
        for filter in filters {
            let own = filter::chosen(&system, filter, &mut self.steps)?;
            chosen = Some(match chosen {
                Some(chosen) => chosen.intersection(&own).copied().collect(),
                None => own,
            });
        }
        for (place, concept) in system.concepts().iter().enumerate() {
            if chosen.as_ref().is_none_or(|chosen| chosen.contains(&place)) {
                found.add(coded(&system, concept, url), system.folds(), &mut self.steps)?;
            }
        }
        Ok(found)
    }
}

fn coded(system: &CodeSystem, concept: &Concept, url: &str) -> Coded {
    Coded {
        // As the value set names it, which is how others will.
        system: if *system.url == *url { Arc::clone(&system.url) } else { url.into() },
        version: system.version.clone(),
        code: Arc::clone(&concept.code),
        display: concept.display.clone(),
        is_abstract: concept.is_abstract(),
        is_inactive: concept.is_inactive(),
    }
}
