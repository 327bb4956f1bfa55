//! The file given to others: it shows nothing, opens with one key only, and altered rows are refused.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod common;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use common::*;
use rusqlite::{Connection, params, types::Value as Column};
use serde_json::{Value, json};
use ward_base::SystemClock;
use ward_keys::KeyRing;
use ward_store::{Expected, RecordKind, Store, StoreError};

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
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// Every cell of every table, as someone reads it who has the database key.
fn cells(connection: &Connection) -> Vec<(String, Vec<u8>)> {
    let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let tables = statement
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap()
        .map(Result::unwrap)
        .collect::<Vec<_>>();
    assert!(tables.len() >= 7);
    let mut cells = Vec::new();
    for table in tables {
        let mut statement = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                let bytes = match row.get::<_, Column>(column).unwrap() {
                    Column::Null => Vec::new(),
                    Column::Integer(number) => number.to_be_bytes().to_vec(),
                    Column::Real(number) => number.to_be_bytes().to_vec(),
                    Column::Text(text) => text.into_bytes(),
                    Column::Blob(bytes) => bytes,
                };
                cells.push((table.clone(), bytes));
            }
        }
    }
    cells
}

#[tokio::test]
async fn no_text_of_a_resource_is_in_any_file_or_cell() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
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
        for (place, bytes) in cells {
            assert!(!contains(bytes, "canary"), "{place}");
            for canary in &canaries {
                assert!(!contains(bytes, canary), "{place}");
            }
        }
    };
    // While the write-ahead log is there, and after it was folded in.
    assert!(files(directory.path()).iter().any(|(name, bytes)| name.ends_with("-wal") && !bytes.is_empty()));
    check(&files(directory.path()));
    store.close().await;
    check(&files(directory.path()));
    for (name, bytes) in files(directory.path()) {
        assert!(!contains(&bytes, "CREATE TABLE"), "{name} is not encrypted");
    }
    let connection = with_database_key(directory.path());
    check(&cells(&connection));
}

#[tokio::test]
async fn another_key_opens_nothing_and_one_process_at_a_time_has_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    put(&store, &patient("p", "Lovelace")).await.unwrap();
    let again = open_with(directory.path(), keys(directory.path()), Arc::new(SystemClock));
    assert_eq!(again.err(), Some(StoreError::Unavailable));
    store.close().await;
    let (other, _) = KeyRing::create(&root(8), "test").unwrap();
    let opened = open_with(directory.path(), Arc::new(other), Arc::new(SystemClock));
    assert_eq!(opened.err(), Some(StoreError::WrongKey));
    open(directory.path()).close().await;
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(directory.path().join("ward.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).close().await;
    let connection = with_database_key(directory.path());
    connection.execute("INSERT INTO migration (version, applied) VALUES (99, 0)", []).unwrap();
    drop(connection);
    let opened = open_with(directory.path(), keys(directory.path()), Arc::new(SystemClock));
    assert_eq!(opened.err(), Some(StoreError::NewerSchema));
}

/// Two versions of one patient's observation and another of the same patient, then `change` behind the store's back;
/// every way to read what was changed must fail, and what was not must still be there.
async fn altered(change: &str) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for (id, code) in [("a", "1-1"), ("b", "2-2"), ("a", "1-1")] {
        put(&store, &observation(id, "p", code, "2020-01-02")).await.unwrap();
    }
    put(&store, &observation("intact", "q", "3-3", "2020")).await.unwrap();
    store.close().await;
    let connection = with_database_key(directory.path());
    assert!(connection.execute(change, []).unwrap() > 0, "{change}");
    drop(connection);
    let store = open(directory.path());
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
                let stored = session.current(&key)?.ok_or(StoreError::Corrupt)?;
                assert!(stored.key == key && !stored.deleted, "a wrong body was given out");
            }
            Ok(())
        })
        .await
}

#[tokio::test]
async fn swapped_and_altered_rows_are_refused() {
    for change in [
        // Another body of the same patient, key and length.
        "UPDATE resource SET body = (SELECT body FROM resource ORDER BY rid LIMIT 1)
         WHERE rid = (SELECT rid FROM resource ORDER BY rid LIMIT 1 OFFSET 1)",
        // An older version of the same resource.
        "UPDATE resource SET body = (SELECT body FROM history LIMIT 1) WHERE rid = (SELECT rid FROM history LIMIT 1)",
        "UPDATE resource SET version = version + 1 WHERE rid = (SELECT min(rid) FROM resource)",
        "UPDATE resource SET updated = updated + 1 WHERE rid = (SELECT min(rid) FROM resource)",
        "UPDATE resource SET body = zeroblob(length(body)) WHERE rid = (SELECT min(rid) FROM resource)",
        "UPDATE resource SET key_id = (SELECT key_id FROM resource ORDER BY rid DESC LIMIT 1)
         WHERE rid = (SELECT min(rid) FROM resource)",
        // Destroying a key destroys what it sealed.
        "DELETE FROM data_key WHERE key_id = (SELECT key_id FROM resource ORDER BY rid LIMIT 1)",
    ] {
        altered(change).await;
    }
}

#[tokio::test]
async fn a_record_is_bound_to_its_key_kind_and_expiry() {
    for change in [
        "UPDATE record SET sealed = (SELECT sealed FROM record WHERE kind = 2) WHERE kind = 1",
        "UPDATE record SET expires = 9000000000000000000 WHERE kind = 1",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        store
            .write(|transaction| {
                transaction.put_record(RecordKind::User, "k", b"user", None)?;
                transaction.put_record(RecordKind::Username, "k", b"name", None)
            })
            .await
            .unwrap();
        store.close().await;
        let connection = with_database_key(directory.path());
        assert_eq!(connection.execute(change, params![]).unwrap(), 1);
        drop(connection);
        let record = open(directory.path()).read(|session| session.record(RecordKind::User, "k")).await;
        assert_eq!(record, Err(StoreError::Corrupt));
    }
}

/// What the holder of the database and its key sees of a sample: the statement in the crate's documentation, kept true.
#[tokio::test]
async fn what_the_holder_of_the_file_sees() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
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
    let connection = with_database_key(directory.path());
    let count = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap();
    println!(
        "resources {}, past versions {}",
        count("SELECT count(*) FROM resource"),
        count("SELECT count(*) FROM history")
    );
    println!("data keys (patients and shared types) {}", count("SELECT count(*) FROM data_key"));
    let mut sizes = BTreeMap::new();
    for (table, bytes) in cells(&connection) {
        if table == "resource" && bytes.len() > 100 && bytes.len() % 8 != 0 {
            *sizes.entry(bytes.len()).or_insert(0) += 1;
        }
    }
    println!("body sizes {sizes:?}");
    let mut statement = connection
        .prepare(
            "SELECT n, count(*) FROM (SELECT count(*) AS n FROM bix GROUP BY t) GROUP BY n ORDER BY n DESC",
        )
        .unwrap();
    let frequencies: Vec<(i64, i64)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    println!("(resources with a token, such tokens) {frequencies:?}");

    assert_eq!(count("SELECT count(*) FROM resource"), 48);
    assert_eq!(count("SELECT count(*) FROM data_key"), 8);
    // Bodies of one shape fall into few buckets.
    assert!(sizes.len() <= 6);
    // The most frequent token is one that every observation has. Nothing tells the sexes apart: among the
    // patients, 8 in number, only the type and the common given names are shared by all.
    assert!(frequencies.first().is_some_and(|(resources, _)| *resources == 39));
    let tokens = count("SELECT count(DISTINCT t) FROM bix");
    assert!(tokens > 50, "{tokens}");
    // Nothing about a deleted resource is in the index.
    assert_eq!(
        count("SELECT count(*) FROM bix WHERE rid IN (SELECT rid FROM resource WHERE deleted = 1)"),
        0
    );
}
