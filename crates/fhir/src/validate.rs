//! Validation of resources against the specification's definitions: structure, cardinality, choices, formats of
//! primitives, required bindings, and a narrative without active content.
//!
//! It is on the way of every write, so nothing is allocated until there is an issue. Issues say where by the
//! specification's own names only; a property that the specification does not know is counted, never named.
//! Profiles, invariants and references to other resources are not looked at.

use serde_json::{Map, Value};

use crate::ResourceType;
use crate::definitions::{self, Codes, Definition, Element, ElementType};
use crate::narrative;
use crate::outcome::{Issue, IssueCode};
use crate::primitive::Primitive;

/// More issues than this help nobody; a client may send a body that has one for each of its bytes.
const ISSUES_MAX: usize = 50;

/// The deepest nesting of objects. [`crate::json::Limits`] is stricter for what comes in as text.
const DEPTH_MAX: usize = 100;

/// Every issue found in `resource`, at most 50 and a word that there may be more; none means that it is valid.
pub fn resource(resource: &Value) -> Vec<Issue> {
    let mut validator = Validator { issues: Vec::new() };
    validator.resource(resource, None, DEPTH_MAX);
    if validator.full() {
        validator
            .issues
            .push(Issue::warning(IssueCode::Incomplete, "validation stopped here; there may be more"));
    }
    validator.issues
}

struct Validator {
    issues: Vec<Issue>,
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

impl Validator {
    fn full(&self) -> bool {
        self.issues.len() >= ISSUES_MAX
    }

    #[cold]
    fn report(&mut self, code: IssueCode, place: Option<&Place<'_>>, diagnostics: impl Into<String>) {
        if self.full() {
            return;
        }
        let mut issue = Issue::error(code, diagnostics);
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
    fn resource(&mut self, value: &Value, place: Option<&Place<'_>>, depth_left: usize) {
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
        let root = Place { parent: None, name: definition.path, index: None };
        self.object(object, definition, place.unwrap_or(&root), true, depth_left);
    }

    /// The elements of an object.
    fn object(
        &mut self,
        object: &Map<String, Value>,
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
        value: &Value,
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
        for (index, item) in items.iter().enumerate() {
            if self.full() {
                return;
            }
            here.index = Some(index);
            if item.is_null() && matches!(element.of, ElementType::Primitive(_)) {
                if !extended(parent, element, index) {
                    self.structure(&here, "null may stand only where an extension says why");
                }
            } else {
                self.single(item, element, &here, depth_left);
            }
        }
    }

    /// One value.
    fn single(&mut self, value: &Value, element: &Element, here: &Place<'_>, depth_left: usize) {
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
                self.object(object, definitions::definition(id), here, false, depth_left);
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
        value: &Value,
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
            return self.object(object, definitions::element(), &here, false, depth_left);
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
                    self.object(object, definitions::element(), &here, false, depth_left)
                }
                // Where the value is null too, that has been said of the value.
                Value::Null if plain.is_some() => {}
                Value::Null => self.structure(&here, "null may stand only where there is a value"),
                _ => self.structure(&here, "what extends a primitive must be an object"),
            }
        }
    }
}

/// Whether the primitive at `index` has something that extends it.
fn extended(parent: &Map<String, Value>, element: &Element, index: usize) -> bool {
    let sibling = parent.iter().find(|(key, _)| key.strip_prefix('_') == Some(&element.key));
    sibling.and_then(|(_, items)| items.get(index)).is_some_and(Value::is_object)
}

/// Whether one of a concept's codings has one of the codes, or an extension says why there is none.
fn concept_bound(concept: &Map<String, Value>, codes: Codes) -> bool {
    let codings = concept.get("coding").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let listed =
        |coding: &Value| coding.get("code").and_then(Value::as_str).is_some_and(|code| codes.contain(code));
    codings.iter().any(listed) || concept.contains_key("extension")
}
