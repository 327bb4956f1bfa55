//! The specification's own examples, and the synthetic population, in and out through the front door.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;
use ward_testkit::{Stack, repository};

use crate::empty_stack;

/// Types of which the package has hundreds that are alike; its plain examples are all the others.
const CONFORMANCE: &[&str] = &["CodeSystem", "SearchParameter", "StructureDefinition", "ValueSet"];

fn examples(plain: bool) -> Vec<Value> {
    let directory = repository("target/fhir-r4-examples/package");
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .unwrap_or_else(|_| panic!("`{}` is missing: run `cargo xtask test`", directory.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.ends_with(".json") && name != "package.json"
        })
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| serde_json::from_slice::<Value>(&std::fs::read(file).unwrap()).unwrap())
        .filter(|resource| {
            CONFORMANCE.contains(&resource["resourceType"].as_str().unwrap_or_default()) != plain
        })
        .collect()
}

fn write_lines(path: &Path, resources: &[Value]) {
    let lines: Vec<String> = resources.iter().map(Value::to_string).collect();
    std::fs::write(path, lines.join("\n")).unwrap();
}

fn import(stack: &Stack, path: &Path) -> Value {
    import_with(stack, path, &[])
}

fn import_with(stack: &Stack, path: &Path, options: &[&str]) -> Value {
    let output = stack.ward(&[&["import", path.to_str().unwrap()], options].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().find(|line| line.contains("\"accepted\""));
    let first = first.unwrap_or_else(|| panic!("{text}\n{}", stack.logs()));
    serde_json::from_str(first).unwrap()
}

fn count(report: &Value, outcome: &str) -> u64 {
    report["types"].as_object().unwrap().values().filter_map(|counts| counts[outcome].as_u64()).sum()
}

/// Everything that `ward export` wrote, by type and id.
fn exported(directory: &Path) -> BTreeMap<(String, String), Value> {
    let mut resources = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        for line in std::fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            let resource: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| resource[name].as_str().unwrap().to_owned();
            resources.insert((text("resourceType"), text("id")), resource);
        }
    }
    resources
}

fn without_server_fields(resource: &Value) -> Value {
    let mut resource = resource.clone();
    let meta = resource.get_mut("meta").and_then(Value::as_object_mut);
    let empty = meta.is_none_or(|meta| {
        meta.shift_remove("versionId");
        meta.shift_remove("lastUpdated");
        meta.is_empty()
    });
    if empty {
        resource.as_object_mut().unwrap().shift_remove("meta");
    }
    resource
}

#[test]
fn the_plain_examples_go_in_and_come_back_equal() {
    let stack = empty_stack();
    let all = examples(true);
    let file = stack.scratch().join("examples.ndjson");
    write_lines(&file, &all);
    let report = import(&stack, &file);
    let rejections: Vec<String> = report["rejections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rejection| {
            let place = rejection["place"].as_str().unwrap();
            let line: usize = place.rsplit(':').next().unwrap().parse().unwrap();
            let resource = &all[line - 1];
            format!(
                "{}/{}: {}",
                resource["resourceType"].as_str().unwrap(),
                resource["id"].as_str().unwrap_or("-"),
                rejection["reason"].as_str().unwrap()
            )
        })
        .collect();
    insta::assert_json_snapshot!("rejected_examples", rejections);
    assert_eq!(all.len(), 873);
    assert_eq!(count(&report, "created") + rejections.len() as u64, 873);

    // A second run changes nothing.
    let again = import(&stack, &file);
    assert_eq!(count(&again, "created") + count(&again, "updated"), 0);
    assert_eq!(count(&again, "unchanged"), count(&report, "created"));

    // What went in comes back by export, equal as JSON.
    let directory = stack.scratch().join("export");
    stack.ward_json(&["export", directory.to_str().unwrap()]);
    let out = exported(&directory);
    assert_eq!(out.len() as u64, count(&report, "created"));
    for resource in &all {
        let key = (
            resource["resourceType"].as_str().unwrap().to_owned(),
            resource["id"].as_str().unwrap_or_default().to_owned(),
        );
        if let Some(given) = out.get(&key) {
            assert_eq!(given, resource);
        }
    }

    // Every one of them is read over the API, and found by search with its id.
    let client = stack.signed_in("system/*.rs");
    for ((kind, id), resource) in &out {
        let answer = client.get(&format!("/fhir/R4/{kind}/{id}"));
        assert_eq!(answer.status, 200, "{kind}");
        assert_eq!(without_server_fields(&answer.json()), without_server_fields(resource));
        let found = client.search(kind, &format!("_id={id}"));
        assert_eq!(found.json()["entry"].as_array().map(Vec::len), Some(1), "{kind}: {}", found.text());
    }
}

#[test]
fn the_conformance_examples_load_as_far_as_they_are_valid() {
    let stack = empty_stack();
    let all = examples(false);
    let file = stack.scratch().join("conformance.ndjson");
    write_lines(&file, &all);
    let report = import(&stack, &file);
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    for rejection in report["rejections"].as_array().unwrap() {
        *reasons.entry(rejection["reason"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    insta::assert_json_snapshot!("conformance_examples", (count(&report, "created"), reasons));
}

#[test]
fn a_synthetic_population_goes_in_and_comes_back_equal() {
    let stack = empty_stack();
    let source = repository("../shared/data/synthea/r4.ndjson.gz");
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(std::fs::File::open(&source).unwrap())
        .read_to_string(&mut text)
        .unwrap();
    // The file holds some organizations and practitioners several times, 28 of them in a later form at its end.
    let mut last: BTreeMap<(String, String), Value> = BTreeMap::new();
    for line in text.lines() {
        let resource: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| resource[name].as_str().unwrap().to_owned();
        last.insert((text("resourceType"), text("id")), resource);
    }
    let report = import_with(&stack, &source, &["--overwrite"]);
    assert_eq!(report["rejections"].as_array().unwrap().len(), 0, "{}", report["rejections"][0]);
    let counts = ["created", "updated", "unchanged"].map(|outcome| count(&report, outcome));
    assert_eq!(counts, [5_252, 28, 18], "of 5,298");
    assert_eq!(last.len(), 5_252);
    let directory = stack.scratch().join("export");
    stack.ward_json(&["export", directory.to_str().unwrap()]);
    let out = exported(&directory);
    assert_eq!(out.len(), last.len());
    for (key, resource) in &last {
        assert_eq!(out.get(key), Some(resource));
    }
}

#[test]
fn a_thousand_made_up_patients_are_found_by_name() {
    let stack = empty_stack();
    let population = stack.ward(&["population", "--patients", "1000", "--seed", "42"]);
    let file = stack.scratch().join("population.ndjson");
    std::fs::write(&file, &population.stdout).unwrap();
    let report = import(&stack, &file);
    assert_eq!(report["rejections"].as_array().unwrap().len(), 0, "{}", report["rejections"][0]);
    assert_eq!(report["types"]["Patient"]["created"], 1000);
    let people: Vec<Value> = String::from_utf8_lossy(&population.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|resource| resource["resourceType"] == "Patient")
        .collect();
    let client = stack.signed_in("system/*.rs");
    for family in ["Nguyễn", "O'Connor", "Smith"] {
        let expected = people.iter().filter(|person| person["name"][0]["family"] == family).count();
        assert!(expected > 0);
        let form = format!("family={}&_count=500", family.replace('ễ', "e").replace('\'', "%27"));
        let found = client.search("Patient", &form).json();
        assert_eq!(found["entry"].as_array().map_or(0, Vec::len), expected, "{family}");
    }
}
