use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

/// Definitions at hand, and those of the specification.
#[derive(Default)]
struct Shelf(HashMap<String, Arc<Value>>);

impl Shelf {
    fn of(all: &[Value]) -> Self {
        Self(all.iter().map(|one| (one["url"].as_str().unwrap().to_owned(), Arc::new(one.clone()))).collect())
    }

    fn find(&self, kind: &str, url: &str, version: Option<&str>) -> Option<Arc<Value>> {
        let fits = |one: &&Arc<Value>| {
            one["resourceType"] == kind && version.is_none_or(|version| one["version"] == version)
        };
        self.0.get(url).filter(fits).cloned()
    }
}

impl Definitions for Shelf {
    type Error = Infallible;

    fn code_system(&mut self, url: &str, version: Option<&str>) -> Result<Option<Arc<Value>>, Infallible> {
        Ok(self.find("CodeSystem", url, version).or_else(|| specification::code_system(url, version)))
    }

    fn value_set(&mut self, url: &str, version: Option<&str>) -> Result<Option<Arc<Value>>, Infallible> {
        Ok(self.find("ValueSet", url, version).or_else(|| specification::value_set(url, version)))
    }
}

/// a ─ b ─ d, a ─ c ─ d (by a property), e alone.
fn letters() -> Value {
    json!({
        "resourceType": "CodeSystem", "url": "urn:letters", "version": "1", "name": "Letters", "status": "active",
        "content": "complete", "caseSensitive": true,
        "property": [{"code": "vowel", "type": "boolean"}, {"code": "under", "type": "code",
            "uri": "http://hl7.org/fhir/concept-properties#parent"}],
        "concept": [
            {"code": "a", "display": "Alpha", "definition": "The first.",
                "property": [{"code": "vowel", "valueBoolean": true}, {"code": "notSelectable", "valueBoolean": true}],
                "designation": [{"language": "de", "value": "Anton"}],
                "concept": [
                    {"code": "b", "display": "Beta", "concept": [
                        {"code": "d", "display": "Delta", "property": [{"code": "under", "valueCode": "c"}]}]},
                    {"code": "c", "display": "Gamma", "property": [{"code": "status", "valueCode": "retired"}]}]},
            {"code": "e", "display": "Epsilon", "property": [{"code": "vowel", "valueBoolean": true}]},
        ],
    })
}

fn set(url: &str, compose: &Value) -> Value {
    json!({"resourceType": "ValueSet", "url": url, "status": "active", "compose": compose})
}

fn fault<T>(answer: Result<T, TerminologyError<Infallible>>) -> Option<Fault> {
    match answer {
        Ok(_) => None,
        Err(TerminologyError::Fault(fault)) => Some(fault),
        Err(TerminologyError::Definitions(never)) => match never {},
    }
}

fn codes(all: &[Value], compose: &Value) -> Result<String, Fault> {
    let mut terminology = Terminology::new(Shelf::of(all));
    match terminology.expand_resource(&set("urn:asked", compose)) {
        Ok(expansion) => Ok(expansion.codes().iter().map(|coded| &*coded.code).collect()),
        Err(error) => Err(fault::<()>(Err(error)).unwrap()),
    }
}

fn filtered(property: &str, operator: &str, value: &str) -> Result<String, Fault> {
    let filter = json!([{"property": property, "op": operator, "value": value}]);
    codes(&[letters()], &json!({"include": [{"system": "urn:letters", "filter": filter}]}))
}

#[test]
fn filters_choose_as_the_specification_says() {
    for (property, operator, value, expected) in [
        ("concept", "is-a", "b", "bd"),
        ("code", "is-a", "c", "dc"),
        ("concept", "descendent-of", "a", "bdc"),
        ("concept", "is-not-a", "b", "ace"),
        ("concept", "generalizes", "d", "abdc"),
        ("concept", "=", "e", "e"),
        ("concept", "in", "a, e,zz", "ae"),
        ("concept", "not-in", "a,e", "bdc"),
        ("display", "regex", ".*ta", "bd"),
        ("display", "regex", "ta", ""),
        ("display", "regex", "(?i)BETA|x", "b"),
        ("vowel", "=", "true", "ae"),
        ("vowel", "exists", "false", "bdc"),
        ("under", "exists", "true", "d"),
        ("parent", "=", "c", "d"),
        ("child", "=", "d", "bc"),
        ("child", "exists", "false", "de"),
    ] {
        assert_eq!(
            filtered(property, operator, value).as_deref(),
            Ok(expected),
            "{property} {operator} {value}"
        );
    }
    for (property, operator, value, expected) in [
        ("colour", "=", "red", Fault::UnknownProperty),
        ("concept", "is-a", "zz", Fault::UnknownCode),
        ("vowel", "is-a", "a", Fault::Filter),
        ("concept", "regex", "(", Fault::Filter),
        ("display", "regex", "zz)|(?:.*", Fault::Filter),
        ("concept", "regex", &"a{900}".repeat(20), Fault::Filter),
        ("concept", "exists", "perhaps", Fault::Filter),
        ("concept", "like", "a", Fault::Filter),
    ] {
        assert_eq!(filtered(property, operator, value), Err(expected), "{property} {operator} {value}");
    }
}

#[test]
fn value_sets_are_put_together_as_the_specification_says() {
    let whole = set("urn:whole", &json!({"include": [{"system": "urn:letters"}]}));
    let vowels = set(
        "urn:vowels",
        &json!({"include": [{"system": "urn:letters", "filter": [{"property": "vowel", "op": "=", "value": "true"}]}]}),
    );
    let all = [letters(), whole, vowels];
    for (compose, expected) in [
        (json!({"include": [{"system": "urn:letters"}]}), "abdce"),
        (json!({"include": [{"system": "urn:letters"}], "inactive": false}), "abde"),
        (
            json!({"include": [{"system": "urn:letters", "concept": [{"code": "e"}, {"code": "a"}, {"code": "e"}]}]}),
            "ea",
        ),
        (
            json!({"include": [{"system": "urn:elsewhere", "concept": [{"code": "x"}]}, {"valueSet": ["urn:vowels"]}]}),
            "xae",
        ),
        (json!({"include": [{"valueSet": ["urn:whole", "urn:vowels"]}]}), "ae"),
        (
            json!({"include": [{"system": "urn:letters", "concept": [{"code": "d"}, {"code": "e"}], "valueSet": ["urn:vowels"]}]}),
            "e",
        ),
        (json!({"include": [{"valueSet": ["urn:whole"]}], "exclude": [{"valueSet": ["urn:vowels"]}]}), "bdc"),
        (
            json!({"include": [{"system": "urn:letters", "filter": [
            {"property": "concept", "op": "is-a", "value": "a"}, {"property": "vowel", "op": "exists", "value": "false"}]}]}),
            "bdc",
        ),
        (
            json!({"include": [{"system": "http://hl7.org/fhir/administrative-gender"}]}),
            "malefemaleotherunknown",
        ),
        (json!({}), ""),
    ] {
        assert_eq!(codes(&all, &compose).as_deref(), Ok(expected), "{compose}");
    }
    let mut part = letters();
    part["content"] = "fragment".into();
    for (known, compose, expected) in [
        (&all[..], json!({"include": [{"system": "urn:nowhere"}]}), Fault::UnknownCodeSystem),
        (&all[..], json!({"include": [{"system": "urn:letters", "version": "2"}]}), Fault::UnknownCodeSystem),
        (&all[..], json!({"include": [{"valueSet": ["urn:nowhere"]}]}), Fault::UnknownValueSet),
        (&all[..], json!({"include": [{"valueSet": ["urn:whole|7"]}]}), Fault::UnknownValueSet),
        (&all[..], json!({"include": [{}]}), Fault::Malformed),
        (
            &all[..],
            json!({"include": [{"system": "urn:letters", "concept": [{"code": "a"}], "filter": [{}]}]}),
            Fault::Malformed,
        ),
        (&[part][..], json!({"include": [{"system": "urn:letters"}]}), Fault::PartialCodeSystem),
    ] {
        assert_eq!(codes(known, &compose), Err(expected), "{compose}");
    }
}

#[test]
fn circles_depth_and_size_end_in_words() {
    let refer = |from: &str, to: &str| set(from, &json!({"include": [{"valueSet": [to]}]}));
    let circle = [refer("urn:1", "urn:2"), refer("urn:2", "urn:3"), refer("urn:3", "urn:1")];
    assert_eq!(fault(Terminology::new(Shelf::of(&circle)).expand("urn:1")), Some(Fault::Circular));
    let chain: Vec<Value> =
        (0..40).map(|step| refer(&format!("urn:{step}"), &format!("urn:{}", step + 1))).collect();
    assert_eq!(fault(Terminology::new(Shelf::of(&chain)).expand("urn:0")), Some(Fault::TooDeep));
    let concepts: Vec<Value> = (0..=CODES_MAX).map(|number| json!({"code": number.to_string()})).collect();
    let large = json!({"include": [{"system": "urn:x", "concept": concepts}]});
    assert_eq!(codes(&[], &large), Err(Fault::TooManyCodes));
    let many: Vec<Value> = (0..200).map(|number| json!({"valueSet": [format!("urn:{number}")]})).collect();
    let sets: Vec<Value> = (0..200)
        .map(|number| set(&format!("urn:{number}"), &json!({"include": [{"system": "urn:letters"}]})))
        .chain([letters()])
        .collect();
    assert_eq!(codes(&sets, &json!({"include": many})), Err(Fault::TooCostly));
    let filters = vec![json!({"property": "display", "op": "regex", "value": "x"}); 2_000];
    let busy = json!({"include": [{"system": "urn:letters", "filter": filters}]});
    assert_eq!(codes(&[letters()], &busy), Err(Fault::TooCostly));
    // Nested deeper than anything that is sent.
    let mut concept = json!({"code": "0"});
    for number in 1..90 {
        concept = json!({"code": number.to_string(), "concept": [concept]});
    }
    let deep =
        json!({"resourceType": "CodeSystem", "url": "urn:deep", "content": "complete", "concept": [concept]});
    let system = Terminology::new(Shelf::default()).code_system_of(&deep).unwrap();
    assert_eq!(system.subsumes("89", "0"), Ok(Subsumption::Subsumes));
    assert_eq!(system.kinds_of("89").unwrap().len(), 90);
}

#[test]
fn subsumption_goes_by_every_parent_and_never_in_circles() {
    let mut terminology = Terminology::new(Shelf::of(&[letters()]));
    let system = terminology.code_system("urn:letters", None).unwrap();
    for (first, second, expected) in [
        ("a", "d", Subsumption::Subsumes),
        ("c", "d", Subsumption::Subsumes),
        ("d", "c", Subsumption::SubsumedBy),
        ("b", "c", Subsumption::NotSubsumed),
        ("e", "e", Subsumption::Equivalent),
    ] {
        assert_eq!(system.subsumes(first, second), Ok(expected), "{first} {second}");
    }
    assert_eq!(system.generalizations_of("d").unwrap(), ["a", "b", "d", "c"]);
    assert_eq!(system.subsumes("a", "A"), Err(Fault::UnknownCode));
    let mut circle = letters();
    circle["concept"][0]["property"] = json!([{"code": "parent", "valueCode": "d"}]);
    circle["caseSensitive"] = false.into();
    let system = terminology.code_system_of(&circle).unwrap();
    assert_eq!(system.kinds_of("D").unwrap().len(), 4);
    for meaning in ["part-of", "grouped-by"] {
        circle["hierarchyMeaning"] = meaning.into();
        let system = terminology.code_system_of(&circle).unwrap();
        assert_eq!(system.kinds_of("a"), Err(Fault::NoKinds), "{meaning}");
        assert_eq!(system.subsumes("a", "b"), Err(Fault::NoKinds), "{meaning}");
    }
}

#[test]
fn case_counts_only_where_the_code_system_says_so() {
    let mut system = letters();
    system["caseSensitive"] = false.into();
    let mut terminology = Terminology::new(Shelf::of(&[system]));
    let compose = json!({"include": [{"system": "urn:letters", "concept": [{"code": "A"}, {"code": "a"}]}, {
        "system": "urn:other", "concept": [{"code": "A"}, {"code": "a"}]}],
        "exclude": [{"system": "urn:letters", "concept": [{"code": "B"}]}]});
    let expansion = terminology.expand_resource(&set("urn:s", &compose)).unwrap();
    assert_eq!(expansion.codes().len(), 3);
    assert!(expansion.find(Some("urn:letters"), "A").is_some_and(|coded| coded.is_abstract));
    assert!(expansion.find(None, "a").is_some() && expansion.find(Some("urn:letters"), "b").is_none());
}

#[test]
fn case_stops_counting_for_the_codes_that_were_there_before() {
    let of_version = |version: &str, code: &str| json!({"system": "urn:letters", "version": version, "concept": [{"code": code}]});
    let mut system = letters();
    system["caseSensitive"] = false.into();
    // Of the version that is not there it is not known, and case counts.
    let mut terminology = Terminology::new(Shelf::of(&[system]));
    let compose = json!({"include": [of_version("0", "A"), of_version("0", "Z"), of_version("1", "a")]});
    let expansion = terminology.expand_resource(&set("urn:s", &compose)).unwrap();
    let codes: Vec<&str> = expansion.codes().iter().map(|coded| &*coded.code).collect();
    assert_eq!(codes, ["A", "Z"]);
    assert!(["a", "A", "z", "Z"].iter().all(|code| expansion.find(Some("urn:letters"), code).is_some()));
}

#[test]
fn no_code_stands_twice_however_large_the_code_system() {
    let concepts: Vec<Value> = (0..60_000).map(|number| json!({"code": number.to_string()})).collect();
    let mut large = letters();
    large["concept"][0]["concept"][0]["concept"] = concepts.into();
    assert_eq!(crate::validate::resource(&large), []);
    large["concept"][1]["concept"] = json!([{"code": "59999"}]);
    let issues = crate::validate::resource(&large);
    assert!(issues.len() == 1 && issues[0].diagnostics.starts_with("csd-1"), "{issues:?}");
}

#[test]
fn what_was_worked_out_before_stands_in_for_what_is_not_there() {
    let before = |total: u64| {
        json!({"resourceType": "ValueSet", "url": "urn:s", "status": "active",
            "compose": {"include": [{"system": "urn:nowhere"}]},
            "expansion": {"timestamp": "2026-01-01", "total": total, "contains": [
                {"system": "urn:nowhere", "code": "x", "contains": [{"system": "urn:nowhere", "code": "y"}]}]}})
    };
    let mut terminology = Terminology::new(Shelf::default());
    assert_eq!(terminology.expand_resource(&before(2)).unwrap().codes().len(), 2);
    assert_eq!(fault(terminology.expand_resource(&before(3))), Some(Fault::PartialExpansion));
    let mut narrowed = before(2);
    narrowed["expansion"]["parameter"] = json!([{"name": "filter", "valueString": "x"}]);
    assert_eq!(fault(terminology.expand_resource(&narrowed)), Some(Fault::PartialExpansion));
    let mut without = before(2);
    without.as_object_mut().unwrap().shift_remove("compose");
    assert_eq!(terminology.expand_resource(&without).unwrap().codes().len(), 2);
    without.as_object_mut().unwrap().shift_remove("expansion");
    assert_eq!(fault(terminology.expand_resource(&without)), Some(Fault::NoContent));
}

#[test]
fn the_value_sets_of_the_specification_have_the_codes_of_its_bindings() {
    let mut terminology = Terminology::new(Shelf::default());
    let mut urls: Vec<&str> = include_str!("../../definitions/value_sets.txt")
        .lines()
        .map(|line| line.split('\t').next().unwrap())
        .collect();
    urls.dedup();
    assert!(urls.len() >= 220, "{}", urls.len());
    for url in urls {
        let resource = specification::value_set(url, Some("4.0.1")).unwrap();
        assert!(crate::validate::resource(&resource).iter().all(|issue| !issue.is_error()), "{url}");
        let expansion = terminology_of_one(&mut terminology, url);
        let mut found: Vec<&str> = expansion.codes().iter().map(|coded| &*coded.code).collect();
        found.sort_unstable();
        found.dedup();
        let bound = crate::definitions::codes(url.rsplit('/').next().unwrap()).unwrap();
        assert_eq!(found, bound.all(), "{url}");
        for coded in expansion.codes() {
            if let Some(system) = specification::code_system(&coded.system, None) {
                assert!(crate::validate::resource(&system).iter().all(|issue| !issue.is_error()), "{url}");
                break;
            }
        }
    }
    let issues = terminology.code_system("http://hl7.org/fhir/issue-type", None).unwrap();
    assert_eq!(issues.subsumes("invalid", "structure"), Ok(Subsumption::Subsumes));
}

/// As a question of its own: what is read for one is bounded.
fn terminology_of_one(terminology: &mut Terminology<Shelf>, url: &str) -> Arc<Expansion> {
    *terminology = Terminology::new(Shelf::default());
    terminology.expand(url).unwrap()
}

#[test]
fn answers_are_valid_resources() {
    let mut terminology = Terminology::new(Shelf::of(&[letters()]));
    let asked = set("urn:s", &json!({"include": [{"system": "urn:letters"}]}));
    let expansion = terminology.expand_resource(&asked).unwrap();
    let system = terminology.code_system("urn:letters", None).unwrap();
    let part = Part { words: Some("TA".to_owned()), offset: Some(1), count: Some(1) };
    let some = expanded(&asked, &expansion, &part, "2026-01-01T00:00:00Z");
    assert_eq!(
        (&some["expansion"]["total"], &some["expansion"]["contains"][0]["code"]),
        (&json!(2), &json!("d"))
    );
    let looked = looked_up(&system, system.concept("a").unwrap(), &[]);
    assert!(looked.to_string().contains("Anton") && looked.to_string().contains("The first."));
    let only = looked_up(&system, system.concept("a").unwrap(), &["vowel".to_owned()]);
    assert!(!only.to_string().contains("Anton") && only.to_string().contains("vowel"));
    let called = expansion.find(None, "a").unwrap();
    assert!(
        terminology.is_called(called, "ANTON").unwrap() && !terminology.is_called(called, "Berta").unwrap()
    );
    for answer in [
        some,
        expanded(&asked, &expansion, &Part::default(), "2026-01-01T00:00:00Z"),
        expanded(&json!({}), &Expansion::default(), &Part::default(), "2026-01-01T00:00:00Z"),
        looked,
        only,
        validated(&Verdict::misnamed(Some("x".into()))),
        validated(&Verdict::fine(None)),
        outcome_of_subsumption(Subsumption::SubsumedBy),
    ] {
        assert_eq!(crate::validate::resource(&answer), [], "{answer}");
    }
}

/// JSON that looks a little like definitions.
fn definition() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "resourceType",
        "url",
        "version",
        "content",
        "caseSensitive",
        "concept",
        "code",
        "display",
        "property",
        "valueCode",
        "valueBoolean",
        "designation",
        "value",
        "compose",
        "include",
        "exclude",
        "system",
        "filter",
        "op",
        "valueSet",
        "expansion",
        "contains",
        "total",
        "offset",
        "inactive",
        "hierarchyMeaning",
        "language",
    ]);
    let text = prop::sample::select(vec![
        "CodeSystem",
        "ValueSet",
        "urn:0",
        "urn:1",
        "urn:2|1",
        "complete",
        "a",
        "b",
        "A",
        "parent",
        "child",
        "concept",
        "is-a",
        "descendent-of",
        "is-not-a",
        "generalizes",
        "=",
        "in",
        "not-in",
        "regex",
        "exists",
        "true",
        "(a|b)*",
    ]);
    let leaf = prop_oneof![
        text.prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        (0_u64..4).prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(6, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6).prop_map(|all| Value::Object(
                all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>()
            )),
        ]
    })
}

/// Definitions of which every one is whatever it is asked for.
struct Anything(Vec<Value>);

impl Definitions for Anything {
    type Error = Infallible;

    fn code_system(&mut self, url: &str, _: Option<&str>) -> Result<Option<Arc<Value>>, Infallible> {
        Ok(self.0.get(url.len() % 4).cloned().map(Arc::new))
    }

    fn value_set(&mut self, url: &str, _: Option<&str>) -> Result<Option<Arc<Value>>, Infallible> {
        Ok(self.0.get(url.len() % 4).cloned().map(Arc::new))
    }
}

proptest! {
    #[test]
    fn arbitrary_definitions_never_panic(all in prop::collection::vec(definition(), 1..4), compose in definition(), code in "[abA]") {
        let first = all[0].clone();
        let mut terminology = Terminology::new(Anything(all));
        let asked = json!({"compose": {"include": [compose.clone(), {"system": "urn:0", "filter": [compose.clone()]}]}, "expansion": compose});
        for set in [&asked, &first] {
            if let Ok(expansion) = terminology.expand_resource(set) {
                let _ = expanded(set, &expansion, &Part::default(), "2026");
                if let Some(coded) = expansion.find(None, &code) {
                    let _ = terminology.is_called(coded, "x");
                }
            }
        }
        if let Ok(system) = terminology.code_system_of(&first) {
            let _ = (system.subsumes(&code, "a"), system.kinds_of(&code));
            if let Some(concept) = system.concept(&code) {
                let _ = looked_up(&system, concept, &[]);
            }
        }
    }
}
