use std::collections::HashSet;

use serde_json::Value;
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

use super::parameters::{ParameterKind, Parameters, SearchParameter};
use super::query::Query;
use super::value::half_of_last_digit;
use crate::ResourceType;
use crate::primitive::Moment;

/// So many combinations of values a composite parameter finds in a resource at most: each component of an observation may
/// have a thousand, in as many bytes.
const COMPOSITES_MAX: usize = 10_000;

/// One value that one parameter finds in one resource.
pub struct Extracted {
    /// The parameter.
    pub parameter: &'static SearchParameter,
    /// The value. It is PHI.
    pub value: SearchValue,
}

/// A value as a search sees it. It is PHI, so it cannot be printed.
#[derive(Clone, PartialEq)]
pub enum SearchValue {
    /// A coded value or identifier.
    Token {
        /// The code system or namespace.
        system: Option<String>,
        /// Whether it is a plain code, whose system the element implies and does not name.
        implied: bool,
        /// The code or value.
        code: Option<String>,
        /// Words for people, for `:text`.
        text: Option<String>,
    },
    /// Text as it stands in the resource.
    String(String),
    /// A URI.
    Uri(String),
    /// A reference.
    Reference {
        /// The type it points to, if it tells.
        resource_type: Option<ResourceType>,
        /// The id on this server.
        id: Option<String>,
        /// The whole text, if it does not point to this server: an absolute URL, a canonical or a URN.
        url: Option<String>,
        /// The version it names.
        version: Option<String>,
        /// The business identifier it carries.
        identifier: Option<(Option<String>, Option<String>)>,
    },
    /// A span of time in microseconds since 1970, end exclusive; open ends are the smallest and largest numbers.
    Date {
        /// Inclusive.
        start: i64,
        /// Exclusive.
        end: i64,
    },
    /// A number, or a range of numbers.
    Number {
        /// Smallest.
        low: f64,
        /// Largest.
        high: f64,
        /// Half a unit of its last digit: what the number leaves open to either side.
        half: f64,
    },
    /// A number with a unit, or a range of them.
    Quantity {
        /// Smallest.
        low: f64,
        /// Largest.
        high: f64,
        /// The system of the unit's code.
        system: Option<String>,
        /// The unit's code.
        code: Option<String>,
        /// The unit for people.
        unit: Option<String>,
    },
    /// An identifier and its type, for `:of-type`: beside the token, once for each coding of the type.
    Identifier {
        /// The type's system.
        system: Option<String>,
        /// The type's code.
        code: String,
        /// The identifier's value.
        value: String,
    },
    /// The words of a whole text, normalised.
    Words(HashSet<String>),
    /// A place on the earth, in degrees north and east.
    Place(f64, f64),
    /// One value for each component.
    Composite(Vec<Self>),
}

impl std::fmt::Debug for SearchValue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SearchValue(..)")
    }
}

/// Every value that every parameter of the type, but those of full text, finds in `resource`. `base` is this server's
/// FHIR base URL, so that absolute references to itself are known as such.
pub fn extract(kind: ResourceType, resource: &Value, base: &str, parameters: &Parameters) -> Vec<Extracted> {
    let mut all = Vec::with_capacity(32);
    for parameter in parameters.of(kind) {
        // Whole texts are for those who ask for them.
        if parameter.kind != ParameterKind::Words {
            collect(parameter, resource, base, &mut |value| all.push(Extracted { parameter, value }));
        }
    }
    all
}

/// As [`extract`], for the parameters that `query` uses only.
pub fn extract_for(query: &Query, resource: &Value, base: &str) -> Vec<Extracted> {
    let mut all: Vec<Extracted> = Vec::new();
    for parameter in query.parameters() {
        collect(parameter, resource, base, &mut |value| all.push(Extracted { parameter, value }));
    }
    all
}

/// The values of one parameter.
pub fn extract_parameter(
    parameter: &'static SearchParameter,
    resource: &Value,
    base: &str,
) -> Vec<SearchValue> {
    let mut values = Vec::new();
    collect(parameter, resource, base, &mut |value| values.push(value));
    values
}

/// Case, accents and runs of blanks do not count in a string search.
pub fn normalize_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut blank = true;
    let mut push = |letter: char| {
        if letter.is_whitespace() {
            if !blank {
                out.push(' ');
            }
            blank = true;
        } else {
            out.extend(letter.to_lowercase());
            blank = false;
        }
    };
    if text.is_ascii() {
        text.chars().for_each(&mut push);
    } else {
        text.nfkd().filter(|letter| !is_combining_mark(*letter)).for_each(&mut push);
    }
    if out.ends_with(' ') {
        out.pop();
    }
    out
}

/// The words of a normalised text.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty())
}

fn collect(parameter: &SearchParameter, resource: &Value, base: &str, out: &mut dyn FnMut(SearchValue)) {
    if parameter.expression.is_boolean() {
        let mut present = false;
        parameter.expression.evaluate(resource, &mut |value| present |= value != &Value::Bool(false));
        return out(plain(present.to_string()));
    }
    if parameter.kind == ParameterKind::Words {
        let text = if parameter.code == "_text" { resource.pointer("/text/div") } else { Some(resource) };
        let mut words_of = String::new();
        texts(text.unwrap_or(&Value::Null), &mut words_of);
        let text = normalize_string(&words_of);
        return out(SearchValue::Words(words(&text).map(str::to_owned).collect()));
    }
    let mut left = COMPOSITES_MAX;
    parameter.expression.evaluate(resource, &mut |element| {
        if parameter.components.is_empty() {
            convert(parameter.kind, element, base, out);
        } else if left > 0 {
            left -= composite(parameter, element, resource, base, left, out);
        }
    });
}

/// Every text within a value, a blank between them, without the tags of narratives.
fn texts(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => {
            let mut in_tag = false;
            out.extend(text.chars().map(|letter| {
                in_tag = letter == '<' || in_tag && letter != '>';
                if in_tag || letter == '>' { ' ' } else { letter }
            }));
            out.push(' ');
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, out)),
        Value::Object(members) => members.values().for_each(|member| texts(member, out)),
        _ => {}
    }
}

/// All combinations of the components' values within one element, so many at most; and how many they are.
fn composite(
    parameter: &SearchParameter,
    element: &Value,
    resource: &Value,
    base: &str,
    most: usize,
    out: &mut dyn FnMut(SearchValue),
) -> usize {
    let mut rows: Vec<Vec<SearchValue>> = vec![Vec::new()];
    for component in &parameter.components {
        let mut values = Vec::new();
        component.expression.evaluate_within(element, resource, &mut |value| {
            convert(component.kind, value, base, &mut |value| values.push(value));
        });
        rows = rows
            .iter()
            .flat_map(|row| {
                values
                    .iter()
                    .map(move |value| row.iter().cloned().chain(std::iter::once(value.clone())).collect())
            })
            .take(most)
            .collect();
    }
    let count = rows.len();
    rows.into_iter().for_each(|row| out(SearchValue::Composite(row)));
    count
}

fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name).and_then(Value::as_str).map(str::to_owned)
}

fn convert(kind: ParameterKind, value: &Value, base: &str, out: &mut dyn FnMut(SearchValue)) {
    match kind {
        ParameterKind::Token => token(value, out),
        ParameterKind::String => string(value, out),
        ParameterKind::Uri => {
            if let Some(uri) = value.as_str() {
                out(SearchValue::Uri(uri.to_owned()));
            }
        }
        ParameterKind::Date => date(value, out),
        ParameterKind::Reference => {
            if let Some(reference) = reference(value, base) {
                out(reference);
            }
        }
        ParameterKind::Number => {
            if let Some((low, high)) = span(value) {
                let exact = value.as_number().or_else(|| value.get("value").and_then(Value::as_number));
                let half = exact.and_then(|exact| half_of_last_digit(&exact.to_string())).unwrap_or_default();
                out(SearchValue::Number { low, high, half });
            }
        }
        ParameterKind::Quantity => quantity(value, out),
        ParameterKind::Place => {
            if let (Some(latitude), Some(longitude)) =
                (number(value.get("latitude")), number(value.get("longitude")))
            {
                out(SearchValue::Place(latitude, longitude));
            }
        }
        ParameterKind::Composite | ParameterKind::Words => {}
    }
}

/// A code without a system of its own.
pub(super) fn plain(code: String) -> SearchValue {
    SearchValue::Token { system: None, implied: true, code: Some(code), text: None }
}

fn token(value: &Value, out: &mut dyn FnMut(SearchValue)) {
    match value {
        Value::String(code) => out(plain(code.clone())),
        Value::Bool(flag) => out(plain(flag.to_string())),
        Value::Number(number) => out(plain(number.to_string())),
        Value::Object(object) => {
            if object.contains_key("coding") || (object.contains_key("text") && !object.contains_key("value"))
            {
                let words = text(value, "text");
                let codings =
                    value.get("coding").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                for coding in codings {
                    let display = text(coding, "display").or_else(|| words.clone());
                    out(SearchValue::Token {
                        system: text(coding, "system"),
                        implied: false,
                        code: text(coding, "code"),
                        text: display,
                    });
                }
                if words.is_some() {
                    out(SearchValue::Token { system: None, implied: false, code: None, text: words });
                }
            } else if object.contains_key("value") {
                let words = value.get("type").and_then(|of| text(of, "text"));
                out(SearchValue::Token {
                    system: text(value, "system"),
                    implied: false,
                    code: text(value, "value"),
                    text: words,
                });
                let types = value.pointer("/type/coding").and_then(Value::as_array);
                for of in types.into_iter().flatten() {
                    if let (Some(code), Some(value)) = (text(of, "code"), text(value, "value")) {
                        out(SearchValue::Identifier { system: text(of, "system"), code, value });
                    }
                }
            } else if object.contains_key("code") || object.contains_key("system") {
                let display = text(value, "display");
                out(SearchValue::Token {
                    system: text(value, "system"),
                    implied: false,
                    code: text(value, "code"),
                    text: display,
                });
            }
        }
        _ => {}
    }
}

/// The parts of names and addresses that a search looks into.
const PARTS: [&str; 11] = [
    "text",
    "family",
    "given",
    "prefix",
    "suffix",
    "line",
    "city",
    "district",
    "state",
    "postalCode",
    "country",
];

fn string(value: &Value, out: &mut dyn FnMut(SearchValue)) {
    match value {
        Value::String(text) => out(SearchValue::String(text.clone())),
        Value::Object(object) => {
            for part in PARTS.iter().filter_map(|name| object.get(*name)) {
                match part {
                    Value::Array(items) => items.iter().for_each(|item| string(item, out)),
                    other => string(other, out),
                }
            }
        }
        _ => {}
    }
}

fn date(value: &Value, out: &mut dyn FnMut(SearchValue)) {
    let moment = |text: Option<&Value>| text.and_then(Value::as_str).and_then(Moment::parse);
    match value {
        Value::String(text) => {
            if let Some(Moment { start, end, .. }) = Moment::parse(text) {
                out(SearchValue::Date { start, end });
            }
        }
        Value::Object(object) => {
            let (start, end) = (moment(object.get("start")), moment(object.get("end")));
            if start.is_some() || end.is_some() {
                let start = start.map_or(i64::MIN, |moment| moment.start);
                let end = end.map_or(i64::MAX, |moment| moment.end);
                if start < end {
                    out(SearchValue::Date { start, end });
                }
            }
            for event in object.get("event").and_then(Value::as_array).into_iter().flatten() {
                date(event, out);
            }
            if let Some(bounds) = object.get("repeat").and_then(|repeat| repeat.get("boundsPeriod")) {
                date(bounds, out);
            }
        }
        _ => {}
    }
}

fn reference(value: &Value, base: &str) -> Option<SearchValue> {
    let (target, identifier) = match value {
        Value::String(uri) => (Some(uri.as_str()), None),
        Value::Object(_) => (
            value.get("reference").and_then(Value::as_str),
            value.get("identifier").map(|identifier| (text(identifier, "system"), text(identifier, "value"))),
        ),
        _ => return None,
    };
    let Some(target) = target else {
        let kind = value.get("type").and_then(Value::as_str).and_then(ResourceType::parse);
        return identifier.map(|identifier| SearchValue::Reference {
            resource_type: kind,
            id: None,
            url: None,
            version: None,
            identifier: Some(identifier),
        });
    };
    let (resource_type, id, url, version) = split_reference(target, base);
    Some(SearchValue::Reference { resource_type, id, url, version, identifier })
}

/// Type, id, other URL and version of a reference's text.
pub(super) fn split_reference(
    text: &str,
    base: &str,
) -> (Option<ResourceType>, Option<String>, Option<String>, Option<String>) {
    let own = text.strip_prefix(base).and_then(|rest| rest.strip_prefix('/')).unwrap_or(text);
    let (path, version) = match own.split_once("/_history/") {
        Some((path, version)) => (path, Some(version.to_owned())),
        None => (own, None),
    };
    if let Some((kind, id)) = path.split_once('/')
        && let Some(kind) = ResourceType::parse(kind)
        && ward_base::ResourceId::parse(id).is_ok()
    {
        return (Some(kind), Some(id.to_owned()), None, version);
    }
    // A URL of another server still tells its type.
    let mut parts = path.rsplit('/');
    let kind = parts.nth(1).and_then(ResourceType::parse);
    (kind, None, Some(text.to_owned()), version)
}

fn number(value: Option<&Value>) -> Option<f64> {
    value.and_then(Value::as_number).and_then(|number| number.as_str().parse().ok())
}

/// A number, or the ends of a range.
fn span(value: &Value) -> Option<(f64, f64)> {
    if let Some(exact) = number(Some(value)).or_else(|| number(value.get("value"))) {
        return Some(match value.get("comparator").and_then(Value::as_str) {
            Some("<" | "<=") => (f64::NEG_INFINITY, exact),
            Some(">" | ">=") => (exact, f64::INFINITY),
            _ => (exact, exact),
        });
    }
    let (low, high) = (number(value.pointer("/low/value")), number(value.pointer("/high/value")));
    (low.is_some() || high.is_some())
        .then(|| (low.unwrap_or(f64::NEG_INFINITY), high.unwrap_or(f64::INFINITY)))
}

fn quantity(value: &Value, out: &mut dyn FnMut(SearchValue)) {
    let Some((low, high)) = span(value) else { return };
    let unit_of = value.get("low").or_else(|| value.get("high")).unwrap_or(value);
    let currency = text(unit_of, "currency");
    let system = match &currency {
        Some(_) => Some("urn:iso:std:iso:4217".to_owned()),
        None => text(unit_of, "system"),
    };
    out(SearchValue::Quantity {
        low,
        high,
        system,
        code: currency.or_else(|| text(unit_of, "code")),
        unit: text(unit_of, "unit"),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn strings_lose_case_accents_and_spare_blanks() {
        assert_eq!(normalize_string("  Núñez   de  BALBOA "), "nunez de balboa");
        assert_eq!(normalize_string("Ｗard"), "ward");
        assert_eq!(normalize_string("Nguyễn"), "nguyen");
        // What is wanted is normalised when it is understood, and by some that look for it once more.
        for letter in '\0'..=char::MAX {
            let once = normalize_string(&format!("a{letter}b"));
            assert_eq!(normalize_string(&once), once, "{letter:?}");
        }
    }

    #[test]
    fn each_type_of_value_is_found() {
        let kind = ResourceType::parse("Observation").unwrap();
        let observation = json!({
            "resourceType": "Observation", "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4", "display": "Heart rate"}], "text": "pulse"},
            "subject": {"reference": "https://h/fhir/R4/Patient/p/_history/2"},
            "effectivePeriod": {"start": "2026-01-01"}, "valueQuantity": {"value": 5.40, "unit": "mg", "system": "http://unitsofmeasure.org", "code": "mg"},
            "meta": {"profile": ["http://x"], "tag": [{"system": "urn:t", "code": "c"}]},
        });
        let find = |code: &str| {
            let parameter = super::super::parameter(kind, code).unwrap();
            extract_parameter(parameter, &observation, "https://h/fhir/R4")
        };
        let token = |system: Option<&str>, code: Option<&str>, text: Option<&str>| SearchValue::Token {
            system: system.map(str::to_owned),
            implied: false,
            code: code.map(str::to_owned),
            text: text.map(str::to_owned),
        };
        assert!(
            find("code")
                == [
                    token(Some("http://loinc.org"), Some("8867-4"), Some("Heart rate")),
                    token(None, None, Some("pulse"))
                ]
        );
        assert!(find("status") == [plain("final".to_owned())]);
        assert!(find("patient") == find("subject"));
        let patient = ResourceType::parse("Patient");
        assert!(
            find("subject")
                == [SearchValue::Reference {
                    resource_type: patient,
                    id: Some("p".into()),
                    url: None,
                    version: Some("2".into()),
                    identifier: None
                }]
        );
        assert!(find("date") == [SearchValue::Date { start: 1_767_225_600_000_000, end: i64::MAX }]);
        assert!(
            matches!(&find("value-quantity")[..], [SearchValue::Quantity { low, high, code: Some(code), .. }] if *low == 5.4 && *high == 5.4 && code == "mg")
        );
        assert_eq!(find("code-value-quantity").len(), 2);
        assert!(find("_profile") == [SearchValue::Uri("http://x".into())]);
        assert!(find("_tag") == [token(Some("urn:t"), Some("c"), None)]);
        assert!(find("value-string").is_empty());
    }

    #[test]
    fn combinations_do_not_multiply_without_end() {
        let codings: Vec<Value> = (0..40).map(|code| json!({"code": code.to_string()})).collect();
        let concept = json!({"coding": codings});
        let component = json!({"code": concept, "valueCodeableConcept": concept});
        let find = |components: usize| {
            let observation =
                json!({"resourceType": "Observation", "component": vec![&component; components]});
            let kind = ResourceType::parse("Observation").unwrap();
            let parameter = super::super::parameter(kind, "component-code-value-concept").unwrap();
            extract_parameter(parameter, &observation, "https://h/fhir/R4").len()
        };
        assert_eq!((find(1), find(5), find(500)), (1_600, 8_000, COMPOSITES_MAX));
    }

    #[test]
    fn paths_go_on_after_a_cast_and_start_again_at_the_resource() {
        let find = |resource: &Value, code: &str| {
            let kind = ResourceType::parse(resource["resourceType"].as_str().unwrap()).unwrap();
            extract_parameter(super::super::parameter(kind, code).unwrap(), resource, "https://h/fhir/R4")
        };
        let observation =
            json!({"resourceType": "Observation", "valueCodeableConcept": {"text": "negative"}});
        assert!(find(&observation, "value-string") == [SearchValue::String("negative".into())]);
        let sequence = json!({"resourceType": "MolecularSequence",
            "referenceSeq": {"chromosome": {"coding": [{"code": "7"}]}}, "variant": [{"start": 3, "end": 5}, {"start": 9}]});
        let [SearchValue::Composite(parts)] = &find(&sequence, "chromosome-variant-coordinate")[..] else {
            panic!("one variant has a start and an end");
        };
        let seven = SearchValue::Token { system: None, implied: false, code: Some("7".into()), text: None };
        assert!(parts[0] == seven);
    }
}
