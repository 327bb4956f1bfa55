//! The FHIR API over the public listener: what it does, and how it refuses.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ward_testkit::{Answer, Https, ServiceAccount, Stack, StackOptions};

use crate::{empty_stack, stack};

pub(crate) fn issue(answer: &Answer) -> String {
    let outcome = answer.json();
    assert_eq!(outcome["resourceType"], "OperationOutcome", "{} {}", answer.status, answer.text());
    let diagnostics = outcome["issue"][0]["diagnostics"].as_str().unwrap_or_default();
    assert!(!diagnostics.is_empty(), "an outcome without words: {outcome}");
    outcome["issue"][0]["code"].as_str().unwrap().to_owned()
}

pub(crate) fn create(client: &Https, resource: &Value) -> (String, Answer) {
    let kind = resource["resourceType"].as_str().unwrap();
    let answer = client.post(&format!("/fhir/R4/{kind}"), resource);
    assert_eq!(answer.status, 201, "{}", answer.text());
    (answer.json()["id"].as_str().unwrap().to_owned(), answer)
}

#[test]
fn a_resource_lives_from_create_to_delete() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let (id, created) =
        create(&client, &json!({"resourceType": "Patient", "name": [{"family": "Lovelace"}]}));
    assert_eq!(created.header("etag"), Some("W/\"1\""));
    let location = created.header("location").unwrap();
    assert!(location.ends_with(&format!("/fhir/R4/Patient/{id}/_history/1")), "{location}");

    let path = format!("/fhir/R4/Patient/{id}");
    let mut patient = client.get(&path).json();
    patient["name"][0]["family"] = "King".into();
    let updated = client.send(
        "PUT",
        &path,
        &[("Content-Type", "application/fhir+json"), ("If-Match", "W/\"1\"")],
        patient.to_string().as_bytes(),
    );
    assert_eq!((updated.status, updated.header("etag")), (200, Some("W/\"2\"")), "{}", updated.text());
    let lost = client.send(
        "PUT",
        &path,
        &[("Content-Type", "application/fhir+json"), ("If-Match", "W/\"1\"")],
        patient.to_string().as_bytes(),
    );
    assert_eq!((lost.status, issue(&lost).as_str()), (412, "conflict"));
    assert_eq!(client.get(&format!("{path}/_history/1")).json()["name"][0]["family"], "Lovelace");
    assert_eq!(client.search("Patient", "family=king").json()["entry"].as_array().unwrap().len(), 1);
    assert!(client.search("Patient", "family=lovelace").json()["entry"].as_array().is_none_or(Vec::is_empty));

    assert!(matches!(client.send("DELETE", &path, &[], b"").status, 200 | 204));
    assert_eq!(issue(&client.get(&path)), "deleted");
    assert_eq!(client.get(&path).status, 410);
    assert!(client.search("Patient", "family=king").json()["entry"].as_array().is_none_or(Vec::is_empty));
    let history = client.get(&format!("{path}/_history")).json();
    let versions: Vec<&str> = history["entry"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["request"]["method"].as_str().unwrap())
        .collect();
    assert_eq!(versions, ["DELETE", "PUT", "POST"]);
    let all = client.get("/fhir/R4/Patient/_history").json();
    assert_eq!(all["entry"].as_array().unwrap().len(), 3);
}

#[test]
fn history_tells_what_was_current_at_a_time() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let pause = || std::thread::sleep(std::time::Duration::from_millis(5));
    let patient = json!({"resourceType": "Patient", "gender": "female"});
    let (kept, created) = create(&client, &patient);
    let first = created.json()["meta"]["lastUpdated"].as_str().unwrap().to_owned();
    pause();
    let (id, created) = create(&client, &patient);
    let path = format!("/fhir/R4/Patient/{id}");
    pause();
    let mut updated = created.json();
    updated["gender"] = "other".into();
    let updated = client.send(
        "PUT",
        &path,
        &[("Content-Type", "application/fhir+json")],
        updated.to_string().as_bytes(),
    );
    pause();
    assert!(matches!(client.send("DELETE", &path, &[], b"").status, 200 | 204));
    let after = |version: &Answer| {
        let moment = version.json()["meta"]["lastUpdated"].as_str().unwrap().to_owned();
        ward_base::Timestamp(ward_fhir::Moment::parse(&moment).unwrap().end + 2_000).to_instant()
    };
    let names = |answer: &Answer| -> Vec<String> {
        let entries = answer.json()["entry"].as_array().cloned().unwrap_or_default();
        let etag = |entry: &Value| entry["response"]["etag"].as_str().unwrap().replace(['W', '/', '"'], "");
        let name = |entry: &Value| {
            let whose = if entry["fullUrl"].as_str().unwrap().ends_with(&id) { "changed" } else { "kept" };
            format!("{whose} {}", etag(entry))
        };
        entries.iter().map(name).collect()
    };
    let (then, later) = (after(&created), after(&updated));
    let second = updated.json()["meta"]["lastUpdated"].as_str().unwrap().to_owned();
    for (place, at, expected) in [
        ("Patient", format!("lt{first}"), vec![]),
        ("Patient", "2000".to_owned(), vec![]),
        ("Patient", first.clone(), vec!["kept 1"]),
        ("Patient", then.clone(), vec!["changed 1", "kept 1"]),
        ("Patient", then.replace('Z', "%2B00:00"), vec!["changed 1", "kept 1"]),
        ("Patient", second.clone(), vec!["changed 2", "kept 1"]),
        ("Patient", format!("ge{second}"), vec!["changed 3", "changed 2", "kept 1"]),
        ("Patient", later.clone(), vec!["changed 2", "kept 1"]),
        ("Patient", "ge2100".to_owned(), vec!["kept 1"]),
        ("Patient", "ge2000".to_owned(), vec!["changed 3", "changed 2", "changed 1", "kept 1"]),
        ("Patient", format!("gt{then}"), vec!["changed 3", "changed 2", "changed 1", "kept 1"]),
        ("Patient", format!("gt{later}&_since={later}"), vec!["changed 3"]),
        ("", later.clone(), vec!["changed 2", "kept 1"]),
        (&path[9..], later.clone(), vec!["changed 2"]),
        (&path[9..], then.clone(), vec!["changed 1"]),
        (&path[9..], "ge2100".to_owned(), vec![]),
        (&path[9..], "le2100".to_owned(), vec!["changed 3", "changed 2", "changed 1"]),
    ] {
        let slash = if place.is_empty() { "" } else { "/" };
        let path = format!("/fhir/R4/{}{slash}_history?_at={at}", place.trim_start_matches('/'));
        let answer = client.get(&path);
        assert_eq!(
            (answer.status, names(&answer)),
            (200, expected.iter().map(|one| (*one).to_owned()).collect()),
            "{path}"
        );
        let link = answer.json()["link"][0]["url"].as_str().unwrap().to_owned();
        assert_eq!(link.strip_prefix(&stack.origin()), Some(path.as_str()), "{link}");
    }
    // Page by page, each once.
    let mut path = Some("/fhir/R4/Patient/_history?_at=ge2000&_count=1".to_owned());
    let mut seen = Vec::new();
    while let Some(page) = path.take() {
        let answer = client.get(&page);
        assert!(names(&answer).len() <= 1);
        seen.extend(names(&answer));
        let links = answer.json()["link"].as_array().cloned().unwrap();
        let next = links.iter().find(|link| link["relation"] == "next");
        path =
            next.map(|link| link["url"].as_str().unwrap().strip_prefix(&stack.origin()).unwrap().to_owned());
    }
    assert_eq!(seen, ["changed 3", "changed 2", "changed 1", "kept 1"]);
    for wrong in ["_at=yesterday", "_at=ne2020", "_at=", "_at=é", "_at=2020&_at=2021", "_list=1"] {
        let refused = client.get(&format!("/fhir/R4/Patient/_history?{wrong}"));
        assert_eq!(refused.status, 400, "{wrong}: {}", refused.text());
        issue(&refused);
    }
    assert_eq!(names(&client.get(&format!("/fhir/R4/Patient/{kept}/_history?_at=ge2000"))), ["kept 1"]);
}

#[test]
fn searches_page_through_everything_once() {
    let stack = stack(StackOptions { demo_patients: 30, ..Default::default() });
    let client = stack.signed_in("system/*.rs");
    let mut seen = std::collections::BTreeSet::new();
    let mut page = client.search("Observation", "_count=37").json();
    let mut pages = 1;
    loop {
        for entry in page["entry"].as_array().unwrap() {
            assert!(seen.insert(entry["resource"]["id"].as_str().unwrap().to_owned()), "seen twice");
        }
        let next = page["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next");
        let Some(next) = next else { break };
        let url = next["url"].as_str().unwrap().strip_prefix(&stack.origin()).unwrap().to_owned();
        let answer = client.get(&url);
        assert_eq!(answer.status, 200, "{}", answer.text());
        page = answer.json();
        pages += 1;
        if pages == 3 {
            // One bit of the sealed token changed: refused, with words.
            let mut spoiled = url.clone().into_bytes();
            let last = spoiled.len() - 3;
            spoiled[last] = if spoiled[last] == b'A' { b'B' } else { b'A' };
            let refused = client.get(&String::from_utf8(spoiled).unwrap());
            assert_eq!(refused.status, 400);
            issue(&refused);
            // Another account cannot go on with it.
            let other = stack.signed_in("system/*.rs").get(&url);
            assert!(matches!(other.status, 400 | 403), "{}", other.status);
        }
    }
    let total = client.search("Observation", "_summary=count").json()["total"].as_u64().unwrap();
    assert_eq!(seen.len() as u64, total);
    assert!(pages > 10);
}

#[test]
fn patient_code_and_date_find_what_they_should() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let (patient, _) = create(&client, &json!({"resourceType": "Patient"}));
    let (other, _) = create(&client, &json!({"resourceType": "Patient"}));
    for (subject, code, day) in [
        (&patient, "8867-4", "01"),
        (&patient, "8867-4", "20"),
        (&patient, "8310-5", "20"),
        (&other, "8867-4", "20"),
    ] {
        create(
            &client,
            &json!({
                "resourceType": "Observation", "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                "subject": {"reference": format!("Patient/{subject}")},
                "effectiveDateTime": format!("2026-05-{day}T10:00:00Z"),
                "valueQuantity": {"value": 70, "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min"},
            }),
        );
    }
    let count = |form: &str| {
        let answer = client.search("Observation", form);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["entry"].as_array().map_or(0, Vec::len)
    };
    let code = "code=http%3A%2F%2Floinc.org%7C8867-4";
    assert_eq!(count(&format!("patient={patient}&{code}&date=ge2026-05-10")), 1);
    assert_eq!(count(&format!("subject=Patient/{patient}&{code}")), 2);
    assert_eq!(count(&format!("patient={patient}&date=2026-05-20")), 2);
    assert_eq!(count(&format!("{code}&date=lt2026-05-20&value-quantity=gt60")), 1);
    assert_eq!(count("value-quantity=le69"), 0);
    assert_eq!(count(&format!("patient={patient},{other}&code=8867-4,8310-5")), 4);
    let unknown = client.search("Observation", "colour=blue");
    assert_eq!(unknown.status, 400);
    issue(&unknown);
    let lenient = client.send(
        "POST",
        "/fhir/R4/Observation/_search",
        &[("Content-Type", "application/x-www-form-urlencoded"), ("Prefer", "handling=lenient")],
        format!("colour=blue&patient={patient}").as_bytes(),
    );
    assert_eq!(lenient.status, 200);
    assert!(lenient.text().contains("OperationOutcome"), "what was ignored is reported");
}

#[test]
fn no_phi_in_urls_unless_switched_on() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.rs");
    for query in ["name=smith", "birthdate=1970-01-01", "identifier=1", "gender=male"] {
        let answer = client.get(&format!("/fhir/R4/Patient?{query}"));
        assert_eq!(answer.status, 400, "{query}");
        issue(&answer);
        assert!(
            answer.text().contains("POST") && answer.text().contains("/Patient/_search"),
            "{}",
            answer.text()
        );
        assert!(!answer.text().contains("smith"));
    }
    assert_eq!(client.get("/fhir/R4/Patient?_count=5").status, 200);
    let compatible = stack_with_phi_in_urls();
    let client = compatible.signed_in("system/*.rs");
    assert_eq!(client.get("/fhir/R4/Patient?name=smith").status, 200);
}

fn stack_with_phi_in_urls() -> Stack {
    stack(StackOptions {
        configuration: "[app]\nallow_phi_in_urls = true\n".to_owned(),
        ..Default::default()
    })
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let entry = |resource: Value, url: &str| json!({"fullUrl": format!("urn:uuid:{url}"), "resource": resource, "request": {"method": "POST", "url": resource["resourceType"]}});
    let patient_url = "0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0";
    let observation = json!({
        "resourceType": "Observation", "status": "final", "code": {"text": "pulse"},
        "subject": {"reference": format!("urn:uuid:{patient_url}")},
    });
    let good = json!({"resourceType": "Bundle", "type": "transaction", "entry": [
        entry(observation.clone(), "0c3151bd-1cbf-4d64-b04d-cd9187a4c6e1"),
        entry(json!({"resourceType": "Patient", "name": [{"family": "Bundle"}]}), patient_url),
    ]});
    let answer = client.post("/fhir/R4", &good);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let locations: Vec<String> = answer.json()["entry"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["response"]["location"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        locations[0].contains("Observation/") && locations[1].contains("Patient/"),
        "in the order of the request"
    );
    let found = client.search("Observation", "_count=5").json();
    let reference = found["entry"][0]["resource"]["subject"]["reference"].as_str().unwrap().to_owned();
    assert!(locations[1].contains(&reference), "{reference} is not rewritten");

    let mut bad = good.clone();
    bad["entry"][0]["resource"]["status"] = "no-such-status".into();
    let refused = client.post("/fhir/R4", &bad);
    assert!(matches!(refused.status, 400 | 422), "{}", refused.status);
    issue(&refused);
    assert!(refused.text().contains("Bundle.entry[0]"), "{}", refused.text());
    assert_eq!(client.search("Patient", "family=bundle").json()["entry"].as_array().unwrap().len(), 1);
}

#[test]
fn a_batch_is_each_for_itself() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let (id, _) = create(&client, &json!({"resourceType": "Patient", "name": [{"family": "Batch"}]}));
    let batch = json!({"resourceType": "Bundle", "type": "batch", "entry": [
        {"request": {"method": "GET", "url": format!("Patient/{id}")}},
        {"resource": {"resourceType": "Patient", "gender": "no-such-gender"}, "request": {"method": "POST", "url": "Patient"}},
        {"resource": {"resourceType": "Patient", "name": [{"family": "Second"}]}, "request": {"method": "POST", "url": "Patient"}},
        {"request": {"method": "GET", "url": "Patient?family=batch"}},
        {"request": {"method": "DELETE", "url": format!("Patient/{id}")}},
        {"request": {"method": "GET", "url": "Patient/00000000-0000-4000-8000-000000000000"}},
    ]});
    let answer = client.post("/fhir/R4", &batch);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    let entry = |index: usize| &answer["entry"][index];
    let status = |index: usize| entry(index)["response"]["status"].as_str().unwrap()[..3].to_owned();
    let statuses: Vec<String> = (0..6).map(status).collect();
    assert_eq!(&statuses[1..], ["422", "201", "200", "204", "404"]);
    assert_eq!(entry(1)["response"]["outcome"]["resourceType"], "OperationOutcome");
    assert_eq!(client.search("Patient", "family=second").json()["entry"].as_array().unwrap().len(), 1);
    assert_eq!(client.get(&format!("/fhir/R4/Patient/{id}")).status, 410);

    // A client that may only read gets what it may, entry by entry.
    let reader = stack.signed_in("system/*.rs");
    let refused = reader.post("/fhir/R4", &batch).json();
    assert!(refused["entry"][2]["response"]["status"].as_str().unwrap().starts_with("403"), "{refused}");
    assert_eq!(client.search("Patient", "family=second").json()["entry"].as_array().unwrap().len(), 1);
}

#[test]
fn an_entry_of_a_bundle_keeps_its_conditions_and_references() {
    let stack = stack(StackOptions {
        configuration: "[app]\naccept_client_ids = true\n".to_owned(),
        ..Default::default()
    });
    let client = stack.signed_in("system/*.cruds");
    let patient =
        |family: &str| json!({"resourceType": "Patient", "id": "p-1", "name": [{"family": family}]});
    assert_eq!(client.put("/fhir/R4/Patient/p-1", &patient("First")).status, 201);
    let family = || client.get("/fhir/R4/Patient/p-1").json()["name"][0]["family"].clone();
    let transaction = |entries: Value| {
        client.post("/fhir/R4", &json!({"resourceType": "Bundle", "type": "transaction", "entry": entries}))
    };
    let put = |change: Value| {
        let mut request = json!({"method": "PUT", "url": "Patient/p-1"});
        request.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"resource": patient("Second"), "request": request})
    };
    for condition in [json!({"ifNoneMatch": "*"}), json!({"ifMatch": "W/\"7\""})] {
        assert_eq!(transaction(json!([put(condition)])).status, 412);
    }
    let refused = transaction(json!([put(json!({"ifNoneMatch": "W/\"1\""}))]));
    assert_eq!(refused.status, 400, "{}", refused.text());
    issue(&refused);
    assert_eq!(family(), "First");

    let observation = |reference: &str, url: &str| {
        let resource = json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"},
            "subject": {"reference": reference}});
        json!({"fullUrl": url, "resource": resource, "request": {"method": "POST", "url": "Observation"}})
    };
    let searching = transaction(json!([observation(
        "Patient?identifier=a|b",
        "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e1"
    )]));
    assert_eq!((searching.status, issue(&searching).as_str()), (412, "not-found"));
    // A relative reference means what has the same base, not whoever has that id here.
    let answer = transaction(json!([
        {"fullUrl": "https://elsewhere.example/fhir/Patient/p-1", "resource": patient("Elsewhere"),
            "request": {"method": "POST", "url": "Patient"}},
        observation("Patient/p-1", "https://elsewhere.example/fhir/Observation/o"),
    ]));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(client.search("Observation", "patient=p-1").json()["entry"], Value::Null);
    let made = answer.json()["entry"][0]["response"]["location"].as_str().unwrap().to_owned();
    let made = made.split("/Patient/").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let found = client.search("Observation", &format!("patient={made}")).json();
    assert_eq!(found["entry"].as_array().unwrap().len(), 1);

    let batch = json!({"resourceType": "Bundle", "type": "batch", "entry": [
        {"request": {"method": "GET", "url": "Patient/nobody/_history"}},
        {"request": {"method": "GET", "url": "Patient/p-1?_elements=gender"}},
        {"request": {"method": "GET", "url": "Patient/p-1/_history?_since=2100-01-01"}},
        {"request": {"method": "GET", "url": "Patient/p-1", "ifNoneMatch": "W/\"1\""}},
        {"request": {"method": "GET", "url": "Patient/p-1", "ifModifiedSince": "2020-01-01T00:00:00Z"}},
        {"request": {"method": "GET", "url": "Patient/p-1?_summary=count"}},
    ]});
    let answer = client.post("/fhir/R4", &batch).json();
    assert_eq!(answer["entry"][1]["resource"]["name"], Value::Null);
    assert_eq!(answer["entry"][2]["resource"]["entry"], Value::Null);
    assert_eq!(answer["entry"][4]["resource"]["name"][0]["family"], "First");
    let statuses: Vec<_> = answer["entry"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["response"]["status"].as_str().unwrap()[..3].to_owned())
        .collect();
    assert_eq!(statuses, ["404", "200", "200", "304", "200", "400"]);
}

#[test]
fn what_is_asked_for_in_parts_or_not_at_all_comes_so() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let patient = json!({"resourceType": "Patient", "active": true, "name": [{"family": "Part"}], "birthDate": "1980-01-01"});
    let json_body = patient.to_string();
    let prefer = |value: &str| {
        let headers = [("Content-Type", "application/fhir+json"), ("Prefer", value)];
        client.send("POST", "/fhir/R4/Patient", &headers, json_body.as_bytes())
    };
    assert!(prefer("return=minimal").body.is_empty());
    assert_eq!(prefer("return=OperationOutcome").json()["resourceType"], "OperationOutcome");
    let (id, _) = create(&client, &patient);
    let path = format!("/fhir/R4/Patient/{id}");
    let read = client.get(&path);
    assert_eq!(client.send("GET", &path, &[("If-None-Match", "W/\"1\"")], b"").status, 304);
    let modified = read.header("last-modified").unwrap().to_owned();
    assert_eq!(client.send("GET", &path, &[("If-Modified-Since", &modified)], b"").status, 304);
    assert_eq!(client.send("GET", &path, &[("If-None-Match", "W/\"2\"")], b"").status, 200);
    let head = client.send("HEAD", &path, &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(client.send("GET", &path, &[("Accept", "application/fhir+xml")], b"").status, 406);
    assert_eq!(client.get(&format!("{path}?_format=json")).status, 200);
    assert_eq!(client.get(&format!("{path}?_format=xml")).status, 406);
    let part = client.get(&format!("{path}?_elements=active")).json();
    assert_eq!((part["active"].as_bool(), part.get("name")), (Some(true), None));
    assert_eq!(part["meta"]["tag"][0]["code"], "SUBSETTED");
    let found =
        client.search("Patient", "family=part&_elements=birthDate&_sort=birthdate&_total=accurate").json();
    assert_eq!(found["total"], 3);
    assert_eq!(found["entry"][0]["resource"]["birthDate"], "1980-01-01");
    assert!(found["entry"][0]["resource"].get("name").is_none());
    let links: Vec<&str> =
        found["link"].as_array().unwrap().iter().filter_map(|link| link["url"].as_str()).collect();
    assert!(links.iter().all(|link| !link.contains("part")), "a link tells what was searched for: {links:?}");
}

#[test]
fn bad_input_gets_a_clear_error_and_changes_nothing() {
    let stack = stack(StackOptions {
        configuration: "[limits]\nbody_megabytes = 2\nheader_seconds = 2\nbody_seconds = 2\n".to_owned(),
        ..Default::default()
    });
    let client = stack.signed_in("system/*.cruds");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("truncated JSON", b"{\"resourceType\":\"Patient\",\"active\":tr".to_vec(), 400),
        ("wrong type", br#"{"resourceType":"Patient","active":"yes"}"#.to_vec(), 422),
        ("deep nesting", deep.into_bytes(), 400),
        ("duplicate keys", br#"{"resourceType":"Patient","active":true,"active":false}"#.to_vec(), 400),
        ("invalid UTF-8", b"{\"resourceType\":\"Patient\",\"language\":\"\xff\"}".to_vec(), 400),
        ("bad date", br#"{"resourceType":"Patient","birthDate":"2026-13-40"}"#.to_vec(), 422),
        ("another type", br#"{"resourceType":"Observation"}"#.to_vec(), 400),
        ("unknown element", br#"{"resourceType":"Patient","colour":"blue"}"#.to_vec(), 422),
        ("no object", b"[]".to_vec(), 400),
        ("nothing", Vec::new(), 400),
    ];
    for (what, body, status) in &cases {
        let answer =
            client.send("POST", "/fhir/R4/Patient", &[("Content-Type", "application/fhir+json")], body);
        issue(&answer);
        let allowed =
            answer.status == *status || (matches!(*status, 400 | 422) && matches!(answer.status, 400 | 422));
        assert!(allowed, "{what}: {} {}", answer.status, answer.text());
    }
    assert_eq!(client.get("/fhir/R4/Potato/1").status, 404);
    issue(&client.get("/fhir/R4/Potato/1"));
    assert_eq!(client.get("/fhir/R4/Patient/00000000-0000-4000-8000-000000000000").status, 404);
    assert_eq!(client.send("PUT", "/fhir/R4/Patient", &[], b"{}").status, 400);
    assert_eq!(client.send("PUT", "/fhir/R4/_search", &[], b"{}").status, 405);
    let xml =
        client.send("POST", "/fhir/R4/Patient", &[("Content-Type", "application/fhir+xml")], b"<Patient/>");
    assert_eq!(xml.status, 415);
    issue(&xml);

    // A hundred megabytes, announced and sent: refused without being read to the end.
    let mut stream = client.connect().unwrap();
    let token = &client.headers[0].1;
    let head = format!(
        "POST /fhir/R4/Patient HTTP/1.1\r\nHost: localhost:{}\r\nAuthorization: {token}\r\nContent-Type: \
         application/fhir+json\r\nContent-Length: 104857600\r\nConnection: close\r\n\r\n",
        stack.address.port()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let block = vec![b' '; 1 << 16];
    let mut sent = 0_usize;
    while sent < 104_857_600 && stream.write_all(&block).is_ok() {
        sent += block.len();
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let refused = String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 413") || sent < 104_857_600;
    assert!(refused, "{sent} bytes were taken: {}", String::from_utf8_lossy(&answer));

    // A slow client is let go.
    for start in [
        "GET /fhir/R4/metadata HTTP/1.1\r\nHost: loc",
        "POST /fhir/R4/Patient HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{",
    ] {
        let mut stream = client.connect().unwrap();
        stream.write_all(start.as_bytes()).unwrap();
        let started = Instant::now();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(started.elapsed() < Duration::from_secs(40), "a slow client held its connection");
    }

    assert!(
        client.search("Patient", "_count=1").json()["entry"].as_array().is_none_or(Vec::is_empty),
        "nothing stored"
    );
    assert!(
        stack.status()["instances"].as_array().unwrap().iter().all(|one| one["restarts"] == 0),
        "nobody died"
    );
    let logs = stack.logs();
    assert!(!logs.contains("\"panic\""), "{logs}");
}

#[test]
fn only_good_assertions_give_tokens_and_only_good_tokens_give_answers() {
    let stack = empty_stack();
    let https = stack.https();
    assert_eq!(https.get("/fhir/R4/Patient/1").status, 401);
    issue(&https.get("/fhir/R4/Patient/1"));
    assert_eq!(https.get("/fhir/R4/metadata").status, 200);
    let (client, account) = stack.add_client("system/Patient.rs");
    let audience = format!("{}/oauth/token", stack.origin());
    let ask = |assertion: &str| ServiceAccount::token_request(&https, assertion, "system/Patient.rs").status;

    let good = account.assertion(&client, &audience, |_| ());
    assert_eq!(ask(&good), 200);
    assert!(matches!(ask(&good), 400 | 401), "a replayed assertion");
    type Change = fn(&mut Value);
    let spoiled: [(&str, Change); 5] = [
        ("expired", |claims| claims["exp"] = 1_700_000_000.into()),
        ("wrong audience", |claims| claims["aud"] = "https://elsewhere.example/token".into()),
        ("too long a life", |claims| claims["exp"] = 4_000_000_000_u64.into()),
        ("no jti", |claims| {
            claims.as_object_mut().unwrap().shift_remove("jti");
        }),
        ("another subject", |claims| claims["sub"] = "somebody".into()),
    ];
    for (what, change) in spoiled {
        assert!(matches!(ask(&account.assertion(&client, &audience, change)), 400 | 401), "{what}");
    }
    let stranger = ServiceAccount::default();
    assert!(matches!(ask(&stranger.assertion(&client, &audience, |_| ())), 400 | 401), "another key");

    let token = ServiceAccount::token_request(
        &https,
        &account.assertion(&client, &audience, |_| ()),
        "system/Patient.rs",
    );
    let client = https.with_token(token.json()["access_token"].as_str().unwrap());
    assert_eq!(client.search("Patient", "_count=1").status, 200);
    assert_eq!(client.search("Observation", "_count=1").status, 403, "outside its scope");
    assert_eq!(client.post("/fhir/R4/Patient", &json!({"resourceType": "Patient"})).status, 403);
    assert_eq!(client.get("/ward/users").status, 403);
    assert_eq!(client.send("POST", "/session/sign-in", &[], b"{}").status, 404, "not for outsiders");
}

#[test]
fn the_capability_statement_tells_of_every_type() {
    let stack = empty_stack();
    let statement = stack.https().get("/fhir/R4/metadata").json();
    assert_eq!(statement["resourceType"], "CapabilityStatement");
    assert_eq!(statement["fhirVersion"], "4.0.1");
    let resources = statement["rest"][0]["resource"].as_array().unwrap();
    assert!(resources.len() >= 145, "{}", resources.len());
    assert!(resources.iter().all(|resource| !resource["interaction"].as_array().unwrap().is_empty()));
}

#[test]
fn validation_says_what_is_wrong_and_stores_nothing() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let say = |path: &str, body: &Value| {
        let answer = client.post(&format!("/fhir/R4/{path}/$validate"), body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let issue = answer.json()["issue"][0].clone();
        (
            issue["severity"].as_str().unwrap().to_owned(),
            issue["code"].as_str().unwrap().to_owned(),
            answer.text(),
        )
    };
    let patient = json!({"resourceType": "Patient", "name": [{"family": "Lovelace"}]});
    assert_eq!(say("Patient", &patient).0, "information");
    // A contact must at least have a name, a way to reach them, or an organization (pat-1).
    let broken = json!({"resourceType": "Patient", "contact": [{"gender": "female"}]});
    let (severity, code, text) = say("Patient", &broken);
    assert_eq!((severity.as_str(), code.as_str()), ("error", "invariant"));
    assert!(text.contains("pat-1") && text.contains("Patient.contact[0]"), "{text}");
    let refused = client.post("/fhir/R4/Patient", &broken);
    assert_eq!((refused.status, issue(&refused).as_str()), (422, "invariant"));
    let parameters = json!({"resourceType": "Parameters", "parameter": [
        {"name": "resource", "resource": patient}, {"name": "mode", "valueCode": "update"}]});
    assert_eq!(say("Patient", &parameters).1, "invalid");
    assert_eq!(say("Observation", &patient).1, "invalid");
    assert_eq!(say("Patient/x", &json!({"resourceType": "Patient", "id": "y"})).1, "invalid");
    assert_eq!(say("Patient", &patient).1, "informational");
    assert_eq!(client.get("/fhir/R4/Patient/$validate").status, 405);
    assert_eq!(stack.signed_in("system/*.rs").post("/fhir/R4/Patient/$validate", &patient).status, 403);
    assert_eq!(client.search("Patient", "_summary=count").json()["total"], 0);
}
