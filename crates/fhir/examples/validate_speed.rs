//! How long validation takes: `cargo run --package ward-fhir --example validate_speed`, in microseconds a resource,
//! over the specification's examples (`cargo xtask test` fetches them).
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement, run by hand")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use ward_fhir::{json, validate};

const ROUNDS: u32 = 20;

fn main() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fhir-r4-examples/package");
    let Ok(entries) = std::fs::read_dir(&directory) else {
        println!("`{}` is missing: run `cargo xtask test`", directory.display());
        return;
    };
    // What is not about patients is large and alike.
    let skipped = ["Bundle-", "CodeSystem-", "SearchParameter-", "StructureDefinition-", "ValueSet-"];
    let mut by_type: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if skipped.iter().any(|start| name.starts_with(start)) {
            continue;
        }
        let bytes = std::fs::read(entry.path()).unwrap();
        if let Ok(resource) = json::parse(&bytes, &json::Limits::default())
            && let Some(kind) = resource["resourceType"].as_str()
        {
            by_type.entry(kind.to_owned()).or_default().push(resource);
        }
    }
    let (mut all, mut spent) = (0, 0.0);
    let mut rows: Vec<(String, usize, f64)> = Vec::new();
    for (kind, resources) in by_type {
        // The first round reads the tables and fills the caches.
        resources.iter().for_each(|resource| drop(black_box(validate::resource(resource))));
        // The best round: a busy machine only adds.
        let round = |_| {
            let start = Instant::now();
            for resource in &resources {
                black_box(validate::resource(black_box(resource)));
            }
            start.elapsed()
        };
        let micros = (0..ROUNDS).map(round).min().unwrap_or_default().as_secs_f64() * 1e6;
        all += resources.len();
        spent += micros;
        rows.push((kind, resources.len(), micros / resources.len() as f64));
    }
    rows.sort_by(|left, right| right.2.total_cmp(&left.2));
    for (kind, count, micros) in rows.iter().filter(|(_, count, _)| *count >= 5) {
        println!("{micros:8.2} µs  {kind} ({count})");
    }
    println!("{:8.2} µs  all ({all})", spent / all as f64);
}
