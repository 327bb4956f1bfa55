//! Value sets and code systems through the public door: the operations on codes, and searches by them.

use serde_json::{Value, json};
use ward_testkit::{Answer, Https};

use crate::api::{create, issue};
use crate::empty_stack;
use crate::search::{found, sorted};

const LETTERS: &str = "http://ward.test/CodeSystem/letters";

/// a ─ b ─ d, a ─ c ─ d, and e alone.
fn letters() -> Value {
    json!({
        "resourceType": "CodeSystem", "url": LETTERS, "version": "1", "name": "Letters", "status": "active",
        "content": "complete", "caseSensitive": true,
        "property": [{"code": "vowel", "type": "boolean"}, {"code": "parent", "type": "code"}],
        "concept": [
            {"code": "a", "display": "Alpha", "definition": "The first.",
                "property": [{"code": "vowel", "valueBoolean": true}],
                "designation": [{"language": "de", "value": "Anton"}],
                "concept": [
                    {"code": "b", "display": "Beta", "concept": [
                        {"code": "d", "display": "Delta", "property": [{"code": "parent", "valueCode": "c"}]}]},
                    {"code": "c", "display": "Gamma"}]},
            {"code": "e", "display": "Epsilon", "property": [{"code": "vowel", "valueBoolean": true}]},
        ],
    })
}

fn url(name: &str) -> String {
    format!("http://ward.test/ValueSet/{name}")
}

fn value_set(name: &str, include: &Value) -> Value {
    json!({"resourceType": "ValueSet", "url": url(name), "version": "1", "name": name, "status": "active",
        "compose": {"include": include}})
}

/// A code system, value sets of it, circles, and what leads nowhere. Gives the id of the value set of vowels.
fn fill(client: &Https) -> String {
    let vowels = json!([{"system": LETTERS, "filter": [{"property": "vowel", "op": "=", "value": "true"}]}]);
    create(client, &letters());
    for set in [
        value_set(
            "below-b",
            &json!([{"system": LETTERS, "filter": [{"property": "concept", "op": "is-a", "value": "b"}]}]),
        ),
        value_set("both", &json!([{"valueSet": [url("vowels")]}, {"valueSet": [url("below-b")]}])),
        value_set("circle-1", &json!([{"valueSet": [url("circle-2")]}])),
        value_set("circle-2", &json!([{"valueSet": [url("circle-1")]}])),
        value_set("nothing", &json!([{"valueSet": [url("vowels"), url("below-b")]}])),
        value_set("nowhere", &json!([{"system": "http://ward.test/CodeSystem/nowhere"}])),
    ] {
        create(client, &set);
    }
    create(client, &value_set("vowels", &vowels)).0
}

fn parameters(all: &[(&str, Value)]) -> Value {
    let kind = |value: &Value| match value {
        Value::Bool(_) => "valueBoolean",
        Value::Number(_) => "valueInteger",
        Value::Object(members) if members.contains_key("coding") => "valueCodeableConcept",
        Value::Object(_) => "valueCoding",
        _ => "valueString",
    };
    let all: Vec<Value> = all.iter().map(|(name, value)| json!({"name": name, kind(value): value})).collect();
    json!({"resourceType": "Parameters", "parameter": all})
}

fn ask(client: &Https, path: &str, all: &[(&str, Value)]) -> Answer {
    client.post(&format!("/fhir/R4/{path}"), &parameters(all))
}

/// The parameters of an answer by name, the first of each.
fn answered(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let resource = answer.json();
    assert_eq!(resource["resourceType"], "Parameters");
    let mut named = json!({});
    for one in resource["parameter"].as_array().unwrap().iter().rev() {
        let (_, value) = one.as_object().unwrap().iter().find(|(key, _)| *key != "name").unwrap();
        named[one["name"].as_str().unwrap()] = value.clone();
    }
    named
}

fn codes(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let contains = &answer.json()["expansion"]["contains"];
    contains.as_array().into_iter().flatten().map(|one| one["code"].as_str().unwrap()).collect()
}

#[test]
fn value_sets_are_expanded() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let vowels = fill(&client);
    let expand = |query: &str| client.get(&format!("/fhir/R4/ValueSet/$expand?{query}"));
    assert_eq!(codes(&expand(&format!("url={}", url("vowels")))), "ae");
    assert_eq!(codes(&expand(&format!("url={}&count=1&offset=1", url("both")))), "e");
    assert_eq!(
        codes(&client.get(&format!("/fhir/R4/ValueSet/{vowels}/$expand?includeDesignations=true"))),
        "ae"
    );
    let answer = ask(&client, "ValueSet/$expand", &[("url", url("both").into()), ("filter", "ETA".into())]);
    assert_eq!(codes(&answer), "b");
    assert_eq!(answer.json()["expansion"]["total"], 1);
    // What the specification itself defines.
    let genders = expand("url=http://hl7.org/fhir/ValueSet/administrative-gender");
    assert_eq!(codes(&genders), "malefemaleotherunknown");
    assert_eq!(
        genders.json()["expansion"]["contains"][0]["system"],
        "http://hl7.org/fhir/administrative-gender"
    );
    // The newest counts, unless a version is named.
    let mut newer = value_set("vowels", &json!([{"system": LETTERS, "concept": [{"code": "e"}]}]));
    newer["version"] = "2".into();
    create(&client, &newer);
    assert_eq!(codes(&expand(&format!("url={}", url("vowels")))), "e");
    assert_eq!(codes(&expand(&format!("url={}&valueSetVersion=1", url("vowels")))), "ae");
    assert_eq!(codes(&expand(&format!("url={}%7C1", url("vowels")))), "ae");

    for (query, status, code) in [
        (format!("url={}", url("circle-1")), 422, "business-rule"),
        (format!("url={}", url("nowhere")), 422, "not-found"),
        ("url=http://ward.test/ValueSet/unheard-of".to_owned(), 422, "not-found"),
        (format!("url={}&valueSetVersion=9", url("vowels")), 422, "not-found"),
        (format!("url={}&count=many", url("vowels")), 400, "value"),
        (String::new(), 400, "required"),
        // Words that are looked for tell of whoever looks, or for whom.
        (format!("url={}&filter=Zqx", url("vowels")), 400, "security"),
        (format!("url={}&system=x", url("vowels")), 400, "not-supported"),
    ] {
        let refused = expand(&query);
        assert_eq!((refused.status, issue(&refused).as_str()), (status, code), "{query}");
        assert!(
            !refused.text().contains("Zqx") && !refused.text().contains("unheard-of"),
            "{}",
            refused.text()
        );
    }
    assert_eq!(client.get("/fhir/R4/ValueSet/00000000-0000-4000-8000-000000000000/$expand").status, 404);
    assert_eq!(client.get("/fhir/R4/CodeSystem/$expand").status, 404);
    assert_eq!(client.send("DELETE", "/fhir/R4/ValueSet/$expand", &[], b"").status, 405);
}

#[test]
fn codes_are_validated_looked_up_and_compared() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let vowels = fill(&client);
    let coding = |code: &str| json!({"system": LETTERS, "code": code});
    let named = |code: &str, display: &str| json!({"system": LETTERS, "code": code, "display": display});
    let set = |value: Value| ("url", Value::from(url(value.as_str().unwrap())));
    for (path, all, expected) in [
        ("ValueSet/$validate-code", vec![set("vowels".into()), ("coding", coding("a"))], true),
        ("ValueSet/$validate-code", vec![set("vowels".into()), ("coding", coding("b"))], false),
        ("ValueSet/$validate-code", vec![set("vowels".into()), ("coding", named("a", "anton"))], true),
        ("ValueSet/$validate-code", vec![set("vowels".into()), ("coding", named("a", "Berta"))], false),
        (
            "ValueSet/$validate-code",
            vec![set("both".into()), ("code", "d".into()), ("system", LETTERS.into())],
            true,
        ),
        (
            "ValueSet/$validate-code",
            vec![
                set("both".into()),
                (
                    "codeableConcept",
                    json!({"coding": [{"system": "http://other.test", "code": "x"}, coding("e")]}),
                ),
            ],
            true,
        ),
        ("CodeSystem/$validate-code", vec![("url", LETTERS.into()), ("code", "d".into())], true),
        ("CodeSystem/$validate-code", vec![("url", LETTERS.into()), ("code", "D".into())], false),
        ("CodeSystem/$validate-code", vec![("coding", named("c", "Gamma"))], true),
        (
            "CodeSystem/$validate-code",
            vec![("coding", json!({"system": "http://hl7.org/fhir/issue-type", "code": "structure"}))],
            true,
        ),
    ] {
        let verdict = answered(&ask(&client, path, &all));
        assert_eq!(verdict["result"], expected, "{path} {all:?}");
        assert_eq!(verdict["message"].is_string(), !expected);
    }
    let one = format!("ValueSet/{vowels}/$validate-code");
    assert_eq!(answered(&ask(&client, &one, &[("coding", coding("e"))]))["display"], "Epsilon");

    let looked = answered(&ask(&client, "CodeSystem/$lookup", &[("coding", coding("a"))]));
    assert_eq!((&looked["name"], &looked["display"]), (&json!("Letters"), &json!("Alpha")));
    let answer = ask(
        &client,
        "CodeSystem/$lookup",
        &[("system", LETTERS.into()), ("code", "d".into()), ("property", "parent".into())],
    );
    assert_eq!(answer.text().matches("\"parent\"").count(), 2, "{}", answer.text());

    for (first, second, expected) in [
        ("a", "d", "subsumes"),
        ("d", "c", "subsumed-by"),
        ("b", "c", "not-subsumed"),
        ("e", "e", "equivalent"),
    ] {
        let all = [("system", LETTERS.into()), ("codeA", first.into()), ("codeB", second.into())];
        assert_eq!(
            answered(&ask(&client, "CodeSystem/$subsumes", &all))["outcome"],
            expected,
            "{first} {second}"
        );
    }
    let all = [("codingA", coding("a")), ("codingB", coding("b"))];
    assert_eq!(answered(&ask(&client, "CodeSystem/$subsumes", &all))["outcome"], "subsumes");

    for (path, all, status) in [
        ("CodeSystem/$lookup", vec![("coding", coding("zqx"))], 422),
        ("CodeSystem/$lookup", vec![("system", "http://ward.test/zqx".into()), ("code", "a".into())], 422),
        ("CodeSystem/$lookup", vec![("code", "a".into())], 400),
        (
            "CodeSystem/$subsumes",
            vec![("system", LETTERS.into()), ("codeA", "zqx".into()), ("codeB", "a".into())],
            422,
        ),
        (
            "CodeSystem/$subsumes",
            vec![("codingA", coding("a")), ("codingB", json!({"system": "urn:zqx", "code": "a"}))],
            400,
        ),
        ("ValueSet/$validate-code", vec![set("circle-2".into()), ("coding", coding("zqx"))], 422),
        ("ValueSet/$validate-code", vec![set("vowels".into())], 400),
        ("ValueSet/$validate-code", vec![set("vowels".into()), ("date", "2026".into())], 400),
    ] {
        let refused = ask(&client, path, &all);
        assert_eq!(refused.status, status, "{path} {all:?} {}", refused.text());
        issue(&refused);
        assert!(!refused.text().contains("zqx"), "{}", refused.text());
    }
    // A code may be a patient's.
    let refused = client.get(&format!("/fhir/R4/CodeSystem/$lookup?system={LETTERS}&code=a"));
    assert_eq!((refused.status, issue(&refused).as_str()), (400, "security"));
    assert!(refused.text().contains("POST"));

    // Who may not see the type may not ask about it.
    let narrow = stack.signed_in("system/Observation.rs");
    assert_eq!(narrow.get(&format!("/fhir/R4/ValueSet/$expand?url={}", url("vowels"))).status, 403);
    assert_eq!(ask(&narrow, "CodeSystem/$lookup", &[("coding", coding("a"))]).status, 403);
    assert_eq!(ask(&stack.https(), "CodeSystem/$lookup", &[("coding", coding("a"))]).status, 401);
}

#[test]
fn searches_go_by_value_sets_and_kinds() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let vowels = fill(&client);
    let (patient, _) = create(&client, &json!({"resourceType": "Patient", "gender": "female"}));
    let (other, _) = create(&client, &json!({"resourceType": "Patient"}));
    let mut observations = std::collections::HashMap::new();
    for code in ["a", "b", "c", "d", "e", "z"] {
        let subject = if code == "e" { &other } else { &patient };
        let observation = json!({"resourceType": "Observation", "status": "final",
            "code": {"coding": [{"system": LETTERS, "code": code}]},
            "subject": {"reference": format!("Patient/{subject}")}});
        observations.insert(code, format!("Observation/{}", create(&client, &observation).0));
    }
    let of =
        |codes: &str| sorted(codes.chars().map(|code| observations[&*code.to_string()].clone()).collect());
    for (form, expected) in [
        (format!("code:in={}", url("vowels")), "ae"),
        (format!("code:in=ValueSet/{vowels}"), "ae"),
        (format!("code:in={}|1", url("vowels")), "ae"),
        (format!("code:in={},{}", url("vowels"), url("below-b")), "aebd"),
        (format!("code:not-in={}", url("both")), "cz"),
        (format!("code:in={}", url("nothing")), ""),
        (format!("code:not-in={}", url("nothing")), "abcdez"),
        (format!("code:below={LETTERS}|b"), "bd"),
        (format!("code:below={LETTERS}|b,{LETTERS}|c"), "bcd"),
        (format!("_filter=code ss {LETTERS}|b or code in {}", url("vowels")), "abde"),
        (format!("_filter=code sb {LETTERS}|d and not(code eq {LETTERS}|d)"), "abc"),
        (format!("_filter=not(code in {}) and not(code ss {LETTERS}|c)", url("both")), "z"),
        (format!("_filter=code ni {}", url("both")), "cz"),
        (format!("code:above={LETTERS}|d"), "abcd"),
        (format!("patient={patient}&code:in={}", url("both")), "abd"),
        (
            format!(
                "patient.gender:in=http://hl7.org/fhir/ValueSet/administrative-gender&code:below={LETTERS}|a"
            ),
            "abcd",
        ),
        ("status:in=http://hl7.org/fhir/ValueSet/observation-status".to_owned(), "abcdez"),
    ] {
        assert_eq!(found(&client.search("Observation", &form), "match"), of(expected), "{form}");
    }
    for (form, expected) in [
        (format!("_has:Observation:patient:code:below={LETTERS}|b"), vec![&patient]),
        (format!("_has:Observation:patient:code:in={}", url("vowels")), vec![&patient, &other]),
        ("gender:not-in=http://hl7.org/fhir/ValueSet/administrative-gender".to_owned(), vec![&other]),
    ] {
        let expected = sorted(expected.into_iter().map(|id| format!("Patient/{id}")).collect());
        assert_eq!(found(&client.search("Patient", &form), "match"), expected, "{form}");
    }
    // Page by page, and of more codes than the index is asked for.
    let many: Vec<Value> = (0..1_500)
        .map(|number| json!({"code": format!("n{number}")}))
        .chain([json!({"code": "b"})])
        .collect();
    create(&client, &value_set("many", &json!([{"system": LETTERS, "concept": many}])));
    assert_eq!(found(&client.search("Observation", &format!("code:in={}", url("many"))), "match"), of("b"));
    let first = client.search("Observation", &format!("code:in={}&_count=1", url("vowels")));
    let page = first.json();
    let next = page["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next").unwrap();
    let next = next["url"].as_str().unwrap().strip_prefix(&stack.origin()).unwrap().to_owned();
    let both = [found(&first, "match"), found(&client.get(&next), "match")].concat();
    assert_eq!(sorted(both), of("ae"));

    // As an entry of a Bundle.
    let entry =
        json!({"request": {"method": "GET", "url": format!("Observation?code:in={}", url("vowels"))}});
    let answer =
        client.post("/fhir/R4", &json!({"resourceType": "Bundle", "type": "batch", "entry": [entry]}));
    let inner = answer.json()["entry"][0]["resource"].clone();
    assert_eq!(inner["entry"].as_array().map_or(0, Vec::len), 2, "{}", answer.text());

    let most: Vec<Value> = (0..2_001).map(|number| json!({"code": format!("n{number}")})).collect();
    create(&client, &value_set("most", &json!([{"system": LETTERS, "concept": most}])));
    for (form, status, code) in [
        (format!("code:in={}", url("most")), 400, "too-costly"),
        ("code:in=http://ward.test/ValueSet/zqx".to_owned(), 422, "not-found"),
        ("code:not-in=ValueSet/zqx".to_owned(), 422, "not-found"),
        (format!("code:not-in={}", url("nowhere")), 422, "not-found"),
        (format!("code:in={}", url("circle-1")), 422, "business-rule"),
        ("code:below=http://ward.test/zqx|a".to_owned(), 422, "not-found"),
        (format!("code:above={LETTERS}|zqx"), 422, "not-found"),
        ("code:below=zqx".to_owned(), 400, "value"),
        (format!("patient.gender:in={}", url("zqx")), 422, "not-found"),
        (format!("_filter=not(patient.gender in {})", url("zqx")), 422, "not-found"),
    ] {
        let refused = client.search("Observation", &form);
        assert_eq!((refused.status, issue(&refused).as_str()), (status, code), "{form} {}", refused.text());
        assert!(!refused.text().contains("zqx"), "{}", refused.text());
    }
    assert_eq!(client.get(&format!("/fhir/R4/Observation?code:in={}", url("vowels"))).status, 400);
    let conditional = client.send(
        "POST",
        "/fhir/R4/Patient",
        &[("Content-Type", "application/fhir+json"), ("If-None-Exist", "gender:in=ValueSet/x")],
        b"{\"resourceType\":\"Patient\"}",
    );
    assert_eq!((conditional.status, issue(&conditional).as_str()), (400, "not-supported"));

    // What a value set holds is told to nobody who may not see value sets.
    let narrow = stack.signed_in("system/Observation.rs");
    for form in [format!("code:in={}", url("vowels")), format!("code:below={LETTERS}|a")] {
        assert_eq!(narrow.search("Observation", &form).status, 403, "{form}");
    }
    let wider = stack.signed_in("system/Observation.rs system/ValueSet.rs");
    assert_eq!(found(&wider.search("Observation", &format!("code:in={}", url("vowels"))), "match"), of("ae"));
}
