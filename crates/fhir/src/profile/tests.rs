mod hostile;
mod slicing;

use std::collections::HashMap;
use std::convert::Infallible;

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;
use crate::terminology::specification;

/// Definitions at hand, and the terminology of the specification.
#[derive(Default)]
struct Shelf {
    all: HashMap<String, Arc<Value>>,
    /// How often a StructureDefinition was asked for.
    asked: usize,
}

impl Shelf {
    fn of(all: &[Value]) -> Self {
        let by_url = |one: &Value| (one["url"].as_str().unwrap().to_owned(), Arc::new(one.clone()));
        Self { all: all.iter().map(by_url).collect(), asked: 0 }
    }

    fn find(&self, kind: &str, url: &str, version: Option<&str>) -> Option<Arc<Value>> {
        let fits = |one: &&Arc<Value>| {
            one["resourceType"] == kind && version.is_none_or(|version| one["version"] == version)
        };
        self.all.get(url).filter(fits).cloned()
    }
}

impl terminology::Definitions for Shelf {
    type Error = Infallible;

    fn code_system(&mut self, url: &str, version: Option<&str>) -> Result<Option<Arc<Value>>, Infallible> {
        Ok(self.find("CodeSystem", url, version).or_else(|| specification::code_system(url, version)))
    }

    fn value_set(&mut self, url: &str, version: Option<&str>) -> Result<Option<Arc<Value>>, Infallible> {
        Ok(self.find("ValueSet", url, version).or_else(|| specification::value_set(url, version)))
    }
}

impl Definitions for Shelf {
    fn structure_definition(
        &mut self,
        url: &str,
        version: Option<&str>,
    ) -> Result<Option<Arc<Value>>, Infallible> {
        self.asked += 1;
        Ok(self.find("StructureDefinition", url, version))
    }
}

const ASKED: &str = "urn:p/asked";

/// A profile of this type with a differential of these elements.
fn profile_at(url: &str, kind: &str, base: &str, elements: &Value) -> Value {
    json!({
        "resourceType": "StructureDefinition", "url": url, "name": "P", "status": "draft", "kind": "resource",
        "abstract": false, "type": kind, "baseDefinition": base, "derivation": "constraint",
        "differential": {"element": elements},
    })
}

fn profile_of(kind: &str, elements: &Value) -> Value {
    profile_at(ASKED, kind, &format!("{SPECIFIED}{kind}"), elements)
}

/// One issue a line: severity, code, place, words.
fn issues(resource: &Value, definitions: &[Value]) -> String {
    let line = |issue: &Issue| {
        let place = issue.expression.as_deref().unwrap_or("-");
        format!("{} {} {place}: {}\n", issue.severity.code(), issue.code.code(), issue.diagnostics)
    };
    let found = validate(resource, &[ASKED], &mut Shelf::of(definitions)).unwrap();
    found.iter().map(line).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
fn check(resource: Value, definitions: &[Value], expected: Expect) {
    expected.assert_eq(&issues(&resource, definitions));
}

/// A patient against a profile of these elements.
fn patient(more: Value, elements: Value, expected: Expect) {
    checked("Patient", more, elements, expected);
}

fn observation(more: Value, elements: Value, expected: Expect) {
    checked("Observation", more, elements, expected);
}

fn checked(kind: &str, more: Value, elements: Value, expected: Expect) {
    let mut resource = json!({"resourceType": kind});
    for (key, value) in more.as_object().unwrap() {
        resource[key] = value.clone();
    }
    check(resource, &[profile_of(kind, &elements)], expected);
}

fn sliced(rules: &str, kind: &str, path: &str) -> Value {
    json!({"discriminator": [{"type": kind, "path": path}], "rules": rules})
}

#[test]
fn a_profile_must_be_here_and_for_the_resource() {
    let stated = json!({"resourceType": "Patient", "meta": {"profile": ["urn:secret", ASKED]}});
    check(
        stated.clone(),
        &[],
        expect![[r#"
        error not-found Patient.meta.profile[1]: profile 1 of those asked for is not loaded: store its StructureDefinition
    "#]],
    );
    check(
        stated,
        &[profile_of("Observation", &json!([{"path": "Observation"}]))],
        expect![[r#"
        error invalid Patient.meta.profile[1]: profile 1 of those asked for is for another type of resource
    "#]],
    );
    check(
        json!({"resourceType": "Patient"}),
        &[json!({"resourceType": "StructureDefinition", "url": ASKED})],
        expect![[r#"
        error not-supported Patient: profile 1 of those asked for cannot be used: it is no profile: its `derivation` must be `constraint`
    "#]],
    );
    let asked = |kind: &str, profile: &str| {
        let mut shelf = Shelf::default();
        let found = validate(&json!({"resourceType": kind}), &[profile], &mut shelf).unwrap();
        assert_eq!(shelf.asked, 0);
        found.len()
    };
    assert_eq!(asked("Patient", "http://hl7.org/fhir/StructureDefinition/Patient|4.0.1"), 0);
    assert_eq!(asked("Patient", "http://hl7.org/fhir/StructureDefinition/DomainResource"), 0);
    assert_eq!(asked("Bundle", "http://hl7.org/fhir/StructureDefinition/DomainResource"), 1);
    assert_eq!(asked("Patient", "http://hl7.org/fhir/StructureDefinition/Observation"), 1);
    assert_eq!(asked("secret", "http://hl7.org/fhir/StructureDefinition/Observation"), 1);
}

#[test]
fn elements_are_counted() {
    let elements = json!([
        {"path": "Patient"},
        {"path": "Patient.identifier", "min": 1},
        {"path": "Patient.name", "min": 2, "max": "3"},
        {"path": "Patient.name.given", "max": "1"},
        {"path": "Patient.active", "max": "0"},
        {"path": "Patient.contact.name", "min": 1},
        {"path": "Patient.birthDate.extension", "min": 1},
    ]);
    patient(
        json!({}),
        elements.clone(),
        expect![[r#"
        error required Patient.identifier: asked: is required
        error required Patient.name: asked: must be there 2 times at least
    "#]],
    );
    patient(
        json!({
            "active": true, "name": [{"given": ["a", "b"]}, {}, {"_given": [{"id": "x"}, null, {"id": "y"}]}, {}],
            "identifier": [{}], "contact": [{"gender": "male"}, {"name": {}}], "birthDate": "2000",
        }),
        elements.clone(),
        expect![[r#"
            error structure Patient.name: asked: must be there 3 times at most
            error structure Patient.name[0].given: asked: must be there once at most
            error structure Patient.name[2].given: asked: must be there once at most
            error structure Patient.active: asked: must not be there
            error required Patient.contact[0].name: asked: is required
            error required Patient.birthDate.extension: asked: is required
        "#]],
    );
    patient(
        json!({
            "name": [{"given": ["a"]}, {}], "identifier": [{}, {}],
            "birthDate": "2000", "_birthDate": {"extension": [{"url": "urn:x"}]},
        }),
        elements,
        expect![[r#""#]],
    );
    // What the specification demands too is not said twice.
    observation(
        json!({}),
        json!([{"path": "Observation"}, {"path": "Observation.status", "min": 1}, {"path": "Observation.subject", "min": 1}]),
        expect![[r#"
            error required Observation.subject: asked: is required
        "#]],
    );
}

#[test]
fn choices_may_have_fewer_types() {
    let elements = json!([
        {"path": "Observation"},
        {"path": "Observation.value[x]", "min": 1, "type": [{"code": "Quantity"}, {"code": "string"}]},
    ]);
    observation(
        json!({"valueBoolean": true}),
        elements.clone(),
        expect![[r#"
        error structure Observation.value: asked: must be of type Quantity or string
    "#]],
    );
    observation(json!({"valueQuantity": {}}), elements.clone(), expect![[r#""#]]);
    observation(json!({"_valueString": {"id": "x"}}), elements, expect![[r#""#]]);
    // By their short names, each a slice.
    let elements = json!([
        {"path": "Observation"},
        {"path": "Observation.valueQuantity", "min": 1},
        {"path": "Observation.valueQuantity.code", "fixedCode": "kg"},
        {"path": "Observation.valueString", "maxLength": 2},
    ]);
    observation(
        json!({"valueBoolean": true}),
        elements.clone(),
        expect![[r#"
        error required Observation.value: asked: slice `valueQuantity` is required
    "#]],
    );
    observation(
        json!({"valueQuantity": {"code": "g"}}),
        elements.clone(),
        expect![[r#"
        error value Observation.value.code: asked: must have the value that the profile fixes
    "#]],
    );
    observation(
        json!({"valueString": "äöü"}),
        elements.clone(),
        expect![[r#"
        error required Observation.value: asked: slice `valueQuantity` is required
        error value Observation.value: asked: must have no more than 2 characters
    "#]],
    );
    observation(json!({"valueQuantity": {"code": "kg"}}), elements, expect![[r#""#]]);
    let elements = json!([
        {"id": "Observation", "path": "Observation"},
        {"id": "Observation.value[x]", "path": "Observation.value[x]",
            "slicing": {"discriminator": [{"type": "type", "path": "$this"}], "rules": "closed"}},
        {"id": "Observation.value[x]:valueQuantity", "path": "Observation.value[x]", "sliceName": "valueQuantity"},
        {"id": "Observation.value[x]:valueQuantity.unit", "path": "Observation.value[x].unit", "min": 1},
    ]);
    observation(
        json!({"valueQuantity": {"value": 1}}),
        elements.clone(),
        expect![[r#"
        error required Observation.value.unit: asked: is required
    "#]],
    );
    observation(
        json!({"valueInteger": 1}),
        elements.clone(),
        expect![[r#"
        error structure Observation.value: asked: is in none of the slices, and the profile allows nothing else
    "#]],
    );
    observation(json!({"valueQuantity": {"unit": "x"}}), elements, expect![[r#""#]]);
}

#[test]
fn values_are_fixed_or_follow_a_pattern() {
    let fixed = json!([
        {"path": "Patient"},
        {"path": "Patient.gender", "fixedCode": "female"},
        {"path": "Patient.maritalStatus", "fixedCodeableConcept": {"coding": [{"system": "s", "code": "M"}]}},
        {"path": "Patient.multipleBirth[x]", "fixedInteger": 2},
    ]);
    patient(
        json!({
            "gender": "female", "maritalStatus": {"coding": [{"code": "M", "system": "s"}]}, "multipleBirthInteger": 2,
        }),
        fixed.clone(),
        expect![[r#""#]],
    );
    patient(
        json!({"gender": "male", "maritalStatus": {"coding": [{"code": "M", "system": "s"}], "text": "x"}, "multipleBirthInteger": 3}),
        fixed.clone(),
        expect![[r#"
            error value Patient.gender: asked: must have the value that the profile fixes
            error value Patient.maritalStatus: asked: must have the value that the profile fixes
            error value Patient.multipleBirth: asked: must have the value that the profile fixes
        "#]],
    );
    patient(
        json!({"_gender": {"id": "x"}, "maritalStatus": {"coding": [{"code": "M", "system": "s"}, {}]}, "multipleBirthBoolean": true}),
        fixed,
        expect![[r#"
            error value Patient.gender: asked: must have the value that the profile fixes
            error value Patient.maritalStatus: asked: must have the value that the profile fixes
            error value Patient.multipleBirth: asked: must have the value that the profile fixes
        "#]],
    );
    let pattern = json!([
        {"path": "Observation"},
        {"path": "Observation.code", "patternCodeableConcept": {"coding": [{"system": "s", "code": "a"}, {"code": "b"}]}},
        {"path": "Observation.value[x]", "patternQuantity": {"value": 1.0, "unit": "x"}},
    ]);
    observation(
        json!({
            "code": {"coding": [{"code": "z"}, {"system": "t", "code": "b"}, {"system": "s", "code": "a", "display": "d"}], "text": "x"},
            "valueQuantity": {"value": 1, "unit": "x", "code": "c"},
        }),
        pattern.clone(),
        expect![[r#""#]],
    );
    observation(
        json!({"code": {"coding": [{"system": "t", "code": "a"}, {"code": "b"}]}, "valueQuantity": {"value": 1.5, "unit": "x"}}),
        pattern,
        expect![[r#"
            error value Observation.code: asked: must have what the pattern of the profile has
            error value Observation.value: asked: must have what the pattern of the profile has
        "#]],
    );
}

#[test]
fn values_have_bounds() {
    let elements = json!([
        {"path": "Observation"},
        {"path": "Observation.value[x]", "minValueQuantity": {"value": 10, "code": "kg", "system": "http://unitsofmeasure.org"}},
        {"path": "Observation.component.value[x]", "minValueInteger": 1, "maxValueInteger": 5},
        {"path": "Observation.issued", "maxValueInstant": "2020-01-01T00:00:00Z"},
    ]);
    observation(
        json!({
            "valueQuantity": {"value": 9, "code": "kg", "system": "http://unitsofmeasure.org"}, "issued": "2021-01-01T00:00:00Z",
            "component": [{"valueInteger": 0}, {"valueInteger": 1}, {"valueInteger": 6}, {"valueString": "x"}],
        }),
        elements.clone(),
        expect![[r#"
            error value Observation.value: asked: must not be less than the profile allows
            error value Observation.component[0].value: asked: must not be less than the profile allows
            error value Observation.component[2].value: asked: must not be more than the profile allows
            error value Observation.issued: asked: must not be more than the profile allows
            information incomplete -: asked: value: could not be compared with the least or greatest value of the profile
        "#]],
    );
    observation(
        json!({
            "valueQuantity": {"value": 9000, "code": "mL", "system": "http://unitsofmeasure.org"}, "issued": "2019-01-01T00:00:00Z",
        }),
        elements,
        expect![[r#"
            information incomplete -: asked: value: could not be compared with the least or greatest value of the profile
        "#]],
    );
}

#[test]
fn extensions_conform_to_their_definitions() {
    let extension = json!({
        "resourceType": "StructureDefinition", "url": "urn:p/e", "version": "1", "type": "Extension", "derivation": "constraint",
        "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Extension",
        "differential": {"element": [
            {"path": "Extension"}, {"path": "Extension.extension", "max": "0"}, {"path": "Extension.url", "fixedUri": "urn:p/e"},
            {"path": "Extension.value[x]", "min": 1, "type": [{"code": "CodeableConcept"}]},
            {"path": "Extension.value[x].text", "min": 1},
        ]},
    });
    let profile = profile_of(
        "Patient",
        &json!([
            {"path": "Patient"},
            {"id": "Patient.extension:e", "path": "Patient.extension", "sliceName": "e", "max": "1",
                "type": [{"code": "Extension", "profile": ["urn:p/e|1"]}]},
        ]),
    );
    let of = |extensions: Value| json!({"resourceType": "Patient", "extension": extensions});
    let right = json!({"url": "urn:p/e", "valueCodeableConcept": {"text": "x"}});
    let all = [profile.clone(), extension];
    check(of(json!([{"url": "urn:other", "valueCode": "x"}, right])), &all, expect![[r#""#]]);
    check(
        of(
            json!([{"url": "urn:p/e", "valueCode": "x"}, {"url": "urn:p/e", "valueCodeableConcept": {"coding": []}}]),
        ),
        &all,
        expect![[r#"
            error structure Patient.extension: asked: slice `e` must be there once at most
            error structure Patient.extension[0].value: e: must be of type CodeableConcept
            error required Patient.extension[1].value.text: e: is required
        "#]],
    );
    check(
        of(json!([{"url": "urn:p/e", "extension": [{"url": "x"}]}])),
        &all,
        expect![[r#"
        error structure Patient.extension[0].extension: e: must not be there
        error required Patient.extension[0].value: e: is required
    "#]],
    );
    check(
        of(json!([right])),
        &[profile],
        expect![[r#"
        error not-found Patient.extension[0]: asked: must conform to the profile `urn:p/e|1`, which is not loaded: store its StructureDefinition
    "#]],
    );
}

#[test]
fn data_types_conform_to_one_of_their_profiles() {
    let name = |url: &str, element: &str| {
        let path = format!("HumanName.{element}");
        profile_at(
            url,
            "HumanName",
            "http://hl7.org/fhir/StructureDefinition/HumanName",
            &json!([{"path": "HumanName"}, {"path": path, "min": 1}]),
        )
    };
    let elements = json!([
        {"path": "Patient"},
        {"path": "Patient.name", "type": [{"code": "HumanName", "profile": ["urn:p/family", "urn:p/given"]}]},
        {"path": "Patient.contact.name", "type": [{"code": "HumanName", "profile": ["urn:p/family"]}]},
        {"path": "Patient.contact.period", "type": [{"code": "Period", "profile": ["urn:p/family", "urn:p/absent"]}]},
        {"path": "Patient.maritalStatus", "type": [{"code": "CodeableConcept", "profile": ["urn:p/family"]}]},
    ]);
    let all =
        [profile_of("Patient", &elements), name("urn:p/family", "family"), name("urn:p/given", "given")];
    check(
        json!({"resourceType": "Patient", "name": [{"family": "x"}, {"given": ["x"]}, {"text": "x"}],
            "maritalStatus": {"text": "x"}, "contact": [{"name": {"text": "x"}}, {"period": {}}]}),
        &all,
        expect![[r#"
            error invalid Patient.name[2]: asked: conforms to none of the profiles of which it must conform to one
            error required Patient.contact[0].name.family: family: is required
            error not-found Patient.contact[1].period: asked: must conform to the profile `urn:p/absent`, which is not loaded: store its StructureDefinition
            error structure Patient.maritalStatus: asked: must be of type HumanName
        "#]],
    );
    let simple = json!([
        {"path": "Observation"},
        {"path": "Observation.value[x]", "type": [
            {"code": "Quantity", "profile": ["http://hl7.org/fhir/StructureDefinition/SimpleQuantity"]}, {"code": "string"}]},
    ]);
    observation(
        json!({"valueQuantity": {"value": 1, "comparator": "<"}}),
        simple.clone(),
        expect![[r#"
        error invariant Observation.value: asked: must have no `comparator`, as a SimpleQuantity has none
    "#]],
    );
    observation(json!({"valueQuantity": {"value": 1}}), simple.clone(), expect![[r#""#]]);
    observation(json!({"valueString": "x"}), simple, expect![[r#""#]]);
}

#[test]
fn references_are_to_types_that_are_allowed() {
    let target = profile_at(
        "urn:p/group",
        "Group",
        "http://hl7.org/fhir/StructureDefinition/Group",
        &json!([{"path": "Group"}]),
    );
    let elements = |more: &str| {
        json!([
            {"path": "Observation"},
            {"path": "Observation.subject", "type": [{"code": "Reference", "targetProfile":
                ["http://hl7.org/fhir/StructureDefinition/Patient", "urn:p/group", more]}]},
        ])
    };
    let of = |reference: &str, more: &str| {
        let resource = json!({"resourceType": "Observation", "subject": {"reference": reference},
            "contained": [{"resourceType": "Device", "id": "d"}, {"resourceType": "Group", "id": "g"}]});
        issues(&resource, &[profile_of("Observation", &elements(more)), target.clone()])
    };
    let device = "http://hl7.org/fhir/StructureDefinition/Device";
    let wrong = "error value Observation.subject: asked: must refer to: Patient, Group\n";
    for (reference, expected) in [
        ("Patient/1", ""),
        ("Patient/1/_history/2", ""),
        ("Group/1", ""),
        ("#g", ""),
        ("#nowhere", ""),
        ("http://elsewhere/Device/1", ""),
        ("urn:uuid:6f4a6f7e-0000-0000-0000-000000000000", ""),
        ("Device/1", wrong),
        ("#d", wrong),
    ] {
        assert_eq!(of(reference, "http://hl7.org/fhir/StructureDefinition/Group"), expected, "{reference}");
    }
    assert_eq!(of("Device/1", device), "");
    // Nobody knows for which type that is.
    assert_eq!(of("Device/1", "urn:p/absent"), "");
    assert_eq!(of("Device/1", "http://hl7.org/fhir/StructureDefinition/Resource"), "");
}

#[test]
fn rules_are_evaluated_where_they_stand() {
    let elements = json!([
        {"path": "Patient", "constraint": [
            {"key": "one", "severity": "error", "human": "needs a name", "expression": "name.exists()"},
            {"key": "two", "severity": "warning", "human": "should have two", "expression": "name.count() > 1"},
            {"key": "dom-6", "severity": "warning", "human": "x", "expression": "false"},
            {"key": "best", "severity": "warning", "human": "x", "expression": "false", "extension": [
                {"url": "http://hl7.org/fhir/StructureDefinition/elementdefinition-bestpractice", "valueBoolean": true}]},
            {"key": "set", "severity": "error", "human": "x", "expression": "gender.memberOf('urn:x')"},
        ]},
        {"path": "Patient.contact", "constraint": [
            // As the specification has it, and under the name of one of its rules.
            {"key": "pat-1", "severity": "error", "human": "x",
                "expression": "name.exists()  or telecom.exists() or address.exists() or organization.exists()"},
            {"key": "dom-2", "severity": "error", "human": "other", "expression": "false"}]},
        {"path": "Patient.name.given", "constraint": [
            {"key": "long", "severity": "error", "human": "too short", "expression": "$this.length() > 1 and %resource is Patient"}]},
        {"path": "Patient.deceased[x]", "constraint": [
            {"key": "date", "severity": "error", "human": "a date", "expression": "$this is dateTime"}]},
    ]);
    patient(
        json!({
            "name": [{"given": ["x", null, "xy"], "_given": [null, {"id": "x"}, null]}, {"given": [null, "y"], "_given": [null, null]}],
            "gender": "male", "contact": [{"gender": "male"}], "deceasedBoolean": true,
        }),
        elements.clone(),
        expect![[r#"
            error invariant Patient.contact[0]: asked: dom-2: other
            error invariant Patient.name[0].given[0]: asked: long: too short
            error invariant Patient.name[1].given[1]: asked: long: too short
            error invariant Patient.deceased: asked: date: a date
            information incomplete -: asked: set could not be checked: the expression needs a value set or profile that is not known here
        "#]],
    );
    patient(
        json!({"deceasedDateTime": "2000"}),
        elements,
        expect![[r#"
        error invariant Patient: asked: one: needs a name
        warning invariant Patient: asked: two: should have two
    "#]],
    );
}

#[test]
fn codes_come_from_the_value_sets_that_are_here() {
    let set = |url: &str, compose: Value| json!({"resourceType": "ValueSet", "url": url, "status": "draft", "compose": compose});
    let listed =
        set("urn:v/listed", json!({"include": [{"system": "s", "concept": [{"code": "a"}, {"code": "b"}]}]}));
    let vast = set(
        "urn:v/vast",
        json!({"include": [{"system": "http://snomed.info/sct", "filter": [
        {"property": "concept", "op": "is-a", "value": "138875005"}]}]}),
    );
    let bound = |strength: &str, set: &str| {
        let binding = json!({"strength": strength, "valueSet": set});
        let profile = profile_of(
            "Observation",
            &json!([
                {"path": "Observation"},
                {"path": "Observation.code", "binding": binding},
                {"path": "Observation.value[x]", "binding": binding},
                {"path": "Observation.language", "binding": binding},
                // The specification looks at that.
                {"path": "Observation.status", "binding": {"strength": "required",
                    "valueSet": "http://hl7.org/fhir/ValueSet/observation-status|4.0.1"}},
            ]),
        );
        [profile, listed.clone(), vast.clone()]
    };
    let of = |system: &str, code: &str| {
        json!({
            "resourceType": "Observation", "status": "secret", "language": code,
            "code": {"coding": [{"system": "t", "code": "x"}, {"system": system, "code": code}]},
            "valueQuantity": {"system": system, "code": code},
        })
    };
    check(of("s", "a"), &bound("required", "urn:v/listed"), expect![[r#""#]]);
    check(
        of("s", "c"),
        &bound("required", "urn:v/listed"),
        expect![[r#"
        error code-invalid Observation.code: asked: must have a code of the value set `urn:v/listed`
        error code-invalid Observation.value: asked: must have a code of the value set `urn:v/listed`
        error code-invalid Observation.language: asked: must have a code of the value set `urn:v/listed`
    "#]],
    );
    check(
        of("s", "c"),
        &bound("extensible", "urn:v/listed"),
        expect![[r#"
        warning code-invalid Observation.code: asked: should have a code of the value set `urn:v/listed`, if one of it fits
        warning code-invalid Observation.value: asked: should have a code of the value set `urn:v/listed`, if one of it fits
        warning code-invalid Observation.language: asked: should have a code of the value set `urn:v/listed`, if one of it fits
    "#]],
    );
    check(of("s", "c"), &bound("preferred", "urn:v/listed"), expect![[r#""#]]);
    check(
        of("s", "c"),
        &bound("required", "urn:v/vast"),
        expect![[r#"
        information incomplete -: the value set `urn:v/vast` could not be checked: a code system that this needs is not stored here: store its CodeSystem, with all of its codes
    "#]],
    );
    check(
        of("s", "c"),
        &bound("required", "urn:v/absent|2"),
        expect![[r#"
        information incomplete -: the value set `urn:v/absent|2` could not be checked: a value set that this needs is not stored here: store it as a ValueSet, under the URL by which it is named
    "#]],
    );
    let words = json!({"resourceType": "Observation", "code": {"text": "x"}, "valueCodeableConcept": {"extension": [{"url": "x"}]},
        "_language": {"id": "x"}});
    check(
        words.clone(),
        &bound("required", "urn:v/listed"),
        expect![[r#"
        error code-invalid Observation.code: asked: must have a code of the value set `urn:v/listed`
    "#]],
    );
    check(words, &bound("extensible", "urn:v/listed"), expect![[r#""#]]);
    let most = json!([
        {"path": "Patient"},
        {"path": "Patient.language", "binding": {"strength": "preferred", "extension": [
            {"url": "http://hl7.org/fhir/StructureDefinition/elementdefinition-maxValueSet", "valueCanonical": "urn:v/listed"}]}},
    ]);
    check(
        json!({"resourceType": "Patient", "language": "c"}),
        &[profile_of("Patient", &most), listed],
        expect![[r#"
        error code-invalid Patient.language: asked: must have a code of the value set `urn:v/listed`
    "#]],
    );
}

#[test]
fn what_refers_to_content_has_its_rules() {
    let elements = json!([
        {"id": "Questionnaire", "path": "Questionnaire"},
        {"id": "Questionnaire.item", "path": "Questionnaire.item"},
        {"id": "Questionnaire.item.text", "path": "Questionnaire.item.text", "min": 1},
        {"id": "Questionnaire.item.item", "path": "Questionnaire.item.item", "max": "1",
            "contentReference": "http://hl7.org/fhir/StructureDefinition/Questionnaire#Questionnaire.item"},
    ]);
    checked(
        "Questionnaire",
        json!({"item": [{"text": "x", "item": [{"text": "x", "item": [{"linkId": "x"}, {"text": "x"}]}]}]}),
        elements,
        expect![[r#"
            error structure Questionnaire.item[0].item[0].item: asked: must be there once at most
            error required Questionnaire.item[0].item[0].item[0].text: asked: is required
        "#]],
    );
}

#[test]
fn a_differential_stands_on_its_base() {
    let base = profile_at(
        "urn:p/base",
        "Observation",
        "http://hl7.org/fhir/StructureDefinition/Observation",
        &json!([
            {"path": "Observation", "constraint": [
                {"key": "r", "severity": "error", "human": "from the base", "expression": "method.exists()"}]},
            {"id": "Observation.component", "path": "Observation.component", "slicing": sliced("open", "value", "code")},
            {"id": "Observation.component:a", "path": "Observation.component", "sliceName": "a"},
            {"id": "Observation.component:a.code", "path": "Observation.component.code", "patternCodeableConcept": {"text": "a"}},
            {"id": "Observation.performer", "path": "Observation.performer", "min": 1},
        ]),
    );
    let derived = profile_at(
        ASKED,
        "Observation",
        "urn:p/base",
        &json!([
            {"id": "Observation", "path": "Observation"},
            // Neither says again how slices are told apart.
            {"id": "Observation.component:a", "path": "Observation.component", "sliceName": "a", "min": 1},
            {"id": "Observation.component:a.value[x]", "path": "Observation.component.value[x]", "min": 1},
        ]),
    );
    let all = [base.clone(), derived.clone()];
    check(
        json!({"resourceType": "Observation", "component": [{"code": {"text": "b"}}]}),
        &all,
        expect![[r#"
        error invariant Observation: asked: r: from the base
        error required Observation.component: asked: slice `a` is required
        error required Observation.performer: asked: is required
    "#]],
    );
    check(
        json!({"resourceType": "Observation", "method": {}, "performer": [{}], "component": [{"code": {"text": "a"}}]}),
        &all,
        expect![[r#"
            error required Observation.component[0].value: asked: is required
        "#]],
    );
    check(
        json!({"resourceType": "Observation"}),
        std::slice::from_ref(&derived),
        expect![[r#"
        error not-supported Observation: profile 1 of those asked for cannot be used: the profile that it is based on is not loaded: store its StructureDefinition, or one with a snapshot
    "#]],
    );
    let mut other = base.clone();
    other["type"] = "Patient".into();
    other["differential"]["element"] = json!([{"path": "Patient"}]);
    check(
        json!({"resourceType": "Observation"}),
        &[derived.clone(), other],
        expect![[r#"
        error not-supported Observation: profile 1 of those asked for cannot be used: it is for another type than its base
    "#]],
    );
    let mut circular = base;
    circular["baseDefinition"] = ASKED.into();
    check(
        json!({"resourceType": "Observation"}),
        &[derived.clone(), circular],
        expect![[r#"
        error not-supported Observation: profile 1 of those asked for cannot be used: it is based on itself, or on more than 16 other profiles
    "#]],
    );
    // A snapshot needs nothing else.
    let mut whole = derived;
    whole["snapshot"] = whole["differential"].clone();
    whole["snapshot"]["element"] = json!([{"path": "Observation"}, {"path": "Observation.method", "min": 1}]);
    check(
        json!({"resourceType": "Observation"}),
        &[whole],
        expect![[r#"
        error required Observation.method: asked: is required
    "#]],
    );
}
