//! What the statement of leakage in ARCHITECTURE.md says, seen with the eyes of who holds the database and its key, but
//! not the tenant's: counts, sizes and frequencies of a small population.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use serde_json::json;

const PATIENTS: usize = 40;
const FAMILIES: [&str; 4] = ["Lovelace", "Hopper", "Hamilton", "Johnson"];
/// Of each five measurements, three, one and one.
const CODES: [&str; 5] = ["8867-4", "8867-4", "8867-4", "29463-7", "8310-5"];

async fn population(place: &Place) {
    let store = place.open();
    for number in 0..PATIENTS {
        let id = format!("patient-{number}");
        let mut person = patient(&id, FAMILIES[number % 4]);
        person["gender"] = if number % 7 == 0 { "male" } else { "female" }.into();
        person["birthDate"] = format!("{}-07-14", 1950 + number).into();
        person["identifier"] = json!([{"system": "urn:mrn", "value": format!("MRN-{number}")}]);
        put(&store, &person).await.unwrap();
        for (place, code) in CODES.iter().enumerate() {
            let day = format!("2024-{:02}-{:02}", 1 + number % 12, 1 + place * 5);
            let mut one = observation(&format!("o-{number}-{place}"), &id, code, &day);
            one["status"] = if place == 4 && number % 3 == 0 { "amended" } else { "final" }.into();
            put(&store, &one).await.unwrap();
        }
    }
    store.close().await;
}

/// How often each token of the index occurs.
fn frequencies(database: &rusqlite::Connection) -> BTreeMap<i64, i64> {
    let mut statement = database.prepare("SELECT t, count(*) FROM bix GROUP BY t").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

#[tokio::test]
async fn the_database_shows_what_the_statement_of_leakage_says_and_no_more() {
    let place = Place::file();
    population(&place).await;
    let database = place.with_database_key();
    let frequencies = frequencies(&database);
    let ring = place.keys();
    let token = |label: &str, kind: &str, value: &str| {
        let token = ring.tokenizer().token64(label, &[kind.as_bytes(), value.as_bytes()]);
        frequencies.get(&token).copied()
    };
    // How many there are of each type, and how often a code, a prefix of a name, a system of identifiers occurs.
    assert_eq!(token("bix/type", "Patient", ""), Some(40));
    assert_eq!(token("bix/type", "Observation", ""), Some(200));
    assert_eq!(token("bix/code", "Observation", "8867-4"), Some(120));
    assert_eq!(token("bix/code", "Observation", "29463-7"), Some(40));
    assert_eq!(token("bix/prefix", "Patient", "lo"), Some(10));
    assert_eq!(token("bix/prefix", "Patient", "lovelace"), Some(10));
    assert_eq!(token("bix/identifier-system", "Patient", "urn:mrn"), Some(40));
    assert_eq!(token("bix/code", "Patient", "mrn-7"), Some(1));
    // Not how often one of few possible values does: sex and status have no token but with their subject.
    for (kind, value) in
        [("Patient", "male"), ("Patient", "female"), ("Observation", "final"), ("Observation", "amended")]
    {
        assert_eq!(token("bix/code", kind, value), None, "{value}");
    }
    let counts: BTreeSet<i64> = frequencies.values().copied().collect();
    assert!(
        !counts.contains(&34) && !counts.contains(&186),
        "the count of the female, or of the final, shows: {counts:?}"
    );

    // Everything else that shows is how often dates fall in one node of the tree, and what one subject has: this is
    // all of it, as how many tokens occur how often.
    let mut histogram: BTreeMap<i64, usize> = BTreeMap::new();
    for frequency in frequencies.values() {
        *histogram.entry(*frequency).or_default() += 1;
    }
    let seen: Vec<(i64, usize)> = histogram.into_iter().collect();
    assert_eq!(seen, FREQUENCIES, "the index shows something else now: is ARCHITECTURE.md still right?");

    // Sizes fall in few buckets, and are the same for people who differ in all they are called.
    let mut statement = database.prepare("SELECT type, length(body) FROM resource").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let sizes: BTreeSet<(i64, i64)> = rows.map(Result::unwrap).collect();
    assert!(sizes.len() <= 4, "{sizes:?}");
    // Which resources share a patient: the id of the key, one for each patient.
    let owners: i64 =
        database.query_row("SELECT count(DISTINCT key_id) FROM resource", [], |row| row.get(0)).unwrap();
    assert_eq!(owners, 40);
    // There is no other place for anything to show.
    let mut tables = database
        .prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name",
        )
        .unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(tables, ["bix", "data_key", "history", "meta", "migration", "record", "resource"]);
}

/// A frequency, and how many tokens have it. The last four are in each measurement: its type, its category, and nodes of
/// the tree of dates.
const FREQUENCIES: [(i64, usize); 18] = [
    (1, 277),
    (2, 23),
    (3, 108),
    (4, 46),
    (5, 211),
    (6, 12),
    (8, 6),
    (10, 14),
    (11, 2),
    (12, 1),
    (21, 1),
    (30, 2),
    (33, 1),
    (40, 8),
    (42, 1),
    (44, 1),
    (120, 1),
    (200, 4),
];
