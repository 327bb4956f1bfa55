//! A CodeSystem (<https://hl7.org/fhir/R4/codesystem.html>), read into a form in which codes are found and followed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::coding::same_words;
use super::{CONCEPTS_MAX, Fault, Steps, list, text};

/// A concept takes so many steps to read: it is held until the question is answered.
const CONCEPT_STEPS: usize = 4;
/// What the specification calls the properties that make a hierarchy.
const PARENT: &str = "http://hl7.org/fhir/concept-properties#parent";
const CHILD: &str = "http://hl7.org/fhir/concept-properties#child";

/// A code system.
#[derive(Debug)]
pub struct CodeSystem {
    pub(super) url: Arc<str>,
    pub(super) version: Option<Arc<str>>,
    pub(super) name: Option<String>,
    case_sensitive: bool,
    complete: bool,
    /// Whether what stands below a concept is a kind of it.
    of_kinds: bool,
    /// The codes of the properties that it defines, and what the specification calls them.
    declared: HashMap<String, String>,
    concepts: Vec<Concept>,
    places: HashMap<Arc<str>, usize>,
}

/// A concept of a code system.
#[derive(Debug)]
pub struct Concept {
    pub(super) code: Arc<str>,
    pub(super) display: Option<Arc<str>>,
    pub(super) definition: Option<String>,
    /// As they stand in the resource.
    pub(super) designations: Vec<Value>,
    /// As they stand in the resource.
    pub(super) properties: Vec<Value>,
    pub(super) parents: Vec<usize>,
    pub(super) children: Vec<usize>,
}

/// How two codes stand to each other (<https://hl7.org/fhir/R4/valueset-concept-subsumption-outcome.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subsumption {
    /// They are the same.
    Equivalent,
    /// The second is a kind of the first.
    Subsumes,
    /// The first is a kind of the second.
    SubsumedBy,
    /// Neither.
    NotSubsumed,
}

impl CodeSystem {
    /// Reads a CodeSystem. Of several concepts with the same code, the first counts.
    pub(super) fn read(resource: &Value, steps: &mut Steps) -> Result<Self, Fault> {
        let declared = list(resource, "property")
            .iter()
            .filter_map(|one| {
                Some((text(one, "code")?.to_owned(), text(one, "uri").unwrap_or_default().to_owned()))
            })
            .collect();
        let mut system = Self {
            url: text(resource, "url").unwrap_or_default().into(),
            version: text(resource, "version").map(Into::into),
            name: text(resource, "name").map(str::to_owned),
            // What does not say that case is of no matter must be taken as it stands.
            case_sensitive: resource.get("caseSensitive").and_then(Value::as_bool) != Some(false),
            complete: text(resource, "content") == Some("complete"),
            of_kinds: !matches!(text(resource, "hierarchyMeaning"), Some("part-of" | "grouped-by")),
            declared,
            concepts: Vec::new(),
            places: HashMap::new(),
        };
        // In the order of the resource: what stands below a concept comes before the next beside it.
        let mut open = vec![(list(resource, "concept").iter(), None)];
        while let Some((siblings, parent)) = open.last_mut() {
            let Some(concept) = siblings.next() else {
                open.pop();
                continue;
            };
            let parent = *parent;
            let place = system.add(concept, parent, steps)?;
            open.push((list(concept, "concept").iter(), Some(place)));
        }
        system.link();
        Ok(system)
    }

    /// The concept with this code.
    pub fn concept(&self, code: &str) -> Option<&Concept> {
        self.place(code).and_then(|place| self.concepts.get(place))
    }

    /// The codes that are a kind of this one, itself included.
    ///
    /// # Errors
    /// [`Fault::PartialCodeSystem`] and [`Fault::NoKinds`] if kinds cannot be told, [`Fault::UnknownCode`].
    pub fn kinds_of(&self, code: &str) -> Result<Vec<&str>, Fault> {
        self.related(code, |concept| &concept.children)
    }

    /// The codes of which this is a kind, itself included.
    ///
    /// # Errors
    /// As [`CodeSystem::kinds_of`].
    pub fn generalizations_of(&self, code: &str) -> Result<Vec<&str>, Fault> {
        self.related(code, |concept| &concept.parents)
    }

    /// How two codes stand to each other.
    ///
    /// # Errors
    /// As [`CodeSystem::kinds_of`].
    pub fn subsumes(&self, first: &str, second: &str) -> Result<Subsumption, Fault> {
        self.has_kinds()?;
        let (a, b) = (self.known(first)?, self.known(second)?);
        let above = |place| self.reached([place], |concept| &concept.parents);
        Ok(if a == b {
            Subsumption::Equivalent
        } else if above(b).contains(&a) {
            Subsumption::Subsumes
        } else if above(a).contains(&b) {
            Subsumption::SubsumedBy
        } else {
            Subsumption::NotSubsumed
        })
    }

    /// Whether the resource has all codes of the system.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Its canonical URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its version.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether codes that differ in case are the same.
    pub(super) const fn folds(&self) -> bool {
        !self.case_sensitive
    }

    pub(super) fn concepts(&self) -> &[Concept] {
        &self.concepts
    }

    pub(super) fn place(&self, code: &str) -> Option<usize> {
        let folded = self.folds().then(|| code.to_lowercase());
        self.places.get(folded.as_deref().unwrap_or(code)).copied()
    }

    pub(super) fn defines(&self, property: &str) -> bool {
        self.declared.contains_key(property)
    }

    /// What is reached from some concepts, themselves included, however often ways meet or lead in circles.
    pub(super) fn reached(
        &self,
        from: impl IntoIterator<Item = usize>,
        next: impl Fn(&Concept) -> &Vec<usize>,
    ) -> HashSet<usize> {
        let mut open: Vec<usize> = from.into_iter().collect();
        let mut reached: HashSet<usize> = open.iter().copied().collect();
        while let Some(concept) = open.pop().and_then(|place| self.concepts.get(place)) {
            open.extend(next(concept).iter().filter(|place| reached.insert(**place)));
        }
        reached
    }

    fn related(&self, code: &str, next: impl Fn(&Concept) -> &Vec<usize>) -> Result<Vec<&str>, Fault> {
        self.has_kinds()?;
        let mut places: Vec<usize> = self.reached([self.known(code)?], next).into_iter().collect();
        places.sort_unstable();
        Ok(places
            .iter()
            .filter_map(|place| self.concepts.get(*place))
            .map(|concept| &*concept.code)
            .collect())
    }

    fn has_kinds(&self) -> Result<(), Fault> {
        match (self.complete, self.of_kinds) {
            (false, _) => Err(Fault::PartialCodeSystem),
            (true, false) => Err(Fault::NoKinds),
            (true, true) => Ok(()),
        }
    }

    fn known(&self, code: &str) -> Result<usize, Fault> {
        self.place(code).ok_or(Fault::UnknownCode)
    }

    /// Adds a concept below another, and says where it is.
    fn add(&mut self, concept: &Value, parent: Option<usize>, steps: &mut Steps) -> Result<usize, Fault> {
        let properties = list(concept, "property");
        steps.take(CONCEPT_STEPS + properties.len() + list(concept, "designation").len())?;
        let code: Arc<str> = text(concept, "code").ok_or(Fault::Malformed)?.into();
        let place = match self.place(&code) {
            Some(known) => known,
            None if self.concepts.len() >= CONCEPTS_MAX => return Err(Fault::TooManyCodes),
            None => {
                let key = if self.folds() { code.to_lowercase().into() } else { Arc::clone(&code) };
                self.places.insert(key, self.concepts.len());
                self.concepts.push(Concept {
                    code,
                    display: text(concept, "display").map(Into::into),
                    definition: text(concept, "definition").map(str::to_owned),
                    designations: list(concept, "designation").to_vec(),
                    properties: properties.to_vec(),
                    parents: Vec::new(),
                    children: Vec::new(),
                });
                self.concepts.len() - 1
            }
        };
        if let Some(own) = self.concepts.get_mut(place) {
            own.parents.extend(parent);
        }
        Ok(place)
    }

    /// Joins parents and children, those that are named by properties as well.
    fn link(&mut self) {
        let named = |name: &str, uri: &str| {
            let mut codes: HashSet<String> = HashSet::from([name.to_owned()]);
            codes.extend(self.declared.iter().filter(|(_, own)| *own == uri).map(|(code, _)| code.clone()));
            codes
        };
        let (parents, children) = (named("parent", PARENT), named("child", CHILD));
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for (place, concept) in self.concepts.iter().enumerate() {
            pairs.extend(concept.parents.iter().map(|parent| (*parent, place)));
            for property in &concept.properties {
                let (Some(name), Some(code)) = (text(property, "code"), text(property, "valueCode")) else {
                    continue;
                };
                let Some(other) = self.place(code) else { continue };
                if parents.contains(name) {
                    pairs.push((other, place));
                } else if children.contains(name) {
                    pairs.push((place, other));
                }
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        self.concepts.iter_mut().for_each(|concept| concept.parents.clear());
        for (parent, child) in pairs {
            if let Some(concept) = self.concepts.get_mut(parent) {
                concept.children.push(child);
            }
            if let Some(concept) = self.concepts.get_mut(child) {
                concept.parents.push(parent);
            }
        }
    }
}

/// Whether no code stands twice in a CodeSystem.
pub(crate) fn codes_are_distinct(resource: &Value) -> bool {
    let mut codes = HashSet::new();
    let mut open = vec![list(resource, "concept")];
    while let Some(concepts) = open.pop() {
        for concept in concepts {
            if !text(concept, "code").is_none_or(|code| codes.insert(code)) {
                return false;
            }
            open.push(list(concept, "concept"));
        }
    }
    true
}

impl Concept {
    /// Its code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Its name for people.
    pub fn display(&self) -> Option<&str> {
        self.display.as_deref()
    }

    /// Whether people may call it by this name.
    pub fn is_called(&self, display: &str) -> bool {
        self.display.as_deref().is_none_or(|own| same_words(own, display))
            || self
                .designations
                .iter()
                .any(|one| text(one, "value").is_some_and(|own| same_words(own, display)))
    }

    /// Whether it only groups others.
    pub fn is_abstract(&self) -> bool {
        self.says("notSelectable") || self.says("abstract")
    }

    /// Whether it is not to be used any more.
    pub(super) fn is_inactive(&self) -> bool {
        self.says("inactive")
            || self.properties.iter().any(|one| {
                text(one, "code") == Some("status")
                    && matches!(
                        text(one, "valueCode").or_else(|| text(one, "valueString")),
                        Some("retired" | "inactive")
                    )
            })
    }

    fn says(&self, property: &str) -> bool {
        self.properties.iter().any(|one| {
            text(one, "code") == Some(property)
                && one.get("valueBoolean").and_then(Value::as_bool) == Some(true)
        })
    }
}
