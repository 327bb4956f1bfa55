//! A store in a temporary directory, and resources to put in it.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::{path::Path, sync::Arc};

use serde_json::{Value, json};
use ward_base::{Clock, ResourceId, Secret, SystemClock, SystemRandom};
use ward_fhir::ResourceType;
use ward_keys::{KeyRing, WrappedKey};
use ward_kms::RootKeys;
use ward_store::{Expected, ResourceKey, Store, StoreError, StoreOptions, Written};

pub(crate) const BASE: &str = "https://ward.test/fhir/R4";

pub(crate) fn root(byte: u8) -> RootKeys {
    RootKeys::from_secret(&Secret::new(vec![byte; 32])).unwrap()
}

/// The tenant key of a directory, made when it is asked for first.
pub(crate) fn keys(directory: &Path) -> Arc<KeyRing> {
    let path = directory.join("tenant.key");
    let ring = match std::fs::read(&path) {
        Ok(wrapped) => KeyRing::open(&root(7), "test", &WrappedKey(wrapped)).unwrap(),
        Err(_) => {
            let (ring, wrapped) = KeyRing::create(&root(7), "test").unwrap();
            std::fs::write(&path, wrapped.0).unwrap();
            ring
        }
    };
    Arc::new(ring)
}

pub(crate) fn open(directory: &Path) -> Store {
    open_with(directory, keys(directory), Arc::new(SystemClock)).unwrap()
}

pub(crate) fn open_with(
    directory: &Path,
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
) -> Result<Store, StoreError> {
    Store::open(StoreOptions::new(directory.join("ward.db"), BASE), keys, clock, Arc::new(SystemRandom))
}

/// The file as someone sees it who has the database key.
pub(crate) fn with_database_key(directory: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(directory.join("ward.db")).unwrap();
    let key: String =
        keys(directory).derive("database").expose().iter().map(|byte| format!("{byte:02x}")).collect();
    connection.execute_batch(&format!("PRAGMA key = \"x'{key}'\"")).unwrap();
    connection
}

pub(crate) fn resource_type(name: &str) -> ResourceType {
    ResourceType::parse(name).unwrap()
}

pub(crate) fn key(name: &str, id: &str) -> ResourceKey {
    ResourceKey { resource_type: resource_type(name), id: ResourceId::parse(id).unwrap() }
}

pub(crate) fn key_of(resource: &Value) -> ResourceKey {
    key(resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap())
}

pub(crate) async fn put(store: &Store, resource: &Value) -> Result<Written, StoreError> {
    put_if(store, resource, Expected::Any).await
}

pub(crate) async fn put_if(
    store: &Store,
    resource: &Value,
    expected: Expected,
) -> Result<Written, StoreError> {
    let prepared = store.prepare(&key_of(resource), resource)?;
    store.write(move |transaction| transaction.put(&prepared, expected)).await
}

pub(crate) fn patient(id: &str, family: &str) -> Value {
    json!({"resourceType": "Patient", "id": id, "name": [{"family": family, "given": ["Ada", "Zoë"]}],
        "gender": "female", "birthDate": "1980-02-29"})
}

pub(crate) fn observation(id: &str, patient: &str, code: &str, date: &str) -> Value {
    json!({"resourceType": "Observation", "id": id, "status": "final",
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category",
            "code": "vital-signs"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": format!("Patient/{patient}")},
        "effectiveDateTime": date, "valueQuantity": {"value": 72.50, "unit": "kg"}})
}
