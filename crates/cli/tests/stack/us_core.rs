//! Every search that the US Core implementation guides 3.1.1 to 6.1.0 say a server SHALL have
//! (<https://hl7.org/fhir/us/core/STU6.1/CapabilityStatement-us-core-server.html>), and what they have included.

use serde_json::{Value, json};
use ward_testkit::Https;

use crate::api::create;
use crate::empty_stack;
use crate::search::found;

/// The searches of each type, parameters with `+` between; `date` and its like are asked with every comparator.
const SEARCHES: [(&str, &[&str]); 25] = [
    ("AllergyIntolerance", &["patient"]),
    ("CarePlan", &["patient+category"]),
    ("CareTeam", &["patient+status"]),
    ("Condition", &["patient", "patient+category"]),
    ("Coverage", &["patient"]),
    ("Device", &["patient"]),
    ("DiagnosticReport", &["patient", "patient+category", "patient+category+date", "patient+code"]),
    ("DocumentReference", &["_id", "patient", "patient+category", "patient+category+date", "patient+type"]),
    ("Encounter", &["_id", "date+patient", "patient"]),
    ("Goal", &["patient"]),
    ("Immunization", &["patient"]),
    ("Location", &["address", "name"]),
    ("MedicationDispense", &["patient"]),
    ("MedicationRequest", &["patient+intent", "patient+intent+status"]),
    ("Observation", &["patient+category", "patient+category+date", "patient+code"]),
    ("Organization", &["address", "name"]),
    ("Patient", &["_id", "birthdate+name", "gender+name", "identifier", "name"]),
    ("Practitioner", &["identifier", "name"]),
    ("PractitionerRole", &["practitioner", "specialty"]),
    ("Procedure", &["patient", "patient+date"]),
    ("QuestionnaireResponse", &["_id", "patient"]),
    ("RelatedPerson", &["_id"]),
    ("ServiceRequest", &["_id", "patient", "patient+category", "patient+category+authored", "patient+code"]),
    ("Specimen", &["_id"]),
    ("Medication", &["_id"]),
];

const INCLUDES: [(&str, &str, &str); 6] = [
    ("MedicationRequest", "MedicationRequest:medication", "Medication"),
    ("MedicationDispense", "MedicationDispense:medication", "Medication"),
    ("PractitionerRole", "PractitionerRole:practitioner", "Practitioner"),
    ("PractitionerRole", "PractitionerRole:endpoint", "Endpoint"),
    ("CareTeam", "CareTeam:participant:Practitioner", "Practitioner"),
    ("CareTeam", "CareTeam:participant:Patient", "Patient"),
];

const DAY: &str = "2024-03-05";

/// One resource of each type about one patient, and the name of each.
fn fill(client: &Https) -> Vec<(&'static str, String)> {
    let coded = |code: &str| json!({"coding": [{"system": "urn:codes", "code": code}], "text": code});
    let mut made: Vec<(&'static str, String)> = Vec::new();
    let mut add = |kind: &'static str, mut resource: Value| {
        resource["resourceType"] = kind.into();
        let name = format!("{kind}/{}", create(client, &resource).0);
        made.push((kind, name.clone()));
        json!({"reference": name})
    };
    let identifier = json!([{"system": "urn:ids", "value": "id-1"}]);
    let subject = add(
        "Patient",
        json!({"identifier": identifier, "name": [{"family": "Core", "given": ["Us"]}],
        "birthDate": DAY, "gender": "female"}),
    );
    let practitioner = add("Practitioner", json!({"identifier": identifier, "name": [{"family": "Core"}]}));
    let endpoint = add(
        "Endpoint",
        json!({"status": "active", "address": "https://e.test/",
        "connectionType": {"system": "urn:codes", "code": "x"}, "payloadType": [coded("any")]}),
    );
    let medication = add("Medication", json!({"code": coded("m")}));
    add("Organization", json!({"name": "Core House", "address": [{"city": "Salem"}]}));
    add("Location", json!({"name": "Core Ward", "address": {"city": "Salem"}}));
    add(
        "PractitionerRole",
        json!({"practitioner": practitioner, "specialty": [coded("code-1")], "endpoint": [endpoint]}),
    );
    add(
        "AllergyIntolerance",
        json!({"patient": subject, "code": coded("code-1"),
        "clinicalStatus": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "code": "active"}]}}),
    );
    add(
        "CarePlan",
        json!({"status": "active", "intent": "plan", "category": [coded("category-1")], "subject": subject}),
    );
    add(
        "CareTeam",
        json!({"status": "active", "subject": subject, "participant": [{"member": practitioner}, {"member": subject}]}),
    );
    add(
        "Condition",
        json!({"category": [coded("category-1")], "code": coded("code-1"), "subject": subject,
        "clinicalStatus": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]}}),
    );
    add("Coverage", json!({"status": "active", "beneficiary": subject, "payor": [subject]}));
    add("Device", json!({"patient": subject}));
    add(
        "DiagnosticReport",
        json!({"status": "final", "category": [coded("category-1")], "code": coded("code-1"), "subject": subject, "effectiveDateTime": DAY}),
    );
    add(
        "DocumentReference",
        json!({"status": "current", "type": coded("type-1"), "category": [coded("category-1")], "subject": subject,
        "date": format!("{DAY}T10:00:00Z"), "content": [{"attachment": {"contentType": "text/plain"}}]}),
    );
    add(
        "Encounter",
        json!({"status": "finished", "class": {"code": "AMB"}, "subject": subject, "period": {"start": DAY, "end": DAY}}),
    );
    add("Goal", json!({"lifecycleStatus": "active", "description": coded("code-1"), "subject": subject}));
    add(
        "Immunization",
        json!({"status": "completed", "vaccineCode": coded("code-1"), "patient": subject, "occurrenceDateTime": DAY}),
    );
    add(
        "MedicationRequest",
        json!({"status": "active", "intent": "order", "medicationReference": medication, "subject": subject}),
    );
    add(
        "MedicationDispense",
        json!({"status": "completed", "medicationReference": medication, "subject": subject}),
    );
    add(
        "Observation",
        json!({"status": "final", "category": [coded("category-1")], "code": coded("code-1"), "subject": subject, "effectiveDateTime": DAY}),
    );
    add(
        "Procedure",
        json!({"status": "completed", "code": coded("code-1"), "subject": subject, "performedPeriod": {"start": DAY, "end": DAY}}),
    );
    add("QuestionnaireResponse", json!({"status": "completed", "subject": subject}));
    add("RelatedPerson", json!({"patient": subject}));
    add(
        "ServiceRequest",
        json!({"status": "active", "intent": "order", "category": [coded("category-1")], "code": coded("code-1"), "subject": subject, "authoredOn": DAY}),
    );
    add("Specimen", json!({"subject": subject}));
    made
}

/// The values to ask for one parameter, all of which find the resource.
fn values(parameter: &str, kind: &str, name: &str, patient: &str) -> Vec<String> {
    let id = |name: &str| name.split('/').nth(1).unwrap().to_owned();
    let one = |text: &str| vec![text.to_owned()];
    match parameter {
        "_id" => vec![id(name)],
        "patient" => vec![id(patient), patient.to_owned()],
        "practitioner" => Vec::new(),
        "identifier" => vec!["urn:ids|id-1".to_owned(), "id-1".to_owned()],
        "category" | "code" | "type" => vec![format!("{parameter}-1"), format!("urn:codes|{parameter}-1")],
        "specialty" => one("urn:codes|code-1"),
        "name" => one("core"),
        "address" => one("salem"),
        "gender" => one("female"),
        "intent" => one("order,plan"),
        "status" if kind == "CareTeam" => one("active"),
        "status" => one("active,completed"),
        "birthdate" => one(DAY),
        "date" | "authored" => {
            ["gt2024-03-04", "ge2024-03-05", "lt2024-03-06", "le2024-03-05", DAY].map(str::to_owned).to_vec()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn every_search_that_us_core_demands_finds_what_it_should() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let made = fill(&client);
    let name = |kind: &str| made.iter().find(|(of, _)| *of == kind).unwrap().1.clone();
    let patient = name("Patient");
    let targets: Vec<Value> = made.iter().map(|(_, name)| json!({"reference": name})).collect();
    let provenance = create(
        &client,
        &json!({"resourceType": "Provenance", "target": targets, "recorded": "2024-03-05T10:00:00Z",
            "agent": [{"who": {"reference": name("Practitioner")}}]}),
    );
    let provenance = format!("Provenance/{}", provenance.0);
    let mut asked = 0;
    for (kind, searches) in SEARCHES {
        for search in searches {
            // Every value of each parameter, the others at their first.
            let parameters: Vec<(&str, Vec<String>)> = search
                .split('+')
                .map(|parameter| {
                    let mut values = values(parameter, kind, &name(kind), &patient);
                    if values.is_empty() {
                        values.push(name("Practitioner"));
                    }
                    (parameter, values)
                })
                .collect();
            for (place, (_, values)) in parameters.iter().enumerate() {
                for value in values {
                    let pairs: Vec<String> = parameters
                        .iter()
                        .enumerate()
                        .map(|(index, (parameter, values))| {
                            let value = if index == place { value } else { &values[0] };
                            format!("{parameter}={}", value.replace('|', "%7C"))
                        })
                        .collect();
                    let form = format!("{}&_revinclude=Provenance:target", pairs.join("&"));
                    let answer = client.search(kind, &form);
                    assert_eq!(found(&answer, "match"), [name(kind)], "{kind}?{form}");
                    assert_eq!(found(&answer, "include"), [provenance.as_str()], "{kind}?{form}");
                    asked += 1;
                }
            }
        }
    }
    for (kind, include, target) in INCLUDES {
        let answer = client.search(kind, &format!("_include={include}"));
        assert_eq!(found(&answer, "include"), [name(target)], "{include}");
    }
    assert!(asked > 80, "{asked}");
}
