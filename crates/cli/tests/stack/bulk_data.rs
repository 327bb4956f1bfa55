//! Whole records: `$everything`, and Bulk Data export.

use serde_json::{Value, json};
use ward_testkit::{Answer, Https};

use crate::api::{create, issue};
use crate::empty_stack;
use crate::search::{Ward, fill, found, matches_of_all_pages, sorted};

const ASYNC: (&str, &str) = ("Prefer", "respond-async");

#[test]
fn everything_about_a_patient_is_theirs_and_what_it_refers_to() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let Ward { doctor, ada, grace, stay, pulse, .. } = fill(&client);
    // Who is only mentioned does not come along.
    create(
        &client,
        &json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"},
            "subject": {"reference": ada}, "effectiveDateTime": "2020-05-01", "focus": [{"reference": grace}]}),
    );
    let dated = client.search("Observation", "date=2020-05-01");
    let dated = found(&dated, "match")[0].clone();
    let all = client.get(&format!("/fhir/R4/{ada}/$everything"));
    assert_eq!(found(&all, "match"), sorted([&ada, &dated, &pulse, &stay].map(String::clone).to_vec()));
    assert_eq!(found(&all, "include"), [doctor.as_str()]);
    let of_stay = client.get(&format!("/fhir/R4/{stay}/$everything"));
    assert_eq!(found(&of_stay, "match"), sorted(vec![stay.clone(), pulse.clone()]));
    assert_eq!(found(&of_stay, "include"), [ada.as_str()]);

    let some = client.get(&format!("/fhir/R4/{ada}/$everything?_type=Observation&_since=2020-01-01"));
    assert_eq!(found(&some, "match"), sorted(vec![dated.clone(), pulse.clone()]));
    let none = client.get(&format!("/fhir/R4/{ada}/$everything?_since=2100-01-01"));
    assert_eq!(found(&none, "match"), [""; 0]);
    let dates = json!({"resourceType": "Parameters", "parameter": [
        {"name": "start", "valueDate": "2020-01-01"}, {"name": "end", "valueDate": "2020-12-31"},
        {"name": "_type", "valueString": "Observation,Encounter"}]});
    let cared = client.post(&format!("/fhir/R4/{ada}/$everything"), &dates);
    assert_eq!(found(&cared, "match"), [dated.as_str()]);

    let seen = matches_of_all_pages(&stack, &client, &format!("/fhir/R4/{ada}/$everything?_count=1"));
    assert_eq!(sorted(seen), found(&all, "match"));

    for (path, status) in [
        (format!("/fhir/R4/{ada}/$everything?start=2020"), 400),
        (format!("/fhir/R4/{ada}/$everything?colour=red"), 400),
        ("/fhir/R4/Patient/nobody/$everything".to_owned(), 404),
        (format!("/fhir/R4/{doctor}/$everything"), 404),
    ] {
        let refused = client.get(&path);
        assert_eq!(refused.status, status, "{path}: {}", refused.text());
        issue(&refused);
    }
    let narrow = stack.signed_in("system/Observation.rs");
    assert_eq!(narrow.get(&format!("/fhir/R4/{ada}/$everything")).status, 403);
}

fn kick_off(client: &Https, path: &str) -> String {
    let accepted = client.send("GET", path, &[ASYNC, ("Accept", "application/fhir+json")], b"");
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let location = accepted.header("content-location").unwrap();
    location[location.find("/fhir/R4/").unwrap()..].to_owned()
}

/// `Type/id` of all that a job gives out.
fn exported(client: &Https, status: &str) -> Vec<String> {
    let manifest = client.get(status).json();
    assert_eq!(manifest["requiresAccessToken"], true);
    let mut names = Vec::new();
    for output in manifest["output"].as_array().unwrap() {
        let url = output["url"].as_str().unwrap();
        let file = client.get(&url[url.find("/fhir/R4/").unwrap()..]);
        assert_eq!((file.status, file.header("content-type")), (200, Some("application/fhir+ndjson")));
        for line in file.text().lines() {
            let resource: Value = serde_json::from_str(line).unwrap();
            assert_eq!(resource["resourceType"], output["type"]);
            assert!(resource["meta"]["versionId"].is_string());
            names.push(format!("{}/{}", output["type"].as_str().unwrap(), resource["id"].as_str().unwrap()));
        }
    }
    sorted(names)
}

#[test]
fn a_bulk_export_gives_out_what_was_asked_and_logs_whose_it_is() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let Ward { doctor, ada, grace, stay, pulse, weight } = fill(&client);
    let (group, _) = create(
        &client,
        &json!({"resourceType": "Group", "type": "person", "actual": true,
        "member": [{"entity": {"reference": grace}}, {"entity": {"reference": ada}, "inactive": true},
            {"entity": {"reference": ada}, "period": {"end": "2020-01-01"}}]}),
    );
    let all = |path: &str| exported(&client, &kick_off(&client, path));
    let names = |names: &[&String]| sorted(names.iter().map(|name| (*name).clone()).collect());
    let group_name = format!("Group/{group}");
    assert_eq!(all("/fhir/R4/$export"), names(&[&doctor, &ada, &grace, &stay, &pulse, &weight, &group_name]));
    assert_eq!(
        all("/fhir/R4/Patient/$export?_type=Patient,Observation"),
        names(&[&ada, &grace, &pulse, &weight])
    );
    assert_eq!(
        all(&format!("/fhir/R4/Group/{group}/$export?_type=Patient,Observation,Encounter")),
        names(&[&grace, &weight])
    );
    let head = client.send("HEAD", "/fhir/R4/$export", &[ASYNC], b"");
    assert_eq!((head.status, head.header("content-location")), (405, None));
    assert_eq!(all("/fhir/R4/$export?_since=2100-01-01T00:00:00Z"), [""; 0]);
    assert_eq!(all("/fhir/R4/$export?_type=Patient&_since=2020-01-01T00:00:00Z"), names(&[&ada, &grace]));
    let who = stack.ward_json(&["audit", "who", "--patient", grace.split('/').nth(1).unwrap()]);
    assert!(who["accesses"].as_array().unwrap().iter().any(|access| access["action"] == "export"), "{who}");

    let job = kick_off(&client, "/fhir/R4/$export?_type=Patient");
    // It is nobody else's, goes no further than its types, and ends when it is told to.
    let other = stack.signed_in("system/*.rs");
    assert_eq!(other.get(&job).status, 404);
    let file =
        |kind: &str| client.get(&format!("{}/{kind}/1", job.replace("$export-status", "$export-file")));
    assert_eq!((file("Patient").status, file("Observation").status), (200, 404));
    let path = format!("{}/Patient/1", job.replace("$export-status", "$export-file"));
    let head = client.send("HEAD", &path, &[], b"");
    assert_eq!((head.status, head.text().len()), (200, 0));
    assert_eq!(client.send("DELETE", &job, &[], b"").status, 202);
    assert_eq!((client.get(&job).status, file("Patient").status), (404, 404));

    let begin = |client: &Https, path: &str, headers: &[(&str, &str)]| -> Answer {
        client.send("GET", path, headers, b"")
    };
    for (path, headers, status) in [
        ("/fhir/R4/$export", &[][..], 400),
        ("/fhir/R4/$export?_type=Potato", &[ASYNC][..], 400),
        ("/fhir/R4/$export?_since=yesterday", &[ASYNC][..], 400),
        ("/fhir/R4/$export?_typeFilter=Patient%3Factive%3Dtrue", &[ASYNC][..], 400),
        ("/fhir/R4/$export?_outputFormat=text/csv", &[ASYNC][..], 400),
        ("/fhir/R4/Patient/$export?_type=Organization", &[ASYNC][..], 400),
        ("/fhir/R4/Group/nobody/$export", &[ASYNC][..], 404),
        ("/fhir/R4/$export-status/abc", &[][..], 404),
    ] {
        let refused = begin(&client, path, headers);
        assert_eq!(refused.status, status, "{path}: {}", refused.text());
        issue(&refused);
    }
    let narrow = stack.signed_in("system/Observation.rs");
    assert_eq!(exported(&narrow, &kick_off(&narrow, "/fhir/R4/$export")), names(&[&pulse, &weight]));
    assert_eq!(begin(&narrow, "/fhir/R4/$export?_type=Patient", &[ASYNC]).status, 403);
}

#[test]
fn a_large_export_comes_in_files_of_which_each_can_be_taken_again() {
    let stack = empty_stack();
    let file = stack.scratch().join("people.ndjson");
    let people: Vec<String> = (0..10_050)
        .map(|number| json!({"resourceType": "Patient", "id": format!("p{number}")}).to_string())
        .collect();
    std::fs::write(&file, people.join("\n")).unwrap();
    stack.ward_json(&["import", file.to_str().unwrap()]);
    let client = stack.signed_in("system/*.cruds");
    let job = kick_off(&client, "/fhir/R4/Patient/$export?_type=Patient");
    let urls: Vec<String> = client.get(&job).json()["output"]
        .as_array()
        .unwrap()
        .iter()
        .map(|output| output["url"].as_str().unwrap())
        .map(|url| url[url.find("/fhir/R4/").unwrap()..].to_owned())
        .collect();
    assert_eq!(urls.len(), 2);
    // What comes later does not move what the files hold.
    create(&client, &json!({"resourceType": "Patient"}));
    assert_eq!(client.send("DELETE", "/fhir/R4/Patient/p5", &[], b"").status, 204);
    let files: Vec<Vec<String>> =
        urls.iter().map(|url| client.get(url).text().lines().map(str::to_owned).collect()).collect();
    assert_eq!(files.iter().map(Vec::len).collect::<Vec<_>>(), [9_999, 51]);
    let again: Vec<String> = client.get(&urls[1]).text().lines().map(str::to_owned).collect();
    assert_eq!(again, files[1]);
    let next = urls[1].replace("/2", "/3");
    assert_eq!(client.get(&next).status, 404);
}
