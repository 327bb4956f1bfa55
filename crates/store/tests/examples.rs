//! The specification's own examples: each comes back as it was, and every parameter finds what it should.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "figures for whoever reads the output")]

mod common;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use common::*;
use serde_json::Value;
use ward_base::ResourceId;
use ward_fhir::{
    ResourceType,
    search::{self, Handling, Parameters, SearchValue},
};
use ward_store::{Expected, Page, ResourceKey, StoreError};

/// Values of one parameter that are tried.
const VALUES_EACH: usize = 3;

fn examples() -> HashMap<ResourceKey, Value> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fhir-r4-examples/package");
    let files =
        std::fs::read_dir(directory).expect("`cargo xtask test` fetches the specification's examples");
    let mut examples = HashMap::new();
    for file in files.map(|file| file.unwrap().path()) {
        // Conformance resources are alike, and many.
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if ["SearchParameter-", "ValueSet-", "CodeSystem-", "StructureDefinition-"]
            .iter()
            .any(|kind| name.starts_with(kind))
        {
            continue;
        }
        let Ok(resource) = serde_json::from_slice::<Value>(&std::fs::read(file).unwrap()) else { continue };
        let named = resource["resourceType"].as_str().and_then(ResourceType::parse);
        let id = resource["id"].as_str().and_then(|id| ResourceId::parse(id).ok());
        if let (Some(resource_type), Some(id)) = (named, id) {
            examples.insert(ResourceKey { resource_type, id }, resource);
        }
    }
    examples
}

/// A query value that means exactly this value.
fn wanted(value: &SearchValue) -> Option<String> {
    let escaped = |text: &str| {
        text.chars()
            .flat_map(|c| matches!(c, '\\' | ',' | '$' | '|').then_some('\\').into_iter().chain([c]))
            .collect::<String>()
    };
    Some(match value {
        SearchValue::Token { system: Some(system), code: Some(code), .. } => {
            format!("{}|{}", escaped(system), escaped(code))
        }
        SearchValue::Token { code: Some(code), .. } => escaped(code),
        SearchValue::String(text) => escaped(text),
        SearchValue::Uri(uri) => escaped(uri),
        SearchValue::Reference { resource_type: Some(of), id: Some(id), .. } => format!("{}/{id}", of.name()),
        SearchValue::Date { start, end }
            if *start > -60_000_000_000_000_000 && *end < 4_000_000_000_000_000 =>
        {
            let instant = ward_base::Timestamp(*start).to_instant();
            format!("ap{}", &instant[..10])
        }
        SearchValue::Quantity { low, high, .. } | SearchValue::Number { low, high, .. }
            if low == high && low.abs() < 1e6 =>
        {
            format!("ge{low}")
        }
        _ => return None,
    })
}

on_both!(every_example_comes_back_and_is_found);

async fn every_example_comes_back_and_is_found(place: Place) {
    let store = place.open();
    let examples = examples();
    assert!(examples.len() > 800, "{}", examples.len());
    let mut prepared = Vec::new();
    for (key, resource) in &examples {
        prepared.push(store.prepare(key, resource).unwrap());
    }
    store
        .write(move |transaction| {
            prepared.iter().try_for_each(|one| transaction.put(one, Expected::Absent).map(|_| ()))
        })
        .await
        .map_err(|error: StoreError| error)
        .unwrap();

    let mut exported = 0;
    let mut after = None;
    loop {
        let (page, next) =
            store.read(move |session| session.export(None, after.as_ref(), 100)).await.unwrap();
        for one in page {
            let original: Value = serde_json::from_slice(one.text.expose()).unwrap();
            assert!(examples[&key_of(&original)] == original);
            exported += 1;
        }
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(exported, examples.len());

    let mut tried: BTreeMap<(&str, &str), Vec<(String, ResourceKey)>> = BTreeMap::new();
    for (key, resource) in &examples {
        for found in search::extract(key.resource_type, resource, BASE, &Parameters::default()) {
            let values = tried.entry((key.resource_type.name(), found.parameter.code)).or_default();
            if values.len() < VALUES_EACH
                && !matches!(found.parameter.code, "_lastUpdated")
                && let Some(value) = wanted(&found.value)
            {
                values.push((value, key.clone()));
            }
        }
    }
    let mut searches = 0;
    for ((name, parameter), values) in &tried {
        for (value, key) in values {
            let pairs = [((*parameter).to_owned(), value.clone())];
            let Ok((query, _)) =
                search::parse(resource_type(name), &pairs, Handling::Strict, BASE, &Parameters::default())
            else {
                panic!("{name}?{parameter} is not understood");
            };
            let mut page = Page { count: 2000, after: None };
            // A page of large Bundles ends early.
            loop {
                let (query, asked) = (query.clone(), page.clone());
                let found = store.read(move |session| session.search(&[query], &asked)).await.unwrap();
                if found.hits.iter().any(|hit| hit.key == *key) {
                    break;
                }
                page.after = found.next;
                assert!(page.after.is_some(), "{name}?{parameter}={value} misses {}", key.id.as_str());
            }
            searches += 1;
        }
    }
    let own =
        |kind: ResourceType| search::parameters(kind).iter().filter(|one| !one.code.starts_with('_')).count();
    let all: usize = ResourceType::all().map(own).sum();
    let exercised = tried.keys().filter(|(_, code)| !code.starts_with('_')).count();
    println!(
        "{exported} examples; of {all} parameters {exercised} exercised by {searches} searches, {} without an example",
        all - exercised
    );
    assert!(tried.len() > 500, "{}", tried.len());
}
