//! Reduces the specification's SearchParameters and its compartments to two compact text tables.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use crate::definitions::{load, text};

/// Writes `search_parameters.txt` (`Type code kind targets expression`, tabs between; composites have their
/// components after the expression) and `compartments.txt` into `out`.
pub(crate) fn write(package: &Path, out: &Path) -> anyhow::Result<()> {
    let mut lines = BTreeSet::new();
    let definitions = load(package, "SearchParameter-")?;
    for parameter in &definitions {
        let (code, kind, expression) =
            (text(parameter, "code"), text(parameter, "type"), text(parameter, "expression"));
        // Examples that illustrate how a parameter is written define no standard one.
        if text(parameter, "id").starts_with("example") || expression.contains("extension(") {
            continue;
        }
        let targets: Vec<&str> = parameter["target"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|target| target.as_str())
            .collect();
        let mut components = Vec::new();
        for component in parameter["component"].as_array().into_iter().flatten() {
            let url = text(component, "definition");
            let of =
                definitions.iter().find(|one| text(one, "url") == url).context("an unknown component")?;
            components.push(format!(
                "{}={}={}",
                text(of, "code"),
                text(of, "type"),
                text(component, "expression")
            ));
        }
        for base in parameter["base"].as_array().into_iter().flatten().filter_map(|base| base.as_str()) {
            lines.insert(format!(
                "{base}\t{code}\t{kind}\t{}\t{}\t{}",
                targets.join(","),
                own_part(expression, base),
                components.join(";")
            ));
        }
    }
    let text_of_lines = lines.into_iter().collect::<Vec<_>>().join("\n");
    std::fs::write(out.join("search_parameters.txt"), text_of_lines + "\n")?;
    let mut members = String::new();
    for name in ["patient", "encounter", "relatedPerson", "practitioner", "device"] {
        let file = format!("CompartmentDefinition-{name}");
        let compartment = load(package, &file)?.into_iter().next().context("no compartment")?;
        for resource in compartment["resource"].as_array().into_iter().flatten() {
            let parameters: Vec<&str> =
                resource["param"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if !parameters.is_empty() {
                let owner = text(&compartment, "code");
                members.push_str(&format!("{owner} {} {}\n", text(resource, "code"), parameters.join(" ")));
            }
        }
    }
    Ok(std::fs::write(out.join("compartments.txt"), members)?)
}

/// A parameter that many types share has one expression for all of them: keeps the part that starts at `base`.
fn own_part(expression: &str, base: &str) -> String {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (position, letter) in expression.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            '|' if depth == 0 => {
                parts.push(&expression[start..position]);
                start = position + 1;
            }
            _ => {}
        }
    }
    parts.push(&expression[start..]);
    let own: Vec<&str> = parts
        .iter()
        .map(|part| part.trim())
        .filter(|part| {
            part.trim_start_matches('(').strip_prefix(base).is_some_and(|rest| rest.starts_with('.'))
        })
        .collect();
    if own.is_empty() { expression.replace(['\n', '\t'], " ") } else { own.join(" | ") }
}
