//! The resources in which questions about codes are answered.

use serde_json::{Map, Value, json};

use super::code_system::{CodeSystem, Concept, Subsumption};
use super::coding::Verdict;
use super::expansion::{Coded, Expansion};
use super::text;

/// What of a ValueSet stands in its expansion as well: what tells which it is.
const KEPT: [&str; 8] = ["url", "version", "name", "title", "status", "experimental", "date", "publisher"];

/// Which part of an expansion is wanted.
#[derive(Clone, Default)]
pub struct Part {
    /// Only codes with these words.
    pub words: Option<String>,
    /// So many codes are left out at the beginning.
    pub offset: Option<usize>,
    /// At most so many codes; all if it is not said.
    pub count: Option<usize>,
}

/// The answer of `$expand`: the value set with this part of its codes, worked out at `timestamp`, a FHIR dateTime.
pub fn expanded(set: &Value, expansion: &Expansion, part: &Part, timestamp: &str) -> Value {
    let chosen: Vec<&Coded> = match &part.words {
        Some(words) => expansion.matching(words),
        None => expansion.codes().iter().collect(),
    };
    let page = chosen.iter().skip(part.offset.unwrap_or(0)).take(part.count.unwrap_or(usize::MAX));
    let contains: Vec<Value> = page.map(|coded| contained(coded)).collect();
    let mut parameters = Vec::new();
    let mut number = |name: &str, value: Option<usize>| {
        if let Some(value) = value {
            parameters.push(json!({"name": name, "valueInteger": value}));
        }
    };
    number("offset", part.offset);
    number("count", part.count);
    let mut answer = Map::new();
    answer.insert("resourceType".to_owned(), "ValueSet".into());
    for name in KEPT {
        if let Some(value) = set.get(name) {
            answer.insert(name.to_owned(), value.clone());
        }
    }
    // A value set that is not as it should be is answered for all the same.
    answer.entry("status").or_insert_with(|| "unknown".into());
    let mut expansion = json!({"timestamp": timestamp, "total": chosen.len()});
    if let Some(offset) = part.offset {
        expansion["offset"] = offset.into();
    }
    if !parameters.is_empty() {
        expansion["parameter"] = parameters.into();
    }
    if !contains.is_empty() {
        expansion["contains"] = contains.into();
    }
    answer.insert("expansion".to_owned(), expansion);
    Value::Object(answer)
}

fn contained(coded: &Coded) -> Value {
    let mut one = json!({"system": *coded.system});
    if coded.is_abstract {
        one["abstract"] = true.into();
    }
    if coded.is_inactive {
        one["inactive"] = true.into();
    }
    if let Some(version) = &coded.version {
        one["version"] = Value::from(&**version);
    }
    one["code"] = Value::from(&*coded.code);
    if let Some(display) = &coded.display {
        one["display"] = Value::from(&**display);
    }
    one
}

/// The answer of `$validate-code`.
pub fn validated(verdict: &Verdict) -> Value {
    let mut all = vec![json!({"name": "result", "valueBoolean": verdict.result})];
    if let Some(message) = verdict.message {
        all.push(json!({"name": "message", "valueString": message}));
    }
    if let Some(display) = &verdict.display {
        all.push(json!({"name": "display", "valueString": **display}));
    }
    parameters(all)
}

/// The answer of `$subsumes`.
pub fn outcome_of_subsumption(outcome: Subsumption) -> Value {
    let code = match outcome {
        Subsumption::Equivalent => "equivalent",
        Subsumption::Subsumes => "subsumes",
        Subsumption::SubsumedBy => "subsumed-by",
        Subsumption::NotSubsumed => "not-subsumed",
    };
    parameters(vec![json!({"name": "outcome", "valueCode": code})])
}

/// The answer of `$lookup`: what the code system says of the concept. If properties are named, those and the
/// designations only if they are among them.
pub fn looked_up(system: &CodeSystem, concept: &Concept, wanted: &[String]) -> Value {
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name || one == "*");
    let name = system.name.as_deref().unwrap_or(&system.url);
    let mut all = vec![json!({"name": "name", "valueString": name})];
    if let Some(version) = &system.version {
        all.push(json!({"name": "version", "valueString": **version}));
    }
    // R4 demands a display; a code that has none is its own.
    let display = concept.display.as_ref().unwrap_or(&concept.code);
    all.push(json!({"name": "display", "valueString": **display}));
    if wants("designation") {
        all.extend(concept.designations.iter().filter_map(designation));
    }
    if let Some(definition) = concept.definition.as_ref().filter(|_| wants("definition")) {
        all.push(property("definition", json!({"name": "value", "valueString": definition})));
    }
    let related = |name: &str, places: &[usize]| -> Vec<Value> {
        let codes = places.iter().filter_map(|place| system.concepts().get(*place));
        codes.map(|other| property(name, json!({"name": "value", "valueCode": *other.code}))).collect()
    };
    if wants("parent") {
        all.extend(related("parent", &concept.parents));
    }
    if wants("child") {
        all.extend(related("child", &concept.children));
    }
    all.extend(concept.properties.iter().filter_map(|one| {
        let code = text(one, "code").filter(|code| wants(code) && !matches!(*code, "parent" | "child"))?;
        let (key, value) = one.as_object()?.iter().find(|(key, _)| key.starts_with("value"))?;
        let mut part = json!({"name": "value"});
        part[key.as_str()] = value.clone();
        Some(property(code, part))
    }));
    parameters(all)
}

fn property(code: &str, value: Value) -> Value {
    json!({"name": "property", "part": [{"name": "code", "valueCode": code}, value]})
}

fn designation(designation: &Value) -> Option<Value> {
    let mut parts = Vec::new();
    if let Some(language) = text(designation, "language") {
        parts.push(json!({"name": "language", "valueCode": language}));
    }
    if let Some(usage) = designation.get("use") {
        parts.push(json!({"name": "use", "valueCoding": usage}));
    }
    parts.push(json!({"name": "value", "valueString": text(designation, "value")?}));
    Some(json!({"name": "designation", "part": parts}))
}

fn parameters(all: Vec<Value>) -> Value {
    json!({"resourceType": "Parameters", "parameter": all})
}
