//! Search gives what a plain filter over everything gives, in the same order, page by page.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::*;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};
use ward_base::{FixedClock, SystemClock, SystemRandom, Timestamp};
use ward_fhir::search::{self, Handling, Parameters, Query};
use ward_store::{Expected, Page, SearchPage, Store, StoreError, Stored, Transaction};
use ward_testkit::SearchOracle;

fn parse(name: &str, query: &[(String, String)]) -> Query {
    parse_by(&Parameters::default(), name, query)
}

fn parse_by(parameters: &Parameters, name: &str, query: &[(String, String)]) -> Query {
    let parsed = search::parse(resource_type(name), query, Handling::Strict, BASE, parameters);
    parsed.unwrap_or_else(|issues| panic!("{query:?}: {issues:?}")).0
}

async fn page(
    store: &Store,
    name: &str,
    query: &[(String, String)],
    page: Page,
) -> Result<SearchPage, StoreError> {
    let query = parse(name, query);
    store.read(move |session| session.search(&[query], &page)).await
}

fn pairs(query: &[(&str, &str)]) -> Vec<(String, String)> {
    query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn ids(store: &Store, name: &str, query: &[(&str, &str)]) -> Vec<String> {
    let found = page(store, name, &pairs(query), Page { count: 1000, after: None }).await.unwrap();
    found.hits.iter().map(|hit| hit.key.id.as_str().to_owned()).collect()
}

on_both!(
    every_kind_of_value_is_found,
    a_position_of_another_order_is_refused,
    a_few_that_were_stored_close_together_are_known_to_be_few,
    paging_stays_right_while_data_changes,
    parts_are_read_apart_and_are_all_together
);

async fn parts_are_read_apart_and_are_all_together(place: Place) {
    let store = place.open();
    let parts_of = |every: u32| {
        let store = store.clone();
        async move { store.read(move |session| session.parts(resource_type("Patient"), every)).await.unwrap() }
    };
    assert_eq!(parts_of(10).await.len(), 1);
    for number in 0..25 {
        put(&store, &patient(&format!("p{number}"), "Smith")).await.unwrap();
        put(&store, &observation(&format!("o{number}"), "p1", "8480-6", "2020")).await.unwrap();
    }
    assert_eq!((parts_of(25).await.len(), parts_of(24).await.len()), (1, 2));
    let parts = parts_of(10).await;
    // What changes does not move the ends of the parts.
    store.write(|transaction| transaction.delete(&key("Patient", "p3"), Expected::Current)).await.unwrap();
    put(&store, &patient("late", "Smith")).await.unwrap();
    put(&store, &patient("p12", "Jones")).await.unwrap();
    let mut seen = Vec::new();
    for start in parts {
        let (mut after, mut part) = (Some(start), Vec::new());
        while after.is_some() {
            let found = page(&store, "Patient", &[], Page { count: 4, after }).await.unwrap();
            part.extend(found.hits.iter().map(|hit| hit.key.id.as_str().to_owned()));
            after = found.next;
        }
        seen.push(part);
    }
    let names = |numbers: std::ops::Range<usize>| {
        numbers.filter(|number| *number != 3).map(|number| format!("p{number}")).collect::<Vec<_>>()
    };
    let mut last = names(20..25);
    last.push("late".to_owned());
    assert_eq!(seen, [names(0..10), names(10..20), last]);
    store.close().await;
}

async fn every_kind_of_value_is_found(place: Place) {
    let store = place.open();
    let mut second = patient("b", "Smithson");
    second["identifier"] = json!([{"system": "urn:mrn", "value": "X-1"}]);
    second["generalPractitioner"] =
        json!([{"reference": "Practitioner/b"}, {"identifier": {"value": "NPI-7"}}]);
    second["managingOrganization"] = json!({"reference": "https://elsewhere.test/fhir/Organization/9"});
    second["deceasedBoolean"] = true.into();
    for resource in [
        patient("a", "Smith"),
        second,
        observation("o1", "a", "8480-6", "2020-05-06T07:08:09Z"),
        observation("o2", "b", "8480-6", "2021-05"),
        observation("o3", "b", "29463-7", "2021-05-31"),
        json!({"resourceType": "QuestionnaireResponse", "id": "q1", "status": "completed", "questionnaire": "urn:q|1.2"}),
        json!({"resourceType": "QuestionnaireResponse", "id": "q2", "status": "completed", "questionnaire": "urn:q|2"}),
    ] {
        put(&store, &resource).await.unwrap();
    }
    for (name, query, expected) in [
        ("Patient", vec![("family", "smith")], vec!["a", "b"]),
        ("Patient", vec![("family", "Smithso")], vec!["b"]),
        ("Patient", vec![("name", "s")], vec!["a", "b"]),
        ("Patient", vec![("given", "zoe")], vec!["a", "b"]),
        ("Patient", vec![("family:exact", "Smith")], vec!["a"]),
        ("Patient", vec![("family:contains", "HSO")], vec!["b"]),
        ("Patient", vec![("identifier", "X-1")], vec!["b"]),
        ("Patient", vec![("identifier", "urn:mrn|")], vec!["b"]),
        ("Patient", vec![("identifier", "urn:other|X-1")], vec![]),
        ("Patient", vec![("identifier:missing", "true")], vec!["a"]),
        ("Patient", vec![("gender", "female"), ("deceased", "true")], vec!["b"]),
        ("Patient", vec![("gender:not", "female")], vec![]),
        ("Patient", vec![("general-practitioner", "Practitioner/b")], vec!["b"]),
        ("Patient", vec![("general-practitioner", "b")], vec!["b"]),
        ("Patient", vec![("general-practitioner:identifier", "NPI-7")], vec!["b"]),
        ("Patient", vec![("organization", "https://elsewhere.test/fhir/Organization/9")], vec!["b"]),
        ("Patient", vec![("birthdate", "1980")], vec!["a", "b"]),
        ("Patient", vec![("birthdate", "lt1980-02-29")], vec![]),
        ("Patient", vec![("_id", "b,nobody,a")], vec!["a", "b"]),
        ("Patient", vec![("_id", "b"), ("_id", "a")], vec![]),
        ("Observation", vec![("patient", "b")], vec!["o2", "o3"]),
        ("Observation", vec![("subject", "Patient/b"), ("code", "http://loinc.org|8480-6")], vec!["o2"]),
        (
            "Observation",
            vec![("patient", "a,b"), ("date", "ge2021-05-15"), ("status", "final")],
            vec!["o2", "o3"],
        ),
        (
            "Observation",
            vec![("patient", "b"), ("category", "vital-signs"), ("date", "2021-05-31")],
            vec!["o3"],
        ),
        ("Observation", vec![("date", "ge2020-05"), ("date", "lt2020-06")], vec!["o1"]),
        ("Observation", vec![("date", "eb2021-01")], vec!["o1"]),
        ("Observation", vec![("code-value-quantity", "29463-7$gt70")], vec!["o3"]),
        ("Observation", vec![("value-quantity", "lt70")], vec![]),
        ("Observation", vec![("status", "final"), ("_sort", "-date")], vec!["o3", "o2", "o1"]),
        ("Observation", vec![("_lastUpdated", "gt2001")], vec!["o1", "o2", "o3"]),
        ("Observation", vec![("_lastUpdated", "lt2001")], vec![]),
        ("Observation", vec![("_sort", "-_lastUpdated")], vec!["o3", "o2", "o1"]),
        ("QuestionnaireResponse", vec![("questionnaire", "urn:q")], vec!["q1", "q2"]),
        ("QuestionnaireResponse", vec![("questionnaire", "urn:q|1.2")], vec!["q1"]),
        ("QuestionnaireResponse", vec![("questionnaire:below", "urn:q|1")], vec!["q1"]),
        ("QuestionnaireResponse", vec![("questionnaire:below", "urn:q")], vec!["q1", "q2"]),
    ] {
        assert_eq!(ids(&store, name, &query).await, expected, "{query:?}");
    }
    // What is gone or moved is found no more, and by its new values only.
    let gone = key("Observation", "o2");
    store.write(move |transaction| transaction.delete(&gone, Expected::Any)).await.unwrap();
    put(&store, &observation("o3", "a", "1-1", "1999")).await.unwrap();
    for (query, expected) in [
        (vec![("patient", "b")], vec![]),
        (vec![("_id", "o2")], vec![]),
        (vec![("code", "29463-7")], vec![]),
        (vec![("patient", "a"), ("code", "1-1"), ("date", "1999-12")], vec![]),
        (vec![("patient", "a"), ("code", "1-1"), ("date", "1999")], vec!["o3"]),
        (vec![], vec!["o1", "o3"]),
    ] {
        assert_eq!(ids(&store, "Observation", &query).await, expected, "{query:?}");
    }
    // A transaction sees its own writes.
    let late = store
        .prepare(&key("Patient", "late"), &json!({"resourceType": "Patient", "name": [{"text": "Late"}]}));
    let (late, queries) = (late.unwrap(), [parse("Patient", &pairs(&[("name", "late")]))]);
    let seen = store
        .write(move |transaction| {
            transaction.put(&late, Expected::Absent)?;
            transaction.search(&queries, &Page { count: 5, after: None })
        })
        .await;
    assert_eq!(seen.unwrap().hits.len(), 1);
}

async fn a_position_of_another_order_is_refused(place: Place) {
    let store = place.open();
    for id in ["a", "b", "c"] {
        put(&store, &patient(id, "Smith")).await.unwrap();
    }
    let first = page(&store, "Patient", &[], Page { count: 1, after: None }).await.unwrap();
    let sorted =
        page(&store, "Patient", &pairs(&[("_sort", "birthdate")]), Page { count: 1, after: first.next })
            .await;
    assert_eq!(sorted.err(), Some(StoreError::Position));
    let counted = page(&store, "Patient", &pairs(&[("_summary", "count")]), Page { count: 0, after: None })
        .await
        .unwrap();
    assert_eq!((counted.total, counted.hits.len()), (Some(3), 0));
}

#[derive(Clone, Debug)]
enum Step {
    Put(Value),
    Delete(&'static str, String),
}

const FAMILIES: [&str; 7] = ["Smith", "Smithson", "Lovelace", "Løvelace", "Nuñez", "Li", "J"];
const CODES: [&str; 4] = ["8480-6", "8462-4", "29463-7", "final"];
const PEOPLE: [&str; 4] = ["p0", "p1", "p2", "p3"];
const DOCTORS: [&str; 3] = ["d0", "d1", "d2"];
const STAYS: [&str; 5] = ["e0", "e1", "e2", "e3", "e4"];

/// Whole days only, so that the plain order of texts is the order of moments.
fn day() -> impl Strategy<Value = String> {
    (1990..2024, 1..13, 1..29).prop_map(|(year, month, day)| format!("{year}-{month:02}-{day:02}"))
}

fn person() -> impl Strategy<Value = Value> {
    let optional = (
        proptest::option::of(select(&FAMILIES[..])),
        proptest::option::of(day()),
        proptest::option::of(select(vec!["female", "male"])),
        proptest::option::of(0..4),
        proptest::option::of(select(&DOCTORS[..])),
        proptest::option::of(select(&PEOPLE[..])),
    );
    (select(&PEOPLE[..]), optional).prop_map(|(id, (family, birth, gender, identifier, doctor, other))| {
        let mut patient = json!({"resourceType": "Patient", "id": id});
        if let Some(doctor) = doctor {
            patient["generalPractitioner"] = json!([{"reference": format!("Practitioner/{doctor}")}]);
        }
        if let Some(other) = other {
            patient["link"] =
                json!([{"other": {"reference": format!("Patient/{other}")}, "type": "seealso"}]);
        }
        if let Some(family) = family {
            patient["name"] = json!([{"family": family, "given": [FAMILIES[family.len() % 7]]}]);
        }
        if let Some(birth) = birth {
            patient["birthDate"] = birth.into();
        }
        if let Some(gender) = gender {
            patient["gender"] = gender.into();
        }
        if let Some(number) = identifier {
            patient["identifier"] =
                json!([{"system": format!("urn:{}", number % 2), "value": format!("{number}")}]);
        }
        patient
    })
}

fn doctor() -> impl Strategy<Value = Value> {
    (select(&DOCTORS[..]), select(&FAMILIES[..])).prop_map(
        |(id, family)| json!({"resourceType": "Practitioner", "id": id, "name": [{"family": family}]}),
    )
}

fn stay() -> impl Strategy<Value = Value> {
    let optional = (
        proptest::option::of(select(&PEOPLE[..])),
        proptest::option::of(select(&STAYS[..])),
        proptest::option::of(select(&DOCTORS[..])),
    );
    (select(&STAYS[..]), select(vec!["planned", "finished"]), optional).prop_map(
        |(id, status, (subject, whole, doctor))| {
            let mut stay = json!({"resourceType": "Encounter", "id": id, "status": status,
                "class": {"system": "urn:class", "code": "IMP"}});
            if let Some(subject) = subject {
                stay["subject"] = json!({"reference": format!("Patient/{subject}")});
            }
            if let Some(whole) = whole {
                stay["partOf"] = json!({"reference": format!("Encounter/{whole}")});
            }
            if let Some(doctor) = doctor {
                stay["participant"] =
                    json!([{"individual": {"reference": format!("{BASE}/Practitioner/{doctor}")}}]);
            }
            stay
        },
    )
}

fn list() -> impl Strategy<Value = Value> {
    let entry = prop_oneof![
        select(&PEOPLE[..]).prop_map(|id| format!("Patient/{id}")),
        (0..25).prop_map(|number| format!("Observation/o{number}")),
    ];
    (select(vec!["l0", "l1"]), vec(entry, 0..6)).prop_map(|(id, entries)| {
        let entries: Vec<Value> =
            entries.into_iter().map(|reference| json!({"item": {"reference": reference}})).collect();
        json!({"resourceType": "List", "id": id, "status": "current", "mode": "working", "entry": entries})
    })
}

fn measurement() -> impl Strategy<Value = Value> {
    let when = prop_oneof![
        Just(None),
        day().prop_map(|day| Some(("effectiveDateTime", json!(day)))),
        day().prop_map(|day| Some(("effectivePeriod", json!({"start": day})))),
        (1990..2024, 0..5).prop_map(|(year, years)| {
            let end = format!("{}-06-15", year + years);
            Some(("effectivePeriod", json!({"start": format!("{year}-02-03"), "end": end})))
        }),
    ];
    let what = (select(&CODES[..]), select(vec!["final", "amended"]), proptest::option::of(0..50));
    let links = (proptest::option::of(select(&STAYS[..])), proptest::option::of(select(&DOCTORS[..])));
    (0..25, proptest::option::of(select(&PEOPLE[..])), when, what, links).prop_map(
        |(number, subject, when, (code, status, value), (stay, doctor))| {
            let mut one = json!({"resourceType": "Observation", "id": format!("o{number}"), "status": status,
                "code": {"coding": [{"system": format!("urn:{}", code.len()), "code": code}]}});
            if let Some(subject) = subject {
                one["subject"] = json!({"reference": format!("Patient/{subject}")});
            }
            if let Some((name, when)) = when {
                one[name] = when;
            }
            if let Some(stay) = stay {
                one["encounter"] = json!({"reference": format!("Encounter/{stay}")});
            }
            if let Some(doctor) = doctor {
                one["performer"] = json!([{"reference": format!("Practitioner/{doctor}/_history/1")}]);
            }
            if let Some(value) = value {
                one["valueQuantity"] = json!({"value": value, "unit": "kg"});
            }
            one
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => person().prop_map(Step::Put),
        6 => measurement().prop_map(Step::Put),
        1 => doctor().prop_map(Step::Put),
        3 => stay().prop_map(Step::Put),
        1 => list().prop_map(Step::Put),
        1 => (0..25).prop_map(|number| Step::Delete("Observation", format!("o{number}"))),
        1 => select(&PEOPLE[..]).prop_map(|id| Step::Delete("Patient", id.to_owned())),
        1 => select(&STAYS[..]).prop_map(|id| Step::Delete("Encounter", id.to_owned())),
    ];
    vec(step, 1..60)
}

fn date() -> impl Strategy<Value = String> {
    let prefix = select(vec!["", "eq", "ne", "lt", "gt", "le", "ge", "sa", "eb", "ap"]);
    let value = prop_oneof![
        day(),
        (1989..2025).prop_map(|year: i32| year.to_string()),
        day().prop_map(|day| day[..7].to_owned())
    ];
    (prefix, value).prop_map(|(prefix, value)| format!("{prefix}{value}"))
}

/// A `_filter` made of such tests.
fn expression(tests: &'static [&'static str]) -> impl Strategy<Value = (String, String)> {
    let test = (select(tests), date()).prop_map(|(test, date)| {
        let (operator, value) = date.split_at(if date.starts_with(char::is_numeric) { 0 } else { 2 });
        let operator = if operator.is_empty() { "po" } else { operator };
        test.replace("DATE", &format!("{operator} {value}"))
    });
    let expression = test.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" or "))),
            vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" and "))),
            inner.prop_map(|part| format!("not({part})")),
        ]
    });
    expression.prop_map(|expression| ("_filter".to_owned(), expression))
}

const PATIENT_TESTS: [&str; 22] = [
    "name eq smith",
    "name sw smi",
    "family ne Smith",
    "family co mit",
    "family ew son",
    "family gt m",
    "family le nunez",
    "family pr true",
    "gender eq Female",
    "gender ne female",
    "birthdate DATE",
    "birthdate co 1990-01-01",
    "identifier eq urn:1|1",
    "identifier eq 2",
    "identifier pr false",
    "_id eq p0",
    "_id ne p1",
    "_lastUpdated gt 2020",
    "general-practitioner re Practitioner/d0",
    "link.family sw smi",
    "general-practitioner:Practitioner.name co j",
    "link[gender eq female].general-practitioner.family pr true",
];

const OBSERVATION_TESTS: [&str; 18] = [
    "patient re p0",
    "patient re Patient/p1",
    "code eq 8480-6",
    "code eq urn:6|8480-6",
    "code ne 8480-6",
    "date DATE",
    "date DATE",
    "date co 2001-01-01",
    "date pr false",
    "status eq FINAL",
    "value-quantity gt 20",
    "value-quantity lt 5||kg",
    "code-value-quantity eq 8480-6$gt20",
    "patient.name sw s",
    "subject:Patient.gender eq female",
    "encounter.part-of.status eq planned",
    "encounter[status eq planned].part-of pr true",
    "encounter[patient.name co e or status ne planned].practitioner.name pr true",
];

/// Types, parameters, and the resource whose compartment is searched.
type Asked = (Vec<&'static str>, Vec<(String, String)>, Option<(&'static str, &'static str)>);

fn query() -> impl Strategy<Value = Asked> {
    fn pair(
        name: &'static str,
        value: impl Strategy<Value = String>,
    ) -> impl Strategy<Value = (String, String)> {
        value.prop_map(move |value| (name.to_owned(), value))
    }
    let one_of = |values: Vec<&'static str>| select(values).prop_map(str::to_owned);
    let name = || {
        one_of(vec!["s", "sm", "smi", "smiths", "smithson", "lov", "Løve", "nun", "li", "j", "love,li", "zz"])
    };
    let code = || {
        one_of(vec![
            "8480-6",
            "urn:6|8480-6",
            "urn:1|8480-6",
            "urn:6|",
            "|8480-6",
            "final",
            "8480-6,29463-7",
            "x",
        ])
    };
    let subject = || one_of(vec!["p0", "Patient/p1", "p2,p3", "Group/p1", "nobody"]);
    let missing = || one_of(vec!["true", "false"]);
    let of_patient = vec(
        prop_oneof![
            pair("name", name()),
            pair("family", name()),
            pair("family:exact", one_of(vec!["Smith", "smith", "Nuñez", "J"])),
            pair("name:contains", one_of(vec!["mit", "OVE", "j"])),
            pair("birthdate", date()),
            pair("gender", one_of(vec!["female", "male,female", "other"])),
            pair("gender:not", one_of(vec!["female"])),
            pair("identifier", one_of(vec!["1", "urn:1|1", "urn:0|", "urn:0|1", "2,3"])),
            pair("identifier:missing", missing()),
            pair("_id", one_of(vec!["p0", "p3,p1", "nobody"])),
            pair("_list", one_of(vec!["l0", "l1,l0", "nobody"])),
            pair("general-practitioner:Practitioner.name", name()),
            pair("link.family", name()),
            pair("link.link.general-practitioner.family", name()),
            pair("_has:Observation:patient:code", code()),
            pair("_has:Observation:subject:encounter.status", one_of(vec!["planned", "finished"])),
            pair("_has:Encounter:patient:_has:Observation:encounter:code", code()),
            pair("_has:Encounter:patient:practitioner.name", name()),
            pair("_include", one_of(vec!["Patient:general-practitioner", "Patient:link", "*", "Patient:*"])),
            pair("_include:iterate", one_of(vec!["Patient:link", "Patient:general-practitioner"])),
            pair("_revinclude", one_of(vec!["Observation:patient", "Encounter:*", "List:item:Patient", "*"])),
            pair("_revinclude:iterate", one_of(vec!["Encounter:part-of", "Observation:encounter"])),
            expression(&PATIENT_TESTS),
            expression(&PATIENT_TESTS),
        ],
        0..4,
    );
    let of_observation = vec(
        prop_oneof![
            3 => pair("patient", subject()),
            1 => pair("subject", subject()),
            1 => pair("subject:Patient", one_of(vec!["p0", "p1"])),
            3 => pair("code", code()),
            3 => pair("date", date()),
            1 => pair("date", (day(), date()).prop_map(|(a, b)| format!("{a},{b}"))),
            1 => pair("status", one_of(vec!["final", "amended", "final,amended"])),
            1 => pair("value-quantity", one_of(vec!["gt20", "le7", "13", "lt5||kg"])),
            1 => pair("code-value-quantity", one_of(vec!["8480-6$gt20", "29463-7$lt30"])),
            1 => pair("date:missing", missing()),
            1 => pair("code:not", code()),
            1 => pair("_lastUpdated", one_of(vec!["ge2020", "lt2020"])),
            1 => pair("_list", one_of(vec!["l0", "l1"])),
            2 => pair("patient.name", name()),
            1 => pair("subject:Patient.gender", one_of(vec!["female", "other"])),
            1 => pair("patient.general-practitioner:Practitioner.family:contains", one_of(vec!["mit", "j"])),
            1 => pair("patient._has:Encounter:patient:status", one_of(vec!["planned"])),
            1 => pair("encounter.part-of.part-of.status", one_of(vec!["planned", "finished"])),
            1 => pair("encounter.status:not", one_of(vec!["planned"])),
            1 => pair("performer.name", name()),
            1 => pair("_include", one_of(vec!["Observation:subject", "Observation:encounter", "Observation:performer"])),
            1 => pair("_include:iterate", one_of(vec!["Encounter:part-of", "Encounter:subject:Patient", "Encounter:participant"])),
            3 => expression(&OBSERVATION_TESTS),
            1 => pair("patient._filter", one_of(vec!["gender eq female or name sw s", "not(family pr true)"])),
        ],
        0..4,
    );
    let of_any = vec(
        prop_oneof![
            pair("_lastUpdated", one_of(vec!["ge2020", "lt2020"])),
            pair("_id", one_of(vec!["p0,d1,o3,e1"])),
            pair("_list", one_of(vec!["l0", "l1"])),
            pair("_include", one_of(vec!["Observation:subject", "Encounter:part-of", "*"])),
        ],
        0..2,
    );
    let any_sort = one_of(vec!["", "_lastUpdated", "-_lastUpdated", "_id", "-_id"]);
    let stay_sort = one_of(vec!["", "-_id", "status"]);
    let of_stay = vec(
        prop_oneof![
            pair("status", one_of(vec!["planned", "finished"])),
            pair("part-of.status", one_of(vec!["planned"])),
            pair("_has:Encounter:part-of:patient.name", name()),
            pair("_has:Observation:encounter:code", code()),
        ],
        0..3,
    );
    let owner =
        select(vec![("Patient", "p0"), ("Patient", "p1"), ("Practitioner", "d0"), ("Encounter", "e1")]);
    let patient_sort =
        one_of(vec!["", "", "family", "-birthdate", "birthdate,family", "-_id", "_lastUpdated"]);
    let observation_sort =
        one_of(vec!["", "", "date", "-date", "-date,_id", "_lastUpdated", "-_lastUpdated", "_id"]);
    let sorted = |(mut pairs, sort): (Vec<(String, String)>, String)| {
        if !sort.is_empty() {
            pairs.push(("_sort".to_owned(), sort));
        }
        pairs
    };
    let patients = (of_patient, patient_sort).prop_map(move |query| (vec!["Patient"], sorted(query)));
    let observations =
        (of_observation, observation_sort).prop_map(move |query| (vec!["Observation"], sorted(query)));
    let stays = (of_stay, stay_sort).prop_map(move |query| (vec!["Encounter"], sorted(query)));
    let all = (of_any, any_sort).prop_map(move |query| {
        (vec!["Encounter", "List", "Observation", "Patient", "Practitioner"], sorted(query))
    });
    let any = prop_oneof![2 => patients, 4 => observations, 1 => stays, 2 => all];
    (any, proptest::option::weighted(0.2, owner)).prop_map(|((kinds, pairs), owner)| (kinds, pairs, owner))
}

/// One query a type, but for types that are never in the compartment.
fn queries(parameters: &Parameters, (kinds, pairs, owner): &Asked) -> Vec<Query> {
    let of_type = |name: &&str| {
        let mut query = parse_by(parameters, name, pairs);
        if let Some((owner, id)) = owner {
            query.compartment = Some(search::compartment(resource_type(owner), id, query.resource_type)?);
        }
        Some(query)
    };
    kinds.iter().filter_map(of_type).collect()
}

fn names(hits: &[Stored]) -> Vec<String> {
    hits.iter().map(|hit| format!("{}/{}", hit.key.resource_type, hit.key.id.as_str())).collect()
}

/// Parameters beside the specification's, of which each finds what one of those does.
const ADDED: [(&str, &str, &str, &str); 6] = [
    ("birthdate", "born", "date", "Patient.birthDate"),
    ("family", "called", "string", "Patient.name.family | Practitioner.name.family"),
    ("general-practitioner", "kin", "reference", "Patient.generalPractitioner"),
    ("date", "measured", "date", "Observation.effective"),
    ("code", "coded", "token", "Observation.code"),
    ("part-of", "within", "reference", "Encounter.partOf"),
];

fn added() -> Vec<Value> {
    let resource = |(_, code, kind, expression): &(&str, &str, &str, &str)| {
        let bases: Vec<&str> =
            expression.split(" | ").map(|path| path.split('.').next().unwrap_or_default()).collect();
        json!({"resourceType": "SearchParameter", "id": code, "url": format!("urn:{code}"), "name": code,
            "status": "active", "description": code, "code": code, "type": kind, "base": bases,
            "expression": expression, "target": targets(code)})
    };
    ADDED.iter().map(resource).collect()
}

fn targets(code: &str) -> Vec<&'static str> {
    match code {
        "kin" => vec!["Organization", "Practitioner", "PractitionerRole"],
        "within" => vec!["Encounter"],
        _ => vec![],
    }
}

/// The same question by the parameters that were added.
fn by_added((kinds, pairs, owner): &Asked) -> Asked {
    let other = |name: &str| {
        let (sign, plain) = name.strip_prefix('-').map_or(("", name), |plain| ("-", plain));
        let known = ADDED.iter().find(|(standard, ..)| *standard == plain);
        known.map_or(name.to_owned(), |(_, added, ..)| format!("{sign}{added}"))
    };
    let renamed = |text: &str, marks: &[char]| {
        text.split_inclusive(marks)
            .map(|part| {
                let name = part.trim_end_matches(marks);
                other(name) + part.strip_prefix(name).unwrap_or_default()
            })
            .collect::<String>()
    };
    let pair = |(name, value): &(String, String)| match name.as_str() {
        "_sort" => (name.clone(), renamed(value, &[','])),
        _ if name.contains("include") => (name.clone(), renamed(value, &[':'])),
        _ => (renamed(name, &[':', '.']), value.clone()),
    };
    (kinds.clone(), pairs.iter().map(pair).collect(), *owner)
}

/// How the index changes: how many steps come before the parameters that are added, how much of what is to be done
/// about it is, and whether its key is replaced.
type Change = (usize, usize, bool);

fn change() -> impl Strategy<Value = Change> {
    (0..60usize, 0..8usize, any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn search_gives_what_asking_every_resource_gives(
        steps in steps(), change in change(), asked in vec((query(), 1..6u32, any::<bool>()), 40),
    ) {
        search_compares(&Place::file(), steps, change, asked);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn search_on_a_server_gives_what_asking_every_resource_gives(
        steps in steps(), change in change(), asked in vec((query(), 1..6u32, any::<bool>()), 40),
    ) {
        search_compares(&Place::server(), steps, change, asked);
    }
}

fn search_compares(place: &Place, steps: Vec<Step>, change: Change, asked: Vec<(Asked, u32, bool)>) {
    let (before, advances, replaces_key) = change;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut options = place.options();
        options.index_grace = Some(Duration::ZERO);
        let store =
            Store::open(options, place.keys(), Arc::new(SystemClock), Arc::new(SystemRandom)).unwrap();
        let mut oracle = SearchOracle::new(BASE);
        let mut adding = Some(added());
        for (number, step) in steps.into_iter().enumerate() {
            if number == before {
                for parameter in adding.take().into_iter().flatten() {
                    put(&store, &parameter).await.unwrap();
                }
            }
            match step {
                Step::Put(resource) => oracle.put(&resource, put(&store, &resource).await.unwrap().updated),
                Step::Delete(name, id) => {
                    oracle.delete(resource_type(name), &id);
                    let key = key(name, &id);
                    store.write(move |transaction| transaction.delete(&key, Expected::Any)).await.unwrap();
                }
            }
        }
        for parameter in adding.into_iter().flatten() {
            put(&store, &parameter).await.unwrap();
        }
        if replaces_key {
            store.replace_index_key().await.unwrap();
        }
        for _ in 0..advances {
            store.advance_index().await.unwrap();
        }
        let parameters = store.parameters();
        oracle.know(&parameters);
        for (mut asked, count, by_the_added) in asked {
            asked.1.push(("_total".to_owned(), "accurate".to_owned()));
            if by_the_added {
                asked = by_added(&asked);
            }
            let queries = |asked: &Asked| queries(&parameters, asked);
            let expected = oracle.search(&queries(&asked));
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = Page { count, after };
                let queries = queries(&asked);
                let answer = store.read(move |session| {
                    let answer = session.search(&queries, &page)?;
                    Ok::<_, StoreError>((queries, answer))
                });
                let (queries, page) = answer.await.unwrap();
                if queries.is_empty() {
                    break;
                }
                assert_eq!(page.total, Some(expected.len() as u64), "{asked:?}");
                let matches = names(&page.hits);
                assert!(matches.len() <= count as usize);
                let mut included = names(&page.included);
                included.sort();
                assert_eq!(included, oracle.included(&queries, &matches), "{asked:?}");
                found.extend(matches);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "{asked:?}");
        }
        store.close().await;
    });
}

/// Going along the index by time would pass by all that came after them.
async fn a_few_that_were_stored_close_together_are_known_to_be_few(place: Place) {
    let clock = Arc::new(FixedClock::new(Timestamp(1_700_000_000_000_000)));
    let store = place.open_with(place.keys(), Arc::<FixedClock>::clone(&clock)).unwrap();
    for (code, count) in [("1-1", 40), ("2-2", 60)] {
        let resources = (0..count).map(|number| observation(&format!("{code}-{number}"), "p", code, "2020"));
        let prepared: Vec<_> =
            resources.map(|resource| store.prepare(&key_of(&resource), &resource).unwrap()).collect();
        let put = move |transaction: &mut dyn Transaction| {
            prepared.iter().try_for_each(|one| transaction.put(one, Expected::Any).map(drop))
        };
        store.write(put).await.unwrap_or_else(|error: StoreError| panic!("{error}"));
        clock.advance_seconds(86_400);
    }
    let mut query = parse("Observation", &pairs(&[("code", "1-1"), ("_sort", "-_lastUpdated")]));
    query.effort = Some(50);
    let page = Page { count: 10, after: None };
    let found = store.read(move |session| session.search(&[query], &page)).await.unwrap();
    assert_eq!(found.hits.len(), 10);
    assert!(found.hits.iter().all(|hit| hit.key.id.as_str().starts_with("1-1")));
}

async fn paging_stays_right_while_data_changes(place: Place) {
    let store = place.open();
    for number in 0..12 {
        put(
            &store,
            &observation(&format!("o{number:02}"), "p", "1-1", &format!("2020-01-{:02}", number + 1)),
        )
        .await
        .unwrap();
    }
    for sort in ["date", "_id", ""] {
        let query = pairs(&[("patient", "p"), ("_sort", sort)]);
        let query = if sort.is_empty() { query[..1].to_vec() } else { query };
        let (mut seen, mut after) = (BTreeMap::new(), None);
        loop {
            let page = page(&store, "Observation", &query, Page { count: 5, after }).await.unwrap();
            for name in names(&page.hits) {
                *seen.entry(name).or_insert(0) += 1;
            }
            // One that was seen goes, one comes before all others in every order but the last.
            let gone = key("Observation", "o00");
            store.write(move |transaction| transaction.delete(&gone, Expected::Any)).await.unwrap();
            put(&store, &observation("o00", "p", "1-1", "2020-01-01")).await.unwrap();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 12);
        assert!(seen.values().all(|times| *times == 1), "{sort}");
    }
}
