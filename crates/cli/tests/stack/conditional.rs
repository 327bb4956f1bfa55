//! Conditional interactions, patches, and conditions within Bundles.

use serde_json::{Value, json};
use ward_testkit::{Answer, Https, StackOptions};

use crate::api::{create, issue};
use crate::{empty_stack, stack};

const JSON: (&str, &str) = ("Content-Type", "application/fhir+json");
const PATCH: (&str, &str) = ("Content-Type", "application/json-patch+json");

fn person(number: &str, family: &str) -> Value {
    json!({"resourceType": "Patient", "identifier": [{"system": "urn:mrn", "value": number}],
        "name": [{"family": family}]})
}

fn create_if_none(client: &Https, condition: &str, resource: &Value) -> Answer {
    let body = resource.to_string();
    client.send("POST", "/fhir/R4/Patient", &[JSON, ("If-None-Exist", condition)], body.as_bytes())
}

fn bundle(client: &Https, kind: &str, entries: Value) -> Answer {
    client.post("/fhir/R4", &json!({"resourceType": "Bundle", "type": kind, "entry": entries}))
}

fn statuses(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let entries = answer.json()["entry"].as_array().unwrap().clone();
    entries.iter().map(|entry| entry["response"]["status"].as_str().unwrap()[..3].to_owned()).collect()
}

fn count(client: &Https, kind: &str, form: &str) -> usize {
    let answer = client.search(kind, form);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["entry"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_conditional_create_makes_one_resource_however_many_send_it() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let first = create_if_none(&client, "identifier=urn:mrn|1", &person("1", "Lovelace"));
    let again = create_if_none(&client, "_filter=identifier eq urn:mrn|1", &person("1", "Somebody"));
    assert_eq!((first.status, again.status), (201, 200), "{}", again.text());
    assert_eq!(again.json(), first.json());
    assert_eq!(again.header("etag"), Some("W/\"1\""));
    let at_once: Vec<u16> = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8)
            .map(|_| {
                let client = &client;
                scope.spawn(move || {
                    create_if_none(client, "identifier=urn:mrn|2", &person("2", "Hopper")).status
                })
            })
            .collect();
        tries.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(at_once.iter().filter(|status| **status == 201).count(), 1, "{at_once:?}");
    assert!(at_once.iter().all(|status| matches!(status, 200 | 201)), "{at_once:?}");
    create(&client, &person("1", "Twin"));
    let several = create_if_none(&client, "identifier=urn:mrn|1", &person("1", "Third"));
    assert_eq!((several.status, issue(&several).as_str()), (412, "multiple-matches"));
    for wrong in ["", "_count=1", "colour=red", "identifier"] {
        let refused = create_if_none(&client, wrong, &person("9", "Nobody"));
        assert_eq!(refused.status, 400, "{wrong}: {}", refused.text());
        issue(&refused);
    }
    assert_eq!(count(&client, "Patient", "identifier=9"), 0);
    // Whoever may create and not search could try out what is there.
    let blind = stack.signed_in("system/Patient.c");
    assert_eq!(create_if_none(&blind, "identifier=urn:mrn|2", &person("2", "Hopper")).status, 403);
}

#[test]
fn what_a_condition_finds_is_updated_patched_and_deleted() {
    let stack = stack(StackOptions {
        configuration: "[app]\nallow_phi_in_urls = true\n".to_owned(),
        ..Default::default()
    });
    let client = stack.signed_in("system/*.cruds");
    let at = |number: &str| format!("/fhir/R4/Patient?identifier=urn%3Amrn%7C{number}");
    let put = |number: &str, resource: &Value| {
        client.send("PUT", &at(number), &[JSON], resource.to_string().as_bytes())
    };
    let made = put("1", &person("1", "Lovelace"));
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let changed = put("1", &person("1", "King"));
    assert_eq!((changed.status, changed.json()["id"].as_str()), (200, Some(id.as_str())));
    let mut other = person("1", "Other");
    other["id"] = "somebody-else".into();
    assert_eq!(issue(&put("1", &other)), "invalid");

    let patch = json!([{"op": "replace", "path": "/name/0/family", "value": "Byron"}]).to_string();
    let patched = client.send("PATCH", &at("1"), &[PATCH], patch.as_bytes());
    assert_eq!((patched.status, patched.header("etag")), (200, Some("W/\"3\"")), "{}", patched.text());
    assert_eq!(client.send("PATCH", &at("7"), &[PATCH], patch.as_bytes()).status, 404);

    create(&client, &person("1", "Twin"));
    for method in ["PUT", "PATCH", "DELETE"] {
        let (header, body) =
            if method == "PATCH" { (PATCH, patch.clone()) } else { (JSON, person("1", "Third").to_string()) };
        let several = client.send(method, &at("1"), &[header], body.as_bytes());
        assert_eq!((several.status, issue(&several).as_str()), (412, "multiple-matches"), "{method}");
    }
    assert_eq!(client.send("DELETE", &at("7"), &[], b"").status, 204);
    create(&client, &person("3", "Gone"));
    assert_eq!(client.send("DELETE", &at("3"), &[], b"").status, 204);
    assert_eq!(count(&client, "Patient", "identifier=3"), 0);
    assert_eq!(client.send("DELETE", "/fhir/R4/Patient", &[], b"").status, 400, "nothing is meant");
    assert_eq!(count(&client, "Patient", ""), 2);
}

#[test]
fn a_condition_in_a_url_tells_nothing_of_people() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let refused = client.send("DELETE", "/fhir/R4/Patient?identifier=1", &[], b"");
    assert_eq!((refused.status, issue(&refused).as_str()), (400, "security"));
    assert!(refused.text().contains("transaction"), "{}", refused.text());
    let (id, _) = create(&client, &person("1", "Lovelace"));
    assert_eq!(client.send("DELETE", &format!("/fhir/R4/Patient?_id={id}"), &[], b"").status, 204);
    assert_eq!(client.get(&format!("/fhir/R4/Patient/{id}")).status, 410);
}

#[test]
fn a_patch_changes_what_it_names_or_nothing() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let (id, _) = create(&client, &person("1", "Lovelace"));
    let path = format!("/fhir/R4/Patient/{id}");
    let send = |operations: Value, extra: &[(&str, &str)]| {
        let headers: Vec<(&str, &str)> = [PATCH].iter().chain(extra).copied().collect();
        client.send("PATCH", &path, &headers, operations.to_string().as_bytes())
    };
    let done = send(
        json!([{"op": "test", "path": "/meta/versionId", "value": "1"},
            {"op": "add", "path": "/gender", "value": "female"}, {"op": "remove", "path": "/identifier"}]),
        &[("If-Match", "W/\"1\"")],
    );
    assert_eq!((done.status, done.header("etag")), (200, Some("W/\"2\"")), "{}", done.text());
    let now = client.get(&path).json();
    assert_eq!((now["gender"].as_str(), &now["identifier"]), (Some("female"), &Value::Null));
    assert_eq!(now["name"][0]["family"], "Lovelace");
    for (operations, status) in [
        (json!([{"op": "test", "path": "/gender", "value": "male"}]), 422),
        (json!([{"op": "replace", "path": "/nothing/here", "value": 1}]), 422),
        (json!([{"op": "replace", "path": "/gender", "value": "unheard-of"}]), 422),
        (json!([{"op": "add", "path": "/colour", "value": "red"}]), 422),
        (json!([{"op": "replace", "path": "/id", "value": "other"}]), 400),
        (json!([{"op": "replace", "path": "/resourceType", "value": "Group"}]), 400),
        (json!([{"op": "zap", "path": "/gender"}]), 400),
        (json!({"op": "remove", "path": "/gender"}), 400),
    ] {
        let refused = send(operations.clone(), &[]);
        assert_eq!(refused.status, status, "{operations}: {}", refused.text());
        assert!(!refused.text().contains("unheard-of") && !refused.text().contains("colour"));
        issue(&refused);
    }
    assert_eq!(send(json!([]), &[("If-Match", "W/\"1\"")]).status, 412);
    assert_eq!(client.send("PATCH", &path, &[("Content-Type", "text/plain")], b"[]").status, 415);
    let part = |name: &str, value: Value| {
        let mut part = json!({"name": name});
        part.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        part
    };
    let by_path = |kind: &str, path: &str, value: Value| {
        json!({"resourceType": "Parameters", "parameter": [{"name": "operation", "part": [
            part("type", json!({"valueCode": kind})), part("path", json!({"valueString": path})), part("value", value)]}]})
    };
    let send_fhirpath = |body: &Value| client.send("PATCH", &path, &[JSON], body.to_string().as_bytes());
    let refused = send_fhirpath(&by_path("replace", "Patient.contact.name", json!({"valueString": "Zqx"})));
    assert!((400..500).contains(&refused.status) && !refused.text().contains("Zqx"), "{}", refused.text());
    issue(&refused);
    assert_eq!(send_fhirpath(&json!({"resourceType": "Patient"})).status, 422);
    assert_eq!(client.get(&path).json(), now);
    let done = send_fhirpath(&by_path("replace", "Patient.name[0].family", json!({"valueString": "King"})));
    assert_eq!(
        (done.status, done.json()["name"][0]["family"].as_str()),
        (200, Some("King")),
        "{}",
        done.text()
    );
    assert_eq!(client.send("PATCH", "/fhir/R4/Patient/nobody", &[PATCH], b"[]").status, 404);
    client.send("DELETE", &path, &[], b"");
    assert_eq!(send(json!([]), &[]).status, 410);
    // All who patch at once get their change in.
    let (id, _) = create(&client, &person("2", "Hopper"));
    let path = format!("/fhir/R4/Patient/{id}");
    let at_once: Vec<u16> = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..4)
            .map(|number| {
                let (client, path) = (&client, &path);
                scope.spawn(move || {
                    let given =
                        json!([{"op": "add", "path": "/name/-", "value": {"text": format!("n{number}")}}]);
                    client.send("PATCH", path, &[PATCH], given.to_string().as_bytes()).status
                })
            })
            .collect();
        tries.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let in_there = client.get(&path).json()["name"].as_array().unwrap().len() - 1;
    assert_eq!(at_once.iter().filter(|status| **status == 200).count(), in_there, "{at_once:?}");
    assert!(at_once.iter().all(|status| matches!(status, 200 | 409)), "{at_once:?}");
}

#[test]
fn conditions_in_a_transaction_find_what_is_there_and_what_it_makes() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let (ada, _) = create(&client, &person("1", "Lovelace"));
    let observation = |reference: &str, code: &str| {
        json!({"request": {"method": "POST", "url": "Observation"}, "resource": {
            "resourceType": "Observation", "status": "final", "subject": {"reference": reference},
            "code": {"coding": [{"system": "http://loinc.org", "code": code}]}}})
    };
    let create_unless = |number: &str, url: &str| {
        json!({"fullUrl": url, "resource": person(number, "Created"), "request": {
            "method": "POST", "url": "Patient", "ifNoneExist": format!("identifier=urn:mrn|{number}")}})
    };
    let (there, new) =
        ("urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e1", "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e2");
    let answer = bundle(
        &client,
        "transaction",
        json!([
            create_unless("1", there),
            create_unless("2", new),
            observation(there, "1-1"),
            observation(new, "2-2"),
            observation("Patient?identifier=urn:mrn|1", "3-3"),
            observation("Patient?identifier=urn:mrn|2", "4-4"),
        ]),
    );
    assert_eq!(statuses(&answer), ["200", "201", "201", "201", "201", "201"]);
    assert_eq!(count(&client, "Patient", "identifier=urn:mrn|1,urn:mrn|2"), 2);
    let codes = |patient: &str| {
        let mut codes: Vec<String> =
            client.search("Observation", &format!("patient={patient}")).json()["entry"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|entry| entry["resource"]["code"]["coding"][0]["code"].as_str().unwrap().to_owned())
                .collect();
        codes.sort();
        codes
    };
    assert_eq!(codes(&ada), ["1-1", "3-3"]);
    let grace = client.search("Patient", "identifier=urn:mrn|2").json();
    assert_eq!(codes(grace["entry"][0]["resource"]["id"].as_str().unwrap()), ["2-2", "4-4"]);

    // An update, a patch and a delete of what their conditions find.
    let patch = "W3sib3AiOiJhZGQiLCJwYXRoIjoiL2dlbmRlciIsInZhbHVlIjoiZmVtYWxlIn1d";
    let answer = bundle(
        &client,
        "transaction",
        json!([
            {"request": {"method": "PUT", "url": "Patient?identifier=urn:mrn|1"}, "resource": person("1", "King")},
            {"request": {"method": "PUT", "url": "Patient?identifier=urn:mrn|3"}, "resource": person("3", "New")},
            {"request": {"method": "PATCH", "url": "Patient?identifier=urn:mrn|2"}, "resource": {
                "resourceType": "Binary", "contentType": "application/json-patch+json", "data": patch}},
            {"request": {"method": "DELETE", "url": "Observation?code=4-4"}},
            {"request": {"method": "DELETE", "url": "Observation?code=5-5"}},
            {"request": {"method": "GET", "url": format!("Patient/{ada}/Observation?code=1-1")}},
        ]),
    );
    assert_eq!(statuses(&answer), ["200", "201", "200", "204", "204", "200"]);
    assert_eq!(client.get(&format!("/fhir/R4/Patient/{ada}")).json()["name"][0]["family"], "King");
    assert_eq!(count(&client, "Patient", "identifier=urn:mrn|3&family=new"), 1);
    assert_eq!(count(&client, "Patient", "identifier=urn:mrn|2&gender=female"), 1);
    assert_eq!(count(&client, "Observation", "code=4-4"), 0);
    assert_eq!(answer.json()["entry"][5]["resource"]["entry"].as_array().unwrap().len(), 1);
}

#[test]
fn a_transaction_that_contradicts_itself_changes_nothing() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let (ada, _) = create(&client, &person("1", "Lovelace"));
    create(&client, &person("7", "Twin"));
    create(&client, &person("7", "Twin"));
    let mut known = person("1", "Known");
    known["id"] = ada.as_str().into();
    let put =
        |url: &str, resource: &Value| json!({"request": {"method": "PUT", "url": url}, "resource": resource});
    let unless = |number: &str| {
        json!({"resource": person(number, "Created"), "request": {"method": "POST", "url": "Patient",
            "ifNoneExist": format!("identifier=urn:mrn|{number}")}})
    };
    let refers = json!({"request": {"method": "POST", "url": "Observation"}, "resource": {
        "resourceType": "Observation", "status": "final", "code": {"text": "x"},
        "subject": {"reference": "Patient?identifier=urn:mrn|7"}}});
    for (entries, status, code) in [
        (
            json!([
                put(&format!("Patient/{ada}"), &known),
                put("Patient?identifier=urn:mrn|1", &person("1", "Other"))
            ]),
            400,
            "duplicate",
        ),
        (json!([unless("5"), unless("5")]), 400, "duplicate"),
        (json!([unless("5"), unless("7")]), 412, "multiple-matches"),
        (json!([unless("5"), refers]), 412, "multiple-matches"),
        (
            json!([unless("5"), {"request": {"method": "DELETE", "url": "Patient?identifier=urn:mrn|7"}}]),
            412,
            "multiple-matches",
        ),
        (
            json!([unless("5"), {"request": {"method": "PATCH", "url": "Patient/nobody"}, "resource": {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": "W10="}}]),
            404,
            "not-found",
        ),
    ] {
        let refused = bundle(&client, "transaction", entries);
        assert_eq!((refused.status, issue(&refused).as_str()), (status, code), "{}", refused.text());
    }
    assert_eq!(count(&client, "Patient", "identifier=urn:mrn|5"), 0);
    // In a batch, the second of two alike finds what the first made.
    let answer = bundle(&client, "batch", json!([unless("5"), unless("5"), unless("7")]));
    let mut both = statuses(&answer);
    assert_eq!(both.pop().as_deref(), Some("412"));
    both.sort();
    assert_eq!(both, ["200", "201"]);
    assert_eq!(count(&client, "Patient", "identifier=urn:mrn|5"), 1);
}

#[test]
fn a_patch_tells_nothing_to_whoever_may_not_read() {
    let stack = empty_stack();
    let (id, _) = create(&stack.signed_in("system/*.cruds"), &person("1", "Lovelace"));
    let blind = stack.signed_in("system/Patient.cud");
    let path = format!("/fhir/R4/Patient/{id}");
    // Right or wrong, about what is there or not: the same refusal.
    for (path, family) in
        [(path.as_str(), "Lovelace"), (path.as_str(), "Hopper"), ("/fhir/R4/Patient/nobody", "x")]
    {
        let guess = json!([{"op": "test", "path": "/name/0/family", "value": family}]).to_string();
        assert_eq!(blind.send("PATCH", path, &[PATCH], guess.as_bytes()).status, 403);
    }
    let patch = |id: &str, data: &str| {
        json!([{"request": {"method": "PATCH", "url": format!("Patient/{id}")}, "resource": {"resourceType": "Binary",
            "contentType": "application/json-patch+json", "data": data}}])
    };
    // A test of the family name, and an empty patch of nobody.
    let test = "W3sib3AiOiJ0ZXN0IiwicGF0aCI6Ii9uYW1lLzAvZmFtaWx5IiwidmFsdWUiOiJIb3BwZXIifV0=";
    for entries in [patch(&id, test), patch("nobody", "W10=")] {
        assert_eq!(bundle(&blind, "transaction", entries.clone()).status, 403);
        assert_eq!(statuses(&bundle(&blind, "batch", entries)), ["403"]);
    }
}
