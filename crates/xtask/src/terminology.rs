//! The part of `cargo xtask definitions` that says where the codes of the required bindings come from.
//!
//! `value_sets.txt` has a line `address system name [code…]`, with tabs between, for every code system that a value set
//! draws on; the codes only if they are not all that the system has. `code_systems.txt` has a header `@address version
//! name` for every such system that the package has in full, and below it a line `code display` for every concept,
//! with tabs between, after as many blanks as there are concepts above it. `abstract` stands after it if it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::definitions::{Codes, SystemCodes, collect, list, text};

/// Writes the tables for these value sets into `out`.
pub(crate) fn write(
    codes: &Codes,
    value_sets: impl Iterator<Item = (String, SystemCodes)>,
    out: &Path,
) -> anyhow::Result<()> {
    let mut lines = BTreeSet::new();
    let mut systems = BTreeMap::new();
    for (url, of_set) in value_sets {
        let url = url.split('|').next().unwrap_or_default();
        let name = text(codes.value_sets.get(url).unwrap_or(&Value::Null), "name");
        let mut by_system: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (system, code) in of_set {
            by_system.entry(system).or_default().insert(code);
        }
        for (system, own) in by_system {
            let mut line = format!("{url}\t{system}\t{name}");
            let definition = codes.systems.get(&system).filter(|known| text(known, "content") == "complete");
            let mut all = BTreeSet::new();
            if let Some(definition) = definition {
                collect(definition, &mut all);
                systems.insert(system, definition);
            }
            if own != all {
                own.iter().try_for_each(|code| write!(line, "\t{code}"))?;
            }
            lines.insert(line);
        }
    }
    let lines: String = lines.into_iter().map(|line| line + "\n").collect();
    std::fs::write(out.join("value_sets.txt"), lines)?;
    let mut text_of_systems = String::new();
    for (url, system) in systems {
        writeln!(text_of_systems, "@{url} {} {}", text(system, "version"), text(system, "name"))?;
        concepts(system, 0, &mut text_of_systems)?;
    }
    std::fs::write(out.join("code_systems.txt"), text_of_systems)?;
    Ok(())
}

/// The concepts right below one, and those below them.
fn concepts(above: &Value, depth: usize, out: &mut String) -> anyhow::Result<()> {
    for concept in list(above, "concept") {
        let is_abstract = list(concept, "property")
            .any(|property| text(property, "code") == "notSelectable" && property["valueBoolean"] == true);
        let display: Vec<&str> = text(concept, "display").split_whitespace().collect();
        let mark = if is_abstract { "\tabstract" } else { "" };
        writeln!(out, "{:depth$}{}\t{}{mark}", "", text(concept, "code"), display.join(" "))?;
        concepts(concept, depth + 1, out)?;
    }
    Ok(())
}
