//! Parts of resources: `_summary` and `_elements` (<https://hl7.org/fhir/R4/search.html#summary>).

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::definitions::{self, Definition};
use crate::search::Summary;

/// What stays whatever is asked for.
const ALWAYS: [&str; 3] = ["resourceType", "id", "meta"];

/// The elements of a summary, by the path of what they belong to.
static SUMMARIES: LazyLock<HashMap<&'static str, Vec<&'static str>>> = LazyLock::new(|| {
    let lines = include_str!("../definitions/summary.txt").lines();
    lines
        .filter_map(|line| line.split_once(' '))
        .map(|(path, names)| (path, names.split(' ').collect()))
        .collect()
});

/// Whether a part only is asked for.
pub fn is_partial(summary: Summary, elements: &[String]) -> bool {
    !elements.is_empty() || !matches!(summary, Summary::False | Summary::Count)
}

/// The part of `resource` that is asked for, marked as such, with the top-level elements that must be there. Names in
/// `elements` may have the type before them; those that are not elements of the type change nothing.
pub fn subset(resource: Value, summary: Summary, elements: &[String]) -> Value {
    let Value::Object(members) = resource else { return resource };
    let kind = members.get("resourceType").and_then(Value::as_str).unwrap_or_default().to_owned();
    let definition = definitions::resource(&kind);
    let asked = |name: &str| {
        elements.iter().any(|element| {
            element.strip_prefix(&kind).and_then(|rest| rest.strip_prefix('.')).unwrap_or(element) == name
        })
    };
    let keep = |key: &str| {
        let plain = key.strip_prefix('_').unwrap_or(key);
        if ALWAYS.contains(&plain) || is_required(definition, plain) {
            return true;
        }
        let name =
            definition.and_then(|definition| definition.element(plain)).map_or(plain, |element| element.name);
        match summary {
            _ if !elements.is_empty() => asked(name),
            Summary::Text => plain == "text",
            Summary::Data => plain != "text",
            Summary::True => is_of_summary(&kind, name),
            Summary::False | Summary::Count => true,
        }
    };
    let mut kept: Map<String, Value> = members.into_iter().filter(|(key, _)| keep(key)).collect();
    if summary == Summary::True && elements.is_empty() {
        summarize_each(&mut kept, &kind);
    }
    mark(&mut kept);
    Value::Object(kept)
}

fn is_of_summary(path: &str, name: &str) -> bool {
    SUMMARIES.get(path).is_some_and(|names| names.contains(&name))
}

/// Leaves of the parts of an object what [`summarize`] does; of which nothing is left is left out.
fn summarize_each(members: &mut Map<String, Value>, path: &str) {
    members.retain(|name, value| summarize(value, &format!("{path}.{name}")));
}

/// Leaves of a part of a resource what belongs to a summary and what must be there, and says whether that is anything.
/// Parts have few levels.
fn summarize(value: &mut Value, path: &str) -> bool {
    match value {
        Value::Array(items) => {
            items.retain_mut(|item| summarize(item, path));
            !items.is_empty()
        }
        Value::Object(members) => {
            let Some(definition) = definitions::by_path(path) else { return true };
            members.retain(|key, _| {
                let plain = key.strip_prefix('_').unwrap_or(key);
                let name = definition.element(plain).map_or(plain, |element| element.name);
                plain == "id" || is_of_summary(path, name) || is_required(Some(definition), plain)
            });
            summarize_each(members, path);
            !members.is_empty()
        }
        _ => true,
    }
}

fn is_required(definition: Option<&Definition>, key: &str) -> bool {
    definition.is_some_and(|definition| {
        definition.element(key).is_some_and(|element| definition.required >> element.number & 1 == 1)
    })
}

/// Says that it is not all: whoever wrote it back would lose the rest.
fn mark(members: &mut Map<String, Value>) {
    let tag =
        json!({"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"});
    let meta = members.entry("meta").or_insert_with(|| json!({}));
    match meta.get_mut("tag").and_then(Value::as_array_mut) {
        Some(tags) => tags.push(tag),
        None => {
            if let Some(meta) = meta.as_object_mut() {
                meta.insert("tag".to_owned(), json!([tag]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(summary: Summary, elements: &[&str]) -> Vec<String> {
        let observation = json!({
            "resourceType": "Observation", "id": "o", "meta": {"versionId": "1"}, "text": {"status": "generated"},
            "status": "final", "_status": {"id": "s"}, "code": {"text": "x"}, "valueQuantity": {"value": 1},
            "note": [{"text": "n"}],
        });
        let elements: Vec<String> = elements.iter().map(|name| (*name).to_owned()).collect();
        let part = subset(observation, summary, &elements);
        assert_eq!(part.pointer("/meta/tag/0/code"), Some(&json!("SUBSETTED")));
        part.as_object().unwrap().keys().filter(|key| !ALWAYS.contains(&key.as_str())).cloned().collect()
    }

    #[test]
    fn what_must_be_there_stays() {
        assert_eq!(keys(Summary::Text, &[]), ["text", "status", "_status", "code"]);
        assert_eq!(keys(Summary::Data, &[]), ["status", "_status", "code", "valueQuantity", "note"]);
        assert_eq!(
            keys(Summary::False, &["value", "Observation.note"]),
            ["status", "_status", "code", "valueQuantity", "note"]
        );
        assert_eq!(keys(Summary::False, &["nothing"]), ["status", "_status", "code"]);
        assert_eq!(keys(Summary::True, &[]), ["status", "_status", "code", "valueQuantity"]);
    }

    #[test]
    fn a_summary_goes_into_parts() {
        let patient = json!({"resourceType": "Patient", "name": [{"family": "f", "period": {"start": "2020"}}],
            "contact": [{"gender": "male"}], "link": [{"other": {"reference": "Patient/1"}, "type": "refer"}],
            "communication": [{"language": {"text": "x"}}]});
        let part = subset(patient, Summary::True, &[]);
        let part = part.as_object().unwrap();
        assert_eq!(part.keys().collect::<Vec<_>>(), ["resourceType", "name", "link", "meta"]);
        assert_eq!(part["link"][0]["type"], "refer");
        assert_eq!(part["name"][0]["period"]["start"], "2020");
        let encounter = json!({"resourceType": "Encounter", "status": "planned", "class": {"code": "IMP"},
            "participant": [{"individual": {"display": "d"}, "period": {"start": "2020"}}],
            "diagnosis": [{"condition": {"display": "c"}, "rank": 1}]});
        let part = subset(encounter, Summary::True, &[]);
        assert_eq!(part["participant"], json!([{"individual": {"display": "d"}}]));
        assert_eq!(part["diagnosis"], json!([{"condition": {"display": "c"}}]));
        let encounter = json!({"resourceType": "Encounter", "status": "planned", "class": {"code": "IMP"},
            "participant": [{"period": {"start": "2020"}}, {"individual": {"display": "d"}}],
"diagnosis": [{"rank": 1}]});
        let part = subset(encounter, Summary::True, &[]);
        assert_eq!(part["participant"], json!([{"individual": {"display": "d"}}]));
        let keys: Vec<&String> = part.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["resourceType", "status", "class", "participant", "meta"]);
    }
}
