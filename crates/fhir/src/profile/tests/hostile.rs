//! Profiles and resources that mean no good: what is no profile, what costs too much, and what an issue may repeat.

use proptest::prelude::*;

use super::*;

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
