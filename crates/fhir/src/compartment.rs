//! Compartments (<https://hl7.org/fhir/R4/compartmentdefinition.html>), and the patients' above all: whose record a
//! resource belongs to.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use serde_json::Value;
use ward_base::ResourceId;

use crate::ResourceType;
use crate::search::{self, ParameterKind, SearchParameter, SearchValue};

/// By owner and member, the parameters that make it one.
static MEMBERS: LazyLock<HashMap<(&'static str, &'static str), Vec<&'static str>>> = LazyLock::new(|| {
    include_str!("../definitions/compartments.txt")
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some(((words.next()?, words.next()?), words.collect()))
        })
        .collect()
});

/// The types that compartments are named after.
pub const OWNERS: [&str; 5] = ["Patient", "Encounter", "RelatedPerson", "Practitioner", "Device"];

/// The search parameters by which a resource of type `member` belongs to compartments of type `owner`.
pub fn parameters(owner: ResourceType, member: ResourceType) -> &'static [&'static str] {
    MEMBERS.get(&(owner.name(), member.name())).map_or(&[], Vec::as_slice)
}

/// The parameters by which a resource belongs to patients.
fn of_patients(member: ResourceType) -> &'static [&'static str] {
    MEMBERS.get(&("Patient", member.name())).map_or(&[], Vec::as_slice)
}

/// Whether resources of a type can be in a patient's compartment at all.
pub fn is_member(resource_type: ResourceType) -> bool {
    resource_type.name() == "Patient" || !of_patients(resource_type).is_empty()
}

/// The patients that `resource` is about, each once: those in whose compartments it is, in the order of the
/// compartment's definition, then those that it refers to in other ways a search would find, its own entries included
/// if it is a Bundle or Parameters.
///
/// The first is the owner of a resource whose type is in the compartment ([`is_member`]): its body is sealed under that
/// patient's key. All of them are named when somebody reads it.
pub fn patients(
    resource_type: ResourceType,
    resource: &Value,
    id: Option<&str>,
    base: &str,
) -> Vec<ResourceId> {
    if resource_type.name() == "Patient" {
        return id.and_then(|id| ResourceId::parse(id).ok()).into_iter().collect();
    }
    let mut found = Found::default();
    for name in of_patients(resource_type) {
        if let Some(parameter) = search::parameter(resource_type, name) {
            found.take(parameter, resource, base);
        }
    }
    for parameter in search::parameters(resource_type) {
        if parameter.kind == ParameterKind::Reference
            && parameter.targets.iter().any(|kind| kind.name() == "Patient")
        {
            found.take(parameter, resource, base);
        }
    }
    let inner = match resource_type.name() {
        "Bundle" => resource.get("entry"),
        "Parameters" => resource.get("parameter"),
        _ => None,
    };
    for resource in
        inner.and_then(Value::as_array).into_iter().flatten().filter_map(|part| part.get("resource"))
    {
        let named = resource.get("resourceType").and_then(Value::as_str).and_then(ResourceType::parse);
        // One level: what is deeper within is not found by a search either.
        if let Some(kind) = named.filter(|kind| !matches!(kind.name(), "Bundle" | "Parameters")) {
            let id = resource.get("id").and_then(Value::as_str);
            patients(kind, resource, id, base).into_iter().for_each(|id| found.add(id));
        }
    }
    found.order
}

/// Patients in the order in which they were found.
#[derive(Default)]
struct Found {
    order: Vec<ResourceId>,
    known: HashSet<ResourceId>,
}

impl Found {
    fn take(&mut self, parameter: &'static SearchParameter, resource: &Value, base: &str) {
        for value in search::extract_parameter(parameter, resource, base) {
            let SearchValue::Reference { resource_type: Some(kind), id: Some(id), .. } = value else {
                continue;
            };
            if kind.name() == "Patient"
                && let Ok(id) = ResourceId::parse(&id)
            {
                self.add(id);
            }
        }
    }

    fn add(&mut self, id: ResourceId) {
        if self.known.insert(id.clone()) {
            self.order.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn owners_come_from_the_compartments_parameters() {
        let of = |resource: Value| {
            let kind = ResourceType::parse(resource["resourceType"].as_str().unwrap()).unwrap();
            let id = resource["id"].as_str().map(str::to_owned);
            let found = patients(kind, &resource, id.as_deref(), "https://h/fhir/R4");
            found.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(of(json!({"resourceType": "Patient", "id": "a"})), ["a"]);
        assert_eq!(of(json!({"resourceType": "Observation", "subject": {"reference": "Patient/b"}})), ["b"]);
        assert_eq!(
            of(
                json!({"resourceType": "Observation", "subject": {"reference": "https://h/fhir/R4/Patient/b"}})
            ),
            ["b"]
        );
        assert!(of(json!({"resourceType": "Observation", "subject": {"reference": "Group/b"}})).is_empty());
        assert!(of(json!({"resourceType": "Organization", "id": "o"})).is_empty());
        let appointment = json!({"resourceType": "Appointment", "participant": [
            {"actor": {"reference": "Practitioner/x"}}, {"actor": {"reference": "Patient/c"}},
            {"actor": {"reference": "Patient/d"}}, {"actor": {"reference": "Patient/c"}}]});
        assert_eq!(of(appointment), ["c", "d"]);
        // Outside the compartment, but about somebody all the same.
        assert_eq!(of(json!({"resourceType": "Task", "for": {"reference": "Patient/t"}})), ["t"]);
        assert!(!is_member(ResourceType::parse("Task").unwrap()));
        let bundle = json!({"resourceType": "Bundle", "type": "document", "entry": [
            {"resource": {"resourceType": "Patient", "id": "e"}},
            {"resource": {"resourceType": "Condition", "subject": {"reference": "Patient/f"}}}, {}]});
        assert_eq!(of(bundle), ["e", "f"]);
        let members: Vec<Value> =
            (0..20_000).map(|number| json!({"entity": {"reference": format!("Patient/{number}")}})).collect();
        assert_eq!(of(json!({"resourceType": "Group", "member": members})).len(), 20_000);
    }
}
