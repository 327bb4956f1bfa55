//! The references in a Bundle's resources: those that search, and those that get another name.

use serde_json::{Map, Value};

use super::{History, target};
use crate::ResourceType;
use crate::definitions::{self, Definition, ElementType};
use crate::primitive::Primitive;

/// The references in `resource` that name what they mean by a search, `Patient?identifier=…`, with the type that is
/// searched: whoever carries a transaction out must resolve them (<https://hl7.org/fhir/R4/http.html#transaction>).
pub fn conditional_references<'r>(resource: &'r Value, found: &mut Vec<(ResourceType, &'r str)>) {
    match resource {
        Value::Object(object) => {
            for (name, value) in object {
                match value {
                    Value::String(link) if name == "reference" => {
                        let target =
                            target(link).filter(|target| target.query.is_some() && target.id.is_none());
                        let kind = target.and_then(|target| target.resource_type);
                        found.extend(kind.map(|kind| (kind, link.as_str())));
                    }
                    value => conditional_references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| conditional_references(item, found)),
        _ => {}
    }
}

/// The parts of an address such as `https://h/fhir/Patient/1`: the base, `https://h/fhir/`, and `Patient/1`.
pub fn restful(url: &str) -> Option<(&str, &str)> {
    let (rest, _) = url.rsplit_once('/')?;
    let (base, _) = rest.rsplit_once('/')?;
    let (base, of_one) = url.split_at(base.len() + 1);
    let target = target(of_one).filter(|target| target.id.is_some() && target.query.is_none())?;
    (base.contains("://") && target.history == History::Absent && target.operation.is_none())
        .then_some((base, of_one))
}

/// Gives every link in `resource` the name that `renamed` has for it, if it has one: references, elements of the types
/// uri, url, oid and uuid, and `href` and `src` in narratives, as the specification demands. A canonical stays as it
/// is, and so does what only begins with a link that has another name, such as a link to a version. Each link is asked
/// for once: what has its new name is not renamed again.
pub fn rewrite_references(resource: &mut Value, renamed: &dyn Fn(&str) -> Option<String>) {
    rewrite_resource(resource, renamed, DEPTH_MAX);
}

/// The deepest nesting of objects that is looked into, as in validation.
const DEPTH_MAX: usize = 100;

fn rewrite_resource(resource: &mut Value, renamed: &dyn Fn(&str) -> Option<String>, depth_left: usize) {
    let kind = resource.get("resourceType").and_then(Value::as_str).and_then(ResourceType::parse);
    if let (Some(definition), Value::Object(object)) = (kind.and_then(ResourceType::definition), resource) {
        rewrite_object(object, definition, renamed, depth_left);
    }
}

fn rewrite_object(
    object: &mut Map<String, Value>,
    definition: &'static Definition,
    renamed: &dyn Fn(&str) -> Option<String>,
    depth_left: usize,
) {
    let Some(depth_left) = depth_left.checked_sub(1) else { return };
    for (key, value) in object {
        let of = match definition.element(key) {
            Some(element) => match element.of {
                // The one link that has the type string.
                ElementType::Primitive(Primitive::String)
                    if definition.path == "Reference" && key == "reference" =>
                {
                    ElementType::Primitive(Primitive::Uri)
                }
                of => of,
            },
            // Extensions of a primitive.
            None if key.starts_with('_') => {
                each(value, &mut |value| {
                    if let Value::Object(object) = value {
                        rewrite_object(object, definitions::element(), renamed, depth_left);
                    }
                });
                continue;
            }
            None => continue,
        };
        each(value, &mut |value| match (of, value) {
            (ElementType::Complex(id), Value::Object(object)) => {
                rewrite_object(object, definitions::definition(id), renamed, depth_left);
            }
            (ElementType::Resource, value) => rewrite_resource(value, renamed, depth_left),
            (
                ElementType::Primitive(Primitive::Uri | Primitive::Url | Primitive::Oid | Primitive::Uuid),
                Value::String(link),
            ) => {
                if let Some(new) = renamed(link) {
                    *link = new;
                }
            }
            (ElementType::Xhtml, Value::String(text)) => {
                if let Some(new) = rewrite_narrative(text, renamed) {
                    *text = new;
                }
            }
            _ => {}
        });
    }
}

/// One value, or each of several.
fn each(value: &mut Value, act: &mut dyn FnMut(&mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(act),
        other => act(other),
    }
}

/// The narrative with other links, if there are any to change.
fn rewrite_narrative(text: &str, renamed: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let mut out = String::new();
    let mut changed = false;
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        out.push_str(before);
        out.push('=');
        rest = after;
        let is_link = ["href", "src"].iter().any(|name| {
            before.strip_suffix(name).is_some_and(|before| before.ends_with([' ', '\t', '\r', '\n']))
        });
        let quote = after.chars().next().filter(|first| is_link && matches!(first, '"' | '\''));
        let quoted =
            quote.and_then(|quote| after.get(1..)?.split_once(quote).map(|(link, rest)| (quote, link, rest)));
        if let Some((quote, link, after)) = quoted
            && let Some(new) = renamed(link)
            && !new.contains(['"', '\'', '<', '>', '&'])
        {
            out.push(quote);
            out.push_str(&new);
            out.push(quote);
            rest = after;
            changed = true;
        }
    }
    out.push_str(rest);
    changed.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn links_are_replaced_where_the_specification_says() {
        let renamed = |link: &str| match link {
            "urn:uuid:1" => Some("Patient/a".to_owned()),
            "urn:uuid:2" => Some("Binary/b".to_owned()),
            _ => None,
        };
        let mut resource = json!({
            "resourceType": "DocumentReference",
            "text": {"status": "generated", "div": "<div><a href=\"urn:uuid:1\">urn:uuid:1</a><img src='urn:uuid:2'/> href=\"urn:uuid:3\"</div>"},
            "contained": [{"resourceType": "Observation", "subject": {"reference": "urn:uuid:1", "display": "urn:uuid:1"}}],
            "extension": [{"url": "urn:x", "valueUri": "urn:uuid:1"}, {"url": "urn:x", "valueString": "urn:uuid:1"},
                {"url": "urn:x", "valueCanonical": "urn:uuid:1"}],
            "_status": {"extension": [{"url": "urn:x", "valueReference": {"reference": "urn:uuid:1"}}]},
            "subject": {"reference": "urn:uuid:1/_history/1"},
            "content": [{"attachment": {"url": "urn:uuid:2"}}],
            "unknown": "urn:uuid:1",
        });
        rewrite_references(&mut resource, &renamed);
        assert_eq!(
            resource,
            json!({
                "resourceType": "DocumentReference",
                "text": {"status": "generated", "div": "<div><a href=\"Patient/a\">urn:uuid:1</a><img src='Binary/b'/> href=\"urn:uuid:3\"</div>"},
                "contained": [{"resourceType": "Observation", "subject": {"reference": "Patient/a", "display": "urn:uuid:1"}}],
                "extension": [{"url": "urn:x", "valueUri": "Patient/a"}, {"url": "urn:x", "valueString": "urn:uuid:1"},
                    {"url": "urn:x", "valueCanonical": "urn:uuid:1"}],
                "_status": {"extension": [{"url": "urn:x", "valueReference": {"reference": "Patient/a"}}]},
                "subject": {"reference": "urn:uuid:1/_history/1"},
                "content": [{"attachment": {"url": "Binary/b"}}],
                "unknown": "urn:uuid:1",
            })
        );
    }

    #[test]
    fn references_that_search_are_known_wherever_they_stand() {
        let with = |link: &str| json!({"resourceType": "Observation", "performer": [{"reference": link}]});
        let links = |resource: &Value| {
            let mut found = Vec::new();
            conditional_references(resource, &mut found);
            found.into_iter().map(|(kind, link)| format!("{kind} {link}")).collect::<Vec<_>>()
        };
        assert_eq!(links(&with("Practitioner?identifier=a|b")), ["Practitioner Practitioner?identifier=a|b"]);
        for plain in
            ["Practitioner/1", "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0", "https://h/x?y=1", "#a"]
        {
            assert!(links(&with(plain)).is_empty(), "{plain}");
        }
        assert_eq!(restful("https://h/fhir/Patient/1"), Some(("https://h/fhir/", "Patient/1")));
        for other in
            ["Patient/1", "urn:uuid:1", "https://h/fhir/Patient", "https://Patient/1/_history", "", "/"]
        {
            assert_eq!(restful(other), None, "{other}");
        }
    }
}
