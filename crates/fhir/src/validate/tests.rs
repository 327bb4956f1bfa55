use super::*;
use expect_test::{Expect, expect};
use serde_json::json;

/// One issue a line: code, place, words.
fn issues(resource: &Value) -> String {
    let line = |issue: &Issue| {
        let place = issue.expression.as_deref().unwrap_or("-");
        format!("{} {place}: {}\n", issue.code.code(), issue.diagnostics)
    };
    super::resource(resource).iter().map(line).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
fn check(resource: Value, expected: Expect) {
    expected.assert_eq(&issues(&resource));
}

#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
fn valid(resource: Value) {
    assert_eq!(issues(&resource), "");
}

fn observation(more: Value) -> Value {
    let mut resource = json!({"resourceType": "Observation", "status": "final", "code": {"text": "x"}});
    for (key, value) in more.as_object().unwrap() {
        resource[key] = value.clone();
    }
    resource
}

#[test]
fn what_is_no_resource_is_refused() {
    for value in [json!(null), json!("Patient"), json!([])] {
        check(
            value,
            expect![[r#"
            structure -: a resource must be an object
        "#]],
        );
    }
    check(
        json!({}),
        expect![[r#"
        structure -: a resource must have a `resourceType`
    "#]],
    );
    for name in [json!("patient"), json!("HumanName"), json!("DomainResource"), json!(1), json!(["Patient"])]
    {
        check(
            json!({"resourceType": name}),
            expect![[r#"
            structure -: `resourceType` must name a resource type of FHIR R4
        "#]],
        );
    }
    valid(json!({"resourceType": "Patient"}));
}

#[test]
fn rules_are_told_by_their_key_and_words() {
    check(
        json!({
            "resourceType": "Patient",
            "contact": [{"gender": "male"}],
            "name": [{"id": "x"}],
            "identifier": [{"period": {"start": "2020-02-01", "end": "2020-01-01"}}],
            "managingOrganization": {"reference": "#nowhere"},
            "contained": [{"resourceType": "Organization", "id": "o", "name": "x", "meta": {"versionId": "1"}}],
            "extension": [{"url": "http://example.org"}],
        }),
        expect![[r#"
            invariant Patient.contact[0]: pat-1: SHALL at least contain a contact's details or a reference to an organization
            invariant Patient.name[0]: ele-1: All FHIR elements must have a @value or children
            invariant Patient.identifier[0].period: per-1: If present, start SHALL have a lower value than end
            invariant Patient.managingOrganization: ref-1: SHALL have a contained resource if a local reference is provided
            invariant Patient.extension[0]: ext-1: Must have either extensions or value[x], not both
            invariant Patient: dom-3: If the resource is contained in another resource, it SHALL be referred to from elsewhere in the resource or SHALL refer to the containing resource
            invariant Patient: dom-4: If a resource is contained in another resource, it SHALL NOT have a meta.versionId or a meta.lastUpdated
        "#]],
    );
    // Of different precision: not proven wrong.
    valid(
        json!({"resourceType": "Patient", "identifier": [{"period": {"start": "2020-01-01", "end": "2020"}}]}),
    );
    valid(json!({
        "resourceType": "Patient",
        "managingOrganization": {"reference": "#o"},
        "contained": [{"resourceType": "Organization", "id": "o", "name": "x"}],
    }));
    // In a Bundle, each resource is a root of its own.
    check(
        json!({"resourceType": "Bundle", "type": "collection", "entry": [
            {"resource": {"resourceType": "Organization", "telecom": [{"system": "phone", "use": "home"}]}},
            {"resource": {
                "resourceType": "Patient",
                "managingOrganization": {"reference": "#o"},
                "contained": [{
                    "resourceType": "Organization", "id": "o", "name": "x", "partOf": {"reference": "#o"},
                }],
            }},
            {"resource": {"resourceType": "Patient", "managingOrganization": {"reference": "#o"}}},
        ]}),
        expect![[r#"
            invariant Bundle.entry[0].resource: org-1: The organization SHALL at least have a name or an identifier, and possibly more than one
            invariant Bundle.entry[0].resource: org-3: The telecom of an organization can never be of use 'home'
            invariant Bundle.entry[2].resource.managingOrganization: ref-1: SHALL have a contained resource if a local reference is provided
        "#]],
    );
    let warned =
        super::resource(&json!({"resourceType": "ValueSet", "status": "draft", "name": "no identifier"}));
    assert_eq!(warned.iter().map(Issue::is_error).collect::<Vec<_>>(), [false]);
}

#[test]
fn warnings_do_not_hide_errors() {
    let set = json!({"resource": {"resourceType": "ValueSet", "status": "draft", "name": "no identifier"}});
    let mut entries = vec![set; 60];
    entries.push(json!({"resource": {"resourceType": "Patient", "gender": "x"}}));
    let found = super::resource(&json!({"resourceType": "Bundle", "type": "collection", "entry": entries}));
    assert_eq!(found.iter().filter(|issue| !issue.is_error()).count(), ISSUES_MAX);
    assert_eq!(found.iter().filter(|issue| issue.is_error()).count(), 1);
    assert!(found[0].is_error());
}

#[test]
fn rules_take_no_longer_than_is_accepted() {
    let many = |count: usize| -> Vec<Value> {
        (0..count)
            .map(|id| json!({"resourceType": "Basic", "id": format!("b{id}"), "code": {"text": "x"}}))
            .collect()
    };
    let found = super::resource(&json!({"resourceType": "Patient", "contained": many(20_000)}));
    assert!(found.iter().any(|issue| issue.diagnostics.starts_with("dom-3")), "{found:?}");
    let codings: Vec<Value> =
        (0..3000).map(|code| json!({"system": "x", "code": code.to_string()})).collect();
    let component = json!({"code": {"coding": codings}, "valueBoolean": true});
    let found = super::resource(&json!({
        "resourceType": "Observation", "status": "final", "code": {"coding": codings.clone()},
        "valueBoolean": true, "effectivePeriod": {"start": "x", "end": "2020"}, "component": vec![component; 400],
    }));
    let told = found.iter().map(|issue| format!("{} {}", issue.code.code(), issue.diagnostics));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "value must be a date, or a date with time and zone such as 2015-02-07T13:28:17-05:00",
            "too-costly obs-7 could not be checked: the expression needs more work than is accepted",
            "incomplete per-1 could not be checked: the expression applies an operator or a function to a type that it \
             does not take",
        ],
    );
}

#[test]
fn a_null_in_a_list_is_looked_up_once_however_many_there_are() {
    let extended = |position: usize| if position == 7 { Value::Null } else { json!({"id": "x"}) };
    let mut name = serde_json::Map::new();
    name.insert("given".to_owned(), vec![Value::Null; 100_000].into());
    name.extend((0..100_000).map(|number| (format!("x{number}"), true.into())));
    name.insert("_given".to_owned(), (0..100_000).map(extended).collect());
    let found = super::resource(&json!({"resourceType": "Patient", "name": [name]}));
    let place = found[0].expression.as_deref();
    assert_eq!(
        (place, &*found[0].diagnostics),
        (Some("Patient.name[0].given[7]"), "null may stand only where an extension says why")
    );
    assert!(found[1..ISSUES_MAX].iter().all(|issue| issue.diagnostics.starts_with("property")));
}

#[test]
fn structure_is_that_of_the_definitions() {
    check(
        json!({
            "resourceType": "Patient",
            "secret": 1,
            "name": {"family": "x"},
            "gender": ["male"],
            "active": "true",
            "telecom": [],
            "contact": [{}],
            "maritalStatus": "x",
            "address": [null, {"line": ["x", 5], "_city": {"secret": 1}, "_period": {"id": "x"}}],
            "_name": [{"id": "x"}],
        }),
        expect![[r#"
            structure Patient: property 2 is not an element of `Patient`
            structure Patient.name: must be an array
            structure Patient.gender: must not be an array
            structure Patient.active: must be true or false, without quotes
            structure Patient.telecom: an array must not be empty
            structure Patient.contact[0]: an object must not be empty
            structure Patient.maritalStatus: must be an object
            structure Patient.address[0]: must be an object
            structure Patient.address[1].line[1]: must be text that is not empty and has no control characters
            structure Patient.address[1].city: property 1 is not an element of `Element`
            structure Patient.address[1]: property 3 is not an element of `Address`
            structure Patient: property 10 is not an element of `Patient`
        "#]],
    );
}

#[test]
fn what_is_required_must_be_there_if_only_by_an_extension() {
    let absent = json!({"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]});
    check(
        json!({"resourceType": "Observation", "component": [{"valueString": "x"}]}),
        expect![[r#"
        required Observation.component[0].code: is required
        required Observation.status: is required
        required Observation.code: is required
    "#]],
    );
    valid(json!({"resourceType": "Observation", "_status": absent, "code": {"text": "x"}}));
}

#[test]
fn a_choice_has_one_form() {
    valid(observation(json!({"valueQuantity": {"value": 1.0}})));
    valid(observation(json!({"valueString": "x", "_valueString": {"id": "a"}})));
    check(
        observation(json!({"valueString": "x", "valueBoolean": true})),
        expect![[r#"
        structure Observation.value: must have one type only
    "#]],
    );
    check(
        observation(json!({"valueString": "x", "_valueInteger": {"id": "a"}})),
        expect![[r#"
        structure Observation.value: must have one type only
    "#]],
    );
    check(
        observation(json!({"value": "x", "valueMoney": {"value": 1}})),
        expect![[r#"
        structure Observation: property 4 is not an element of `Observation`
        structure Observation: property 5 is not an element of `Observation`
    "#]],
    );
    check(
        json!({"resourceType": "Patient", "extension": [{"url": "urn:x", "valueCode": " x"}]}),
        expect![[r#"
        value Patient.extension[0].value: must be a code: text without blanks around it or two in a row
    "#]],
    );
    // One of the choices that must be made.
    check(
        json!({"resourceType": "MedicationRequest", "status": "active", "intent": "order", "subject": {"display": "x"}}),
        expect![[r#"
        required MedicationRequest.medication: is required
    "#]],
    );
}

#[test]
fn arrays_of_primitives_and_what_extends_them_belong_together() {
    let given = |given: Value, extends: Value| json!({"resourceType": "Patient", "name": [{"given": given, "_given": extends}]});
    valid(given(json!(["a", null]), json!([null, {"id": "x"}])));
    valid(json!({"resourceType": "Patient", "name": [{"_given": [{"id": "x"}]}]}));
    check(
        given(json!(["a", null]), json!([{"id": "x"}, null])),
        expect![[r#"
        structure Patient.name[0].given[1]: null may stand only where an extension says why
    "#]],
    );
    check(
        given(json!(["a"]), json!([null, {"id": "x"}])),
        expect![[r#"
        structure Patient.name[0].given: an array and what extends it must have the same length
    "#]],
    );
    check(
        given(json!(["a"]), json!({"id": "x"})),
        expect![[r#"
        structure Patient.name[0].given: what extends an array of primitives must be an array
    "#]],
    );
    check(
        given(json!(["a", "b"]), json!([1, {}])),
        expect![[r#"
        structure Patient.name[0].given[0]: what extends a primitive must be an object
        structure Patient.name[0].given[1]: an object must not be empty
    "#]],
    );
    check(
        json!({"resourceType": "Patient", "name": [{"_given": [null]}], "_gender": [{"id": "x"}]}),
        expect![[r#"
        structure Patient.name[0].given[0]: null may stand only where there is a value
        structure Patient.gender: what extends a primitive must be an object
    "#]],
    );
    check(
        json!({"resourceType": "Patient", "gender": null, "_active": null}),
        expect![[r#"
        structure Patient.gender: must be a code: text without blanks around it or two in a row
        structure Patient.active: what extends a primitive must be an object
    "#]],
    );
}

#[test]
fn required_bindings_hold() {
    check(
        json!({"resourceType": "Patient", "gender": "Male"}),
        expect![[r#"
        code-invalid Patient.gender: must be one of: female, male, other, unknown
    "#]],
    );
    let condition = |status: Value| json!({"resourceType": "Condition", "subject": {"display": "x"}, "clinicalStatus": status});
    valid(condition(json!({"coding": [{"code": "local"}, {"code": "active"}]})));
    valid(condition(json!({"extension": [{"url": "urn:x", "valueCode": "unknown"}]})));
    for status in [json!({"coding": [{"code": "local"}]}), json!({"text": "active"})] {
        check(
            condition(status),
            expect![[r#"
            code-invalid Condition.clinicalStatus: must be one of: active, inactive, recurrence, relapse, remission, resolved
        "#]],
        );
    }
}

#[test]
fn resources_within_resources_are_looked_at() {
    check(
        json!({"resourceType": "Bundle", "type": "collection", "entry": [
            {"resource": {"resourceType": "Patient", "gender": "x",
                "contained": [{"resourceType": "Group", "type": "person", "actual": "no"}, {"id": "x"}]}},
            {"resource": {"resourceType": "Parameters", "parameter": [
                {"name": "x", "resource": {"resourceType": "secret"}},
                {"name": "x", "part": [{"name": "y", "valueInteger": 1.5}]}]}},
            {"resource": []},
        ]}),
        expect![[r#"
            code-invalid Bundle.entry[0].resource.gender: must be one of: female, male, other, unknown
            structure Bundle.entry[0].resource.contained[0].actual: must be true or false, without quotes
            structure Bundle.entry[0].resource.contained[1]: a resource must have a `resourceType`
            invariant Bundle.entry[0].resource: dom-3: If the resource is contained in another resource, it SHALL be referred to from elsewhere in the resource or SHALL refer to the containing resource
            structure Bundle.entry[1].resource.parameter[0].resource: `resourceType` must name a resource type of FHIR R4
            value Bundle.entry[1].resource.parameter[1].part[0].value: must be a whole number of 32 bits, without quotes
            structure Bundle.entry[2].resource: must not be an array
        "#]],
    );
}

#[test]
fn a_narrative_is_checked() {
    let text = |div: &str| json!({"resourceType": "Patient", "text": {"status": "generated", "div": div}});
    valid(text("<div xmlns=\"http://www.w3.org/1999/xhtml\">x</div>"));
    check(
        text("<div><script>secret</script></div>"),
        expect![[r#"
        value Patient.text.div: must have only the elements and attributes that the specification allows in a narrative
    "#]],
    );
}

#[test]
fn depth_and_number_of_issues_are_bounded() {
    let mut deep = json!({"url": "urn:x", "valueCode": "x"});
    for _ in 0..2 * DEPTH_MAX {
        deep = json!({"url": "urn:x", "extension": [deep]});
    }
    let found = super::resource(&json!({"resourceType": "Patient", "extension": [deep]}));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].diagnostics, "nested deeper than is accepted");
    let many = json!({"resourceType": "Patient", "name": vec![json!({"use": 1}); 100_000]});
    let found = super::resource(&many);
    assert_eq!(found.len(), ISSUES_MAX + 1);
    assert_eq!(found[ISSUES_MAX].code, IssueCode::Incomplete);
    assert!(found[..ISSUES_MAX].iter().all(Issue::is_error));
}

/// Replaces every text below, and adds an unknown property to every object.
fn spoil(value: &mut Value) {
    match value {
        Value::String(text) => *text = "SECRET <SECRET".to_owned(),
        Value::Array(items) => items.iter_mut().for_each(spoil),
        Value::Object(object) => {
            object.iter_mut().filter(|(key, _)| *key != "resourceType").for_each(|(_, value)| spoil(value));
            object.insert("SECRET".to_owned(), "SECRET".into());
        }
        _ => {}
    }
}

#[test]
fn issues_repeat_nothing_of_the_resource() {
    let mut resource = json!({
        "resourceType": "Patient", "id": "x", "gender": "male", "birthDate": "2000", "_birthDate": {"id": "x"},
        "text": {"status": "generated", "div": "x"}, "contained": [{"resourceType": "Organization", "name": "x"}],
        "name": [{"use": "official", "given": ["x"]}], "extension": [{"url": "x", "valueCode": "x"}],
    });
    spoil(&mut resource);
    let found = super::resource(&resource);
    assert!(found.len() > 10, "{}", found.len());
    assert!(!format!("{found:?}").contains("SECRET"));
}
