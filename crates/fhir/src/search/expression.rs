//! Where a search parameter's values are.
//!
//! The subset of FHIRPath that the standard search parameters use is compiled once to small steps. [`crate::fhirpath`]
//! would find the same, and its tests hold that it compiles every one of these expressions. But every write evaluates
//! all parameters of its type, and a search those that it asks by for each candidate: these steps know no types, make
//! nothing and count nothing. What was added from outside may use all of FHIRPath; only a composite's paths are read
//! here, of bounded length.

use serde_json::Value;

use crate::ResourceType;
use crate::fhirpath::{self, Budget, Context, Item, Resolved};

/// How much one evaluation of an added parameter may do, in the steps of [`fhirpath::STEPS_MAX`].
const STEPS_MAX: u64 = 20_000;

/// What finds the values.
#[derive(Debug)]
pub(crate) enum Expression {
    /// A union of paths.
    Paths(Vec<Vec<Step>>),
    /// Any expression.
    General(fhirpath::Expression),
}

impl Default for Expression {
    fn default() -> Self {
        Self::Paths(Vec::new())
    }
}

/// One step along a path.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// A child by name; if there is none, any form of a choice of that name.
    Child(Box<str>),
    /// One form of a choice, by its JSON name; the plain name is what stands there if it is no choice.
    Form {
        form: Box<str>,
        plain: Box<str>,
    },
    /// Keeps references to this type.
    ResolvesTo(ResourceType),
    /// Keeps objects whose child has this text.
    WhereEquals(Box<str>, Box<str>),
    /// Keeps objects with this extension.
    WhereExtension(Box<str>),
    Index(usize),
    /// `%resource`: starts again at the resource, wherever in it the path began.
    Resource,
    /// `deceased.exists() and deceased != false`, of the one parameter that combines.
    PresentAndNotFalse,
}

impl Expression {
    /// Compiles `text`; nothing if it uses something that no standard parameter uses. The first name of each path,
    /// the type, is dropped.
    pub(crate) fn compile(text: &str) -> Option<Self> {
        if let Some((left, _)) = text.split_once(".exists() and ") {
            let mut steps = path(left.trim())?;
            steps.push(Step::PresentAndNotFalse);
            return Some(Self::Paths(vec![steps]));
        }
        split_union(text)
            .into_iter()
            .map(|part| path(part.trim()))
            .collect::<Option<Vec<_>>>()
            .map(Self::Paths)
    }

    /// Gives every value that the expression finds in `resource` to `found`.
    pub(crate) fn evaluate(&self, resource: &Value, found: &mut dyn FnMut(&Value)) {
        self.evaluate_within(resource, resource, found);
    }

    /// Gives every value that the expression finds in `element`, a part of `resource`, to `found`. An expression that
    /// is not made of paths looks at the whole resource, and finds nothing where it fails.
    pub(crate) fn evaluate_within(&self, element: &Value, resource: &Value, found: &mut dyn FnMut(&Value)) {
        let paths = match self {
            Self::Paths(paths) => paths,
            Self::General(expression) => return general(expression, resource, found),
        };
        for steps in paths {
            match steps.split_first() {
                Some((Step::Resource, rest)) => walk(resource, rest, found),
                _ => walk(element, steps, found),
            }
        }
    }

    /// Whether a member of this name at the top of a resource may be part of what the expression finds there.
    pub(crate) fn looks_at(&self, member: &str) -> bool {
        let Self::Paths(paths) = self else { return true };
        paths.iter().any(|steps| {
            let mut steps = steps.iter().skip_while(|step| **step == Step::Resource);
            match steps.next() {
                // Any form of a choice begins with its name.
                Some(Step::Child(name)) => member.starts_with(&**name),
                Some(Step::Form { form, plain }) => member == &**form || member == &**plain,
                _ => true,
            }
        })
    }

    /// Whether it gives the element itself that it is asked about.
    pub(crate) fn is_itself(&self) -> bool {
        matches!(self, Self::Paths(paths) if paths.iter().all(Vec::is_empty) && !paths.is_empty())
    }

    /// The names along a single plain path, without the type.
    pub(crate) fn plain_path(&self) -> Option<Vec<&str>> {
        let Self::Paths(paths) = self else { return None };
        let [steps] = paths.as_slice() else { return None };
        steps
            .iter()
            .map(|step| match step {
                Step::Child(name) => Some(&**name),
                Step::Form { form, .. } => Some(&**form),
                _ => None,
            })
            .collect()
    }

    /// Whether the answer is yes or no.
    pub(crate) fn is_boolean(&self) -> bool {
        match self {
            Self::Paths(paths) => paths.iter().any(|steps| steps.contains(&Step::PresentAndNotFalse)),
            Self::General(_) => false,
        }
    }
}

fn general(expression: &fhirpath::Expression, resource: &Value, found: &mut dyn FnMut(&Value)) {
    // Of what a reference refers to, its text tells the type.
    let resolver = |reference: &str| {
        let path = reference.split("/_history/").next().unwrap_or_default();
        let mut parts = path.rsplit('/').skip(1);
        parts.next().and_then(ResourceType::parse).map(Resolved::Type)
    };
    let context = Context { resolver: Some(&resolver), ..Context::of(resource) };
    let budget = Budget::of(STEPS_MAX);
    let Ok(items) = expression.evaluate_within(Item::resource(resource), &context, &budget) else { return };
    for item in items {
        match (item.json(), item.boolean(), item.text()) {
            (Some(value), ..) => found(value),
            (None, Some(truth), _) => found(&Value::Bool(truth)),
            (None, None, Some(text)) => found(&Value::from(text)),
            // Other computed values have no form in JSON that a search knows.
            (None, None, None) => {}
        }
    }
}

fn split_union(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (position, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            '|' if depth == 0 => {
                parts.extend(text.get(start..position));
                start = position + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(start..));
    parts
}

fn path(text: &str) -> Option<Vec<Step>> {
    if let Some(open) = text.strip_prefix('(') {
        let (inner, rest) = open.split_once(')')?;
        let mut steps = match inner.split_once(" as ") {
            Some((inner, name)) => {
                let mut steps = path(inner.trim())?;
                cast(&mut steps, name.trim());
                steps
            }
            None => path(inner.trim())?,
        };
        match rest.strip_prefix('.') {
            Some(rest) => split_dots(rest).into_iter().try_for_each(|part| step(part, &mut steps))?,
            None if rest.is_empty() => {}
            None => return None,
        }
        return Some(steps);
    }
    let mut steps = Vec::new();
    let mut parts = split_dots(text).into_iter().peekable();
    if parts.next_if_eq(&"%resource").is_some() {
        steps.push(Step::Resource);
    } else {
        parts.next_if(|part| part.starts_with(|letter: char| letter.is_ascii_uppercase()));
    }
    parts.try_for_each(|part| step(part, &mut steps))?;
    Some(steps)
}

/// Appends what `part`, one part of a path between dots, does.
fn step(part: &str, steps: &mut Vec<Step>) -> Option<()> {
    if let Some(name) = call(part, "as").or_else(|| call(part, "ofType")) {
        cast(steps, name);
    } else if let Some(condition) = call(part, "where") {
        steps.push(where_step(condition)?);
    } else if let Some((name, index)) = part.strip_suffix(']').and_then(|part| part.split_once('[')) {
        steps.push(Step::Child(name.into()));
        steps.push(Step::Index(index.parse().ok()?));
    } else if part.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !part.is_empty() {
        steps.push(Step::Child(part.into()));
    } else {
        return None;
    }
    Some(())
}

fn split_dots(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut quoted, mut start) = (Vec::new(), 0_i32, false, 0);
    for (position, letter) in text.char_indices() {
        match letter {
            '\'' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            '.' if depth == 0 && !quoted => {
                parts.extend(text.get(start..position));
                start = position + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(start..));
    parts
}

fn call<'t>(part: &'t str, name: &str) -> Option<&'t str> {
    part.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')
}

/// Turns the last child into one form of a choice. A cast to a resource type changes nothing that matters here.
fn cast(steps: &mut Vec<Step>, name: &str) {
    let mut letters = name.chars();
    if let (Some(Step::Child(plain)), Some(first)) = (steps.last(), letters.next()) {
        let form = format!("{plain}{}{}", first.to_ascii_uppercase(), letters.as_str());
        let plain = plain.clone();
        steps.pop();
        steps.push(Step::Form { form: form.into(), plain });
    }
}

fn where_step(condition: &str) -> Option<Step> {
    if let Some(name) = condition.strip_prefix("resolve() is ") {
        return ResourceType::parse(name.trim()).map(Step::ResolvesTo);
    }
    if let Some(url) = call(condition, "hasExtension") {
        return Some(Step::WhereExtension(url.trim_matches('\'').into()));
    }
    let (name, text) = condition.split_once('=')?;
    Some(Step::WhereEquals(name.trim().into(), text.trim().trim_matches('\'').into()))
}

fn walk(value: &Value, steps: &[Step], found: &mut dyn FnMut(&Value)) {
    let Some((step, rest)) = steps.split_first() else {
        match value {
            Value::Array(items) => items.iter().filter(|item| !item.is_null()).for_each(found),
            Value::Null => {}
            other => found(other),
        }
        return;
    };
    if let Value::Array(items) = value {
        if let Step::Index(index) = step {
            if let Some(item) = items.get(*index) {
                walk(item, rest, found);
            }
            return;
        }
        for item in items {
            walk(item, steps, found);
        }
        return;
    }
    match step {
        Step::Child(name) => {
            let Some(object) = value.as_object() else { return };
            if let Some(child) = object.get(&**name) {
                return walk(child, rest, found);
            }
            for (key, child) in object {
                let suffix = key.strip_prefix(&**name).unwrap_or_default();
                if suffix.starts_with(|letter: char| letter.is_ascii_uppercase()) && is_type(suffix) {
                    walk(child, rest, found);
                }
            }
        }
        Step::Form { form, plain } => {
            if let Some(child) = value.get(&**form).or_else(|| value.get(&**plain)) {
                walk(child, rest, found);
            }
        }
        Step::ResolvesTo(kind) => {
            let stated = value.get("type").and_then(Value::as_str) == Some(kind.name());
            let named = value
                .get("reference")
                .and_then(Value::as_str)
                .is_some_and(|text| refers_to(text, kind.name()));
            if stated || named {
                walk(value, rest, found);
            }
        }
        Step::WhereEquals(name, text) => {
            if value.get(&**name).and_then(Value::as_str) == Some(text) {
                walk(value, rest, found);
            }
        }
        Step::WhereExtension(url) => {
            let extensions = value.get("extension").and_then(Value::as_array);
            if extensions
                .is_some_and(|all| all.iter().any(|one| one.get("url").and_then(Value::as_str) == Some(url)))
            {
                walk(value, rest, found);
            }
        }
        Step::Index(index) => {
            if *index == 0 {
                walk(value, rest, found);
            }
        }
        // Taken before the walk begins.
        Step::Resource => {}
        Step::PresentAndNotFalse => found(value),
    }
}

/// Whether a choice's suffix is the name of a type, such as `DateTime` or `CodeableConcept`.
fn is_type(suffix: &str) -> bool {
    if crate::definitions::by_path(suffix).is_some() {
        return true;
    }
    let mut letters = suffix.chars();
    let lower = letters.next().map(|first| format!("{}{}", first.to_ascii_lowercase(), letters.as_str()));
    lower.is_some_and(|name| crate::primitive::Primitive::parse(&name).is_some())
}

fn refers_to(reference: &str, kind: &str) -> bool {
    let path = reference.split("/_history/").next().unwrap_or_default();
    let mut parts = path.rsplit('/');
    parts.next().is_some_and(|id| !id.is_empty()) && parts.next() == Some(kind)
}
