//! The filters of a value set (<https://hl7.org/fhir/R4/valueset-filter-operator.html>).

use std::collections::HashSet;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::code_system::{CodeSystem, Concept};
use super::{Fault, Steps, text};

/// The longest regular expression, in bytes.
const REGEX_BYTES_MAX: usize = 1_000;
/// How large the form may become that it is compiled to, in bytes, and how many steps [`REGEX_STEP_BYTES`] of a text then
/// take: a hostile text keeps every state busy.
const REGEX_SIZES: [(usize, usize); 3] = [(4 << 10, 1), (16 << 10, 4), (64 << 10, 16)];
/// What it takes to compile one, twice.
const REGEX_STEPS: usize = 10_000;
/// So many bytes of a text are compared in one step, or matched by a small regular expression.
const STEP_BYTES: usize = 16;
const REGEX_STEP_BYTES: usize = 2;

/// The places of the concepts that one filter lets through.
///
/// Follows the hierarchy whatever it means: whoever wrote the filter knows.
pub(super) fn chosen(
    system: &CodeSystem,
    filter: &Value,
    steps: &mut Steps,
) -> Result<HashSet<usize>, Fault> {
    let (Some(property), Some(operator), Some(value)) =
        (text(filter, "property"), text(filter, "op"), text(filter, "value"))
    else {
        return Err(Fault::Malformed);
    };
    let of_code = matches!(property, "concept" | "code");
    let kinds = |code: &str, steps: &mut Steps| {
        let found = system.reached([known(system, code)?], |concept| &concept.children);
        steps.take(found.len())?;
        Ok::<_, Fault>(found)
    };
    match operator {
        "is-a" | "descendent-of" | "is-not-a" | "generalizes" if !of_code => Err(Fault::Filter),
        "is-a" => kinds(value, steps),
        "descendent-of" => {
            let mut found = kinds(value, steps)?;
            found.remove(&known(system, value)?);
            Ok(found)
        }
        "is-not-a" => {
            let found = kinds(value, steps)?;
            steps.take(system.concepts().len())?;
            Ok((0..system.concepts().len()).filter(|place| !found.contains(place)).collect())
        }
        "generalizes" => {
            let found = system.reached([known(system, value)?], |concept| &concept.parents);
            steps.take(found.len())?;
            Ok(found)
        }
        _ => scan(system, property, operator, value, steps),
    }
}

fn known(system: &CodeSystem, code: &str) -> Result<usize, Fault> {
    system.place(code).ok_or(Fault::UnknownCode)
}

/// What a filter asks of the values of a property.
enum Asks {
    Is(String),
    OneOf(HashSet<String>),
    NoneOf(HashSet<String>),
    Like(Regex, usize),
    Exists(bool),
}

/// Asks every concept.
fn scan(
    system: &CodeSystem,
    property: &str,
    operator: &str,
    value: &str,
    steps: &mut Steps,
) -> Result<HashSet<usize>, Fault> {
    let standard = matches!(
        property,
        "concept"
            | "code"
            | "display"
            | "definition"
            | "parent"
            | "child"
            | "status"
            | "inactive"
            | "deprecated"
            | "notSelectable"
    );
    if !standard && !system.defines(property) {
        return Err(Fault::UnknownProperty);
    }
    // Where case is of no matter, it is of none for codes either.
    let folds = system.folds() && matches!(property, "concept" | "code" | "parent" | "child");
    let folded = |text: &str| if folds { text.to_lowercase() } else { text.to_owned() };
    let listed = || value.split(',').map(|one| folded(one.trim())).collect();
    let asks = match operator {
        "=" => Asks::Is(folded(value)),
        "in" => Asks::OneOf(listed()),
        "not-in" => Asks::NoneOf(listed()),
        "regex" => {
            let (pattern, cost) = compiled(value, folds, steps)?;
            Asks::Like(pattern, cost)
        }
        "exists" => Asks::Exists(match value {
            "true" => true,
            "false" => false,
            _ => return Err(Fault::Filter),
        }),
        _ => return Err(Fault::Filter),
    };
    let cost = |text: &String| match &asks {
        Asks::Like(_, cost) => 1 + text.len().div_ceil(REGEX_STEP_BYTES) * cost,
        _ => 1 + text.len() / STEP_BYTES,
    };
    let mut chosen = HashSet::new();
    for (place, concept) in system.concepts().iter().enumerate() {
        let values = values(system, concept, property);
        steps.take(values.iter().map(cost).fold(1, |sum, one| sum + one))?;
        let mut values = values.iter().map(|one| folded(one));
        let meets = match &asks {
            Asks::Is(wanted) => values.any(|one| one == *wanted),
            Asks::OneOf(wanted) => values.any(|one| wanted.contains(&one)),
            Asks::NoneOf(unwanted) => !values.any(|one| unwanted.contains(&one)),
            Asks::Like(pattern, _) => values.any(|one| pattern.is_match(&one)),
            Asks::Exists(wanted) => values.next().is_some() == *wanted,
        };
        if meets {
            chosen.insert(place);
        }
    }
    Ok(chosen)
}

/// The pattern, which must fit a whole value, and how many steps it takes.
fn compiled(pattern: &str, ignore_case: bool, steps: &mut Steps) -> Result<(Regex, usize), Fault> {
    steps.take(REGEX_STEPS)?;
    if pattern.len() > REGEX_BYTES_MAX {
        return Err(Fault::Filter);
    }
    let build = |pattern: &str| {
        REGEX_SIZES.into_iter().find_map(|(size, cost)| {
            let mut builder = RegexBuilder::new(pattern);
            builder.case_insensitive(ignore_case).size_limit(size).dfa_size_limit(size);
            builder.build().ok().map(|regex| (regex, cost))
        })
    };
    // What closes the group around it is no pattern by itself.
    let whole = build(pattern).and_then(|_| build(&format!("^(?:{pattern})$")));
    whole.ok_or(Fault::Filter)
}

/// The values of a property as texts.
fn values(system: &CodeSystem, concept: &Concept, property: &str) -> Vec<String> {
    let codes = |places: &[usize]| {
        let concepts = places.iter().filter_map(|place| system.concepts().get(*place));
        concepts.map(|concept| concept.code.to_string()).collect()
    };
    match property {
        "concept" | "code" => vec![concept.code.to_string()],
        "display" => concept.display.iter().map(ToString::to_string).collect(),
        "definition" => concept.definition.iter().cloned().collect(),
        "parent" => codes(&concept.parents),
        "child" => codes(&concept.children),
        _ => {
            let own = concept.properties.iter().filter(|one| text(one, "code") == Some(property));
            own.filter_map(plain).collect()
        }
    }
}

/// The value of a property as text: of a Coding, its code.
fn plain(property: &Value) -> Option<String> {
    let (_, value) = property.as_object()?.iter().find(|(key, _)| key.starts_with("value"))?;
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Object(_) => text(value, "code").map(str::to_owned),
        _ => None,
    }
}
