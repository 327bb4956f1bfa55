//! The code systems and value sets of the specification itself, as far as elements must be from them.
//!
//! They are made from the tables of `definitions/`, and look like the resources that others store.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

/// The version of the value sets.
const VERSION: &str = "4.0.1";

/// The CodeSystem of the specification with this URL and, if one is named, this version.
pub fn code_system(url: &str, version: Option<&str>) -> Option<Arc<Value>> {
    static ALL: LazyLock<HashMap<String, Arc<Value>>> = LazyLock::new(read_code_systems);
    find(&ALL, url, version)
}

/// The ValueSet of the specification with this URL and, if one is named, this version.
pub fn value_set(url: &str, version: Option<&str>) -> Option<Arc<Value>> {
    static ALL: LazyLock<HashMap<String, Arc<Value>>> = LazyLock::new(read_value_sets);
    find(&ALL, url, version)
}

fn find(all: &HashMap<String, Arc<Value>>, url: &str, version: Option<&str>) -> Option<Arc<Value>> {
    let found = all.get(url)?;
    let fits = version.is_none_or(|version| found["version"] == version);
    fits.then(|| Arc::clone(found))
}

/// Reads `@address version name`, and below it `code<tab>display[<tab>abstract]`, as deep as there are blanks before.
fn read_code_systems() -> HashMap<String, Arc<Value>> {
    let mut systems: Vec<Value> = Vec::new();
    for line in include_str!("../../definitions/code_systems.txt").lines() {
        if let Some(header) = line.strip_prefix('@') {
            let mut words = header.splitn(3, ' ');
            let (url, version, name) = (words.next(), words.next(), words.next());
            systems.push(json!({
                "resourceType": "CodeSystem", "url": url, "version": version, "name": name, "status": "active",
                "caseSensitive": true, "content": "complete",
            }));
        } else if let Some(system) = systems.last_mut() {
            let code = line.trim_start_matches(' ');
            let mut words = code.split('\t');
            let mut concept = json!({"code": words.next()});
            if let Some(display) = words.next().filter(|display| !display.is_empty()) {
                concept["display"] = display.into();
            }
            if words.next().is_some() {
                concept["property"] = json!([{"code": "notSelectable", "valueBoolean": true}]);
            }
            add(system, concept, line.len() - code.len());
        }
    }
    by_url(systems)
}

/// Adds a concept at the end, so many concepts down.
fn add(above: &mut Value, concept: Value, depth: usize) {
    let mut concepts = &mut above["concept"];
    for _ in 0..depth {
        let Some(last) = concepts.as_array_mut().and_then(|all| all.last_mut()) else { return };
        concepts = &mut last["concept"];
    }
    match concepts.as_array_mut() {
        Some(all) => all.push(concept),
        None => *concepts = vec![concept].into(),
    }
}

/// Reads lines `address system name [code…]` with tabs between.
fn read_value_sets() -> HashMap<String, Arc<Value>> {
    let mut sets: Vec<Value> = Vec::new();
    for line in include_str!("../../definitions/value_sets.txt").lines() {
        let mut words = line.split('\t');
        let (url, system, name) = (words.next(), words.next(), words.next());
        let codes: Vec<Value> = words.map(|code| json!({"code": code})).collect();
        let include = if codes.is_empty() {
            json!({"system": system})
        } else {
            json!({"system": system, "concept": codes})
        };
        match sets.last_mut().filter(|set| set["url"].as_str() == url) {
            Some(set) => {
                if let Some(all) = set["compose"]["include"].as_array_mut() {
                    all.push(include);
                }
            }
            None => sets.push(json!({
                "resourceType": "ValueSet", "url": url, "version": VERSION, "name": name, "status": "active",
                "compose": {"include": [include]},
            })),
        }
    }
    by_url(sets)
}

fn by_url(all: Vec<Value>) -> HashMap<String, Arc<Value>> {
    all.into_iter().map(|one| (one["url"].as_str().unwrap_or_default().to_owned(), Arc::new(one))).collect()
}
