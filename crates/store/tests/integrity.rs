//! The file given to others: it shows nothing, opens with one key only, and altered rows are refused.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "figures for whoever reads the output")]

mod common;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use common::*;
use serde_json::{Value, json};
use ward_base::SystemClock;
use ward_keys::KeyRing;
use ward_store::{Expected, HistoryScope, Page, RecordKind, Store, StoreError};

/// Every text in the resource gets a canary that is found nowhere else.
fn with_canaries(value: &mut Value, canaries: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            let canary = format!("canary{:04}{text}", canaries.len());
            canaries.push(canary.clone());
            *text = canary;
        }
        Value::Array(items) => items.iter_mut().for_each(|item| with_canaries(item, canaries)),
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                if !matches!(name.as_str(), "resourceType" | "reference") {
                    with_canaries(member, canaries);
                }
            }
        }
        _ => {}
    }
}

fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(path).unwrap()))
        .collect()
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    let needle = needle.as_bytes();
    let mut rest = haystack;
    while let Some(place) = rest.iter().position(|byte| *byte == needle[0]) {
        if rest[place..].starts_with(needle) {
            return true;
        }
        rest = &rest[place + 1..];
    }
    false
}

on_both!(
    no_text_of_a_resource_is_in_any_file_or_cell,
    another_key_opens_nothing,
    a_database_of_a_newer_version_is_refused,
    swapped_and_altered_rows_are_refused,
    a_past_version_of_another_is_refused,
    an_export_holds_nothing_of_another_type,
    a_record_is_bound_to_its_key_kind_and_expiry,
    what_the_holder_of_the_database_sees,
);

async fn no_text_of_a_resource_is_in_any_file_or_cell(place: Place) {
    let store = place.open();
    let mut canaries = Vec::new();
    for (number, mut resource) in [
        patient("x", "Lovelace"),
        observation("x", "canary-patient-id", "29463-7", "2020-01-02"),
        json!({"resourceType": "DocumentReference", "status": "current", "description": "d",
            "subject": {"reference": "Patient/canary-patient-id"}, "content": [{"attachment": {"title": "t", "data": "ZA=="}}]}),
    ]
    .into_iter()
    .enumerate()
    {
        with_canaries(&mut resource, &mut canaries);
        let id = format!("canary-id-{number}");
        resource["id"] = id.as_str().into();
        // Twice, so that there is history too.
        put(&store, &resource).await.unwrap();
        put(&store, &resource).await.unwrap();
        canaries.push(id);
    }
    canaries.push("canary-patient-id".to_owned());
    for text in ["canary-record-key", "canary-record-value"] {
        canaries.push(text.to_owned());
    }
    store
        .write(|transaction| {
            transaction.put_record(RecordKind::Username, "canary-record-key", b"canary-record-value", None)
        })
        .await
        .unwrap();
    let check = |cells: &[(String, Vec<u8>)]| {
        assert!(!cells.is_empty());
        for (place, bytes) in cells {
            // All of them have this in common.
            assert!(!contains(bytes, "canary"), "{place}");
        }
    };
    assert!(canaries.len() > 20 && canaries.iter().all(|canary| canary.starts_with("canary")));
    if place.is_server() {
        // Also what the server wrote ahead and logged, with every statement and its parameters.
        let found = place.server_files();
        assert!(found.iter().any(|(name, bytes)| name == "log" && contains(bytes, "INSERT INTO resource")));
        check(&found);
    } else {
        // While the write-ahead log is there, and after it was folded in.
        let found = files(place.path());
        assert!(found.iter().any(|(name, bytes)| name.ends_with("-wal") && !bytes.is_empty()));
        check(&found);
    }
    store.close().await;
    if !place.is_server() {
        let found = files(place.path());
        check(&found);
        for (name, bytes) in found {
            assert!(!contains(&bytes, "CREATE TABLE"), "{name} is not encrypted");
        }
    }
    check(&place.cells());
}

async fn another_key_opens_nothing(place: Place) {
    let store = place.open();
    put(&store, &patient("p", "Lovelace")).await.unwrap();
    store.close().await;
    let (other, _) = KeyRing::create(&root(8), "test").unwrap();
    let opened = place.open_with(Arc::new(other), Arc::new(SystemClock));
    assert_eq!(opened.err(), Some(StoreError::WrongKey));
    place.open().close().await;
}

#[tokio::test]
async fn one_process_at_a_time_has_the_file() {
    let place = Place::file();
    let store = place.open();
    let again = place.open_with(place.keys(), Arc::new(SystemClock));
    assert_eq!(again.err(), Some(StoreError::Unavailable));
    store.close().await;
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(place.path().join("ward.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
}

async fn a_database_of_a_newer_version_is_refused(place: Place) {
    place.open().close().await;
    place.run("INSERT INTO migration (version, applied) VALUES (99, 0)");
    let opened = place.open_with(place.keys(), Arc::new(SystemClock));
    assert_eq!(opened.err(), Some(StoreError::NewerSchema));
}

/// Two versions of one patient's observation and another of the same patient, then `change` behind the store's back;
/// every way to read what was changed must fail, and what was not must still be there.
async fn altered(place: Place, change: &str) {
    let store = place.open();
    for (id, code) in [("a", "1-1"), ("b", "2-2"), ("a", "1-1")] {
        put(&store, &observation(id, "p", code, "2020-01-02")).await.unwrap();
    }
    put(&store, &observation("intact", "q", "3-3", "2020")).await.unwrap();
    store.close().await;
    let before = place.cells();
    place.run(change);
    assert!(place.cells() != before, "{change}");
    let store = place.open();
    let observations = resource_type("Observation");
    for failure in [
        both(&store).await,
        store.read(move |session| session.export(Some(observations), None, 10).map(|_| ())).await,
    ] {
        assert_eq!(failure, Err(StoreError::Corrupt), "{change}");
    }
    let intact = key("Observation", "intact");
    assert!(store.read(move |session| session.current(&intact)).await.unwrap().is_some(), "{change}");
}

async fn both(store: &Store) -> Result<(), StoreError> {
    store
        .read(|session| {
            for id in ["a", "b"] {
                let key = key("Observation", id);
                let stored = session.current(&key)?;
                assert!(
                    stored.is_some_and(|stored| stored.key == key && !stored.deleted),
                    "another was given out"
                );
            }
            Ok(())
        })
        .await
}

async fn swapped_and_altered_rows_are_refused(place: Place) {
    for change in [
        // Another body of the same patient, key and length.
        "UPDATE resource SET body = (SELECT body FROM resource ORDER BY rid LIMIT 1)
         WHERE rid = (SELECT rid FROM resource ORDER BY rid LIMIT 1 OFFSET 1)",
        // An older version of the same resource.
        "UPDATE resource SET body = (SELECT body FROM history LIMIT 1) WHERE rid = (SELECT rid FROM history LIMIT 1)",
        "UPDATE resource SET version = version + 1 WHERE rid = (SELECT min(rid) FROM resource)",
        "UPDATE resource SET updated = updated + 1 WHERE rid = (SELECT min(rid) FROM resource)",
        "UPDATE resource SET body = tokens WHERE rid = (SELECT min(rid) FROM resource)",
        "UPDATE resource SET key_id = (SELECT key_id FROM resource ORDER BY rid DESC LIMIT 1)
         WHERE rid = (SELECT min(rid) FROM resource)",
        // Destroying a key destroys what it sealed.
        "DELETE FROM data_key WHERE key_id = (SELECT key_id FROM resource ORDER BY rid LIMIT 1)",
    ] {
        altered(place.another(), change).await;
    }
}

/// Which resource a past version belongs to is told by a number that no seal covers.
async fn a_past_version_of_another_is_refused(place: Place) {
    let store = place.open();
    for id in ["a", "b", "a", "b"] {
        put(&store, &observation(id, "p", "1-1", "2020")).await.unwrap();
    }
    let first = "(SELECT min(rid) FROM resource)";
    let last = "(SELECT max(rid) FROM resource)";
    for (to, from) in [("0", first), (first, last), (last, "0")] {
        place.run(&format!("UPDATE history SET rid = {to} WHERE rid = {from}"));
    }
    for id in ["a", "b"] {
        let key = key("Observation", id);
        let (of, scope) = (key.clone(), HistoryScope::Instance(key.clone()));
        let past = store.read(move |session| session.version(&of, 1)).await;
        assert_eq!(past.err(), Some(StoreError::Corrupt));
        let all = Page { count: 10, after: None };
        let history = store.read(move |session| session.history(&scope, &all)).await;
        assert_eq!(history.err(), Some(StoreError::Corrupt));
        let current = store.read(move |session| session.current(&key)).await;
        assert!(current.unwrap().is_some());
    }
}

async fn an_export_holds_nothing_of_another_type(place: Place) {
    let store = place.open();
    put(&store, &patient("p", "Lovelace")).await.unwrap();
    put(&store, &observation("o", "p", "1-1", "2020")).await.unwrap();
    place.run(
        "INSERT INTO bix (t, shard, rid) SELECT t, shard, (SELECT max(rid) FROM resource) FROM bix
         WHERE rid = (SELECT min(rid) FROM resource)
         AND t NOT IN (SELECT t FROM bix WHERE rid = (SELECT max(rid) FROM resource))",
    );
    let patients = resource_type("Patient");
    let (found, _) = store.read(move |session| session.export(Some(patients), None, 10)).await.unwrap();
    assert_eq!(found.len(), 1);
}

async fn a_record_is_bound_to_its_key_kind_and_expiry(place: Place) {
    for change in [
        "UPDATE record SET sealed = (SELECT sealed FROM record WHERE kind = 2) WHERE kind = 1",
        "UPDATE record SET expires = 9000000000000000000 WHERE kind = 1",
    ] {
        let place = place.another();
        let store = place.open();
        store
            .write(|transaction| {
                transaction.put_record(RecordKind::User, "k", b"user", None)?;
                transaction.put_record(RecordKind::Username, "k", b"name", None)
            })
            .await
            .unwrap();
        store.close().await;
        place.run(change);
        let record = place.open().read(|session| session.record(RecordKind::User, "k")).await;
        assert_eq!(record, Err(StoreError::Corrupt));
    }
}

/// What the holder of the database and its key sees of a sample: the statement in the crate's documentation, kept true.
async fn what_the_holder_of_the_database_sees(place: Place) {
    let store = place.open();
    for number in 0..40 {
        let person = format!("p{}", number % 8);
        put(&store, &patient(&person, ["Lovelace", "Byron"][number % 2])).await.unwrap();
        let code = ["8480-6", "8462-4", "29463-7"][number % 3];
        put(
            &store,
            &observation(&format!("o{number}"), &person, code, &format!("2020-01-{:02}", number % 28 + 1)),
        )
        .await
        .unwrap();
    }
    let gone = key("Observation", "o0");
    store.write(move |transaction| transaction.delete(&gone, Expected::Any)).await.unwrap();
    store.close().await;
    let count = |query: &str| place.run(query).parse::<i64>().unwrap();
    println!(
        "resources {}, past versions {}",
        count("SELECT count(*) FROM resource"),
        count("SELECT count(*) FROM history")
    );
    println!("data keys (patients and shared types) {}", count("SELECT count(*) FROM data_key"));
    let mut sizes = BTreeMap::new();
    for (table, bytes) in place.cells() {
        if table == "resource" && bytes.len() > 100 && bytes.len() % 8 != 0 {
            *sizes.entry(bytes.len()).or_insert(0) += 1;
        }
    }
    println!("body sizes {sizes:?}");
    let most = count("SELECT max(n) FROM (SELECT count(*) AS n FROM bix GROUP BY t) AS counted");
    println!("resources with the most frequent token {most}");

    assert_eq!(count("SELECT count(*) FROM resource"), 48);
    assert_eq!(count("SELECT count(*) FROM data_key"), 8);
    // Bodies of one shape fall into few buckets.
    assert!(sizes.len() <= 6);
    // The most frequent token is one that every observation has. Nothing tells the sexes apart: among the
    // patients, 8 in number, only the type and the common given names are shared by all.
    assert_eq!(most, 39);
    let tokens = count("SELECT count(DISTINCT t) FROM bix");
    assert!(tokens > 50, "{tokens}");
    // Nothing about a deleted resource is in the index.
    assert_eq!(
        count("SELECT count(*) FROM bix WHERE rid IN (SELECT rid FROM resource WHERE deleted = 1)"),
        0
    );
}
