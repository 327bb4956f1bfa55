//! `cargo xtask definitions`: reduces the specification's definitions to the text tables of `crates/fhir/definitions`.
//!
//! `types.txt` has a header `@Path kind` for every resource type, data type and part of either, in byte order, and
//! below it a line `name min max type|type… [value set]` for every element. `codes.txt` has a line `value-set code
//! code…` for every required binding whose codes the package lists; `value_sets.txt` and `code_systems.txt` say where
//! those codes come from (see [`crate::terminology`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

/// Writes every table of the source tree, from `package` or, if there is none, from the one that the tests use.
pub(crate) fn run(root: &Path, package: Option<&Path>) -> anyhow::Result<()> {
    let fetched = root.join("target/fhir-r4-examples/package");
    let package = match package {
        Some(package) => package,
        None => {
            crate::test::examples(root)?;
            &fetched
        }
    };
    write(package, &root.join("crates/fhir/definitions"))
}

/// Writes every table into `out`.
fn write(package: &Path, out: &Path) -> anyhow::Result<()> {
    let structures = load(package, "StructureDefinition-")?;
    let codes = Codes::load(package)?;
    let mut definitions = BTreeMap::new();
    let mut used = BTreeMap::new();
    for structure in structures.iter().filter(|structure| is_type(structure)) {
        reduce(structure, &codes, &mut definitions, &mut used)?;
    }
    let mut types = String::new();
    for (path, Definition { kind, elements }) in definitions {
        writeln!(types, "@{path} {kind}")?;
        elements.iter().try_for_each(|element| writeln!(types, "{element}"))?;
    }
    std::fs::write(out.join("types.txt"), types)?;
    let mut lines = String::new();
    for (name, (_, codes)) in &used {
        let codes: BTreeSet<&str> = codes.iter().map(|(_, code)| code.as_str()).collect();
        writeln!(lines, "{name} {}", codes.into_iter().collect::<Vec<_>>().join(" "))?;
    }
    std::fs::write(out.join("codes.txt"), lines)?;
    crate::terminology::write(&codes, used.into_values(), out)?;
    let summaries: String =
        structures.iter().filter(|structure| is_type(structure)).flat_map(summaries).collect();
    std::fs::write(out.join("summary.txt"), summaries)?;
    crate::invariants::write(package, out)?;
    crate::search_parameters::write(package, out)
}

/// The JSON files of the package whose names begin with `prefix`, in the order of their names.
pub(crate) fn load(package: &Path, prefix: &str) -> anyhow::Result<Vec<Value>> {
    let mut files: Vec<_> = std::fs::read_dir(package)
        .with_context(|| format!("cannot read the package `{}`", package.display()))?
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(prefix) && name.ends_with(".json")
        })
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| {
            let bytes = std::fs::read(file)?;
            serde_json::from_slice(&bytes).with_context(|| format!("cannot read `{}`", file.display()))
        })
        .collect()
}

/// The text at `key`; empty if there is none.
pub(crate) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// The items at `key`; none if it is no array.
pub(crate) fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value[key].as_array().into_iter().flatten()
}

/// Whether a structure defines a type that may stand in JSON as an object, not a profile of one.
pub(crate) fn is_type(structure: &Value) -> bool {
    match text(structure, "kind") {
        "resource" => structure["abstract"] == false && text(structure, "derivation") == "specialization",
        "complex-type" => text(structure, "derivation") != "constraint",
        _ => false,
    }
}

struct Definition {
    kind: &'static str,
    elements: Vec<String>,
}

/// Appends the type and its parts to `definitions`, and the codes that it uses to `used`.
fn reduce(
    structure: &Value,
    codes: &Codes,
    definitions: &mut BTreeMap<String, Definition>,
    used: &mut BTreeMap<String, (String, SystemCodes)>,
) -> anyhow::Result<()> {
    let elements: Vec<&Value> = list(&structure["snapshot"], "element").collect();
    let has_parts = |path: &str| {
        elements
            .iter()
            .any(|other| text(other, "path").strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
    };
    for element in &elements {
        let path = text(element, "path");
        let Some((parent, name)) = path.rsplit_once('.') else {
            let kind = if text(structure, "kind") == "resource" { "resource" } else { "complex" };
            definitions.insert(path.to_owned(), Definition { kind, elements: Vec::new() });
            continue;
        };
        let types = if has_parts(path) {
            definitions.insert(path.to_owned(), Definition { kind: "backbone", elements: Vec::new() });
            path.to_owned()
        } else if let Some(other) = text(element, "contentReference").strip_prefix('#') {
            other.to_owned()
        } else {
            types(element)
        };
        let owner = definitions.get_mut(parent).with_context(|| format!("`{path}` has no owner"))?;
        // The snapshot gives every id the type string; a resource's is narrower (resource.html#id).
        let types = if owner.kind == "resource" && name == "id" { "id".to_owned() } else { types };
        let mut line = format!("{name} {} {} {types}", element["min"], text(element, "max"));
        if let Some((url, codes)) = binding(element, codes) {
            let name = url.rsplit('/').next().unwrap_or(url);
            write!(line, " {name}")?;
            used.insert(name.to_owned(), (url.to_owned(), codes));
        }
        owner.elements.push(line);
    }
    Ok(())
}

/// A line for a resource type and each of its parts, with the elements of a summary.
fn summaries(structure: &Value) -> Vec<String> {
    if text(structure, "kind") != "resource" {
        return Vec::new();
    }
    let mut lines: Vec<(&str, String)> = Vec::new();
    for element in list(&structure["snapshot"], "element").filter(|element| element["isSummary"] == true) {
        let Some((parent, name)) = text(element, "path").rsplit_once('.') else { continue };
        let name = name.strip_suffix("[x]").unwrap_or(name);
        match lines.iter_mut().find(|(path, _)| *path == parent) {
            Some((_, line)) => line.push_str(&format!(" {name}")),
            None => lines.push((parent, format!("{parent} {name}"))),
        }
    }
    lines.into_iter().map(|(_, line)| format!("{line}\n")).collect()
}

/// The types of an element, each once.
fn types(element: &Value) -> String {
    let mut names: Vec<&str> = Vec::new();
    for kind in list(element, "type") {
        // Types of FHIRPath stand for types of FHIR, which an extension names.
        let stands_for =
            list(kind, "extension").find(|one| text(one, "url").ends_with("/structuredefinition-fhir-type"));
        let name = stands_for.map_or_else(|| text(kind, "code"), |one| text(one, "valueUrl"));
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join("|")
}

/// The address of the value set that an element must be from and its codes, if they are listed.
fn binding<'v>(element: &'v Value, codes: &Codes) -> Option<(&'v str, SystemCodes)> {
    let binding = &element["binding"];
    if text(binding, "strength") != "required" {
        return None;
    }
    let url = text(binding, "valueSet").split('|').next()?;
    let codes = codes.of_value_set(url)?;
    Some((url, codes))
}

/// Code systems and codes of theirs.
pub(crate) type SystemCodes = BTreeSet<(String, String)>;

/// The value sets and code systems of the package, by URL.
pub(crate) struct Codes {
    pub(crate) value_sets: BTreeMap<String, Value>,
    pub(crate) systems: BTreeMap<String, Value>,
}

impl Codes {
    fn load(package: &Path) -> anyhow::Result<Self> {
        let by_url = |prefix| -> anyhow::Result<BTreeMap<String, Value>> {
            let all = load(package, prefix)?;
            Ok(all.into_iter().map(|one| (text(&one, "url").to_owned(), one)).collect())
        };
        Ok(Self { value_sets: by_url("ValueSet-")?, systems: by_url("CodeSystem-")? })
    }

    /// Every code of a value set; nothing if some of them are not in the package.
    fn of_value_set(&self, url: &str) -> Option<SystemCodes> {
        let set = self.value_sets.get(url.split('|').next()?)?;
        let compose = &set["compose"];
        let mut codes = BTreeSet::new();
        for include in list(compose, "include") {
            codes.extend(self.of_part(include)?);
        }
        for exclude in list(compose, "exclude") {
            for code in self.of_part(exclude)? {
                codes.remove(&code);
            }
        }
        Some(codes).filter(|codes| !codes.is_empty())
    }

    fn of_part(&self, part: &Value) -> Option<SystemCodes> {
        let mut codes: Option<SystemCodes> = None;
        if part.get("system").is_some() {
            let system = text(part, "system");
            codes = Some(self.of_system(part)?.into_iter().map(|code| (system.to_owned(), code)).collect());
        }
        // What is in a system and in value sets must be in all of them.
        for set in list(part, "valueSet") {
            let others = self.of_value_set(set.as_str()?)?;
            codes = Some(match codes {
                Some(codes) => codes.intersection(&others).cloned().collect(),
                None => others,
            });
        }
        codes
    }

    fn of_system(&self, part: &Value) -> Option<BTreeSet<String>> {
        if part.get("concept").is_some() {
            return Some(list(part, "concept").map(|concept| text(concept, "code").to_owned()).collect());
        }
        let system = self.systems.get(text(part, "system"))?;
        if text(system, "content") != "complete" {
            return None;
        }
        let mut under: Option<&Value> = None;
        for filter in list(part, "filter") {
            let is_a = text(filter, "property") == "concept" && text(filter, "op") == "is-a";
            if !is_a || under.is_some() {
                return None;
            }
            under = Some(find(system, text(filter, "value"))?);
        }
        let mut codes = BTreeSet::new();
        collect(under.unwrap_or(system), &mut codes);
        Some(codes)
    }
}

/// The concept with this code, anywhere below.
fn find<'v>(concept: &'v Value, code: &str) -> Option<&'v Value> {
    if text(concept, "code") == code {
        return Some(concept);
    }
    list(concept, "concept").find_map(|below| find(below, code))
}

/// The code of a concept, if it is one, and of all below it.
pub(crate) fn collect(concept: &Value, codes: &mut BTreeSet<String>) {
    if let Some(code) = concept["code"].as_str() {
        codes.insert(code.to_owned());
    }
    list(concept, "concept").for_each(|below| collect(below, codes));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever changes a table by hand, or this code, must change both.
    #[test]
    fn the_committed_tables_are_what_the_package_says() {
        let root = crate::root().unwrap();
        let package = root.join("target/fhir-r4-examples/package");
        assert!(package.exists(), "`{}` is missing: run `cargo xtask test`", package.display());
        let out = root.join("target/fhir-r4-examples/definitions");
        std::fs::create_dir_all(&out).unwrap();
        write(&package, &out).unwrap();
        for name in [
            "types.txt",
            "codes.txt",
            "value_sets.txt",
            "code_systems.txt",
            "invariants.txt",
            "summary.txt",
            "search_parameters.txt",
            "compartments.txt",
        ] {
            let committed = std::fs::read_to_string(root.join("crates/fhir/definitions").join(name)).unwrap();
            let written = std::fs::read_to_string(out.join(name)).unwrap();
            let difference =
                committed.lines().zip(written.lines()).find(|(committed, written)| committed != written);
            assert!(
                committed == written,
                "{name} differs, first in {difference:?}: run `cargo xtask definitions`"
            );
        }
    }

    #[test]
    fn codes_are_listed_only_if_all_are_known() {
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let system = json(
            r#"{"content": "complete", "concept": [{"code": "a", "concept": [{"code": "b"}, {"code": "c"}]}, {"code": "d"}]}"#,
        );
        let partial = json(r#"{"content": "fragment", "concept": [{"code": "a"}]}"#);
        let set = |include: &str, exclude: &str| {
            json(&format!(r#"{{"compose": {{"include": [{include}], "exclude": [{exclude}]}}}}"#))
        };
        let codes = Codes {
            systems: BTreeMap::from([("s".to_owned(), system), ("partial".to_owned(), partial)]),
            value_sets: BTreeMap::from([
                ("all".to_owned(), set(r#"{"system": "s"}"#, "")),
                (
                    "below".to_owned(),
                    set(
                        r#"{"system": "s", "filter": [{"property": "concept", "op": "is-a", "value": "a"}]}"#,
                        r#"{"system": "s", "concept": [{"code": "b"}]}"#,
                    ),
                ),
                ("both".to_owned(), set(r#"{"valueSet": ["all", "below"]}"#, "")),
                (
                    "other".to_owned(),
                    set(
                        r#"{"system": "s", "filter": [{"property": "concept", "op": "regex", "value": "a"}]}"#,
                        "",
                    ),
                ),
                ("some".to_owned(), set(r#"{"system": "s"}, {"system": "partial"}"#, "")),
                ("elsewhere".to_owned(), set(r#"{"system": "urn:ietf:bcp:13"}"#, "")),
            ]),
        };
        let of = |url: &str| {
            codes.of_value_set(url).map(|codes| codes.into_iter().map(|(_, code)| code).collect::<String>())
        };
        assert_eq!(of("all|4.0.1").as_deref(), Some("abcd"));
        assert_eq!(of("below").as_deref(), Some("ac"));
        assert_eq!(of("both").as_deref(), Some("ac"));
        assert_eq!((of("other"), of("some"), of("elsewhere"), of("nowhere")), (None, None, None, None));
    }
}
