//! The patient compartment (<https://hl7.org/fhir/R4/compartmentdefinition-patient.html>): whose record a resource
//! belongs to.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;
use ward_base::ResourceId;

use crate::ResourceType;
use crate::search::{self, SearchValue};

static MEMBERS: LazyLock<HashMap<&'static str, Vec<&'static str>>> = LazyLock::new(|| {
    include_str!("../definitions/patient_compartment.txt")
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, parameters)| (name, parameters.split(' ').collect()))
        .collect()
});

/// The patients whose compartments `resource` is in, each once. The first is its owner: its body is sealed under
/// that patient's key.
pub fn patients(
    resource_type: ResourceType,
    resource: &Value,
    id: Option<&str>,
    base: &str,
) -> Vec<ResourceId> {
    if resource_type.name() == "Patient" {
        return id.and_then(|id| ResourceId::parse(id).ok()).into_iter().collect();
    }
    let Some(parameters) = MEMBERS.get(resource_type.name()) else { return Vec::new() };
    let mut found: Vec<ResourceId> = Vec::new();
    for name in parameters {
        let Some(parameter) = search::parameter(resource_type, name) else { continue };
        for value in search::extract_parameter(parameter, resource, base) {
            let SearchValue::Reference { resource_type: Some(kind), id: Some(id), .. } = value else {
                continue;
            };
            if kind.name() == "Patient"
                && let Ok(id) = ResourceId::parse(&id)
                && !found.contains(&id)
            {
                found.push(id);
            }
        }
    }
    found
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
    }
}
