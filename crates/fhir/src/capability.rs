//! The CapabilityStatement (<https://hl7.org/fhir/R4/capabilitystatement.html>): what this server does, made from
//! the same tables that make it do so.

use serde_json::{Value, json};

use crate::ResourceType;
use crate::search::{ParameterKind, Parameters};

/// The statement of a server at `base` that has these search parameters. `date` is when it was made, as a FHIR dateTime.
pub fn statement(base: &str, version: &str, date: &str, parameters: &Parameters) -> Value {
    let resources: Vec<Value> = ResourceType::all().map(|kind| resource(kind, parameters)).collect();
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
            "resource": resources, "searchParam": [{"name": "_filter", "type": "special"}],
            "interaction": [{"code": "transaction"}, {"code": "batch"}, {"code": "history-system"},
                {"code": "search-system"}],
            "operation": [{"name": "export", "definition": format!("{BULK_DATA}export")}],
        }],
    })
}

fn resource(kind: ResourceType, parameters: &Parameters) -> Value {
    let codes = [
        "read",
        "vread",
        "update",
        "patch",
        "delete",
        "history-instance",
        "history-type",
        "create",
        "search-type",
    ];
    let interactions: Vec<Value> = codes.iter().map(|code| json!({"code": code})).collect();
    let searched: Vec<Value> = parameters
        .of(kind)
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
    let references =
        |of: ResourceType| parameters.of(of).filter(|parameter| parameter.kind == ParameterKind::Reference);
    let includes: Vec<String> =
        references(kind).map(|parameter| format!("{kind}:{}", parameter.code)).collect();
    let reverse: Vec<String> = ResourceType::all()
        .flat_map(|of| {
            let here = references(of).filter(|parameter| parameter.targets.contains(&kind));
            here.map(move |parameter| format!("{of}:{}", parameter.code))
        })
        .collect();
    let mut resource = json!({
        "type": kind.name(), "profile": format!("http://hl7.org/fhir/StructureDefinition/{}", kind.name()),
        "interaction": interactions, "versioning": "versioned-update", "readHistory": true,
        "conditionalCreate": true, "conditionalRead": "full-support", "conditionalUpdate": true,
        "conditionalDelete": "single", "searchParam": searched,
    });
    let mut set = |name: &str, list: Vec<Value>| {
        if !list.is_empty() {
            resource[name] = list.into();
        }
    };
    set("searchInclude", includes.into_iter().map(Value::from).collect());
    set("searchRevInclude", reverse.into_iter().map(Value::from).collect());
    set("operation", operations(kind));
    resource
}

/// Where the Bulk Data implementation guide defines its operations.
const BULK_DATA: &str = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/";

fn operations(kind: ResourceType) -> Vec<Value> {
    let operation = |name: &str, definition: String| json!({"name": name, "definition": definition});
    let named =
        |name: &str| operation(name, format!("http://hl7.org/fhir/OperationDefinition/{kind}-{name}"));
    let mut operations = match kind.name() {
        "Patient" => vec![named("everything"), operation("export", format!("{BULK_DATA}patient-export"))],
        "Encounter" => vec![named("everything")],
        "Group" => vec![operation("export", format!("{BULK_DATA}group-export"))],
        "CodeSystem" => vec![named("lookup"), named("subsumes"), named("validate-code")],
        "ValueSet" => vec![named("expand"), named("validate-code")],
        _ => Vec::new(),
    };
    let validate = "http://hl7.org/fhir/OperationDefinition/Resource-validate";
    operations.push(operation("validate", validate.to_owned()));
    operations
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_statement_is_itself_valid() {
        let statement = super::statement("https://h/fhir/R4", "0.1.0", "2026-11-24", &Default::default());
        assert_eq!(crate::validate::resource(&statement), Vec::new());
    }
}
