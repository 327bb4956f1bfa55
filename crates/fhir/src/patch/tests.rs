use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A patch of operations, each the JSON of its parts by name.
#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
fn parameters(operations: Value) -> Value {
    let part = |(name, value): (&String, &Value)| match (name.as_str(), value) {
        ("type", _) => json!({"name": name, "valueCode": value}),
        (_, Value::Object(whole)) => {
            let mut whole = whole.clone();
            whole.insert("name".to_owned(), name.as_str().into());
            Value::Object(whole)
        }
        (_, Value::Number(_)) => json!({"name": name, "valueInteger": value}),
        _ => json!({"name": name, "valueString": value}),
    };
    let operation = |operation: &Value| {
        let parts: Vec<Value> = operation.as_object().unwrap().iter().map(part).collect();
        json!({"name": "operation", "part": parts})
    };
    let all: Vec<Value> = operations.as_array().unwrap().iter().map(operation).collect();
    json!({"resourceType": "Parameters", "parameter": all})
}

fn patient() -> Value {
    json!({
        "resourceType": "Patient",
        "birthDate": "1974-12-25",
        "_birthDate": {"extension": [{"url": "http://example.org", "valueCode": "x"}]},
        "name": [
            {"use": "official", "given": ["Peter", "James"], "_given": [null, {"id": "j"}]},
            {"use": "usual", "given": ["Jim"]},
        ],
        "deceasedBoolean": false,
        "contact": [{"name": {"text": "x"}}],
    })
}

/// The patient after the operations, with what did not change left out.
#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
#[track_caller]
fn check(operations: Value, changed: Value) {
    let patched = fhirpath_patch(&patient(), &parameters(operations));
    let patched = patched.unwrap_or_else(|issues| panic!("{issues:?}"));
    let mut expected = patient();
    let object = expected.as_object_mut().unwrap();
    for (key, value) in changed.as_object().unwrap() {
        if value.is_null() {
            object.shift_remove(key);
        } else {
            object.insert(key.clone(), value.clone());
        }
    }
    assert_eq!(patched, expected);
}

#[track_caller]
fn refused(operations: Value, expected: &str) {
    let issues = fhirpath_patch(&patient(), &parameters(operations)).unwrap_err();
    let lines: Vec<String> =
        issues.iter().map(|issue| format!("{}: {}", issue.code.code(), issue.diagnostics)).collect();
    assert_eq!(lines.join("\n"), expected);
}

#[test]
fn elements_are_added() {
    check(
        json!([{"type": "add", "path": "Patient", "name": "gender", "value": {"valueCode": "male"}}]),
        json!({"gender": "male"}),
    );
    check(
        json!([{"type": "add", "path": "Patient.contact[0]", "name": "gender",
            "value": {"valueCode": "male", "_valueCode": {"id": "g"}}}]),
        json!({"contact": [{"name": {"text": "x"}, "_gender": {"id": "g"}, "gender": "male"}]}),
    );
    check(
        json!([{"type": "add", "path": "Patient.name[0]", "name": "given", "value": {"valueString": "P."}}]),
        json!({"name": [
            {"use": "official", "given": ["Peter", "James", "P."], "_given": [null, {"id": "j"}, null]},
            {"use": "usual", "given": ["Jim"]},
        ]}),
    );
    check(
        json!([{"type": "add", "path": "Patient", "name": "contact", "value": {"part": [
            {"name": "name", "valueHumanName": {"text": "y"}},
            {"name": "telecom", "valueContactPoint": {"value": "1"}},
            {"name": "telecom", "valueContactPoint": {"value": "2"}},
        ]}}]),
        json!({"contact": [
            {"name": {"text": "x"}}, {"name": {"text": "y"}, "telecom": [{"value": "1"}, {"value": "2"}]},
        ]}),
    );
    check(
        json!([{"type": "add", "path": "Patient", "name": "multipleBirth", "value": {"valueInteger": 2}}]),
        json!({"multipleBirthInteger": 2}),
    );
    check(
        json!([{"type": "add", "path": "Patient.name[1].given[0]", "name": "extension",
            "value": {"valueExtension": {"url": "x", "valueCode": "y"}}}]),
        json!({"name": [
            {"use": "official", "given": ["Peter", "James"], "_given": [null, {"id": "j"}]},
            {"use": "usual", "given": ["Jim"], "_given": [{"extension": [{"url": "x", "valueCode": "y"}]}]},
        ]}),
    );
    check(
        json!([
            {"type": "add", "path": "Patient", "name": "contained",
                "value": {"resource": {"resourceType": "Organization", "id": "o"}}},
            {"type": "add", "path": "Patient.contained[0]", "name": "name", "value": {"valueString": "n"}},
        ]),
        json!({"contained": [{"resourceType": "Organization", "id": "o", "name": "n"}]}),
    );
}

#[test]
fn lists_are_changed_by_position_with_what_extends_them() {
    let given = |given: Value, sibling: Value| {
        json!({"name": [
            {"use": "official", "given": given, "_given": sibling}, {"use": "usual", "given": ["Jim"]},
        ]})
    };
    check(
        json!([{"type": "insert", "path": "Patient.name[0].given", "index": 1, "value": {"valueString": "P."}}]),
        given(json!(["Peter", "P.", "James"]), json!([null, null, {"id": "j"}])),
    );
    check(
        json!([{"type": "move", "path": "Patient.name[0].given", "source": 1, "destination": 0}]),
        given(json!(["James", "Peter"]), json!([{"id": "j"}, null])),
    );
    check(
        json!([{"type": "delete", "path": "Patient.name.given.where($this = 'Peter')"}]),
        given(json!(["James"]), json!([{"id": "j"}])),
    );
    check(
        json!([{"type": "replace", "path": "Patient.name[0].given[0]", "value": {"valueString": "Pete"}}]),
        given(json!(["Pete", "James"]), json!([null, {"id": "j"}])),
    );
}

#[test]
fn items_that_have_only_what_extends_them_are_items_of_their_list() {
    let name = |given: Value, sibling: Value| json!({"resourceType": "Patient", "name": [{"given": given, "_given": sibling}]});
    let patient = name(json!(["a"]), json!([null, {"id": "b"}, {"id": "c"}]));
    let extension = json!({"valueExtension": {"url": "x", "valueCode": "y"}});
    for (operation, expected) in [
        (
            json!({"type": "replace", "path": "name.given[0]", "value": {"valueString": "x"}}),
            name(json!(["x", null, null]), json!([null, {"id": "b"}, {"id": "c"}])),
        ),
        (
            json!({"type": "replace", "path": "name.given[2]", "value": {"valueString": "x"}}),
            name(json!(["a", null, "x"]), json!([null, {"id": "b"}, null])),
        ),
        (
            json!({"type": "add", "path": "name.given[1]", "name": "extension", "value": extension}),
            name(
                json!(["a"]),
                json!([null, {"id": "b", "extension": [{"url": "x", "valueCode": "y"}]}, {"id": "c"}]),
            ),
        ),
        (
            json!({"type": "add", "path": "name", "name": "given", "value": {"valueString": "d"}}),
            name(json!(["a", null, null, "d"]), json!([null, {"id": "b"}, {"id": "c"}, null])),
        ),
    ] {
        assert_eq!(
            fhirpath_patch(&patient, &parameters(json!([operation]))).unwrap(),
            expected,
            "{operation}"
        );
    }
    let shorter = name(json!(["a", "b"]), json!([{"id": "a"}]));
    let operation =
        json!({"type": "add", "path": "name.given[1]", "name": "id", "value": {"valueString": "b"}});
    let patched = fhirpath_patch(&shorter, &parameters(json!([operation]))).unwrap();
    assert_eq!(patched, name(json!(["a", "b"]), json!([{"id": "a"}, {"id": "b"}])));
}

#[test]
fn elements_are_deleted_and_replaced() {
    check(
        json!([{"type": "delete", "path": "Patient.birthDate"}]),
        json!({"birthDate": null, "_birthDate": null}),
    );
    check(json!([{"type": "delete", "path": "Patient.birthDate.extension[0]"}]), json!({"_birthDate": null}));
    check(json!([{"type": "delete", "path": "Patient.gender"}]), json!({}));
    check(json!([{"type": "delete", "path": "Patient.contact[0].name.text"}]), json!({"contact": null}));
    check(json!([{"type": "delete", "path": "Patient.deceased"}]), json!({"deceasedBoolean": null}));
    check(
        json!([{"type": "replace", "path": "Patient.birthDate", "value": {"valueDate": "2000"}}]),
        json!({"birthDate": "2000", "_birthDate": null}),
    );
    let patched = fhirpath_patch(
        &patient(),
        &parameters(json!([
            {"type": "replace", "path": "Patient.deceased", "value": {"valueDateTime": "2020"}},
        ])),
    );
    let keys: Vec<String> = patched.unwrap().as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["resourceType", "birthDate", "_birthDate", "name", "deceasedDateTime", "contact"]);
}

#[test]
fn what_cannot_be_done_is_told_by_its_place() {
    refused(
        json!([{"type": "delete", "path": "Patient.name"}]),
        "multiple-matches: operation 1: the path finds several elements; it must find one, by an index perhaps",
    );
    refused(
        json!([
            {"type": "delete", "path": "Patient.birthDate"},
            {"type": "replace", "path": "Patient.birthDate", "value": {"valueDate": "2000"}},
        ]),
        "not-found: operation 2: the path finds nothing; what it names must be there",
    );
    refused(
        json!([{"type": "add", "path": "Patient", "name": "birthDate", "value": {"valueDate": "2000"}}]),
        "processing: operation 1: the element is there already and may be there once; use the type replace",
    );
    refused(
        json!([{"type": "add", "path": "Patient", "name": "deceased", "value": {"valueDateTime": "2000"}}]),
        "processing: operation 1: the element is there already and may be there once; use the type replace",
    );
    refused(
        json!([{"type": "add", "path": "Patient", "name": "multipleBirth", "value": {"valueString": "2"}}]),
        "structure: operation 1: the element does not take a value of that type",
    );
    refused(
        json!([{"type": "add", "path": "Patient", "name": "secret", "value": {"valueString": "2"}}]),
        "structure: operation 1: the specification has no such element there",
    );
    refused(
        json!([{"type": "insert", "path": "Patient.name.where(use = 'usual')", "index": 0,
            "value": {"valueHumanName": {"text": "x"}}}]),
        "processing: operation 1: the path must find every item of one list, and only those; to begin a list, use the type add",
    );
    refused(
        json!([{"type": "move", "path": "Patient.name", "source": 0, "destination": 2}]),
        "value: operation 1: the list is shorter than that; positions count from 0",
    );
    refused(
        json!([{"type": "delete", "path": "Patient"}]),
        "processing: operation 1: the path finds the resource itself, which can only be added to",
    );
    refused(
        json!([{"type": "delete", "path": "'x'"}]),
        "processing: operation 1: the path must find elements of the resource, not what is computed from them",
    );
    refused(
        json!([
            {"type": "remove", "path": "Patient.name"},
            {"type": "delete", "path": "Patient.("},
            {"type": "insert", "path": "Patient.name", "value": {"valueHumanName": {"text": "x"}}},
            {"type": "add", "path": "Patient", "name": "name"},
            {"type": "move", "path": "Patient.name", "source": 1},
            {"type": "delete", "path": "Patient.name", "secret": "x"},
        ]),
        "value: operation 1: `type` must be one of the codes add, insert, delete, replace and move\n\
         invalid: operation 2: the path: unexpected text at byte 8 of the expression\n\
         required: operation 3: `index` must be a whole number from 0\n\
         required: operation 4: `value` must have a value or parts\n\
         required: operation 5: `source` and `destination` must be whole numbers from 0\n\
         structure: operation 6: its parts must be some of type, path, name, value, index, source and destination, each once",
    );
    assert!(fhirpath_patch(&patient(), &patient()).is_err());
    let mut part = json!({"name": "item", "part": []});
    for _ in 0..1000 {
        part = json!({"name": "item", "part": [part]});
    }
    let deep = json!({"part": [part]});
    let questionnaire = json!({"resourceType": "Questionnaire"});
    let patch = parameters(json!([{"type": "add", "path": "Questionnaire", "name": "item", "value": deep}]));
    assert_eq!(fhirpath_patch(&questionnaire, &patch).unwrap_err()[0].code, IssueCode::TooCostly);
}

#[test]
fn all_paths_together_take_no_more_than_is_accepted() {
    let delete = |path: &str| json!({"type": "delete", "path": path});
    let matched = delete("Patient.name.where(text.matches('x') and text.matches('y'))");
    let operations = vec![matched; OPERATIONS_MAX];
    refused(
        Value::Array(operations),
        "too-costly: operation 31: the path: more regular expressions than are accepted at byte 24 of the expression",
    );
    // Nor does it cost nothing to find out where in the resource something is, unless nothing is looked for.
    let mut large = patient();
    large["contact"] = vec![json!({"gender": "male"}); 10_000].into();
    large["language"] = "en".into();
    let all = |path: &str| {
        let operations: Vec<Value> = vec![delete(path); OPERATIONS_MAX];
        fhirpath_patch(&large, &parameters(Value::Array(operations)))
    };
    assert_eq!(all("Patient.gender").unwrap(), large);
    let language =
        vec![json!({"type": "replace", "path": "Patient.language", "value": {"valueCode": "de"}}); 200];
    let issues = fhirpath_patch(&large, &parameters(Value::Array(language))).unwrap_err();
    assert_eq!(issues[0].code, IssueCode::TooCostly);
    // Lists of any length are put together.
    let telecom = vec![json!({"name": "telecom", "valueContactPoint": {"value": "1"}}); 20_000];
    let add = json!({"type": "add", "path": "Patient", "name": "contact", "value": {"part": telecom}});
    let patched = fhirpath_patch(&patient(), &parameters(json!([add]))).unwrap();
    assert_eq!(patched["contact"][1]["telecom"].as_array().unwrap().len(), 20_000);
}

proptest! {
    /// Whatever an operation finds, the result is well-formed or nothing, and never holds an empty object or list.
    #[test]
    fn arbitrary_operations_never_panic(
        kinds in prop::collection::vec(
            (
                prop::sample::select(vec!["add", "insert", "delete", "replace", "move"]),
                prop::sample::select(vec![
                    "Patient", "Patient.name", "Patient.name[0].given", "Patient.name.given[1]", "Patient.birthDate",
                    "Patient.contact.name", "Patient.deceased", "Patient.birthDate.extension", "name.given.id", "%ucum",
                ]),
                prop::sample::select(vec!["given", "name", "gender", "id", "extension", "deceased", "contact"]),
                prop::sample::select(vec![
                    json!({"valueString": "x"}), json!({"valueHumanName": {"text": "x"}}), json!({"_valueCode": {"id": "x"}}),
                    json!({"valueBoolean": null}), json!({"part": [{"name": "name", "valueHumanName": {"text": "x"}}]}),
                    json!({"resource": {"resourceType": "Patient"}}), json!({"valueExtension": {"url": "x"}}),
                ]),
                0_u8..4,
            ),
            1..6,
        ),
    ) {
        let operations: Vec<Value> = kinds
            .iter()
            .map(|(kind, path, name, value, index)| {
                json!({"type": kind, "path": path, "name": name, "value": value, "index": index, "source": index,
                    "destination": 0})
            })
            .collect();
        if let Ok(patched) = fhirpath_patch(&patient(), &parameters(Value::Array(operations))) {
            let text = patched.to_string();
            prop_assert!(!text.contains("{}") && !text.contains("[]"), "{}", text);
        }
    }
}
