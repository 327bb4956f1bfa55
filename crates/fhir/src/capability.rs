//! The CapabilityStatement (<https://hl7.org/fhir/R4/capabilitystatement.html>): what this server does, made from
//! the same tables that make it do so.

use serde_json::{Value, json};

use crate::ResourceType;
use crate::search::{self, ParameterKind};

/// The statement of a server at `base`. `date` is when this version was made, as a FHIR dateTime.
pub fn statement(base: &str, version: &str, date: &str) -> Value {
    let resources: Vec<Value> = ResourceType::all().map(resource).collect();
    json!({
        "resourceType": "CapabilityStatement", "status": "active", "date": date, "kind": "instance",
        "software": {"name": "Ward", "version": version},
        "implementation": {"description": "Ward FHIR R4 API", "url": base},
        "fhirVersion": "4.0.1", "format": ["application/fhir+json", "json"],
        "rest": [{
            "mode": "server",
            "documentation": "Searches whose parameters identify people or tell of their health are accepted by POST only.",
            "security": {
                "service": [{"coding": [{
                    "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
                    "code": "SMART-on-FHIR", "display": "SMART-on-FHIR"}]}],
                "extension": [{
                    "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
                    "extension": [{"url": "token", "valueUri": format!("{}/oauth/token", base.trim_end_matches("/fhir/R4"))}]}],
            },
            "resource": resources,
            "interaction": [{"code": "transaction"}, {"code": "batch"}],
        }],
    })
}

fn resource(kind: ResourceType) -> Value {
    let interactions: Vec<Value> =
        ["read", "vread", "update", "delete", "history-instance", "history-type", "create", "search-type"]
            .iter()
            .map(|code| json!({"code": code}))
            .collect();
    let parameters: Vec<Value> = search::parameters(kind)
        .iter()
        .map(|parameter| {
            let of = match parameter.kind {
                ParameterKind::Number => "number",
                ParameterKind::Date => "date",
                ParameterKind::String | ParameterKind::Words => "string",
                ParameterKind::Token => "token",
                ParameterKind::Reference => "reference",
                ParameterKind::Composite => "composite",
                ParameterKind::Quantity => "quantity",
                ParameterKind::Uri => "uri",
                ParameterKind::Place => "special",
            };
            json!({"name": parameter.code, "type": of})
        })
        .collect();
    json!({
        "type": kind.name(), "profile": format!("http://hl7.org/fhir/StructureDefinition/{}", kind.name()),
        "interaction": interactions, "versioning": "versioned-update", "readHistory": true,
        "conditionalRead": "modified-since", "searchParam": parameters,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_statement_is_itself_valid() {
        let statement = super::statement("https://h/fhir/R4", "0.1.0", "2026-11-24");
        assert_eq!(crate::validate::resource(&statement), Vec::new());
    }
}
