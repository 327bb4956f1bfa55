//! Searches that follow references, over one type, a compartment or everything.

use serde_json::{Value, json};
use ward_testkit::{Answer, Https, Stack};

use crate::api::{create, issue};
use crate::empty_stack;

/// `Type/id` of the entries of a search, by mode.
pub(crate) fn found(answer: &Answer, mode: &str) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut names: Vec<String> = answer.json()["entry"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| entry["search"]["mode"] == mode)
        .map(|entry| {
            let resource = &entry["resource"];
            format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap())
        })
        .collect();
    names.sort();
    names
}

/// `Type/id` of the matches on this page and all after it.
pub(crate) fn matches_of_all_pages(stack: &Stack, client: &Https, path: &str) -> Vec<String> {
    let (mut seen, mut path) = (Vec::new(), path.to_owned());
    loop {
        let answer = client.get(&path);
        seen.extend(found(&answer, "match"));
        let page = answer.json();
        let Some(next) = page["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next")
        else {
            return seen;
        };
        path = next["url"].as_str().unwrap().strip_prefix(&stack.origin()).unwrap().to_owned();
    }
}

pub(crate) fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

pub(crate) struct Ward {
    pub(crate) doctor: String,
    pub(crate) ada: String,
    pub(crate) grace: String,
    pub(crate) stay: String,
    pub(crate) pulse: String,
    pub(crate) weight: String,
}

/// Two patients, a doctor, a stay and two measurements.
pub(crate) fn fill(client: &Https) -> Ward {
    let made = |resource: Value| {
        let kind = resource["resourceType"].as_str().unwrap().to_owned();
        format!("{kind}/{}", create(client, &resource).0)
    };
    let doctor = made(json!({"resourceType": "Practitioner", "name": [{"family": "Blackwell"}]}));
    let patient = |family: &str, doctor: Option<&str>| {
        let mut patient = json!({"resourceType": "Patient", "name": [{"family": family}]});
        if let Some(doctor) = doctor {
            patient["generalPractitioner"] = json!([{"reference": doctor}]);
        }
        made(patient)
    };
    let (ada, grace) = (patient("Lovelace", Some(&doctor)), patient("Hopper", None));
    let stay = made(json!({"resourceType": "Encounter", "status": "finished",
        "class": {"system": "urn:class", "code": "IMP"}, "subject": {"reference": ada}}));
    let observation = |code: &str, patient: &str, stay: Option<&str>| {
        let mut observation = json!({"resourceType": "Observation", "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": code}]}, "subject": {"reference": patient}});
        if let Some(stay) = stay {
            observation["encounter"] = json!({"reference": stay});
        }
        made(observation)
    };
    let pulse = observation("8867-4", &ada, Some(&stay));
    let weight = observation("29463-7", &grace, None);
    Ward { doctor, ada, grace, stay, pulse, weight }
}

#[test]
fn searches_go_along_references_and_bring_what_they_lead_to() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let ward = fill(&client);
    let Ward { doctor, ada, grace, stay, pulse, weight } = &ward;
    for (kind, form, expected) in [
        ("Observation", "patient.name=lovel".to_owned(), vec![pulse]),
        (
            "Observation",
            "subject:Patient.general-practitioner:Practitioner.name=black".to_owned(),
            vec![pulse],
        ),
        ("Patient", "_has:Observation:patient:code=29463-7".to_owned(), vec![grace]),
        ("Patient", "_has:Encounter:patient:_has:Observation:encounter:code=8867-4".to_owned(), vec![ada]),
        ("Observation", "encounter.status=planned".to_owned(), vec![]),
        ("Observation", "encounter.status:not=planned".to_owned(), vec![pulse]),
        ("Practitioner", "_has:Patient:general-practitioner:family=lovelace".to_owned(), vec![doctor]),
        (
            "Observation",
            "_filter=code eq loinc|29463-7 or encounter[status eq finished].subject:Patient.name co \"lace\""
                .to_owned(),
            vec![pulse, weight],
        ),
        ("Observation", "_filter=not(patient.general-practitioner pr true)".to_owned(), vec![weight]),
        ("Observation", "_filter=patient.general-practitioner pr false".to_owned(), vec![weight]),
        ("Observation", "_filter=encounter.status pr false and code pr true".to_owned(), vec![weight]),
        ("Patient", "_filter=name sw hop or name eq nobody and gender pr true".to_owned(), vec![]),
    ] {
        let expected = sorted(expected.into_iter().cloned().collect());
        assert_eq!(found(&client.search(kind, &form), "match"), expected, "{kind}?{form}");
    }
    let answer = client.search(
        "Observation",
        "code=8867-4&_include=Observation:patient&_include:iterate=Patient:general-practitioner&_include=Observation:encounter",
    );
    assert_eq!(found(&answer, "match"), [pulse.as_str()]);
    assert_eq!(found(&answer, "include"), sorted(vec![ada.clone(), doctor.clone(), stay.clone()]));
    // Names that tell nothing may stand in a URL; what leads in circles ends.
    let id = ada.split('/').nth(1).unwrap();
    let path = format!(
        "/fhir/R4/Patient?_id={id}&_revinclude=Observation:subject&_revinclude=Encounter:patient&_include:iterate=Encounter:subject"
    );
    let answer = client.get(&path);
    assert_eq!(found(&answer, "include"), sorted(vec![stay.clone(), pulse.clone()]));

    // A compartment, and everything.
    for (path, expected) in [
        (format!("{ada}/Observation"), vec![pulse]),
        (format!("{grace}/Observation"), vec![weight]),
        (format!("{ada}/*"), vec![ada, pulse, stay]),
        (format!("{ada}/*?_type=Encounter,Observation"), vec![pulse, stay]),
        (format!("{stay}/Observation"), vec![pulse]),
        ("?_type=Patient,Practitioner".to_owned(), vec![ada, doctor, grace]),
        ("".to_owned(), vec![ada, doctor, grace, pulse, stay, weight]),
    ] {
        let slash = if path.starts_with('?') || path.is_empty() { "" } else { "/" };
        let answer = client.get(&format!("/fhir/R4{slash}{path}"));
        assert_eq!(found(&answer, "match"), sorted(expected.into_iter().cloned().collect()), "{path}");
    }
    let within = client.send(
        "POST",
        &format!("/fhir/R4/{ada}/Observation/_search"),
        &[("Content-Type", "application/x-www-form-urlencoded")],
        b"code=8867-4&_total=accurate",
    );
    assert_eq!((found(&within, "match"), within.json()["total"].as_u64()), (vec![pulse.clone()], Some(1)));

    // Page by page, each resource once, over all types.
    let seen = matches_of_all_pages(&stack, &client, "/fhir/R4?_count=2&_sort=-_lastUpdated");
    assert_eq!(sorted(seen), sorted([ada, doctor, grace, pulse, stay, weight].map(String::clone).to_vec()));

    // Whoever was included was looked at.
    let who = stack.ward_json(&["audit", "who", "--patient", id]);
    let searches =
        who["accesses"].as_array().unwrap().iter().filter(|access| access["action"] == "search").count();
    assert!(searches >= 8, "{who}");
}

#[test]
fn searches_go_up_and_down_hierarchies() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let location = |name: &str, within: Option<&str>| {
        let mut location = json!({"resourceType": "Location", "name": name});
        if let Some(within) = within {
            location["partOf"] = json!({"reference": within});
        }
        format!("Location/{}", create(&client, &location).0)
    };
    let house = location("house", None);
    let floor = location("floor", Some(&house));
    let (room, other) = (location("room", Some(&floor)), location("other", Some(&house)));
    let stay = |place: &str| {
        let (id, _) = create(
            &client,
            &json!({"resourceType": "Encounter", "status": "finished",
            "class": {"code": "IMP"}, "location": [{"location": {"reference": place}}]}),
        );
        format!("Encounter/{id}")
    };
    let (in_room, in_other, in_house) = (stay(&room), stay(&other), stay(&house));
    let pulse = json!({"resourceType": "Observation", "status": "final", "code": {"text": "pulse"},
        "encounter": {"reference": in_room}});
    let pulse = format!("Observation/{}", create(&client, &pulse).0);
    let id = |name: &str| name.split('/').nth(1).unwrap().to_owned();
    for (kind, form, expected) in [
        ("Encounter", format!("location={house}"), vec![&in_house]),
        ("Encounter", format!("location:below={house}"), vec![&in_house, &in_other, &in_room]),
        ("Encounter", format!("location:below={floor}"), vec![&in_room]),
        ("Encounter", format!("location:below={}", id(&floor)), vec![&in_room]),
        ("Encounter", format!("location:below={floor},{other}"), vec![&in_other, &in_room]),
        ("Encounter", format!("location:above={room}"), vec![&in_house, &in_room]),
        ("Encounter", format!("location:above={house}"), vec![&in_house]),
        ("Encounter", "location:below=Location/nowhere".to_owned(), vec![]),
        ("Encounter", format!("location:below={}", [id(&floor).as_str(); 190].join(",")), vec![&in_room]),
        ("Location", format!("partof:below={house}"), vec![&floor, &other, &room]),
        ("Location", format!("partof:above={floor}"), vec![&floor, &other, &room]),
        ("Observation", format!("encounter.location:below={house}"), vec![&pulse]),
        ("Observation", format!("encounter.location:below={other}"), vec![]),
        ("Location", format!("_has:Encounter:location:location:above={room}"), vec![&house, &room]),
    ] {
        let expected = sorted(expected.into_iter().cloned().collect());
        assert_eq!(found(&client.search(kind, &form), "match"), expected, "{kind}?{form}");
    }
    // An id of ours tells nothing, so it may stand in a URL.
    let path = format!("/fhir/R4/Encounter?location:below={}", id(&floor));
    assert_eq!(found(&client.get(&path), "match"), std::slice::from_ref(&in_room));
    // A circle ends.
    let circle = json!({"resourceType": "Location", "id": id(&house), "partOf": {"reference": room}});
    let json = ("Content-Type", "application/fhir+json");
    let put = client.send("PUT", &format!("/fhir/R4/{house}"), &[json], circle.to_string().as_bytes());
    assert_eq!(put.status, 200, "{}", put.text());
    for form in [format!("location:below={floor}"), format!("location:above={floor}")] {
        let answer = found(&client.search("Encounter", &form), "match");
        assert!(answer.contains(&in_house) && answer.contains(&in_room), "{form}");
    }
    // What may not be searched is not looked at on the way.
    let narrow = stack.signed_in("system/Encounter.rs");
    let refused = narrow.search("Encounter", &format!("location:below={house}"));
    assert_eq!(refused.status, 403, "{}", refused.text());
    let many: Vec<String> = (0..21).map(|number| format!("Location/{number}")).collect();
    for form in [
        "subject:below=1",
        "subject:below=Patient/1",
        "location:above=http://a.test/1",
        "location:below=http://a.test/1",
        "location:below=",
        &format!("location:below={}", many.join(",")),
    ] {
        let refused = client.search("Encounter", form);
        assert_eq!(refused.status, 400, "{form}: {}", refused.text());
        issue(&refused);
    }
}

#[test]
fn a_search_along_references_sees_no_type_that_the_caller_may_not() {
    let stack = empty_stack();
    let ward = fill(&stack.signed_in("system/*.cruds"));
    let narrow = stack.signed_in("system/Observation.rs");
    for (kind, form) in [
        ("Observation", "patient.name=lovelace"),
        ("Observation", "subject:Patient.name=lovelace"),
        ("Observation", "_has:Encounter:diagnosis:status=finished"),
        ("Observation", "encounter.subject:Patient.name=lovelace"),
        ("Observation", "_list=1"),
        ("Observation", "_filter=patient.name eq lovelace"),
        ("Observation", "_filter=code eq 8867-4 or encounter.subject:Patient.name eq lovelace"),
        ("Observation", "_filter=not(code eq 1 and not(patient.name eq lovelace))"),
        ("Observation", "_filter=code in http://loinc.org/vs"),
        ("Patient", "_id=1"),
    ] {
        let refused = narrow.search(kind, form);
        assert!(matches!(refused.status, 400 | 403), "{kind}?{form}: {}", refused.text());
        issue(&refused);
    }
    // A type that is left out of what is excluded would find more.
    let some = stack.signed_in("system/Observation.rs system/Location.rs");
    assert_eq!(some.search("Observation", "_filter=subject.name eq lovelace").status, 200);
    assert_eq!(some.search("Observation", "_filter=not(subject.name eq lovelace)").status, 403);
    let unseen = narrow.search("Observation", "_has:DiagnosticReport:result:status=final");
    assert_eq!(unseen.status, 403, "{}", unseen.text());
    // What may not be seen is no way to what may.
    let two = stack.signed_in("system/Observation.rs system/Practitioner.rs");
    let over = "code=8867-4&_include=Observation:patient&_include:iterate=Patient:general-practitioner";
    assert_eq!(found(&two.search("Observation", over), "include"), [""; 0]);
    let all = stack.signed_in("system/*.rs").search("Observation", over);
    assert_eq!(found(&all, "include"), sorted(vec![ward.ada.clone(), ward.doctor.clone()]));
    let answer = narrow.search("Observation", "code=8867-4&_include=Observation:patient");
    assert_eq!((found(&answer, "match"), found(&answer, "include")), (vec![ward.pulse.clone()], vec![]));
    // Of all types, those that it may.
    assert_eq!(
        found(&narrow.get("/fhir/R4"), "match"),
        sorted(vec![ward.pulse.clone(), ward.weight.clone()])
    );
    assert_eq!(narrow.get("/fhir/R4?_type=Patient").status, 403);
    assert_eq!(narrow.get(&format!("/fhir/R4/{}/Encounter", ward.ada)).status, 403);
}

#[test]
fn searches_that_ask_too_much_are_refused_with_words() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let stay = json!({"resourceType": "Encounter", "status": "planned", "class": {"code": "IMP"}});
    let mut last = create(&client, &stay).0;
    for _ in 0..10 {
        let mut next = stay.clone();
        next["partOf"] = json!({"reference": format!("Encounter/{last}")});
        last = create(&client, &next).0;
    }
    let ten = format!("{}status=planned", "part-of.".repeat(10));
    assert_eq!(found(&client.search("Encounter", &ten), "match"), [format!("Encounter/{last}")]);
    let all = client.search("Encounter", &format!("_id={last}&_include:iterate=Encounter:part-of"));
    assert_eq!(found(&all, "include").len(), 10);
    for form in [
        format!("{}status=planned", "part-of.".repeat(11)),
        "_has:Provenance:target:target.target._id=x".to_owned(),
        "part-of.nothing=x".to_owned(),
        "status.name=x".to_owned(),
        "_has:Observation:encounter=x".to_owned(),
        "_include=Encounter".to_owned(),
        "_list=$current-problems".to_owned(),
        "_query=mine".to_owned(),
        "_filter=status is planned".to_owned(),
        "_filter=colour eq blue".to_owned(),
        format!("_filter={}status eq planned", "part-of.".repeat(11)),
        format!("_filter={}status eq planned{}", "(".repeat(3000), ")".repeat(3000)),
    ] {
        let refused = client.search("Encounter", &form);
        assert_eq!(refused.status, 400, "{form}: {}", refused.text());
        issue(&refused);
    }
    for (path, status) in [
        ("/fhir/R4?_type=Nothing", 400),
        ("/fhir/R4/Patient/1/Organization", 404),
        ("/fhir/R4/Organization/1/Patient", 404),
        ("/fhir/R4/Observation?patient.name=x", 400),
        ("/fhir/R4/Observation?_filter=status%20eq%20final", 400),
    ] {
        let refused = client.get(path);
        assert_eq!(refused.status, status, "{path}: {}", refused.text());
        issue(&refused);
    }
}
