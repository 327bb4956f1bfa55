//! The part of `cargo xtask definitions` that writes the specification's rules.
//!
//! `invariants.txt` has a line `type element key severity expression words` for each, between tabs. The element is
//! empty if the rule is about the type itself, which may be a part such as `Patient.contact`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::definitions::{is_type, list, load, text};

/// Rules of which every element, or every resource, has a copy: where each is written once.
const COMMON: &[(&str, &str)] = &[
    ("ele-1", "Element"),
    ("ext-1", "Extension"),
    ("dom-2", "DomainResource"),
    ("dom-3", "DomainResource"),
    ("dom-4", "DomainResource"),
    ("dom-5", "DomainResource"),
];

/// Rules whose expression does not say what their words say: the key, a part of it, and what stands there instead.
const CORRECTIONS: &[(&str, &str, &str)] = &[
    // The type of an answer is `boolean`; no element is a `Boolean`. R4B says so.
    ("que-7", "answer is Boolean", "answer is boolean"),
];

/// Writes the table of every rule of a type into `out`. What only recommends (`elementdefinition-bestpractice`) is
/// left out: it would be said of nearly every record.
pub(crate) fn write(package: &Path, out: &Path) -> anyhow::Result<()> {
    let structures = load(package, "StructureDefinition-")?;
    let rules_of = |structure: &&Value| is_type(structure) || text(structure, "id") == "DomainResource";
    let mut lines = BTreeSet::new();
    let mut corrected = BTreeSet::new();
    for structure in structures.iter().filter(rules_of) {
        let elements: Vec<&Value> = list(&structure["snapshot"], "element").collect();
        for element in &elements {
            let path = text(element, "path");
            for rule in list(element, "constraint").filter(|rule| !is_recommendation(rule)) {
                let key = text(rule, "key");
                if COMMON.iter().any(|(common, owner)| *common == key && *owner != path) {
                    continue;
                }
                let mut expression = words(text(rule, "expression"));
                for (_, official, instead) in CORRECTIONS.iter().filter(|(own, ..)| *own == key) {
                    ensure!(expression.contains(official), "`{key}` is no longer what it was");
                    expression = expression.replace(official, instead);
                    corrected.insert(key);
                }
                let (owner, below) = owner(&elements, path)?;
                let human = words(text(rule, "human"));
                let severity = text(rule, "severity");
                lines.insert(format!("{owner}\t{below}\t{key}\t{severity}\t{expression}\t{human}\n"));
            }
        }
    }
    ensure!(corrected.len() == CORRECTIONS.len(), "a rule that was corrected is gone");
    Ok(std::fs::write(out.join("invariants.txt"), lines.into_iter().collect::<String>())?)
}

/// The type that an element is, if it has parts of its own, or the one above it and its name there.
fn owner<'p>(elements: &[&Value], path: &'p str) -> anyhow::Result<(&'p str, &'p str)> {
    let has_parts = elements
        .iter()
        .any(|other| text(other, "path").strip_prefix(path).is_some_and(|rest| rest.starts_with('.')));
    if has_parts || !path.contains('.') {
        return Ok((path, ""));
    }
    let (owner, name) = path.rsplit_once('.').context("an element without an owner")?;
    Ok((owner, name.strip_suffix("[x]").unwrap_or(name)))
}

fn is_recommendation(rule: &Value) -> bool {
    list(rule, "extension").any(|one| {
        text(one, "url").ends_with("/elementdefinition-bestpractice") && one["valueBoolean"] == true
    })
}

/// One blank between words.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
