//! Measures the store alone: `measure [PATIENTS] [server]`. Writes to a temporary directory, or to a PostgreSQL server of
//! its own there; prints microseconds for each operation on one thread of the caller, with everything on: encryption,
//! blind index, group commit, fsync, TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::{error::Error, sync::Arc, time::Instant};

use serde_json::{Value, json};
use ward_base::{ResourceId, Secret, SystemClock, SystemRandom};
use ward_fhir::{
    ResourceType,
    search::{Handling, Parameters, Query, parse},
};
use ward_keys::KeyRing;
use ward_kms::RootKeys;
use ward_store::{Database, Expected, Page, ResourceKey, ServerOptions, Store, StoreError, StoreOptions};
use ward_testkit::Postgres;

const BASE: &str = "https://ward.test/fhir/R4";
const CODES: [&str; 10] =
    ["8480-6", "8462-4", "29463-7", "8302-2", "8867-4", "9279-1", "8310-5", "2708-6", "39156-5", "718-7"];
const FAMILIES: [&str; 8] =
    ["Lovelace", "Hopper", "Curie", "Noether", "Meitner", "Franklin", "Johnson", "Hodgkin"];

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let patients: usize = std::env::args().nth(1).map_or(Ok(1000), |text| text.parse())?;
    let server = std::env::args().nth(2).is_some_and(|word| word == "server");
    tokio::runtime::Builder::new_current_thread().build()?.block_on(measure(patients, server))
}

async fn measure(patients: usize, server: bool) -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let root = RootKeys::from_secret(&Secret::new(vec![1; 32]))?;
    let (keys, _) = KeyRing::create(&root, "measure")?;
    let mut options = StoreOptions::new(directory.path().join("ward.db"), BASE);
    let server = server.then(|| Postgres::start("shared_buffers = 256MB\nmax_wal_size = 4GB\n"));
    let database = server.as_ref().map(Postgres::new_database);
    if let (Some(server), Some(database)) = (&server, &database) {
        options.database = Database::Server(ServerOptions {
            hosts: vec![("localhost".to_owned(), server.port())],
            database: database.clone(),
            user: server.user().to_owned(),
            password: Some(Secret::new(server.password().into())),
            authorities_pem: server.authority_pem().to_owned(),
            client: None,
            writers: 8,
        });
    }
    let store = Store::open(options, Arc::new(keys), Arc::new(SystemClock), Arc::new(SystemRandom))?;
    let people: Vec<String> =
        (0..patients).map(|_| ResourceId::random(&SystemRandom).as_str().to_owned()).collect();

    let resources: Vec<Value> = people.iter().enumerate().map(|(number, id)| patient(number, id)).collect();
    put("Patient", &store, resources).await?;
    let mut ids = Vec::new();
    for round in 0..20 {
        let resources: Vec<Value> =
            people.iter().enumerate().map(|(number, id)| observation(number, round, id)).collect();
        ids.extend(resources.iter().filter_map(|one| key(one).ok()));
        if round < 19 {
            put_quietly(&store, resources).await?;
        } else {
            println!("bytes of an observation {}", resources.first().map_or(0, |one| one.to_string().len()));
            put("Observation", &store, resources).await?;
        }
    }
    current(&store, ids).await?;
    let some = people.get(patients / 2).map_or("", String::as_str);
    let date = [("patient", some), ("code", "8480-6"), ("date", "ge2020-01-10"), ("date", "lt2022-01-01")];
    for (name, query) in [
        ("Patient", vec![("family", "lovelace"), ("given", "ada17")]),
        ("Patient", vec![("identifier", "urn:mrn|17")]),
        ("Observation", vec![("patient", some)]),
        ("Observation", vec![("patient", some), ("code", "http://loinc.org|8480-6")]),
        ("Observation", date.to_vec()),
        ("Observation", vec![("patient", some), ("_sort", "-date")]),
        ("Observation", vec![("code", "8480-6")]),
        ("Observation", vec![("code", "8480-6"), ("date", "2020-01-07")]),
        ("Observation", vec![("_sort", "-_lastUpdated")]),
    ] {
        search(&store, name, &query).await?;
    }
    store.close().await;
    if let Some(server) = &server {
        let ran = "SELECT sum(xact_commit) || ' committed, ' || sum(xact_rollback) || ' rolled back' FROM pg_stat_database";
        println!("transactions {}", server.run("postgres", ran));
    }
    let bytes = match (&server, &database) {
        (Some(server), Some(database)) => {
            server.run(database, "SELECT pg_database_size(current_database())").parse()?
        }
        _ => std::fs::metadata(directory.path().join("ward.db"))?.len(),
    };
    println!("bytes in the database for each resource {}", bytes / (patients as u64 * 21));
    Ok(())
}

fn key(resource: &Value) -> Result<ResourceKey, Failure> {
    let text = |name| resource.get(name).and_then(Value::as_str).unwrap_or_default();
    let resource_type = ResourceType::parse(text("resourceType")).ok_or("no type")?;
    Ok(ResourceKey { resource_type, id: ResourceId::parse(text("id"))? })
}

async fn put(name: &str, store: &Store, resources: Vec<Value>) -> Result<(), Failure> {
    let started = Instant::now();
    let count = resources.len() as u128;
    for resource in &resources {
        std::hint::black_box(store.prepare(&key(resource)?, resource)?);
    }
    println!("prepare {name} {} us", started.elapsed().as_micros() / count);
    let started = Instant::now();
    put_quietly(store, resources).await?;
    println!("prepare and put {name} {} us", started.elapsed().as_micros() / count);
    Ok(())
}

/// As a busy server would: 32 writes wait at once.
async fn put_quietly(store: &Store, resources: Vec<Value>) -> Result<(), Failure> {
    let mut waiting = std::collections::VecDeque::new();
    for resource in resources {
        let prepared = store.prepare(&key(&resource)?, &resource)?;
        let store = store.clone();
        let write =
            async move { store.write(move |transaction| transaction.put(&prepared, Expected::Any)).await };
        waiting.push_back(tokio::spawn(write));
        // Lets the write be queued before the next is prepared.
        tokio::task::yield_now().await;
        if waiting.len() >= 32
            && let Some(first) = waiting.pop_front()
        {
            first.await??;
        }
    }
    for write in waiting {
        write.await??;
    }
    Ok(())
}

async fn current(store: &Store, ids: Vec<ResourceKey>) -> Result<(), Failure> {
    let count = ids.len().min(5000);
    let chosen: Vec<ResourceKey> =
        (0..count).filter_map(|number| ids.get(number.wrapping_mul(7919) % ids.len()).cloned()).collect();
    let again = chosen.clone();
    let inside = store
        .read(move |session| {
            let started = Instant::now();
            for key in &again {
                session.current(key)?;
            }
            Ok::<_, StoreError>(started.elapsed())
        })
        .await?;
    println!("current {} us", inside.as_micros() / count as u128);
    let started = Instant::now();
    for key in chosen {
        store.read(move |session| session.current(&key)).await?;
    }
    println!("current, one operation each {} us", started.elapsed().as_micros() / count as u128);
    Ok(())
}

fn query(name: &str, pairs: &[(&str, &str)]) -> Result<Query, Failure> {
    let pairs: Vec<(String, String)> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let resource_type = ResourceType::parse(name).ok_or("no type")?;
    Ok(parse(resource_type, &pairs, Handling::Strict, BASE, &Parameters::default())
        .map_err(|_| "a wrong query")?
        .0)
}

async fn search(store: &Store, name: &str, pairs: &[(&str, &str)]) -> Result<(), Failure> {
    const ROUNDS: u128 = 200;
    let parsed = [query(name, pairs)?];
    let (hits, took) = store
        .read(move |session| {
            let page = Page { count: 20, after: None };
            let hits = session.search(&parsed, &page)?.hits.len();
            let started = Instant::now();
            for _ in 0..ROUNDS {
                session.search(&parsed, &page)?;
            }
            Ok::<_, StoreError>((hits, started.elapsed()))
        })
        .await?;
    let names: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
    println!("search {name} by {} ({hits} hits) {} us", names.join(" + "), took.as_micros() / ROUNDS);
    Ok(())
}

fn patient(number: usize, id: &str) -> Value {
    json!({
        "resourceType": "Patient", "id": id, "active": true,
        "identifier": [{"system": "urn:mrn", "value": number.to_string()}],
        "name": [{"use": "official", "family": FAMILIES.get(number % 8), "given": [format!("Ada{number}")]}],
        "telecom": [{"system": "phone", "value": format!("555-{number:04}"), "use": "home"}],
        "gender": if number.is_multiple_of(2) { "female" } else { "male" },
        "birthDate": format!("19{:02}-{:02}-{:02}", number % 100, number % 12 + 1, number % 28 + 1),
        "address": [{"line": [format!("{number} Main Street")], "city": "Springfield", "postalCode": "01101"}],
    })
}

fn observation(number: usize, round: usize, subject: &str) -> Value {
    let code = CODES.get(round % 10);
    json!({
        "resourceType": "Observation", "id": ResourceId::random(&SystemRandom).as_str(), "status": "final",
        "meta": {"profile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-vital-signs"]},
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category",
            "code": "vital-signs", "display": "Vital Signs"}], "text": "Vital Signs"}],
        "code": {"coding": [{"system": "http://loinc.org", "code": code, "display": "Systolic Blood Pressure"}],
            "text": "Systolic Blood Pressure"},
        "subject": {"reference": format!("Patient/{subject}")},
        "encounter": {"reference": format!("Encounter/{}", ResourceId::random(&SystemRandom).as_str())},
        "performer": [{"reference": format!("Practitioner/practitioner-{}", number % 50), "display": "Dr. Grace Hopper"}],
        "effectiveDateTime": format!("20{:02}-{:02}-{:02}T{:02}:30:00+00:00", 20 + round % 3, round % 12 + 1,
            number % 28 + 1, number % 24),
        "issued": "2022-04-01T12:30:00.000+00:00",
        "valueQuantity": {"value": 100 + number % 50, "unit": "mmHg", "system": "http://unitsofmeasure.org",
            "code": "mm[Hg]"},
        "referenceRange": [{"low": {"value": 90, "unit": "mmHg"}, "high": {"value": 140, "unit": "mmHg"}}],
        "interpretation": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation",
            "code": "N", "display": "Normal"}]}],
    })
}
