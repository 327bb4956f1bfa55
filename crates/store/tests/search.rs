//! Search gives what a plain filter over everything gives, in the same order, page by page.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod common;

use std::{cmp::Ordering, collections::BTreeMap};

use common::*;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};
use ward_base::Timestamp;
use ward_fhir::search::{self, Handling, Query};
use ward_store::{Expected, Page, SearchPage, Store, StoreError, Stored};

fn parse(name: &str, query: &[(String, String)]) -> Query {
    let parsed = search::parse(resource_type(name), query, Handling::Strict, BASE);
    parsed.unwrap_or_else(|issues| panic!("{query:?}: {issues:?}")).0
}

async fn page(
    store: &Store,
    name: &str,
    query: &[(String, String)],
    page: Page,
) -> Result<SearchPage, StoreError> {
    let query = parse(name, query);
    store.read(move |session| session.search(&query, &page)).await
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
    paging_stays_right_while_data_changes
);

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
    let (late, query) = (late.unwrap(), parse("Patient", &pairs(&[("name", "late")])));
    let seen = store
        .write(move |transaction| {
            transaction.put(&late, Expected::Absent)?;
            transaction.search(&query, &Page { count: 5, after: None })
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

/// Type, id, and what is there now with the time it was written.
type Kept = (String, String, Option<(Value, Timestamp)>);

/// What the store is compared with: everything in a list, every question asked of every resource.
#[derive(Default)]
struct Plain {
    /// In the order in which they were first stored.
    resources: Vec<Kept>,
}

impl Plain {
    fn put(&mut self, resource: &Value, updated: Timestamp) {
        let key = key_of(resource);
        let (name, id) = (key.resource_type.name().to_owned(), key.id.as_str().to_owned());
        let version = Some((resource.clone(), updated));
        match self.resources.iter_mut().find(|(of, is, _)| *of == name && *is == id) {
            Some((_, _, current)) => *current = version,
            None => self.resources.push((name, id, version)),
        }
    }

    fn delete(&mut self, name: &str, id: &str) {
        if let Some((_, _, current)) = self.resources.iter_mut().find(|(of, is, _)| of == name && is == id) {
            *current = None;
        }
    }

    fn search(&self, name: &str, query: &Query) -> Vec<String> {
        let mut found: Vec<(&str, &Value, Timestamp)> = self
            .resources
            .iter()
            .filter(|(of, _, _)| of == name)
            .filter_map(|(_, id, current)| {
                current.as_ref().map(|(value, updated)| (id.as_str(), value, *updated))
            })
            .filter(|(id, value, updated)| {
                query.matches(&search::extract(resource_type(name), value, BASE), id, *updated)
            })
            .collect();
        let sorts: Vec<(&str, bool)> =
            query.sort.iter().map(|sort| (sort.parameter.code, sort.descending)).collect();
        found.sort_by(|a, b| {
            sorts.iter().fold(Ordering::Equal, |order, (by, descending)| {
                order.then_with(|| compare(by, *descending, a, b))
            })
        });
        found.into_iter().map(|(id, _, _)| id.to_owned()).collect()
    }
}

/// The orders that the queries below ask for, written down again in the plainest way.
fn compare(
    by: &str,
    descending: bool,
    a: &(&str, &Value, Timestamp),
    b: &(&str, &Value, Timestamp),
) -> Ordering {
    let text = |value: &Value, by: &str| match by {
        "date" => value["effectiveDateTime"]
            .as_str()
            .or(value["effectivePeriod"]["start"].as_str())
            .map(str::to_owned),
        "birthdate" => value["birthDate"].as_str().map(str::to_owned),
        "family" => value["name"][0]["family"].as_str().map(str::to_lowercase),
        other => panic!("{other}"),
    };
    let (first, second) = match by {
        "_id" => (Some(a.0.to_owned()), Some(b.0.to_owned())),
        "_lastUpdated" => (Some(format!("{:020}", a.2.micros())), Some(format!("{:020}", b.2.micros()))),
        _ => (text(a.1, by), text(b.1, by)),
    };
    match (first, second) {
        (Some(first), Some(second)) if descending => second.cmp(&first),
        (Some(first), Some(second)) => first.cmp(&second),
        // What has no value comes last either way.
        (first, second) => first.is_none().cmp(&second.is_none()),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(Value),
    Delete(&'static str, String),
}

const FAMILIES: [&str; 7] = ["Smith", "Smithson", "Lovelace", "Løvelace", "Nuñez", "Li", "J"];
const CODES: [&str; 4] = ["8480-6", "8462-4", "29463-7", "final"];
const PEOPLE: [&str; 4] = ["p0", "p1", "p2", "p3"];

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
    );
    (select(&PEOPLE[..]), optional).prop_map(|(id, (family, birth, gender, identifier))| {
        let mut patient = json!({"resourceType": "Patient", "id": id});
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
    (0..25, proptest::option::of(select(&PEOPLE[..])), when, what).prop_map(
        |(number, subject, when, (code, status, value))| {
            let mut one = json!({"resourceType": "Observation", "id": format!("o{number}"), "status": status,
                "code": {"coding": [{"system": format!("urn:{}", code.len()), "code": code}]}});
            if let Some(subject) = subject {
                one["subject"] = json!({"reference": format!("Patient/{subject}")});
            }
            if let Some((name, when)) = when {
                one[name] = when;
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
        1 => (0..25).prop_map(|number| Step::Delete("Observation", format!("o{number}"))),
        1 => select(&PEOPLE[..]).prop_map(|id| Step::Delete("Patient", id.to_owned())),
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

fn query() -> impl Strategy<Value = (&'static str, Vec<(String, String)>)> {
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
        ],
        0..4,
    );
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
    prop_oneof![
        1 => (of_patient, patient_sort).prop_map(move |query| ("Patient", sorted(query))),
        3 => (of_observation, observation_sort).prop_map(move |query| ("Observation", sorted(query))),
    ]
}

fn names(hits: &[Stored]) -> Vec<String> {
    hits.iter().map(|hit| hit.key.id.as_str().to_owned()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn search_is_a_plain_filter(steps in steps(), queries in vec((query(), 1..6u32), 40)) {
        search_compares(&Place::file(), steps, queries);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn search_is_a_plain_filter_on_a_server(steps in steps(), queries in vec((query(), 1..6u32), 40)) {
        search_compares(&Place::server(), steps, queries);
    }
}

type Asked = ((&'static str, Vec<(String, String)>), u32);

fn search_compares(place: &Place, steps: Vec<Step>, queries: Vec<Asked>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = place.open();
        let mut plain = Plain::default();
        for step in steps {
            match step {
                Step::Put(resource) => plain.put(&resource, put(&store, &resource).await.unwrap().updated),
                Step::Delete(name, id) => {
                    plain.delete(name, &id);
                    let key = key(name, &id);
                    store.write(move |transaction| transaction.delete(&key, Expected::Any)).await.unwrap();
                }
            }
        }
        for ((name, mut query), count) in queries {
            query.push(("_total".to_owned(), "accurate".to_owned()));
            let expected = plain.search(name, &parse(name, &query));
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = page(&store, name, &query, Page { count, after }).await.unwrap();
                assert_eq!(page.total, Some(expected.len() as u64), "{name}?{query:?}");
                assert!(page.hits.len() <= count as usize);
                found.extend(names(&page.hits));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "{name}?{query:?}");
        }
        store.close().await;
    });
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
