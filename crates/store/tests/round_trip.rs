//! What goes in comes out: versions, history, originals, records, and nothing of a write that failed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod common;

use std::sync::Arc;

use common::*;
use serde_json::{Value, json};
use ward_base::{FixedClock, SystemClock, Timestamp};
use ward_store::{
    Expected, HistoryPage, HistoryScope, Page, RecordKind, Store, StoreError, Stored, WriteOutcome,
};

fn parsed(stored: &Stored) -> Value {
    serde_json::from_slice(stored.body.expose()).unwrap()
}

async fn current(store: &Store, name: &str, id: &str) -> Option<Stored> {
    let key = key(name, id);
    store.read(move |session| session.current(&key)).await.unwrap()
}

async fn history(store: &Store, scope: HistoryScope, page: Page) -> HistoryPage {
    store.read(move |session| session.history(&scope, &page)).await.unwrap()
}

on_both!(
    a_resource_is_created_read_updated_and_deleted,
    history_pages_are_newest_first_and_stay_right_while_data_changes,
    originals_come_back_equal_as_json,
    a_failing_or_panicking_operation_leaves_nothing_and_hurts_no_other,
    records_expire_and_are_inserted_once,
    what_does_not_fit_its_key_is_refused
);

async fn a_resource_is_created_read_updated_and_deleted(place: Place) {
    let clock = Arc::new(FixedClock::new(Timestamp(1_700_000_000_123_456)));
    let store = place.open_with(place.keys(), clock.clone()).unwrap();
    assert!(current(&store, "Patient", "p").await.is_none());

    let written = put_if(&store, &patient("p", "Lovelace"), Expected::Absent).await.unwrap();
    assert_eq!((written.version, written.outcome), (1, WriteOutcome::Created));
    let first = current(&store, "Patient", "p").await.unwrap();
    let mut expected = patient("p", "Lovelace");
    expected["meta"] = json!({"versionId": "1", "lastUpdated": "2023-11-14T22:13:20.123Z"});
    assert_eq!(parsed(&first), expected);
    assert!(first.patients == [key("Patient", "p").id] && first.key == key("Patient", "p") && !first.deleted);

    // The clock stands still, yet versions have times of their own.
    let written = put_if(&store, &patient("p", "Byron"), Expected::Version(1)).await.unwrap();
    assert_eq!((written.version, written.outcome), (2, WriteOutcome::Updated));
    assert!(written.updated > first.updated);
    for wrong in [Expected::Absent, Expected::Version(1), Expected::Version(3)] {
        assert_eq!(put_if(&store, &patient("p", "X"), wrong).await, Err(StoreError::Conflict));
        let key = key("Patient", "p");
        let refused = store.write(move |transaction| transaction.delete(&key, wrong)).await;
        assert_eq!(refused, Err(StoreError::Conflict));
    }

    let gone = key("Patient", "p");
    let deleted = store.write(move |transaction| transaction.delete(&gone, Expected::Version(2))).await;
    assert_eq!(deleted, Ok(Some(3)));
    let tombstone = current(&store, "Patient", "p").await.unwrap();
    assert!(tombstone.deleted && tombstone.body.expose().is_empty());
    assert!(tombstone.patients == [key("Patient", "p").id]);
    let gone = key("Patient", "p");
    let again = store.write(move |transaction| transaction.delete(&gone, Expected::Any)).await;
    assert_eq!(again, Ok(None::<u64>));

    let written = put_if(&store, &patient("p", "Back"), Expected::Absent).await.unwrap();
    assert_eq!((written.version, written.outcome), (4, WriteOutcome::Created));
    for (version, family) in [(1, "Lovelace"), (2, "Byron"), (4, "Back")] {
        let key = key("Patient", "p");
        let stored = store.read(move |session| session.version(&key, version)).await.unwrap().unwrap();
        assert_eq!(parsed(&stored)["name"][0]["family"], family);
    }
    store.close().await;
    let after = key("Patient", "p");
    let closed = store.read(move |session| session.current(&after)).await;
    assert_eq!(closed.err(), Some(StoreError::Unavailable));
    let reopened = place.open_with(place.keys(), Arc::new(SystemClock)).unwrap();
    assert_eq!(parsed(&current(&reopened, "Patient", "p").await.unwrap())["meta"]["versionId"], "4");
}

async fn history_pages_are_newest_first_and_stay_right_while_data_changes(place: Place) {
    let store = place.open();
    for round in 0..3 {
        for id in ["a", "b", "c"] {
            put(&store, &patient(id, &format!("Round{round}"))).await.unwrap();
        }
        put(&store, &observation("o", "a", "1-1", "2020")).await.unwrap();
    }
    let gone = key("Patient", "b");
    store.write(move |transaction| transaction.delete(&gone, Expected::Any)).await.unwrap();
    let mut later = 0;
    for (scope, length) in [
        (HistoryScope::Instance(key("Patient", "b")), 4),
        (HistoryScope::Type(resource_type("Patient")), 10),
        (HistoryScope::System, 13),
    ] {
        let whole = history(&store, scope.clone(), Page { count: 100, after: None }).await;
        assert!(whole.next.is_none());
        let others = if matches!(scope, HistoryScope::Instance(_)) { 0 } else { later };
        assert_eq!(whole.entries.len(), length + others);
        assert!(whole.entries.is_sorted_by(|a, b| a.updated >= b.updated));
        assert_eq!(whole.total, matches!(scope, HistoryScope::Instance(_)).then_some(4));
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = history(&store, scope.clone(), Page { count: 2, after }).await;
            paged.extend(page.entries);
            // What comes in newer does not move what is still to come.
            put(&store, &patient("c", "Later")).await.unwrap();
            later += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let names = |entries: &[Stored]| {
            entries.iter().map(|entry| (entry.key.clone(), entry.version)).collect::<Vec<_>>()
        };
        assert!(names(&paged) == names(&whole.entries));
    }
}

async fn originals_come_back_equal_as_json(place: Place) {
    let store = place.open();
    let mut originals = vec![
        patient("plain", "Lovelace"),
        observation("carl.9", "plain", "29463-7", "2020-01-02T03:04:05.678901+02:00"),
        json!({"resourceType": "Basic", "id": "meta", "code": {}, "meta": {"versionId": "77", "tag": [{"code": "t"}],
            "lastUpdated": "2012-05-03T09:11:12.000+10:00"}, "extension": [{"url": "u", "valueDecimal": 1.00}]}),
        json!({"resourceType": "Basic", "id": "empty", "meta": {}, "text": {"div": "é\u{0001}\"\\"}}),
    ];
    for original in &originals {
        put(&store, &patient("plain", "older")).await.unwrap();
        put(&store, original).await.unwrap();
        let (key, same) = (key_of(original), original.clone());
        let mut other = original.clone();
        other["language"] = "de".into();
        let compared = store
            .read(move |session| {
                Ok::<_, StoreError>((
                    session.original_equals(&key, &same)?,
                    session.original_equals(&key, &other)?,
                ))
            })
            .await
            .unwrap();
        assert_eq!(compared, (true, false));
    }
    originals.remove(0);
    put(&store, &patient("plain", "newest")).await.unwrap();
    originals.push(patient("plain", "newest"));

    let mut exported: Vec<Value> = Vec::new();
    let mut after = None;
    loop {
        let (page, next) = store.read(move |session| session.export(None, after.as_ref(), 2)).await.unwrap();
        exported.extend(page.iter().map(|one| serde_json::from_slice::<Value>(one.text.expose()).unwrap()));
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(exported.len(), originals.len());
    for original in &originals {
        assert!(exported.contains(original), "{}", original["id"]);
    }
    let basics = resource_type("Basic");
    let (page, next) = store.read(move |session| session.export(Some(basics), None, 10)).await.unwrap();
    assert_eq!((page.len(), next.is_none()), (2, true));
}

async fn a_failing_or_panicking_operation_leaves_nothing_and_hurts_no_other(place: Place) {
    let store = place.open();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut waiting = Vec::new();
    for number in 0..60 {
        let store = store.clone();
        waiting.push(tokio::spawn(async move {
            let resource = patient(&format!("p{number}"), "Lovelace");
            let prepared = store.prepare(&key_of(&resource), &resource).unwrap();
            store
                .write(move |transaction| {
                    transaction.put(&prepared, Expected::Absent)?;
                    transaction.put_record(RecordKind::Setting, &format!("s{number}"), b"v", None)?;
                    match number % 3 {
                        0 => Ok(()),
                        1 => Err(StoreError::TooCostly),
                        _ => panic!("on purpose"),
                    }
                })
                .await
        }));
    }
    for (number, handle) in waiting.into_iter().enumerate() {
        let expected = [Ok(()), Err(StoreError::TooCostly), Err(StoreError::Unavailable)][number % 3];
        assert_eq!(handle.await.unwrap(), expected);
        assert_eq!(current(&store, "Patient", &format!("p{number}")).await.is_some(), number % 3 == 0);
        let name = format!("s{number}");
        let record = store.read(move |session| session.record(RecordKind::Setting, &name)).await.unwrap();
        assert_eq!(record.is_some(), number % 3 == 0);
    }
    let panicked = store.read(|_| -> Result<(), StoreError> { panic!("on purpose") }).await;
    assert_eq!(panicked, Err(StoreError::Unavailable));
    std::panic::set_hook(hook);
    // A data key that was rolled back must not live on: the same patient again, and read after a restart.
    put(&store, &patient("p1", "Again")).await.unwrap();
    store.close().await;
    assert!(current(&place.open(), "Patient", "p1").await.is_some());
}

async fn records_expire_and_are_inserted_once(place: Place) {
    let clock = Arc::new(FixedClock::new(Timestamp(1_000_000_000)));
    let store = place.open_with(place.keys(), clock.clone()).unwrap();
    let soon = Some(Timestamp(1_010_000_000));
    let inserted = store
        .write(move |transaction| {
            let first = transaction.insert_record(RecordKind::AssertionId, "jti", b"1", soon)?;
            let second = transaction.insert_record(RecordKind::AssertionId, "jti", b"2", soon)?;
            transaction.put_record(RecordKind::User, "jti", b"user", None)?;
            transaction.set_audit_checkpoint(5, [9; 32])?;
            Ok::<_, StoreError>((first, second))
        })
        .await
        .unwrap();
    assert_eq!(inserted, (true, false));
    let records = store.read(|session| session.records(RecordKind::AssertionId)).await.unwrap();
    assert_eq!(records, [("jti".to_owned(), b"1".to_vec())]);
    clock.advance_seconds(11);
    let record = store.read(|session| session.record(RecordKind::AssertionId, "jti")).await.unwrap();
    assert_eq!(record, None);
    let (gone, again, purged) = store
        .write(move |transaction| {
            let gone = transaction.delete_record(RecordKind::AssertionId, "jti")?;
            let again = transaction.insert_record(RecordKind::AssertionId, "jti", b"3", soon)?;
            Ok::<_, StoreError>((gone, again, transaction.purge_expired()?))
        })
        .await
        .unwrap();
    assert_eq!((gone, again, purged), (false, true, 1));
    let user = store.read(|session| session.record(RecordKind::User, "jti")).await.unwrap();
    assert_eq!(user.as_deref(), Some(b"user".as_slice()));
    let checkpoint = store.read(|session| session.audit_checkpoint()).await.unwrap();
    assert_eq!(checkpoint, Some((5, [9; 32])));
}

async fn what_does_not_fit_its_key_is_refused(place: Place) {
    let store = place.open();
    for bad in [
        json!([]),
        json!({}),
        json!({"resourceType": "Observation"}),
        json!({"resourceType": "Patient", "meta": 1}),
    ] {
        assert_eq!(store.prepare(&key("Patient", "p"), &bad).err(), Some(StoreError::Unstorable));
    }
}
