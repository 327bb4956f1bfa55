//! Validation of resources against the specification's definitions: structure, cardinality, choices, formats of
//! primitives, required bindings, a narrative without active content, and the rules stated as FHIRPath.
//!
//! It is on the way of every write, so next to nothing is allocated until there is an issue, and a rule is evaluated
//! only where the presence of elements does not decide it. Issues say where by the specification's own names only; a
//! property that the specification does not know is counted, never named. Profiles and references to other resources
//! are not looked at.
//!
//! A rule is broken if its expression says no. One that says nothing, because dates are of different precision for
//! example, does not prove the resource wrong. Recommendations (dom-6) are not told.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::ResourceType;
use crate::definitions::{self, Codes, Definition, Element, ElementType};
use crate::fhirpath::{Answer, Budget, Context, EvaluateError, Expression, Item};
use crate::invariant::{self, Check, Invariant};
use crate::narrative;
use crate::outcome::{Issue, IssueCode, Severity};
use crate::primitive::Primitive;
use crate::terminology;

/// More issues than this help nobody; a client may send a body that has one for each of its bytes.
const ISSUES_MAX: usize = 50;

/// The deepest nesting of objects. [`crate::json::Limits`] is stricter for what comes in as text.
const DEPTH_MAX: usize = 100;

/// How much rules may do to a resource at once, in the steps of [`crate::fhirpath::STEPS_MAX`].
const RULE_STEPS_MAX: u64 = 1_000_000;

/// What each rule that is evaluated adds to what may be done, so that long resources whose rules are cheap are looked at
/// to the end, and time grows with length only.
const RULE_STEPS_EACH: u64 = 200;

/// Every issue found in `resource`, errors first, at most 50 of either kind and a word that there may be more. It is
/// valid if none is an error.
pub fn resource(resource: &Value) -> Vec<Issue> {
    validate(resource, true)
}

/// Every issue but of the rules stated as FHIRPath, which may ask for just that.
pub(crate) fn structure(resource: &Value) -> Vec<Issue> {
    validate(resource, false)
}

fn validate(resource: &Value, rules: bool) -> Vec<Issue> {
    let mut validator = Validator {
        issues: Vec::new(),
        errors: 0,
        rules,
        budget: Budget::of(RULE_STEPS_MAX),
        unchecked: false,
        costly: false,
        resource,
        root: resource,
        contained: None,
    };
    validator.resource(resource, None, DEPTH_MAX);
    // Whoever is told the first few only should know why the resource was refused.
    validator.issues.sort_by_key(|issue| !issue.is_error());
    if validator.full() {
        validator
            .issues
            .push(Issue::warning(IssueCode::Incomplete, "validation stopped here; there may be more"));
    }
    validator.issues
}

struct Validator<'v> {
    issues: Vec<Issue>,
    /// How many of the issues are errors. Warnings alone must not end the search for errors.
    errors: usize,
    /// Whether rules stated as FHIRPath are looked at.
    rules: bool,
    budget: Budget,
    /// Whether it was told that a rule could not be checked.
    unchecked: bool,
    /// Whether it was told that a rule is too much work.
    costly: bool,
    /// The resource that is looked at.
    resource: &'v Value,
    /// The resource that contains it, or the same.
    root: &'v Value,
    /// The ids of what `root` contains, once they are needed.
    contained: Option<HashSet<&'v str>>,
}

/// Where the validator stands: a list through its stack frames, written out only when there is an issue.
struct Place<'p> {
    parent: Option<&'p Place<'p>>,
    name: &'static str,
    index: Option<usize>,
}

impl Place<'_> {
    fn write(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(out);
            out.push('.');
        }
        out.push_str(self.name);
        if let Some(index) = self.index {
            out.push_str(&format!("[{index}]"));
        }
    }
}

impl<'v> Validator<'v> {
    fn full(&self) -> bool {
        self.errors >= ISSUES_MAX
    }

    #[cold]
    fn report(&mut self, code: IssueCode, place: Option<&Place<'_>>, diagnostics: impl Into<String>) {
        self.push(Issue::error(code, diagnostics), place);
    }

    fn push(&mut self, mut issue: Issue, place: Option<&Place<'_>>) {
        let is_error = issue.is_error();
        if self.full() || (!is_error && self.issues.len() >= ISSUES_MAX) {
            return;
        }
        self.errors += usize::from(is_error);
        if let Some(place) = place {
            let mut expression = String::new();
            place.write(&mut expression);
            issue = issue.at(expression);
        }
        self.issues.push(issue);
    }

    #[cold]
    fn structure(&mut self, place: &Place<'_>, diagnostics: &str) {
        self.report(IssueCode::Structure, Some(place), diagnostics);
    }

    /// A resource, at `place` if it is within another.
    fn resource(&mut self, value: &'v Value, place: Option<&Place<'_>>, depth_left: usize) {
        let Value::Object(object) = value else {
            return self.report(IssueCode::Structure, place, "a resource must be an object");
        };
        let kind = match object.get("resourceType") {
            Some(Value::String(name)) => ResourceType::parse(name),
            Some(_) => None,
            None => return self.report(IssueCode::Structure, place, "a resource must have a `resourceType`"),
        };
        let Some(definition) = kind.and_then(ResourceType::definition) else {
            return self.report(
                IssueCode::Structure,
                place,
                "`resourceType` must name a resource type of FHIR R4",
            );
        };
        let top = Place { parent: None, name: definition.path, index: None };
        let is_contained = place.is_some_and(|place| place.name == "contained");
        let outer = (self.resource, self.root);
        self.resource = value;
        let outer_contained = if is_contained { None } else { Some(self.contained.take()) };
        if !is_contained {
            self.root = value;
        }
        self.object(value, object, definition, place.unwrap_or(&top), true, depth_left);
        (self.resource, self.root) = outer;
        if let Some(outer_contained) = outer_contained {
            self.contained = outer_contained;
        }
    }

    /// The elements of an object.
    fn object(
        &mut self,
        value: &'v Value,
        object: &'v Map<String, Value>,
        definition: &'static Definition,
        place: &Place<'_>,
        is_resource: bool,
        depth_left: usize,
    ) {
        let Some(depth_left) = depth_left.checked_sub(1) else {
            return self.structure(place, "nested deeper than is accepted");
        };
        if object.is_empty() {
            return self.structure(place, "an object must not be empty");
        }
        let (mut seen, mut twice) = (0_u64, 0_u64);
        for (position, (key, value)) in object.iter().enumerate() {
            if self.full() {
                return;
            }
            let (element, is_sibling) = match definition.element(key) {
                Some(element) => (element, false),
                None if is_resource && key == "resourceType" => continue,
                None => match key.strip_prefix('_').and_then(|key| definition.element(key)) {
                    Some(element) if matches!(element.of, ElementType::Primitive(_)) => (element, true),
                    _ => {
                        // Its place among the others helps to find it; its name may be anything.
                        let unknown =
                            format!("property {} is not an element of `{}`", position + 1, definition.path);
                        self.report(IssueCode::Structure, Some(place), unknown);
                        continue;
                    }
                },
            };
            let bit = 1 << element.number;
            if element.choice {
                twice |= seen & bit;
            }
            seen |= bit;
            if is_sibling {
                self.sibling(value, element, object.get(&*element.key), place, depth_left);
            } else {
                self.element(value, element, object, place, depth_left);
            }
        }
        let missing = definition.required & !seen;
        if missing != 0 || twice != 0 {
            self.missing_or_twice(object, definition, missing, twice, place);
        }
        if self.rules {
            self.rules(value, definition, seen, place);
        }
    }

    /// The rules of an object in which these elements were seen.
    fn rules(&mut self, value: &'v Value, definition: &'static Definition, seen: u64, place: &Place<'_>) {
        for rule in definition.invariants() {
            let broken = match rule.presence.answer(seen) {
                Answer::Yes | Answer::Nothing => false,
                Answer::No => true,
                Answer::Unknown => match &rule.check {
                    Check::Expression(expression) => {
                        self.says_no(expression, Item::complex(value, definition), rule, place)
                    }
                    Check::ContainedIsReferredTo => !contained_is_referred_to(value),
                    Check::CodesAreDistinct => !terminology::codes_are_distinct(value),
                    Check::ReferredToIsContained => !self.referred_to_is_contained(value),
                },
            };
            if broken {
                self.broken(rule.key, rule.severity, rule.human, place);
            }
        }
    }

    #[cold]
    fn broken(&mut self, key: &str, severity: Severity, human: &str, place: &Place<'_>) {
        let issue = Issue { severity, ..Issue::error(IssueCode::Invariant, format!("{key}: {human}")) };
        self.push(issue, Some(place));
    }

    fn says_no(
        &mut self,
        expression: &'static Expression,
        focus: Item<'v>,
        rule: &Invariant,
        place: &Place<'_>,
    ) -> bool {
        self.budget.add(RULE_STEPS_EACH, RULE_STEPS_MAX);
        let context = Context { root_resource: self.root, ..Context::of(self.resource) };
        match expression.says_within(focus, &context, &self.budget) {
            Ok(said) => said == Some(false),
            Err(error) => {
                let words = format!("{} could not be checked: {error}", rule.key);
                // Nobody gets past a rule by making it too much work.
                let costly = matches!(error, EvaluateError::TooCostly | EvaluateError::TooDeep);
                let told = if costly { &mut self.costly } else { &mut self.unchecked };
                // Once is enough of either: what exhausts a budget does so often.
                if !std::mem::replace(told, true) {
                    let issue = match costly {
                        true => Issue::error(IssueCode::TooCostly, words),
                        false => Issue::warning(IssueCode::Incomplete, words),
                    };
                    self.push(issue, Some(place));
                }
                false
            }
        }
    }

    fn referred_to_is_contained(&mut self, reference: &Value) -> bool {
        let text = reference.get("reference").and_then(Value::as_str).unwrap_or_default();
        let Some(id) = text.strip_prefix('#').filter(|id| !id.is_empty()) else { return true };
        let root = self.root;
        self.contained.get_or_insert_with(|| contained(root).filter_map(id_of).collect()).contains(id)
    }

    #[cold]
    fn missing_or_twice(
        &mut self,
        object: &Map<String, Value>,
        definition: &Definition,
        missing: u64,
        twice: u64,
        place: &Place<'_>,
    ) {
        for number in (0..u64::BITS).filter(|number| (missing | twice) >> number & 1 == 1) {
            let here = Place { parent: Some(place), name: definition.name(number), index: None };
            if missing >> number & 1 == 1 {
                self.report(IssueCode::Required, Some(&here), "is required");
                continue;
            }
            // A primitive and what extends it are the same form.
            let form = |key: &String| {
                let key = key.strip_prefix('_').unwrap_or(key);
                definition
                    .element(key)
                    .filter(|element| element.number == number)
                    .map(|element| &*element.key)
            };
            let mut forms = object.keys().filter_map(form);
            let first = forms.next();
            if forms.any(|other| Some(other) != first) {
                self.structure(&here, "must have one type only");
            }
        }
    }

    /// What stands at the name of an element.
    fn element(
        &mut self,
        value: &'v Value,
        element: &Element,
        parent: &Map<String, Value>,
        place: &Place<'_>,
        depth_left: usize,
    ) {
        let mut here = Place { parent: Some(place), name: element.name, index: None };
        if !element.many {
            if matches!(value, Value::Array(_)) {
                return self.structure(&here, "must not be an array");
            }
            return self.single(value, element, &here, depth_left);
        }
        let Value::Array(items) = value else { return self.structure(&here, "must be an array") };
        if items.is_empty() {
            return self.structure(&here, "an array must not be empty");
        }
        // Looked up when there is a null, and then for all of them.
        let mut siblings = None;
        for (index, item) in items.iter().enumerate() {
            if self.full() {
                return;
            }
            here.index = Some(index);
            if item.is_null() && matches!(element.of, ElementType::Primitive(_)) {
                let siblings = siblings.get_or_insert_with(|| parent.get(&format!("_{}", element.key)));
                if !siblings.and_then(|items| items.get(index)).is_some_and(Value::is_object) {
                    self.structure(&here, "null may stand only where an extension says why");
                }
            } else {
                self.single(item, element, &here, depth_left);
            }
        }
    }

    /// One value.
    fn single(&mut self, value: &'v Value, element: &Element, here: &Place<'_>, depth_left: usize) {
        match element.of {
            ElementType::Primitive(primitive) => {
                if !primitive.accepts(value) {
                    self.unacceptable(value, primitive, here);
                } else if let (Some(codes), Value::String(code)) = (element.codes, value)
                    && !codes.contain(code)
                {
                    self.not_bound(codes, here);
                }
            }
            ElementType::Complex(id) => {
                let Value::Object(object) = value else { return self.structure(here, "must be an object") };
                self.object(value, object, definitions::definition(id), here, false, depth_left);
                if self.rules && object.len() == 1 && object.contains_key("id") {
                    self.broken("ele-1", Severity::Error, invariant::words("Element", "ele-1"), here);
                }
                if let Some(codes) = element.codes
                    && !concept_bound(object, codes)
                {
                    self.not_bound(codes, here);
                }
            }
            ElementType::Xhtml => {
                let Value::String(text) = value else { return self.structure(here, "must be text") };
                if let Err(reason) = narrative::check(text) {
                    self.report(IssueCode::Value, Some(here), reason);
                }
            }
            ElementType::Resource => self.resource(value, Some(here), depth_left),
        }
    }

    #[cold]
    fn unacceptable(&mut self, value: &Value, primitive: Primitive, here: &Place<'_>) {
        let code = if primitive.has_json_type_of(value) { IssueCode::Value } else { IssueCode::Structure };
        self.report(code, Some(here), primitive.expectation());
    }

    #[cold]
    fn not_bound(&mut self, codes: Codes, here: &Place<'_>) {
        let all = codes.all();
        let words = if all.len() <= 16 {
            format!("must be one of: {}", all.join(", "))
        } else {
            "must be one of the codes that the specification lists".to_owned()
        };
        self.report(IssueCode::CodeInvalid, Some(here), words);
    }

    /// What extends a primitive: the value of `_name`, next to `plain`, the value of `name`.
    fn sibling(
        &mut self,
        value: &'v Value,
        element: &Element,
        plain: Option<&Value>,
        place: &Place<'_>,
        depth_left: usize,
    ) {
        let mut here = Place { parent: Some(place), name: element.name, index: None };
        if !element.many {
            let Value::Object(object) = value else {
                return self.structure(&here, "what extends a primitive must be an object");
            };
            return self.object(value, object, definitions::element(), &here, false, depth_left);
        }
        let Value::Array(items) = value else {
            return self.structure(&here, "what extends an array of primitives must be an array");
        };
        if items.is_empty() {
            return self.structure(&here, "an array must not be empty");
        }
        if let Some(Value::Array(values)) = plain
            && values.len() != items.len()
        {
            return self.structure(&here, "an array and what extends it must have the same length");
        }
        for (index, item) in items.iter().enumerate() {
            if self.full() {
                return;
            }
            here.index = Some(index);
            match item {
                Value::Object(object) => {
                    self.object(item, object, definitions::element(), &here, false, depth_left)
                }
                // Where the value is null too, that has been said of the value.
                Value::Null if plain.is_some() => {}
                Value::Null => self.structure(&here, "null may stand only where there is a value"),
                _ => self.structure(&here, "what extends a primitive must be an object"),
            }
        }
    }
}

fn contained(resource: &Value) -> impl Iterator<Item = &Value> {
    resource.get("contained").and_then(Value::as_array).into_iter().flatten()
}

fn id_of(resource: &Value) -> Option<&str> {
    resource.get("id").and_then(Value::as_str)
}

/// Whether the resource refers to everything that it contains, or is referred to from there. Any text `#id` is taken
/// for a reference, so that this may be kinder than the rule.
fn contained_is_referred_to(resource: &Value) -> bool {
    let mut all = HashSet::new();
    local_references(resource, DEPTH_MAX, &mut all);
    contained(resource).all(|one| {
        id_of(one).is_none_or(|id| all.contains(id)) || {
            let mut own = HashSet::new();
            local_references(one, DEPTH_MAX, &mut own);
            own.contains("")
        }
    })
}

/// Adds what follows `#` at the beginning of a text, anywhere below, to `found`.
fn local_references<'v>(value: &'v Value, depth_left: usize, found: &mut HashSet<&'v str>) {
    let Some(depth_left) = depth_left.checked_sub(1) else { return };
    match value {
        Value::String(text) => found.extend(text.strip_prefix('#')),
        Value::Array(items) => items.iter().for_each(|item| local_references(item, depth_left, found)),
        Value::Object(object) => object.values().for_each(|value| local_references(value, depth_left, found)),
        _ => {}
    }
}

/// Whether one of a concept's codings has one of the codes, or an extension says why there is none.
fn concept_bound(concept: &Map<String, Value>, codes: Codes) -> bool {
    let codings = concept.get("coding").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let listed =
        |coding: &Value| coding.get("code").and_then(Value::as_str).is_some_and(|code| codes.contain(code));
    codings.iter().any(listed) || concept.contains_key("extension")
}

#[cfg(test)]
mod tests;
