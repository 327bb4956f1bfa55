//! The language of `_filter` (<https://hl7.org/fhir/R4/search_filter.html>): its shape, and what its operators ask.
//!
//! `and` and `or` have no precedence: they are taken from left to right. The names that the page adds for elements of
//! some types (`relatesTo`, `characteristic`) are not known here: composite parameters ask the same.

use super::parameters::{ParameterKind, SearchParameter};
use super::query::{Filter, FilterValue, Modifier, Prefix};
use super::value::{Fault, read_value, wrong};

/// Parentheses and brackets within each other.
const NESTED_MAX: usize = 20;
/// Changes between `and` and `or`, each of which puts what came before into an expression of its own.
const CHANGES_MAX: usize = 20;

/// What is asked of a resource.
pub(super) enum Expression<'a> {
    /// All of it must be met.
    All(Vec<Self>),
    /// One of it must be met.
    Any(Vec<Self>),
    /// It must not be met.
    Not(Box<Self>),
    /// The values at the end of a path compare with this value.
    Test { path: Vec<Step<'a>>, operator: &'a str, value: String },
}

/// A name in a path: a search parameter. What a reference leads to must meet the expression in brackets.
pub(super) struct Step<'a> {
    pub(super) name: &'a str,
    pub(super) within: Option<Expression<'a>>,
}

/// Reads an expression. What is wrong is named by its place, in characters from 1; the text is not repeated.
pub(super) fn read(text: &str) -> Result<Expression<'_>, Fault> {
    let mut scanner = Scanner { text, at: 0, nested: 0, changes: 0 };
    let expression = scanner.expression()?;
    if scanner.rest().is_empty() { Ok(expression) } else { Err(scanner.expected("`and`, `or` or the end")) }
}

struct Scanner<'a> {
    text: &'a str,
    /// Where the rest begins, in bytes.
    at: usize,
    nested: usize,
    changes: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn expected(&self, what: &str) -> Fault {
        let place = self.text.get(..self.at).unwrap_or_default().chars().count() + 1;
        Fault::Wrong(format!("`_filter` is not understood from its character {place} on; {what} is expected"))
    }

    fn skip_blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Takes as many characters as are of a kind.
    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn take(&mut self, letter: char) -> bool {
        let found = self.rest().starts_with(letter);
        self.at += if found { letter.len_utf8() } else { 0 };
        found
    }

    /// Takes a word, unless it only begins with this one.
    fn take_word(&mut self, word: &str) -> bool {
        let after = self.rest().strip_prefix(word);
        let found = after.is_some_and(|after| !after.starts_with(is_name_letter));
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn expression(&mut self) -> Result<Expression<'a>, Fault> {
        let first = self.operand()?;
        let Some(mut joint) = self.joint() else { return Ok(first) };
        let mut parts = vec![first];
        loop {
            parts.push(self.operand()?);
            let next = self.joint();
            if next == Some(joint) {
                continue;
            }
            let joined = joint.of(parts);
            let Some(other) = next else { return Ok(joined) };
            self.changes += 1;
            if self.changes > CHANGES_MAX {
                return Err(wrong("`_filter` changes between `and` and `or` 20 times at most"));
            }
            joint = other;
            parts = vec![joined];
        }
    }

    fn joint(&mut self) -> Option<Joint> {
        self.skip_blanks();
        if self.take_word("and") {
            Some(Joint::And)
        } else if self.take_word("or") {
            Some(Joint::Or)
        } else {
            None
        }
    }

    fn operand(&mut self) -> Result<Expression<'a>, Fault> {
        self.skip_blanks();
        let start = self.at;
        if self.take_word("not") {
            self.skip_blanks();
            if self.take('(') {
                return Ok(Expression::Not(Box::new(self.enclosed(')')?)));
            }
            self.at = start;
        }
        if self.take('(') { self.enclosed(')') } else { self.test() }
    }

    /// What stands before the closing `end`.
    fn enclosed(&mut self, end: char) -> Result<Expression<'a>, Fault> {
        if self.nested == NESTED_MAX {
            return Err(wrong("`_filter` has 20 parentheses and brackets within each other at most"));
        }
        self.nested += 1;
        let inner = self.expression()?;
        self.nested -= 1;
        self.skip_blanks();
        if self.take(end) { Ok(inner) } else { Err(self.expected(&format!("`and`, `or` or `{end}`"))) }
    }

    fn test(&mut self) -> Result<Expression<'a>, Fault> {
        let mut path = Vec::new();
        loop {
            let name = self.take_while(|letter| is_name_letter(letter) || letter == ':');
            if name.is_empty() {
                return Err(self.expected("the name of a search parameter"));
            }
            let within = if self.take('[') { Some(self.enclosed(']')?) } else { None };
            let ends = within.is_none();
            path.push(Step { name, within });
            match self.take('.') {
                true => {}
                false if ends => break,
                false => return Err(self.expected("`.` and a name after the bracket")),
            }
        }
        self.skip_blanks();
        let before = self.at;
        let operator = self.take_while(|letter| letter.is_ascii_alphabetic());
        if !OPERATORS.contains(&operator) {
            self.at = before;
            return Err(self.expected(&format!("an operator ({})", OPERATORS.join(", "))));
        }
        self.skip_blanks();
        Ok(Expression::Test { path, operator, value: self.value()? })
    }

    /// A JSON string, or all up to a blank or what ends the expression.
    fn value(&mut self) -> Result<String, Fault> {
        let rest = self.rest();
        if !rest.starts_with('"') {
            let value = self.take_while(|letter| !letter.is_whitespace() && !matches!(letter, ')' | ']'));
            return if value.is_empty() { Err(self.expected("a value")) } else { Ok(value.to_owned()) };
        }
        let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
        match strings.next() {
            Some(Ok(value)) => {
                self.at += strings.byte_offset();
                Ok(value)
            }
            _ => Err(self.expected("a JSON string")),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Joint {
    And,
    Or,
}

impl Joint {
    const fn of(self, parts: Vec<Expression<'_>>) -> Expression<'_> {
        match self {
            Self::And => Expression::All(parts),
            Self::Or => Expression::Any(parts),
        }
    }
}

const fn is_name_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-')
}

const OPERATORS: [&str; 19] = [
    "eq", "ne", "co", "sw", "ew", "gt", "lt", "ge", "le", "ap", "sa", "eb", "pr", "po", "ss", "sb", "in",
    "ni", "re",
];

/// The operators that can be asked of a kind of parameter. The specification's table leaves out some kinds; a reference
/// is compared by `re`, and by `eq` as well, since that is what people write.
const fn operators(kind: ParameterKind) -> &'static [&'static str] {
    match kind {
        ParameterKind::String => &["eq", "ne", "co", "sw", "ew", "gt", "lt", "ge", "le", "pr"],
        ParameterKind::Number => &["eq", "ne", "co", "gt", "lt", "ge", "le", "ap", "sa", "eb", "pr"],
        ParameterKind::Date => &["eq", "ne", "co", "gt", "lt", "ge", "le", "ap", "sa", "eb", "po", "pr"],
        ParameterKind::Quantity => &["eq", "ne", "gt", "lt", "ge", "le", "ap", "sa", "eb", "pr"],
        ParameterKind::Token => &["eq", "ne", "ss", "sb", "in", "ni", "pr"],
        ParameterKind::Reference => &["re", "eq", "pr"],
        ParameterKind::Uri => &["eq", "ne", "co", "pr"],
        ParameterKind::Composite | ParameterKind::Place => &["eq"],
        ParameterKind::Words => &["co"],
    }
}

/// The filter that a test asks of a parameter's values.
pub(super) fn filter(
    parameter: &'static SearchParameter,
    operator: &str,
    value: &str,
    base: &str,
) -> Result<Filter, Fault> {
    use ParameterKind::{Composite, Date, Number, Quantity, String, Token, Uri};
    let known = operators(parameter.kind);
    if !known.contains(&operator) {
        let words =
            format!("such a parameter cannot be asked by this operator; it takes {}", known.join(", "));
        return Err(Fault::Wrong(words));
    }
    let modifier = match (operator, parameter.kind) {
        ("pr", _) => return present(parameter, value),
        // Ids are told apart by case.
        ("eq", Token) if parameter.code == "_id" => None,
        ("ne", Token) if parameter.code == "_id" => Some(Modifier::Not),
        ("eq", String | Token) => Some(Modifier::Whole),
        ("ne", String | Token | Uri | Quantity) => Some(Modifier::Other),
        ("co", String | Uri) => Some(Modifier::Contains),
        ("ew", String) => Some(Modifier::End),
        ("gt", String) => Some(Modifier::Ordered(Prefix::Greater)),
        ("lt", String) => Some(Modifier::Ordered(Prefix::Less)),
        ("ge", String) => Some(Modifier::Ordered(Prefix::GreaterOrEqual)),
        ("le", String) => Some(Modifier::Ordered(Prefix::LessOrEqual)),
        ("ss", _) => Some(Modifier::Below),
        ("sb", _) => Some(Modifier::Above),
        ("in", _) => Some(Modifier::In),
        ("ni", _) => Some(Modifier::NotIn),
        _ => None,
    };
    let text = match (parameter.kind, operator) {
        // In a search a backslash makes a comma plain, which it is here anyway.
        (String | Uri, _) => value.replace('\\', "\\\\"),
        (Date | Number, "co" | "po") => format!("eq{value}"),
        (Date | Number, _) => format!("{operator}{value}"),
        (Quantity, "ne") => format!("eq{}", with_systems(value)),
        (Quantity, _) => format!("{operator}{}", with_systems(value)),
        (Token | Composite, _) => with_systems(value),
        _ => value.to_owned(),
    };
    let mut value = read_value(&text, parameter, modifier, base)?;
    if let FilterValue::Date { prefix, .. } | FilterValue::Number { prefix, .. } = &mut value {
        match operator {
            "co" => *prefix = Prefix::Within,
            "po" => *prefix = Prefix::Overlapping,
            _ => {}
        }
    }
    Ok(Filter { parameter, modifier, values: vec![value] })
}

/// The operator and value whose opposite these ask of the values at the end of a path: where it leads to none, they
/// are met.
pub(super) fn opposite<'a>(operator: &str, value: &'a str) -> Option<(&'static str, &'a str)> {
    match (operator, value) {
        ("pr", "false") => Some(("pr", "true")),
        ("ni", _) => Some(("in", value)),
        _ => None,
    }
}

fn present(parameter: &'static SearchParameter, value: &str) -> Result<Filter, Fault> {
    let missing = match value {
        "true" => false,
        "false" => true,
        _ => return Err(wrong("`pr` takes true or false")),
    };
    let values = vec![FilterValue::Missing(missing)];
    Ok(Filter { parameter, modifier: Some(Modifier::Missing), values })
}

/// Code systems that have a short name.
const SYSTEMS: [(&str, &str); 4] = [
    ("loinc", "http://loinc.org"),
    ("snomed", "http://snomed.info/sct"),
    ("rxnorm", "http://www.nlm.nih.gov/research/umls/rxnorm"),
    ("ucum", "http://unitsofmeasure.org"),
];

/// The value with the full names of its code systems, which stand before the last `|` of each of its parts.
fn with_systems(value: &str) -> String {
    let part = |part: &str| {
        let mut pieces: Vec<&str> = part.split('|').collect();
        if let Some(system) = pieces.iter_mut().rev().nth(1)
            && let Some((_, full)) = SYSTEMS.iter().find(|(short, _)| short == system)
        {
            *system = full;
        }
        pieces.join("|")
    };
    value.split('$').map(part).collect::<Vec<_>>().join("$")
}

#[cfg(test)]
mod tests {
    use super::super::{Handling, Parameters, Query, extract_for, parse};
    use crate::ResourceType;
    use crate::outcome::Issue;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use ward_base::Timestamp;

    const BASE: &str = "https://h/fhir/R4";

    fn understood(kind: &str, expression: &str) -> Result<Query, Vec<Issue>> {
        let pairs = [("_filter".to_owned(), expression.to_owned())];
        let kind = ResourceType::parse(kind).unwrap();
        parse(kind, &pairs, Handling::Lenient, BASE, &Parameters::default()).map(|(query, _)| query)
    }

    fn meets(resource: &Value, expression: &str) -> bool {
        let kind = resource["resourceType"].as_str().unwrap();
        let query = understood(kind, expression).unwrap_or_else(|issues| panic!("{expression}: {issues:?}"));
        let extracted = extract_for(&query, resource, BASE);
        query.matches(&extracted, "p1", Timestamp(1_767_225_600_000_000)).unwrap()
    }

    fn refusal(kind: &str, expression: &str) -> String {
        let issues = understood(kind, expression).err().unwrap_or_else(|| panic!("{expression} was taken"));
        issues.into_iter().map(|issue| issue.diagnostics).collect()
    }

    #[test]
    fn each_operator_compares_as_the_specification_says() {
        let patient = json!({
            "resourceType": "Patient", "id": "p1", "active": true, "gender": "female", "birthDate": "1970-03",
            "name": [{"family": "Nuñez (born Li)", "given": ["María", "Ana"]}],
            "identifier": [{"type": {"coding": [{"code": "MR"}], "text": "number"}, "system": "urn:mrn", "value": "Ab7"}],
            "generalPractitioner": [{"reference": "Practitioner/d"}],
        });
        let observation = json!({
            "resourceType": "Observation", "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}], "text": "Systolic"},
            "effectivePeriod": {"start": "2020-01-10", "end": "2020-01-20"},
            "valueQuantity": {"value": 107.5, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": "mm[Hg]"},
        });
        let risk = json!({"resourceType": "RiskAssessment", "status": "final", "subject": {"reference": "Patient/p"},
            "prediction": [{"probabilityDecimal": 0.25}]});
        let set = json!({"resourceType": "ValueSet", "status": "draft", "url": "http://a.test/Sets\\1"});
        for (resource, expression, expected) in [
            (&patient, "given eq ana", true),
            (&patient, "given eq an", false),
            (&patient, r#"family eq "nunez (born li)""#, true),
            (&patient, r#"family eq "n\u00fa\u00f1ez (BORN li)""#, true),
            (&patient, "given ne ana", true),
            (&patient, "gender ne female", false),
            (&patient, "phone ne 5", false),
            (&patient, "family co BORN", true),
            (&patient, "family sw Nuñ", true),
            (&patient, "family sw born", false),
            (&patient, r#"family ew "li)""#, true),
            (&patient, "family ew li", false),
            (&patient, "given gt am and given lt an", false),
            (&patient, "given ge ana and given le ana", true),
            (&patient, "given lt b", true),
            (&patient, "gender eq FEMALE", true),
            (&patient, "identifier eq urn:mrn|aB7", true),
            (&patient, "identifier eq urn:MRN|aB7", false),
            (&patient, "identifier eq |Ab7", false),
            (&patient, "identifier ne urn:mrn|ab7", false),
            (&patient, "identifier ne urn:mrn|8", true),
            (&patient, "_id eq p1", true),
            (&patient, "_id eq P1", false),
            (&patient, "_id ne P1", true),
            (&patient, "_id ne p1", false),
            (&patient, "birthdate eq 1970", true),
            (&patient, "birthdate eq 1970-03-05", false),
            (&patient, "birthdate co 1970-03-05", true),
            (&patient, "birthdate co 1970", false),
            (&patient, "birthdate po 1970-03-05", true),
            (&patient, "birthdate po 1970-04", false),
            (&patient, "_lastUpdated ge 2026 and _lastUpdated eb 2027", true),
            (&patient, "general-practitioner re Practitioner/d", true),
            (&patient, "general-practitioner re https://h/fhir/R4/Practitioner/d", true),
            (&patient, "general-practitioner eq d", true),
            (&patient, "general-practitioner re Organization/d", false),
            (&patient, "general-practitioner pr true", true),
            (&patient, "general-practitioner pr false", false),
            (&patient, "phone pr false", true),
            (&observation, "code eq http://loinc.org|8480-6", true),
            (&observation, "code eq loinc|8480-6", true),
            (&observation, "code ne loinc|8480-6", false),
            (&observation, "code ne snomed|8480-6", true),
            (&observation, "value-quantity ne 107.5||mmHg", false),
            (&observation, "value-quantity ne 107.5||kg", true),
            (&observation, "value-quantity ne 106||mmHg", true),
            (&observation, "code eq snomed|8480-6", false),
            (&observation, "date po 2020-01-20", true),
            (&observation, "date po 2020-01-21", false),
            (&observation, "date co 2020-01-12", true),
            (&observation, "date sa 2020-01-09", true),
            (&observation, "date ap 2020-01-25", false),
            (&observation, "value-quantity gt 107|ucum|mm[Hg", false),
            (&observation, r#"value-quantity gt "107|ucum|mm[Hg]""#, true),
            (&observation, "value-quantity le 107", false),
            (&observation, "code-value-quantity eq loinc|8480-6$gt100", true),
            (&observation, "code-value-quantity eq loinc|8480-6$lt100", false),
            (&risk, "probability co 0.25", true),
            (&risk, "probability co 0.2549", true),
            (&risk, "probability co 0.256", false),
            (&risk, "probability eq 0.2549", false),
            (&risk, "probability lt 0.2", false),
            (&set, r#"url eq "http://a.test/Sets\\1""#, true),
            (&set, "url eq http://a.test/Sets", false),
            (&set, "url co Sets", true),
            (&set, "url ne http://a.test/Sets", true),
        ] {
            assert_eq!(meets(resource, expression), expected, "{expression}");
        }
    }

    #[test]
    fn and_and_or_are_taken_from_left_to_right() {
        let patient = json!({"resourceType": "Patient", "gender": "female", "active": true});
        let value = |truth| if truth { "gender eq female" } else { "gender eq male" };
        for bits in 0..8_u8 {
            let (a, b, c) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
            let (x, y, z) = (value(a), value(b), value(c));
            for (expression, expected) in [
                (format!("{x} or {y} and {z}"), (a || b) && c),
                (format!("{x} and {y} or {z}"), (a && b) || c),
                (format!("{x} or ({y} and {z})"), a || (b && c)),
                (format!("not({x}) and {y} and not ( {z} or {x} )"), !a && b && !c),
                (format!("({x})or({y})and not\t(not(({z})))"), (a || b) && c),
            ] {
                assert_eq!(meets(&patient, &expression), expected, "{expression}");
            }
        }
    }

    #[test]
    fn paths_lead_to_other_resources() {
        for expression in [
            r#"subject.name co "pet""#,
            "subject:Patient.general-practitioner.name eq x",
            "subject:Patient[active eq true and (name eq x or phone pr false)].general-practitioner.name eq x",
            "not(code eq 1 or subject.name pr false)",
        ] {
            let query = understood("Observation", expression).unwrap_or_else(|issues| panic!("{issues:?}"));
            assert!(query.asks_of_others(), "{expression}");
            assert!(query.matches(&[], "p1", Timestamp(0)).is_none(), "{expression}");
        }
        // What does not depend on others is known.
        for (expression, expected) in [
            ("_id eq p1 or subject.name pr true", true),
            ("_id ne p1 and subject.name pr true", false),
            ("not(_id eq p1 or subject.name pr true)", false),
            ("not(_id ne p1 and subject.name pr true)", true),
        ] {
            let query = understood("Observation", expression).unwrap_or_else(|issues| panic!("{issues:?}"));
            assert_eq!(query.matches(&[], "p1", Timestamp(0)), Some(expected), "{expression}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_by_its_place_and_not_repeated() {
        let deep = format!("{}gender eq Zqx{}", "(".repeat(21), ")".repeat(21));
        let long = ["gender eq Zqx"; 1001].join(" or ");
        let chain = format!("{}name eq Zqx", "link.".repeat(11));
        let changing = format!("{}active eq true", "gender eq Zqx and gender eq Zqx or ".repeat(11));
        let deeper = changing.repeat(600);
        let beyond = format!("link[{}].name eq 1", ["_id eq Zqx"; 600].join(" or "));
        for (expression, words) in [
            ("", "character 1 on; the name"),
            ("gender", "character 7 on; an operator"),
            ("gender is Zqx", "character 8 on; an operator"),
            ("gender eq", "character 10 on; a value"),
            ("gender eq Zqx Zqx", "character 15 on; `and`, `or` or the end"),
            ("gender eq Zqx and", "character 18 on; the name"),
            ("(gender eq Zqx", "character 15 on; `and`, `or` or `)`"),
            ("(gender eq Zqx]", "character 15 on"),
            ("gender eq Zqx)", "character 14 on"),
            ("not gender eq Zqx", "character 5 on; an operator"),
            ("link[name eq Zqx] eq 1", "`.` and a name after the bracket"),
            ("link. eq Zqx", "character 6 on; the name"),
            ("name eq \"Zqx", "character 9 on; a JSON string"),
            ("näme eq Zqx", "character 2 on"),
            ("Zqx eq 1", "Patient has no such parameter"),
            ("gender co Zqx", "it takes eq, ne, ss, sb, in, ni, pr"),
            ("gender pr Zqx", "`pr` takes true or false"),
            ("birthdate eq Zqx", "a date must be"),
            ("birthdate eq ge2020", "a date must be"),
            ("name eq \" \"", "blank"),
            ("gender ss Zqx", "code system and the code"),
            ("name.family eq Zqx", "only parameters that are references"),
            ("general-practitioner.Zqx eq 1", "no such parameter"),
            (&deep, "20 parentheses"),
            (&long, "1000 tests"),
            (&chain, "ten steps"),
            (&changing, "20 times"),
            (&deeper, "20 times"),
            (&beyond, "1000 tests"),
            ("general-practitioner[active eq true or family eq Zqx].name eq 1", "name one, as in"),
        ] {
            let refusal = refusal("Patient", expression);
            assert!(refusal.contains(words) && !refusal.contains("Zqx"), "{expression}: {refusal}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_expressions_never_panic(
            text in "\\PC{0,40}",
            pieces in prop::collection::vec(prop::sample::select(vec![
                "gender eq male", "link[", "].", "link.", "name co \"a\\\"", "\"", " and ", " or ", "not(", "(", ")", "é",
                "birthdate", " po ", "1970", "pr true", "|", "$",
            ]), 0..12),
        ) {
            let _ = understood("Patient", &text);
            let _ = understood("Patient", &pieces.concat());
        }
    }
}
