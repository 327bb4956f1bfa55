//! The blind index changes while it is in use: search parameters are added and taken away, its key is replaced, and
//! no search misses anything at any step.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;
use serde_json::{Value, json};
use ward_base::{SystemClock, SystemRandom};
use ward_fhir::search::{self, Handling};
use ward_store::{Expected, Page, Store, StoreError};

on_both!(
    an_added_parameter_is_answered_by_looking_and_then_by_the_index,
    what_is_taken_away_leaves_nothing_in_the_index,
    a_chain_along_an_added_reference_is_followed_at_every_step,
    filling_up_goes_on_where_it_was,
    a_new_key_takes_the_place_of_the_old_one_while_requests_run,
    a_change_waits_for_those_who_do_not_know_of_it,
    what_was_made_ready_before_a_change_is_stored_as_after_it
);

/// A store whose changes wait for nobody: there is nobody else.
fn open(place: &Place) -> Store {
    let mut options = place.options();
    options.index_grace = Some(Duration::ZERO);
    Store::open(options, place.keys(), Arc::new(SystemClock), Arc::new(SystemRandom)).unwrap()
}

fn parameter(id: &str, kind: &str, base: &str, expression: &str) -> Value {
    json!({"resourceType": "SearchParameter", "id": id, "url": "urn:x", "name": "x", "status": "active",
        "description": "x", "code": id, "type": kind, "base": [base], "expression": expression})
}

fn nickname(id: &str, text: &str) -> Value {
    let mut person = patient(id, "Smith");
    person["extension"] = json!([{"url": "urn:nickname", "valueString": text},
        {"url": "urn:employer", "valueReference": {"reference": format!("Organization/{text}")}}]);
    person
}

const NICKNAME: &str = "Patient.extension.where(url='urn:nickname').value";

/// The ids that are found by looking at `effort` resources at most.
async fn found(
    store: &Store,
    kind: &str,
    name: &str,
    value: &str,
    effort: usize,
) -> Result<Vec<String>, StoreError> {
    let pairs = [(name.to_owned(), value.to_owned())];
    let parameters = store.parameters();
    let (mut query, _) =
        search::parse(resource_type(kind), &pairs, Handling::Strict, BASE, &parameters).unwrap();
    query.effort = Some(effort);
    let page = Page { count: 1000, after: None };
    let hits = store.read(move |session| session.search(&[query], &page)).await?.hits;
    Ok(hits.iter().map(|hit| hit.key.id.as_str().to_owned()).collect())
}

async fn finish(store: &Store) {
    while store.index_status().await.unwrap().progress.is_some()
        || store.index_status().await.unwrap().replacing
    {
        store.advance_index().await.unwrap();
    }
}

/// How many entries the index has, as who holds the database counts them.
fn entries(place: &Place) -> i64 {
    place.run("SELECT count(*) FROM bix").parse().unwrap()
}

async fn an_added_parameter_is_answered_by_looking_and_then_by_the_index(place: Place) {
    let store = open(&place);
    for number in 0..250 {
        put(&store, &nickname(&format!("p{number}"), if number == 7 { "Countess" } else { "Nobody" }))
            .await
            .unwrap();
    }
    assert!(store.parameters().named(resource_type("Patient"), "nickname").is_none());
    put(&store, &parameter("nickname", "string", "Patient", NICKNAME)).await.unwrap();
    assert_eq!(found(&store, "Patient", "nickname", "count", 1000).await.unwrap(), ["p7"]);
    assert_eq!(found(&store, "Patient", "nickname", "count", 20).await, Err(StoreError::TooCostly));
    // What is written meanwhile is in the index already.
    put(&store, &nickname("late", "Countess")).await.unwrap();
    assert!(store.advance_index().await.unwrap());
    let status = store.index_status().await.unwrap();
    assert_eq!((status.parameters, status.parameters_ready), (1, 0));
    assert_eq!(status.progress, Some((100, Some(251))));
    assert_eq!(found(&store, "Patient", "nickname", "count", 1000).await.unwrap(), ["p7", "late"]);
    finish(&store).await;
    assert_eq!(store.index_status().await.unwrap().parameters_ready, 1);
    assert_eq!(found(&store, "Patient", "nickname", "count", 2).await.unwrap(), ["p7", "late"]);
    // The same again changes nothing; another expression does.
    let mut again = parameter("nickname", "string", "Patient", NICKNAME);
    again["description"] = "y".into();
    put(&store, &again).await.unwrap();
    assert_eq!(store.index_status().await.unwrap().progress, None);
    put(&store, &parameter("nickname", "string", "Patient", "Patient.name.family")).await.unwrap();
    assert_eq!(found(&store, "Patient", "nickname", "smith", 1000).await.unwrap().len(), 251);
    finish(&store).await;
    assert_eq!(found(&store, "Patient", "nickname", "count", 1000).await.unwrap(), [""; 0]);
    assert_eq!(found(&store, "Patient", "nickname", "smith", 251).await.unwrap().len(), 251);
    store.close().await;
}

async fn what_is_taken_away_leaves_nothing_in_the_index(place: Place) {
    let store = open(&place);
    for number in 0..30 {
        put(&store, &nickname(&format!("p{number}"), "Countess")).await.unwrap();
    }
    let before = entries(&place);
    put(&store, &parameter("nickname", "string", "Patient", NICKNAME)).await.unwrap();
    finish(&store).await;
    let with = entries(&place);
    assert!(with >= before + 30 * 4, "{before} {with}");
    let mut retired = parameter("nickname", "string", "Patient", NICKNAME);
    retired["status"] = "retired".into();
    put(&store, &retired).await.unwrap();
    assert!(store.parameters().named(resource_type("Patient"), "nickname").is_none());
    finish(&store).await;
    // Of the SearchParameter itself there are entries as well.
    assert!(entries(&place) < with - 30 * 4 + 20, "{with} {}", entries(&place));
    // Deleted, it is gone as well.
    put(&store, &parameter("nickname", "string", "Patient", NICKNAME)).await.unwrap();
    store
        .write(|transaction| transaction.delete(&key("SearchParameter", "nickname"), Expected::Current))
        .await
        .unwrap();
    assert!(store.parameters().named(resource_type("Patient"), "nickname").is_none());
    finish(&store).await;
    assert_eq!(entries(&place), before);
    store.close().await;
}

async fn a_chain_along_an_added_reference_is_followed_at_every_step(place: Place) {
    let store = open(&place);
    let organization = |id: &str, name: &str| json!({"resourceType": "Organization", "id": id, "name": name});
    put(&store, &organization("acme", "Acme")).await.unwrap();
    put(&store, &organization("other", "Other")).await.unwrap();
    for number in 0..150 {
        put(&store, &nickname(&format!("p{number}"), if number == 9 { "acme" } else { "other" }))
            .await
            .unwrap();
    }
    let mut employer =
        parameter("employer", "reference", "Patient", "Patient.extension.where(url='urn:employer').value");
    employer["target"] = json!(["Organization"]);
    put(&store, &employer).await.unwrap();
    loop {
        assert_eq!(found(&store, "Patient", "employer.name", "acme", 5000).await.unwrap(), ["p9"]);
        let has = found(&store, "Organization", "_has:Patient:employer:_id", "p9", 5000).await.unwrap();
        assert_eq!(has, ["acme"]);
        if store.index_status().await.unwrap().progress.is_none() {
            break;
        }
        store.advance_index().await.unwrap();
    }
    assert_eq!(found(&store, "Patient", "employer.name", "acme", 10).await.unwrap(), ["p9"]);
    store.close().await;
}

async fn filling_up_goes_on_where_it_was(place: Place) {
    let store = open(&place);
    for number in 0..350 {
        put(&store, &nickname(&format!("p{number}"), "Countess")).await.unwrap();
    }
    put(&store, &parameter("nickname", "string", "Patient", NICKNAME)).await.unwrap();
    assert!(store.advance_index().await.unwrap());
    store.close().await;
    let store = open(&place);
    assert_eq!(store.index_status().await.unwrap().progress, Some((100, Some(350))));
    assert_eq!(found(&store, "Patient", "nickname", "count", 1000).await.unwrap().len(), 350);
    finish(&store).await;
    assert_eq!(found(&store, "Patient", "nickname", "count", 350).await.unwrap().len(), 350);
    store.close().await;
}

async fn a_new_key_takes_the_place_of_the_old_one_while_requests_run(place: Place) {
    let store = open(&place);
    put(&store, &parameter("nickname", "string", "Patient", NICKNAME)).await.unwrap();
    for number in 0..120 {
        put(&store, &nickname(&format!("p{number}"), "Countess")).await.unwrap();
        let day = format!("2024-05-{:02}", 1 + number % 28);
        put(&store, &observation(&format!("o{number}"), &format!("p{number}"), "8480-6", &day))
            .await
            .unwrap();
    }
    finish(&store).await;
    let old = place.keys();
    let old = place_of(old.tokenizer());
    assert!(place.run(&old).parse::<i64>().unwrap() == 120);
    let ended = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (store, ended) = (store.clone(), Arc::clone(&ended));
        async move {
            let mut number = 0;
            while !ended.load(Ordering::Relaxed) {
                number += 1;
                put(&store, &nickname(&format!("p{}", number % 120), "Countess")).await.unwrap();
                let one =
                    observation(&format!("n{number}"), &format!("p{}", number % 120), "8480-6", "2024-06-01");
                put(&store, &one).await.unwrap();
            }
            number
        }
    });
    store.replace_index_key().await.unwrap();
    assert_eq!(store.replace_index_key().await, Err(StoreError::Conflict));
    while store.index_status().await.unwrap().replacing {
        for (kind, name, value, count) in [
            ("Patient", "nickname", "countess", 120),
            ("Patient", "family", "smith", 120),
            ("Patient", "_has:Observation:patient:_id", "o5", 1),
            ("Observation", "date", "le2024-05-28", 120),
            ("Observation", "patient", "p7", 1),
            ("Observation", "patient.nickname", "countess", 120),
        ] {
            let found = found(&store, kind, name, value, 50_000).await.unwrap();
            // What is written at the same time comes besides.
            let before = found.iter().filter(|id| !id.starts_with('n')).count();
            assert_eq!(before, count, "{name}");
        }
        store.advance_index().await.unwrap();
    }
    ended.store(true, Ordering::Relaxed);
    let written = writing.await.unwrap();
    assert!(written > 0);
    let status = store.index_status().await.unwrap();
    assert_eq!((status.epoch, status.progress), (2, None));
    // Nothing is left that the old key would find, and all is found by the new one.
    assert_eq!(place.run(&old), "0");
    let all = found(&store, "Observation", "code", "8480-6", 50_000).await.unwrap().len();
    assert_eq!(all, 120 + written);
    let new = place_of(&place.keys().tokenizer_of(2));
    assert_eq!(place.run(&new), "120");
    store.close().await;
    let store = open(&place);
    assert_eq!(found(&store, "Patient", "family", "smith", 120).await.unwrap().len(), 120);
    store.close().await;
}

/// Counts the patients that a key finds.
fn place_of(tokenizer: &ward_keys::Tokenizer) -> String {
    let token = tokenizer.token64("bix/type", &[b"Patient", b""]);
    format!("SELECT count(*) FROM bix WHERE t = {token}")
}

async fn a_change_waits_for_those_who_do_not_know_of_it(place: Place) {
    let store = place.open();
    put(&store, &nickname("p", "Countess")).await.unwrap();
    put(&store, &parameter("nickname", "string", "Patient", NICKNAME)).await.unwrap();
    assert!(!store.advance_index().await.unwrap());
    assert_eq!(store.index_status().await.unwrap().progress, Some((0, None)));
    store.close().await;
}

async fn what_was_made_ready_before_a_change_is_stored_as_after_it(place: Place) {
    let store = open(&place);
    let early = store.prepare(&key("Patient", "early"), &nickname("early", "Countess")).unwrap();
    put(&store, &parameter("nickname", "string", "Patient", NICKNAME)).await.unwrap();
    finish(&store).await;
    store.write(move |transaction| transaction.put(&early, Expected::Absent)).await.unwrap();
    assert_eq!(found(&store, "Patient", "nickname", "countess", 1).await.unwrap(), ["early"]);
    store.close().await;
}

#[tokio::test]
async fn instances_learn_of_a_change_from_each_other() {
    let place = Place::server();
    let (first, second) = (open(&place), open(&place));
    put(&second, &nickname("p", "Countess")).await.unwrap();
    put(&first, &parameter("nickname", "string", "Patient", NICKNAME)).await.unwrap();
    assert!(second.parameters().named(resource_type("Patient"), "nickname").is_none());
    second.advance_index().await.unwrap();
    assert_eq!(found(&second, "Patient", "nickname", "countess", 10).await.unwrap(), ["p"]);
    // Whoever comes first does the work, and the other sees that it is done.
    finish(&first).await;
    second.refresh_index().await.unwrap();
    assert_eq!(second.index_status().await.unwrap().parameters_ready, 1);
    first.close().await;
    second.close().await;
}
