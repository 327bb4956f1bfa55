//! Parts of resources: `_summary` and `_elements` (<https://hl7.org/fhir/R4/search.html#summary>).

use serde_json::{Map, Value, json};

use crate::definitions::{self, Definition};
use crate::search::Summary;

/// What stays whatever is asked for.
const ALWAYS: [&str; 3] = ["resourceType", "id", "meta"];

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
            Summary::False | Summary::Count => true,
        }
    };
    let mut kept: Map<String, Value> = members.into_iter().filter(|(key, _)| keep(key)).collect();
    mark(&mut kept);
    Value::Object(kept)
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
    }
}
