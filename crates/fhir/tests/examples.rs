//! Validation against resources that others made: the specification's own examples and a synthetic population.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use expect_test::expect;
use serde_json::Value;
use ward_fhir::outcome::{Issue, IssueCode};
use ward_fhir::{ResourceType, json, search, validate};

/// Types of which the package has hundreds that are alike; its plain examples are all the others.
const DEFINITIONAL: &[&str] = &["CodeSystem", "SearchParameter", "StructureDefinition", "ValueSet"];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// File names and resources of the specification's package, in the order of the names.
fn examples(plain: bool) -> Vec<(String, Value)> {
    let directory = repository("target/fhir-r4-examples/package");
    let entries = std::fs::read_dir(&directory)
        .unwrap_or_else(|_| panic!("`{}` is missing: run `cargo xtask test`", directory.display()));
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json") && name != "package.json")
        .collect();
    names.sort();
    // One Bundle of the package is longer than what a server takes.
    let limits = json::Limits { bytes: 64 << 20, ..json::Limits::default() };
    names
        .into_iter()
        .map(|name| {
            let bytes = std::fs::read(directory.join(&name)).unwrap();
            let resource = json::parse(&bytes, &limits).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, resource)
        })
        .filter(|(_, resource)| {
            DEFINITIONAL.contains(&resource["resourceType"].as_str().unwrap_or_default()) != plain
        })
        .collect()
}

/// The examples with issues: the name of each, and below it every issue, alike ones once with their number.
fn rejected(examples: &[(String, Value)]) -> String {
    let mut out = String::new();
    for (name, resource) in examples {
        let mut alike: BTreeMap<String, usize> = BTreeMap::new();
        // Warnings reject nothing, but that a rule could not be checked should be said of none.
        let told = |issue: &Issue| issue.is_error() || issue.code == IssueCode::Incomplete;
        for issue in validate::resource(resource).into_iter().filter(told) {
            let place = issue.expression.unwrap_or_default();
            let place: String =
                place.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect();
            *alike.entry(format!("{} {place}: {}", issue.code.code(), issue.diagnostics)).or_default() += 1;
        }
        if !alike.is_empty() {
            out.push_str(&format!("{name}\n"));
        }
        for (issue, count) in alike {
            out.push_str(&format!("  {count} × {issue}\n"));
        }
    }
    out
}

/// What a parameter finds does not depend on the members that it is said not to look at.
#[test]
fn what_a_search_reads_of_an_example_is_what_its_parameters_find() {
    const BASE: &str = "https://ward.test/fhir/R4";
    let (mut found, mut left_out) = (0, 0);
    for (name, resource) in examples(true) {
        let text = serde_json::to_vec(&resource).unwrap();
        let kind = ResourceType::parse(resource["resourceType"].as_str().unwrap()).unwrap();
        for parameter in search::parameters(kind) {
            let read = search::read_for(&text, std::iter::once(parameter)).unwrap();
            let whole = search::extract_parameter(parameter, &resource, BASE);
            let of_read = search::extract_parameter(parameter, &read, BASE);
            assert!(whole == of_read, "{} of {name}", parameter.code);
            found += whole.len();
            left_out += resource.as_object().unwrap().len() - read.as_object().unwrap().len();
        }
    }
    assert!(found > 10_000 && left_out > 100_000, "{found} values, {left_out} members not read");
}

/// Each of these breaks a rule that the specification states without exceptions.
#[test]
fn plain_examples_are_rejected_only_where_they_break_the_specification() {
    let examples = examples(true);
    assert_eq!(examples.len(), 873);
    expect![[r#"
        Bundle-dataelements.json
          1 × invariant Bundle: bdl-7: FullUrl must be unique in a bundle, or else entries with the same fullUrl must have different meta.versionId (except in history bundles)
        ImplementationGuide-fhir.json
          1 × required ImplementationGuide.name: is required
          1 × required ImplementationGuide.status: is required
        Questionnaire-qs1.json
          11 × required Questionnaire.item.item.item.item.linkId: is required
          20 × required Questionnaire.item.item.item.linkId: is required
          1 × required Questionnaire.item.item.linkId: is required
        ig-r4.json
          1 × required ImplementationGuide.name: is required
          1 × required ImplementationGuide.status: is required
    "#]]
    .assert_eq(&rejected(&examples));
}

#[test]
fn definitional_examples_are_rejected_only_where_they_break_the_specification() {
    let examples = examples(false);
    assert_eq!(examples.len(), 4433);
    expect![[r#"
        SearchParameter-codesystem-extensions-CodeSystem-author.json
          1 × required SearchParameter.base: is required
        SearchParameter-codesystem-extensions-CodeSystem-effective.json
          1 × required SearchParameter.base: is required
        SearchParameter-codesystem-extensions-CodeSystem-end.json
          1 × required SearchParameter.base: is required
        SearchParameter-codesystem-extensions-CodeSystem-keyword.json
          1 × required SearchParameter.base: is required
        SearchParameter-codesystem-extensions-CodeSystem-workflow.json
          1 × required SearchParameter.base: is required
        SearchParameter-questionnaireresponse-extensions-QuestionnaireResponse-item-subject.json
          1 × value SearchParameter.id: must be an id: 1 to 64 of A-Z, a-z, 0-9, `-` and `.`
        SearchParameter-valueset-extensions-ValueSet-author.json
          1 × required SearchParameter.base: is required
        SearchParameter-valueset-extensions-ValueSet-effective.json
          1 × required SearchParameter.base: is required
        SearchParameter-valueset-extensions-ValueSet-end.json
          1 × required SearchParameter.base: is required
        SearchParameter-valueset-extensions-ValueSet-keyword.json
          1 × required SearchParameter.base: is required
        SearchParameter-valueset-extensions-ValueSet-workflow.json
          1 × required SearchParameter.base: is required
        StructureDefinition-Definition.json
          1 × invariant StructureDefinition: sdf-4: If the structure is not abstract, then there SHALL be a baseDefinition
        StructureDefinition-Event.json
          1 × invariant StructureDefinition: sdf-4: If the structure is not abstract, then there SHALL be a baseDefinition
        StructureDefinition-FiveWs.json
          1 × invariant StructureDefinition: sdf-4: If the structure is not abstract, then there SHALL be a baseDefinition
        StructureDefinition-Request.json
          1 × invariant StructureDefinition: sdf-4: If the structure is not abstract, then there SHALL be a baseDefinition
    "#]]
    .assert_eq(&rejected(&examples));
}

#[test]
fn a_synthetic_population_is_accepted() {
    let path = repository("../shared/data/synthea/r4.ndjson.gz");
    let file = std::fs::File::open(&path).unwrap_or_else(|_| panic!("`{}` is missing", path.display()));
    let mut checked = 0;
    for line in std::io::BufReader::new(flate2::read::GzDecoder::new(file)).lines() {
        let resource = json::parse(line.unwrap().as_bytes(), &json::Limits::default()).unwrap();
        assert_eq!(validate::resource(&resource), []);
        checked += 1;
    }
    assert_eq!(checked, 5298);
}
