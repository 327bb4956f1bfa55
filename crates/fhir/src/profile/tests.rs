use std::collections::HashMap;
use std::convert::Infallible;

use expect_test::{Expect, expect};
use proptest::prelude::*;
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

fn sliced(rules: &str, kind: &str, path: &str) -> Value {
    json!({"discriminator": [{"type": kind, "path": path}], "rules": rules})
}

#[test]
fn slices_are_told_apart_by_values() {
    let elements = |rules: &str| {
        json!([
            {"id": "Observation", "path": "Observation"},
            {"id": "Observation.category", "path": "Observation.category", "slicing": sliced(rules, "pattern", "$this")},
            {"id": "Observation.category:one", "path": "Observation.category", "sliceName": "one", "min": 1, "max": "1",
                "patternCodeableConcept": {"coding": [{"code": "one"}]}},
            {"id": "Observation.category:two", "path": "Observation.category", "sliceName": "two", "max": "2",
                "patternCodeableConcept": {"coding": [{"code": "two"}]}},
            {"id": "Observation.category:two.text", "path": "Observation.category.text", "min": 1},
        ])
    };
    let of = |codes: &[&str]| {
        let all: Vec<Value> =
            codes.iter().map(|code| json!({"coding": [{"code": code, "system": "s"}]})).collect();
        json!({"category": all})
    };
    observation(
        of(&["other", "two"]),
        elements("open"),
        expect![[r#"
        error required Observation.category: asked: slice `one` is required
        error required Observation.category[1].text: asked: is required
    "#]],
    );
    observation(
        of(&["one", "other", "one"]),
        elements("closed"),
        expect![[r#"
        error structure Observation.category[1]: asked: is in none of the slices, and the profile allows nothing else
        error structure Observation.category: asked: slice `one` must be there once at most
    "#]],
    );
    observation(of(&["one", "other"]), elements("openAtEnd"), expect![[r#""#]]);
    observation(
        of(&["other", "one"]),
        elements("openAtEnd"),
        expect![[r#"
        error structure Observation.category: asked: what is in no slice must stand after all that is
    "#]],
    );
    let mut ordered = elements("open");
    ordered[1]["slicing"]["ordered"] = true.into();
    ordered[4]["min"] = 0.into();
    observation(
        of(&["two", "one"]),
        ordered.clone(),
        expect![[r#"
        error structure Observation.category: asked: must stand in the order of the slices of the profile
    "#]],
    );
    observation(of(&["one", "other", "two"]), ordered, expect![[r#""#]]);
}

#[test]
fn slices_are_told_apart_by_what_is_below() {
    let elements = json!([
        {"id": "Observation", "path": "Observation"},
        {"id": "Observation.component", "path": "Observation.component", "slicing": {"rules": "closed", "discriminator": [
            {"type": "value", "path": "code.coding.code"}, {"type": "value", "path": "code.coding.system"}]}},
        // Fixed in a slice below, as in the specification's blood pressure.
        {"id": "Observation.component:fixed", "path": "Observation.component", "sliceName": "fixed", "min": 1},
        {"id": "Observation.component:fixed.code.coding", "path": "Observation.component.code.coding",
            "slicing": sliced("open", "value", "code")},
        {"id": "Observation.component:fixed.code.coding:x", "path": "Observation.component.code.coding", "sliceName": "x", "min": 1},
        {"id": "Observation.component:fixed.code.coding:x.code", "path": "Observation.component.code.coding.code", "fixedCode": "a"},
        {"id": "Observation.component:fixed.code.coding:x.system", "path": "Observation.component.code.coding.system", "fixedUri": "s"},
        // In a pattern above.
        {"id": "Observation.component:pattern", "path": "Observation.component", "sliceName": "pattern"},
        {"id": "Observation.component:pattern.code", "path": "Observation.component.code",
            "patternCodeableConcept": {"coding": [{"system": "s", "code": "b", "display": "B"}]}},
    ]);
    let of = |components: &[(&str, &str)]| {
        let code = |(system, code): &(&str, &str)| json!({"code": {"coding": [{"code": "z"}, {"system": system, "code": code}]}});
        json!({"component": components.iter().map(code).collect::<Vec<_>>()})
    };
    observation(of(&[("s", "a")]), elements.clone(), expect![[r#""#]]);
    // The second is in its slice by its code and system, and does not have the rest of the pattern.
    observation(
        of(&[("s", "c"), ("s", "b"), ("t", "a")]),
        elements,
        expect![[r#"
        error structure Observation.component[0]: asked: is in none of the slices, and the profile allows nothing else
        error structure Observation.component[2]: asked: is in none of the slices, and the profile allows nothing else
        error required Observation.component: asked: slice `fixed` is required
        error value Observation.component[1].code: asked: must have what the pattern of the profile has
    "#]],
    );
    // The discriminator leads to the code, and values are fixed further down.
    let elements = json!([
        {"id": "Observation", "path": "Observation"},
        {"id": "Observation.component", "path": "Observation.component", "slicing": sliced("closed", "value", "code")},
        {"id": "Observation.component:a", "path": "Observation.component", "sliceName": "a", "min": 1},
        {"id": "Observation.component:a.code.coding.code", "path": "Observation.component.code.coding.code", "fixedCode": "a"},
    ]);
    observation(
        of(&[("s", "a"), ("s", "b")]),
        elements.clone(),
        expect![[r#"
        error structure Observation.component[1]: asked: is in none of the slices, and the profile allows nothing else
        error value Observation.component[0].code.coding[0].code: asked: must have the value that the profile fixes
    "#]],
    );
    observation(
        json!({"component": [{"code": {"text": "a"}}]}),
        elements,
        expect![[r#"
        error structure Observation.component[0]: asked: is in none of the slices, and the profile allows nothing else
        error required Observation.component: asked: slice `a` is required
    "#]],
    );
}

#[test]
fn slices_are_told_apart_by_presence_type_and_binding() {
    let exists = json!([
        {"id": "Patient", "path": "Patient"},
        {"id": "Patient.telecom", "path": "Patient.telecom", "slicing": sliced("closed", "exists", "period")},
        {"id": "Patient.telecom:old", "path": "Patient.telecom", "sliceName": "old"},
        {"id": "Patient.telecom:old.period", "path": "Patient.telecom.period", "min": 1},
        {"id": "Patient.telecom:old.period.end", "path": "Patient.telecom.period.end", "min": 1},
        {"id": "Patient.telecom:now", "path": "Patient.telecom", "sliceName": "now", "min": 2},
        {"id": "Patient.telecom:now.period", "path": "Patient.telecom.period", "max": "0"},
    ]);
    patient(
        json!({"telecom": [{"value": "a"}, {"period": {"start": "2000"}}]}),
        exists,
        expect![[r#"
        error required Patient.telecom[1].period.end: asked: is required
        error required Patient.telecom: asked: slice `now` must be there 2 times at least
    "#]],
    );
    let types = json!([
        {"id": "Bundle", "path": "Bundle"},
        {"id": "Bundle.entry", "path": "Bundle.entry", "slicing": sliced("closed", "type", "resource")},
        {"id": "Bundle.entry:patient", "path": "Bundle.entry", "sliceName": "patient", "min": 1, "max": "1"},
        {"id": "Bundle.entry:patient.resource", "path": "Bundle.entry.resource", "type": [{"code": "Patient"}]},
        {"id": "Bundle.entry:patient.resource.name", "path": "Bundle.entry.resource.name", "min": 1},
    ]);
    checked(
        "Bundle",
        json!({"entry": [{"resource": {"resourceType": "Patient"}}, {"resource": {"resourceType": "Basic"}}]}),
        types,
        expect![[r#"
            error structure Bundle.entry[1]: asked: is in none of the slices, and the profile allows nothing else
            error required Bundle.entry[0].resource.name: asked: is required
        "#]],
    );
    let bound = json!([
        {"id": "Observation", "path": "Observation"},
        {"id": "Observation.category", "path": "Observation.category", "slicing": sliced("closed", "value", "$this")},
        {"id": "Observation.category:sex", "path": "Observation.category", "sliceName": "sex", "min": 1, "binding":
            {"strength": "required", "valueSet": "http://hl7.org/fhir/ValueSet/administrative-gender|4.0.1"}},
    ]);
    let code = |code: &str| json!({"coding": [{"system": "http://hl7.org/fhir/administrative-gender", "code": code}]});
    observation(
        json!({"category": [code("male"), code("x")]}),
        bound,
        expect![[r#"
        error structure Observation.category[1]: asked: is in none of the slices, and the profile allows nothing else
    "#]],
    );
}

#[test]
fn slices_may_be_of_extensions_and_of_types_below() {
    let elements = json!([
        {"id": "Patient", "path": "Patient"},
        {"id": "Patient.contact", "path": "Patient.contact", "slicing": sliced("closed", "value", "extension('urn:e').value.ofType(code)")},
        {"id": "Patient.contact:a", "path": "Patient.contact", "sliceName": "a", "max": "1"},
        {"id": "Patient.contact:a.extension:e", "path": "Patient.contact.extension", "sliceName": "e", "min": 1},
        {"id": "Patient.contact:a.extension:e.url", "path": "Patient.contact.extension.url", "fixedUri": "urn:e"},
        {"id": "Patient.contact:a.extension:e.value[x]", "path": "Patient.contact.extension.value[x]", "fixedCode": "a"},
    ]);
    let contact = |key: &str| {
        let mut extension = json!({"url": "urn:e"});
        extension[key] = "a".into();
        json!({"extension": [{"url": "urn:f", "valueCode": "b"}, extension]})
    };
    let contacts = json!({"contact": [contact("valueCode"), contact("valueString"), contact("valueCode")]});
    patient(
        contacts,
        elements,
        expect![[r#"
        error structure Patient.contact[1]: asked: is in none of the slices, and the profile allows nothing else
        error structure Patient.contact: asked: slice `a` must be there once at most
    "#]],
    );
}

#[test]
fn slices_have_slices() {
    let elements = json!([
        {"id": "Patient", "path": "Patient"},
        {"id": "Patient.identifier", "path": "Patient.identifier", "slicing": sliced("closed", "value", "system")},
        {"id": "Patient.identifier:a", "path": "Patient.identifier", "sliceName": "a", "slicing": sliced("closed", "value", "use")},
        {"id": "Patient.identifier:a.system", "path": "Patient.identifier.system", "fixedUri": "urn:a"},
        {"id": "Patient.identifier:a/b", "path": "Patient.identifier", "sliceName": "a/b", "min": 1},
        {"id": "Patient.identifier:a/b.use", "path": "Patient.identifier.use", "fixedCode": "official"},
        {"id": "Patient.identifier:@default", "path": "Patient.identifier", "sliceName": "@default"},
        {"id": "Patient.identifier:@default.value", "path": "Patient.identifier.value", "min": 1},
    ]);
    patient(
        json!({"identifier": [{"system": "urn:a", "use": "usual"}, {"system": "urn:x"}, {"system": "urn:x", "value": "v"}]}),
        elements,
        expect![[r#"
            error structure Patient.identifier[0]: asked: is in none of the slices, and the profile allows nothing else
            error required Patient.identifier: asked: slice `b` is required
            error required Patient.identifier[1].value: asked: is required
        "#]],
    );
}

#[test]
fn what_tells_slices_apart_may_be_out_of_reach() {
    let elements = |kind: &str, path: &str| {
        json!([
            {"id": "Observation", "path": "Observation"},
            {"id": "Observation.hasMember", "path": "Observation.hasMember", "slicing": sliced("closed", kind, path)},
            {"id": "Observation.hasMember:a", "path": "Observation.hasMember", "sliceName": "a", "min": 1},
            {"id": "Observation.hasMember:a.display", "path": "Observation.hasMember.display", "min": 1},
        ])
    };
    let members = json!({"hasMember": [{"reference": "Observation/1"}]});
    observation(
        members.clone(),
        elements("type", "resolve()"),
        expect![[r#"
        information incomplete -: asked: the slices of `hasMember` could not be told apart, and were not checked
    "#]],
    );
    observation(
        members.clone(),
        elements("profile", "$this"),
        expect![[r#"
        information incomplete -: asked: the slices of `hasMember` could not be told apart, and were not checked
    "#]],
    );
    // The slice demands nothing there.
    observation(
        members,
        elements("value", "reference"),
        expect![[r#"
        information incomplete -: asked: the slices of `hasMember` could not be told apart, and were not checked
    "#]],
    );
    observation(
        json!({}),
        elements("type", "resolve()"),
        expect![[r#"
        error required Observation.hasMember: asked: slice `a` is required
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

#[test]
fn what_cannot_be_understood_is_no_profile() {
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut profile =
            profile_of("Patient", &json!([{"id": "Patient", "path": "Patient"}, {"path": "Patient.name"}]));
        change(&mut profile);
        Profile::compile(&profile).map(|_| ()).unwrap_err().to_string()
    };
    let element = |more: Value| {
        broken(&move |profile: &mut Value| {
            for (key, value) in more.as_object().unwrap() {
                profile["differential"]["element"][1][key] = value.clone();
            }
        })
    };
    let mut told = String::new();
    let mut tell = |words: String| told.push_str(&format!("{words}\n"));
    tell(broken(&|profile| profile["resourceType"] = "Patient".into()));
    tell(broken(&|profile| profile["derivation"] = "specialization".into()));
    tell(broken(&|profile| profile["type"] = "Elsewhere".into()));
    tell(broken(&|profile| profile["type"] = "Patient.contact".into()));
    tell(broken(&|profile| profile["differential"] = json!({})));
    tell(broken(&|profile| {
        profile["differential"]["element"] = vec![json!({"path": "Patient"}); ELEMENTS_MAX + 1].into()
    }));
    tell(element(json!({"path": "Patient.nothing"})));
    tell(element(json!({"path": "Observation.code"})));
    tell(element(json!({"path": "Patient.name.given.value.more"})));
    tell(element(json!({"path": format!("Patient{}", ".extension".repeat(ELEMENT_DEPTH_MAX))})));
    tell(element(json!({"path": ""})));
    tell(element(json!({"min": -1})));
    tell(element(json!({"max": "many"})));
    tell(element(json!({"max": 1})));
    tell(element(json!({"maxLength": "1"})));
    tell(element(json!({"type": [{"code": "CodeableReference"}]})));
    tell(element(json!({"type": [{"code": "HumanName", "profile": [1]}]})));
    tell(element(json!({"type": {"code": "HumanName"}})));
    tell(element(json!({"binding": {}})));
    tell(element(json!({"patternHumanName": {"given": vec!["x"; DEMAND_VALUES_MAX]}})));
    let deep = (0..DEMAND_DEPTH_MAX).fold(json!("x"), |below, _| json!({"extension": [below]}));
    tell(element(json!({"fixedHumanName": deep})));
    tell(element(json!({"sliceName": "a/".repeat(100_000)})));
    tell(element(json!({"slicing": {"rules": "some"}})));
    for (kind, path) in [
        ("position", "$this"),
        ("value", ""),
        ("value", "where(x)"),
        ("value", "a..b"),
        ("value", "extension(x)"),
        ("value", "$thisx"),
    ] {
        tell(element(json!({"slicing": sliced("open", kind, path)})));
    }
    let rule = |severity: &str, expression: &str| json!({"key": "k", "severity": severity, "human": "h", "expression": expression});
    tell(element(json!({"constraint": [rule("error", "name.")]})));
    tell(element(json!({"constraint": [rule("fatal", "true")]})));
    tell(element(json!({"constraint": vec![rule("error", "true"); RULES_MAX + 1]})));
    tell(element(json!({"constraint": vec![rule("error", "matches('x')"); REGULAR_EXPRESSIONS_MAX + 1]})));
    tell(element(json!({"contentReference": "Patient.name"})));
    expect![[r#"
        it is no StructureDefinition
        it is no profile: its `derivation` must be `constraint`
        it names a type that R4 does not have
        it names a type that R4 does not have
        it has no elements
        it has more than 4000 elements
        element `Patient.nothing`: the type has no such element
        element `Observation.code`: the type has no such element
        element `Patient.name.given.value.more`: the type has no such element
        element `Patient.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension.extension`: it stands deeper than 32 elements
        element ``: it is not as FHIR defines it
        element `Patient.name`: it is not as FHIR defines it
        element `Patient.name`: it is not as FHIR defines it
        element `Patient.name`: it is not as FHIR defines it
        element `Patient.name`: it is not as FHIR defines it
        element `Patient.name`: it names a type that R4 does not have
        element `Patient.name`: it is not as FHIR defines it
        element `Patient.name`: it is not as FHIR defines it
        element `Patient.name`: it is not as FHIR defines it
        element `Patient.name`: its fixed value or pattern is larger than is accepted
        element `Patient.name`: its fixed value or pattern is larger than is accepted
        element `Patient.name`: it stands deeper than 32 elements
        element `Patient.name`: it is not as FHIR defines it
        element `Patient.name`: a discriminator cannot be understood
        element `Patient.name`: a discriminator cannot be understood
        element `Patient.name`: a discriminator cannot be understood
        element `Patient.name`: a discriminator cannot be understood
        element `Patient.name`: a discriminator cannot be understood
        element `Patient.name`: a discriminator cannot be understood
        element `Patient.name`: a rule cannot be understood: unexpected end at byte 5 of the expression
        element `Patient.name`: it is not as FHIR defines it
        element `Patient.name`: it has more than 500 rules, or 50 regular expressions in them
        element `Patient.name`: it has more than 500 rules, or 50 regular expressions in them
        element `Patient.name`: it is not as FHIR defines it
    "#]].assert_eq(&told);
    let broken = json!([{"id": "Patient", "path": "Patient"}, {"id": "Patient.x", "path": "Patient.x"}]);
    check(
        json!({"resourceType": "Patient"}),
        &[profile_of("Patient", &broken)],
        expect![[r#"
        error not-supported Patient: profile 1 of those asked for cannot be used: element `Patient.x`: the type has no such element
    "#]],
    );
}

/// However a profile and a resource are made, the steps end, and that is an error.
#[test]
fn work_is_bounded() {
    let costly = |resource: &Value, definitions: &[Value]| {
        let found = validate(resource, &[ASKED], &mut Shelf::of(definitions)).unwrap();
        assert!(found.len() <= ISSUES_MAX && found[0].code == IssueCode::TooCostly, "{found:?}");
    };
    // Many slices, none of which fits any of many items.
    let mut elements = vec![
        json!({"id": "Patient", "path": "Patient"}),
        json!({"id": "Patient.identifier", "path": "Patient.identifier", "slicing": sliced("open", "value", "system")}),
    ];
    for slice in 0..1_900 {
        let id = format!("Patient.identifier:s{slice}");
        elements.push(json!({"id": id, "path": "Patient.identifier", "sliceName": format!("s{slice}")}));
        elements
            .push(json!({"id": format!("{id}.system"), "path": "Patient.identifier.system", "fixedUri": id}));
    }
    let identifiers = vec![json!({"system": "urn:x"}); 20_000];
    costly(
        &json!({"resourceType": "Patient", "identifier": identifiers}),
        &[profile_of("Patient", &elements.into())],
    );
    // Patterns of arrays over arrays.
    let names: Vec<Value> = (0..300).map(|number| json!({"given": [format!("{number}")]})).collect();
    let elements =
        json!([{"path": "Patient"}, {"path": "Patient.name", "patternHumanName": {"given": vec!["y"; 900]}}]);
    let name = json!({"given": (0..9_000).map(|number| number.to_string()).chain(["y".to_owned()]).collect::<Vec<_>>()});
    costly(&json!({"resourceType": "Patient", "name": [name]}), &[profile_of("Patient", &elements)]);
    // A rule over all for each.
    let elements = json!([{"path": "Patient"}, {"path": "Patient.name", "constraint": [
        {"key": "k", "severity": "error", "human": "h", "expression": "%resource.name.given.exists()"}]}]);
    costly(
        &json!({"resourceType": "Patient", "name": vec![names; 30].concat()}),
        &[profile_of("Patient", &elements)],
    );
    // Slices of what nobody has, in very many.
    let mut elements = vec![
        json!({"id": "Patient", "path": "Patient"}),
        json!({"id": "Patient.name.extension", "path": "Patient.name.extension", "slicing": sliced("open", "value", "url")}),
    ];
    elements.extend((0..1_900).map(|slice| {
        json!({"id": format!("Patient.name.extension:s{slice}"), "path": "Patient.name.extension", "sliceName": format!("s{slice}")})
    }));
    let names = vec![json!({"text": "x"}); 5_000];
    costly(&json!({"resourceType": "Patient", "name": names}), &[profile_of("Patient", &elements.into())]);
    // A profile that leads to itself, as far down as there is something.
    let inner = profile_at(
        "urn:p/inner",
        "Extension",
        "http://hl7.org/fhir/StructureDefinition/Extension",
        &json!([
            {"path": "Extension"},
            {"path": "Extension.extension", "type": [{"code": "Extension", "profile": ["urn:p/inner"]}]},
        ]),
    );
    let outer = json!([
        {"path": "Patient"},
        {"path": "Patient.extension", "type": [{"code": "Extension", "profile": ["urn:p/inner"]}]},
    ]);
    let deep =
        (0..2 * DEPTH_MAX).fold(json!({"url": "x"}), |below, _| json!({"url": "x", "extension": [below]}));
    costly(&json!({"resourceType": "Patient", "extension": [deep]}), &[profile_of("Patient", &outer), inner]);
    // More issues than anybody reads.
    let elements = json!([{"path": "Patient"}, {"path": "Patient.name.family", "min": 1}]);
    let names = vec![json!({"text": "x"}); 1_000];
    let found = validate(
        &json!({"resourceType": "Patient", "name": names}),
        &[ASKED],
        &mut Shelf::of(&[profile_of("Patient", &elements)]),
    )
    .unwrap();
    assert_eq!(found.len(), ISSUES_MAX);
    assert_eq!(found.iter().filter(|issue| issue.is_error()).count(), ISSUES_MAX - 1);
}

/// Replaces every text below but those that say what something is, and adds an unknown property to every object.
fn spoil(value: &mut Value) {
    match value {
        Value::String(text) => *text = "SECRET".to_owned(),
        Value::Array(items) => items.iter_mut().for_each(spoil),
        Value::Object(object) => {
            let kept = ["resourceType", "url", "reference"];
            object.iter_mut().filter(|(key, _)| !kept.contains(&&***key)).for_each(|(_, value)| spoil(value));
            object.insert("SECRET".to_owned(), "SECRET".into());
        }
        _ => {}
    }
}

#[test]
fn issues_repeat_nothing_of_the_resource() {
    let set = json!({"resourceType": "ValueSet", "url": "urn:v", "compose": {"include": [{"system": "s", "concept": [{"code": "a"}]}]}});
    let elements = json!([
        {"id": "Patient", "path": "Patient"},
        {"id": "Patient.gender", "path": "Patient.gender", "fixedCode": "female"},
        {"id": "Patient.birthDate", "path": "Patient.birthDate", "minValueDate": "2000-01-01"},
        {"id": "Patient.name", "path": "Patient.name", "slicing": sliced("closed", "value", "use")},
        {"id": "Patient.name:a", "path": "Patient.name", "sliceName": "a", "min": 1},
        {"id": "Patient.name:a.use", "path": "Patient.name.use", "fixedCode": "official"},
        {"id": "Patient.name.family", "path": "Patient.name.family", "maxLength": 1, "constraint": [
            {"key": "k", "severity": "error", "human": "h", "expression": "$this.length() < 2"}]},
        {"id": "Patient.maritalStatus", "path": "Patient.maritalStatus", "binding": {"strength": "required", "valueSet": "urn:v"}},
        {"id": "Patient.managingOrganization", "path": "Patient.managingOrganization", "type": [
            {"code": "Reference", "targetProfile": ["http://hl7.org/fhir/StructureDefinition/Organization"]}]},
        {"id": "Patient.deceased[x]", "path": "Patient.deceased[x]", "type": [{"code": "boolean"}]},
    ]);
    let mut resource = json!({
        "resourceType": "Patient", "meta": {"profile": ["x"]}, "gender": "male", "birthDate": "2000", "name": [{"use": "usual", "family": "x"}],
        "maritalStatus": {"coding": [{"system": "x", "code": "x"}]}, "managingOrganization": {"reference": "Patient/SECRET"},
        "deceasedDateTime": "2000",
    });
    spoil(&mut resource);
    let found =
        validate(&resource, &[ASKED, "urn:SECRET"], &mut Shelf::of(&[profile_of("Patient", &elements), set]))
            .unwrap();
    assert!(found.len() >= 10, "{found:#?}");
    assert!(!format!("{found:?}").contains("SECRET"), "{found:#?}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2_i64..5).prop_map(Value::from),
        prop::sample::select(vec![
            "x",
            "url",
            "$this",
            "code",
            "Patient",
            "Extension",
            "required",
            "urn:p/asked",
            "error"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop::sample::select(vec![
            "code",
            "url",
            "extension",
            "valueSet",
            "key",
            "coding",
            "name",
            "profile",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.prop_map(str::to_owned), inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// An element that is nearly right.
fn any_element() -> impl Strategy<Value = Value> {
    let path = prop::sample::select(vec![
        "Patient",
        "Patient.name",
        "Patient.name.given",
        "Patient.extension",
        "Patient.extension.url",
        "Patient.extension.value[x]",
        "Patient.extension.valueCode",
        "Patient.deceased[x]",
        "Patient.contact.name",
        "Patient.contained",
        "Patient.contained.id",
        "Patient.birthDate.extension",
    ]);
    let slice = prop::option::of(prop::sample::select(vec!["a", "b", "a/b", "valueCode", "@default"]));
    let by = |kind: &str, path: &str| json!({"discriminator": [{"type": kind, "path": path}], "rules": "closed", "ordered": true});
    let right = prop::sample::select(vec![
        ("min", json!(1)),
        ("max", json!("0")),
        ("max", json!("1")),
        ("type", json!([{"code": "Extension", "profile": [ASKED, "urn:p/absent"]}])),
        ("type", json!([{"code": "HumanName", "profile": [ASKED]}, {"code": "string"}])),
        ("fixedCode", json!("x")),
        ("patternCodeableConcept", json!({"coding": [{"code": "x"}]})),
        ("patternString", json!("x")),
        ("maxLength", json!(2)),
        ("minValueDate", json!("2000-01-01")),
        (
            "binding",
            json!({"strength": "required", "valueSet": "http://hl7.org/fhir/ValueSet/administrative-gender"}),
        ),
        (
            "constraint",
            json!([{"key": "k", "severity": "error", "expression": "given.exists() or descendants().count() > 3"}]),
        ),
        ("contentReference", json!("#Patient.name")),
        ("contentReference", json!("#Patient.extension")),
        ("slicing", by("value", "url")),
        ("slicing", by("type", "$this")),
        ("slicing", by("exists", "value")),
        ("slicing", by("value", "extension('x').value.ofType(code)")),
    ]);
    let wrong = (
        prop::sample::select(vec!["min", "max", "type", "slicing", "binding", "id", "constraint"]),
        any_json(),
    );
    let likely = prop_oneof![60 => right, 1 => wrong];
    (path, slice, prop::collection::vec(likely, 0..4)).prop_map(|(path, slice, more)| {
        let mut element = json!({"path": path});
        if let Some(slice) = slice {
            element["sliceName"] = slice.into();
        }
        for (key, value) in more {
            element[key] = value;
        }
        element
    })
}

proptest! {
    /// And what is compiled says the same each time.
    #[test]
    fn nothing_panics(elements in prop::collection::vec(any_element(), 0..12), name in any_json(), extension in any_json(), date in any_json()) {
        let resource = json!({
            "resourceType": "Patient", "name": [name.clone(), {"given": ["x", null], "_given": [null, extension.clone()]}],
            "extension": [extension.clone(), {"url": "urn:p/asked", "valueCode": "x"}, {"url": "x", "extension": [extension]}],
            "deceasedDateTime": date, "birthDate": date, "_birthDate": name, "contact": [{"name": name}],
            "contained": [{"resourceType": "Basic", "id": "x"}, name],
        });
        let profile = profile_of("Patient", &elements.into());
        let first = issues(&resource, std::slice::from_ref(&profile));
        prop_assert!(first.lines().count() <= ISSUES_MAX);
        prop_assert_eq!(first, issues(&resource, &[profile]));
    }

    #[test]
    fn no_definition_panics(definition in any_json(), elements in any_json(), slicing in any_json()) {
        let _ = Profile::compile(&definition);
        let mut profile = profile_of("Patient", &elements);
        let _ = Profile::compile(&profile);
        profile["snapshot"] = json!({"element": [{"path": "Patient"}, {"path": "Patient.name", "slicing": slicing, "binding": elements}]});
        let _ = Profile::compile(&profile);
    }
}
