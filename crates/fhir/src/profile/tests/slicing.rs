//! Slices: how items are told apart, and what is asked of each slice.

use super::*;

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
