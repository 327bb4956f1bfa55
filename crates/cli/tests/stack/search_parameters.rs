//! Search parameters beside the specification's, and a new key for the index, while the stack runs.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use ward_testkit::{Https, Stack};

use crate::api::{create, issue};
use crate::empty_stack;
use crate::search::found;

const RACE: &str = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race";

/// As US Core defines it (<https://hl7.org/fhir/us/core/STU6.1/SearchParameter-us-core-race.html>).
fn race() -> Value {
    json!({"resourceType": "SearchParameter", "name": "USCoreRace",
        "url": "http://hl7.org/fhir/us/core/SearchParameter/us-core-race", "status": "active",
        "description": "Returns patients with a race extension matching the specified code.",
        "code": "race", "base": ["Patient"], "type": "token",
        "expression": format!("Patient.extension.where(url = '{RACE}').extension.value.code")})
}

/// Stores a new parameter; gives its path.
fn store(client: &Https, parameter: &Value) -> String {
    format!("/fhir/R4/SearchParameter/{}", create(client, parameter).0)
}

fn change(client: &Https, path: &str, parameter: &Value) {
    let mut parameter = parameter.clone();
    parameter["id"] = path.rsplit('/').next().unwrap().into();
    assert_eq!(client.put(path, &parameter).status, 200);
}

fn names(client: &Https, kind: &str) -> Vec<String> {
    let statement = client.get("/fhir/R4/metadata").json();
    let resources = statement["rest"][0]["resource"].as_array().unwrap();
    let resource = resources.iter().find(|resource| resource["type"] == kind).unwrap();
    let parameters = resource["searchParam"].as_array().unwrap();
    parameters.iter().map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
}

fn wait_for_the_index(stack: &Stack) -> Value {
    stack.ward_json(&["index", "status", "--wait"])
}

#[test]
fn an_added_parameter_is_searched_chained_listed_and_taken_away() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let coded = |code: &str| {
        json!([{"url": RACE, "extension": [{"url": "ombCategory",
        "valueCoding": {"system": "urn:oid:2.16.840.1.113883.6.238", "code": code}}]}])
    };
    let person = |code: &str| {
        let body = json!({"resourceType": "Patient", "extension": coded(code), "name": [{"family": "Doe"}]});
        format!("Patient/{}", create(&client, &body).0)
    };
    let (white, black) = (person("2106-3"), person("2054-5"));
    let observed = create(
        &client,
        &json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"},
            "subject": {"reference": black}}),
    );
    let unknown = client.search("Patient", "race=2106-3");
    assert_eq!(unknown.status, 400);
    assert!(unknown.text().contains("has no such parameter"), "{}", unknown.text());
    let path = store(&client, &race());
    for round in 0..2 {
        assert_eq!(found(&client.search("Patient", "race=2106-3"), "match"), [white.as_str()], "{round}");
        assert_eq!(found(&client.search("Patient", "race=2054-5,2106-3"), "match").len(), 2);
        assert_eq!(found(&client.search("Patient", "race:not=2106-3"), "match"), [black.as_str()]);
        assert_eq!(found(&client.search("Patient", "family=doe&race:missing=true"), "match"), [""; 0]);
        let chained = client.search("Observation", "patient.race=2054-5");
        assert_eq!(found(&chained, "match"), [format!("Observation/{}", observed.0)]);
        assert!(names(&client, "Patient").contains(&"race".to_owned()));
        assert!(!names(&client, "Person").contains(&"race".to_owned()));
        // What it tells stays out of URLs, as with the specification's own.
        assert_eq!(client.get("/fhir/R4/Patient?race=2106-3").status, 400);
        let status = wait_for_the_index(&stack);
        assert_eq!((&status["parameters"], &status["parameters_ready"]), (&json!(1), &json!(1)));
    }
    let mut retired = race();
    retired["status"] = "retired".into();
    change(&client, &path, &retired);
    assert!(!names(&client, "Patient").contains(&"race".to_owned()));
    change(&client, &path, &race());
    assert!(names(&client, "Patient").contains(&"race".to_owned()));
    assert_eq!(client.send("DELETE", &path, &[], b"").status, 204);
    assert!(!names(&client, "Patient").contains(&"race".to_owned()));
    assert_eq!(client.search("Patient", "race=2106-3").status, 400);
}

#[test]
fn a_parameter_that_cannot_be_searched_is_refused_with_a_reason() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    for (name, value, words) in [
        ("expression", json!("Patient.name.given ||"), "SearchParameter.expression"),
        ("expression", json!("Patient.("), "SearchParameter.expression"),
        ("code", json!("what else"), "SearchParameter.code"),
        ("type", json!("composite"), "SearchParameter.component"),
    ] {
        let mut parameter = race();
        parameter[name] = value;
        let refused = client.post("/fhir/R4/SearchParameter", &parameter);
        assert_eq!(refused.status, 422, "{}", refused.text());
        issue(&refused);
        assert!(refused.text().contains(words), "{}", refused.text());
    }
    store(&client, &race());
    let mut same_name = race();
    let refused = client.post("/fhir/R4/SearchParameter", &same_name);
    assert_eq!(refused.status, 409, "{}", refused.text());
    same_name["base"] = json!(["Person"]);
    same_name["expression"] = "Person.extension.value.code".into();
    store(&client, &same_name);
    // One that is not in force may say anything, and changes nothing.
    let mut draft = race();
    draft["status"] = "draft".into();
    draft["expression"] = "not (a path".into();
    store(&client, &draft);
    let reader = stack.signed_in("system/*.rs");
    assert_eq!(reader.post("/fhir/R4/SearchParameter", &race()).status, 403);
}

/// NDJSON of people, of whom each has a nickname.
fn people(count: usize) -> String {
    (0..count).fold(String::new(), |mut text, number| {
        let person = json!({"resourceType": "Patient", "id": format!("p{number}"), "name": [{"family": "Doe"}],
            "extension": [{"url": "urn:nickname", "valueString": format!("Nick{number} Doe")}]});
        let _ = writeln!(text, "{person}");
        text
    })
}

fn nickname() -> Value {
    json!({"resourceType": "SearchParameter", "name": "Nickname", "url": "urn:nickname-parameter",
        "status": "active", "description": "x", "code": "nickname", "base": ["Patient"], "type": "string",
        "expression": "Patient.extension.where(url = 'urn:nickname').value"})
}

/// How the index is doing, asked again while the tier that knows it comes back.
fn status(stack: &Stack) -> Value {
    for _ in 0..100 {
        let output = stack.ward(&["index", "status"]);
        if output.status.success() {
            return serde_json::from_slice(&output.stdout).unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("the index does not come back\n{}", stack.logs());
}

#[test]
fn filling_in_that_is_killed_goes_on_and_misses_nobody() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let file = stack.scratch().join("people.ndjson");
    std::fs::write(&file, people(3_000)).unwrap();
    stack.ward_json(&["import", file.to_str().unwrap()]);
    store(&client, &nickname());
    let mut kills = 0;
    let mut last = 0;
    while kills < 3 {
        let status = status(&stack);
        let done = status["filling"]["done"].as_u64();
        if done.is_some_and(|done| done > last && done < 3_000) {
            last = done.unwrap();
            stack.kill("app-1");
            stack.wait_until_healthy();
            kills += 1;
            let after = self::status(&stack)["filling"]["done"].as_u64().unwrap_or(3_000);
            assert!(after >= last, "{after} after {last}");
            let client = stack.signed_in("system/*.cruds");
            let one = client.search("Patient", "nickname=nick7 doe");
            assert_eq!(found(&one, "match"), ["Patient/p7"]);
            continue;
        }
        assert!(done.is_some() || kills > 0, "it was done before it could be killed: {status}");
        if done.is_none() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(kills > 0);
    let status = wait_for_the_index(&stack);
    assert_eq!(status["parameters_ready"], 1);
    let client = stack.signed_in("system/*.cruds");
    for number in [0, 1, 99, 100, 101, 1_500, 2_999] {
        let one = client.search("Patient", &format!("nickname=nick{number} doe"));
        assert_eq!(found(&one, "match"), [format!("Patient/p{number}")]);
    }
    stack.ward_json(&["audit", "verify"]);
}

#[test]
fn a_new_key_of_the_index_comes_into_use_while_searches_run() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let file = stack.scratch().join("people.ndjson");
    std::fs::write(&file, people(500)).unwrap();
    stack.ward_json(&["import", file.to_str().unwrap()]);
    assert_eq!(stack.ward_json(&["index", "status"])["key_epoch"], 1);
    let begun = stack.ward_json(&["index", "replace-key"]);
    assert_eq!(begun["key_is_being_replaced"], true, "{begun}");
    let refused = stack.ward(&["index", "replace-key"]);
    assert!(!refused.status.success());
    let mut searches = 0;
    loop {
        let status = stack.ward_json(&["index", "status"]);
        let all = client.search("Patient", "family=doe&_summary=count");
        assert_eq!(all.json()["total"], 500, "{}", all.text());
        let one = client.search("Patient", "_id=p77&family=doe");
        assert_eq!(found(&one, "match"), ["Patient/p77"]);
        searches += 1;
        if status["key_is_being_replaced"] == false {
            assert_eq!(status["key_epoch"], 2);
            break;
        }
    }
    assert!(searches > 2);
}
