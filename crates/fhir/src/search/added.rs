//! Search parameters beside the specification's: what a SearchParameter resource
//! (<https://hl7.org/fhir/R4/searchparameter.html>) defines.
//!
//! Each may use all of FHIRPath, but for the parts of a composite, which are plain paths. Of a parameter whose values
//! may be few (every token but those whose element says otherwise), nothing is indexed by value alone.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::{Value, json};

use super::expression::Expression;
use super::parameters::{self, Component, ParameterKind, SearchParameter, few_values_at, kind_of};
use crate::ResourceType;
use crate::fhirpath;
use crate::outcome::{Issue, IssueCode};

/// A name is as long as this at most.
const CODE_BYTES_MAX: usize = 64;
/// So is an expression: steps along a path nest.
const EXPRESSION_BYTES_MAX: usize = 2_000;
const COMPONENTS_MAX: usize = 8;
/// So many different definitions are held in one process at most: what was compiled once is kept.
const INTERNED_MAX: usize = 4_000;

/// What an active SearchParameter resource adds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Added {
    code: String,
    kind: &'static str,
    bases: Vec<ResourceType>,
    targets: Vec<ResourceType>,
    expression: String,
    /// Name, type and expression of each part of a composite.
    components: Vec<(String, String, String)>,
}

impl Added {
    /// Reads a SearchParameter resource. Gives nothing if it is not `active`, or has no expression, so that it defines
    /// nothing that could be searched.
    ///
    /// # Errors
    /// What of it is not understood or not supported, and where.
    pub fn read(resource: &Value) -> Result<Option<Self>, Issue> {
        let text = |name: &str| resource.get(name).and_then(Value::as_str);
        let (Some("active"), Some(expression)) = (text("status"), text("expression")) else {
            return Ok(None);
        };
        let code = text("code").unwrap_or_default();
        let wellformed = code.len() <= CODE_BYTES_MAX
            && code.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !wellformed {
            let words = "must be a letter, then letters, digits, `-` or `_`, 64 at most";
            return Err(Issue::error(IssueCode::Value, words).at("SearchParameter.code".to_owned()));
        }
        let kind = match text("type").unwrap_or_default() {
            "special" => return Ok(None),
            name => name,
        };
        let kind = KINDS.iter().find(|(name, _)| *name == kind).map(|(name, _)| *name).ok_or_else(|| {
            Issue::error(IssueCode::NotSupported, "is not a type that can be searched")
                .at("SearchParameter.type".to_owned())
        })?;
        let added = Self {
            code: code.to_owned(),
            kind,
            bases: bases(resource)?,
            targets: types(resource, "target")?,
            expression: expression.to_owned(),
            components: components(resource)?,
        };
        added.check()?;
        Ok(Some(added))
    }

    /// Whether a search of some type could mean either.
    pub fn shares_a_name_with(&self, other: &Self) -> bool {
        self.code == other.code && self.bases.iter().any(|kind| other.bases.contains(kind))
    }

    /// The types that it is for.
    pub fn bases(&self) -> &[ResourceType] {
        &self.bases
    }

    /// As a SearchParameter resource that [`Added::read`] reads as the same.
    pub fn to_json(&self) -> Value {
        let names = |kinds: &[ResourceType]| kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>();
        json!({
            "resourceType": "SearchParameter", "status": "active", "code": self.code, "type": self.kind,
            "base": names(&self.bases), "target": names(&self.targets), "expression": self.expression,
            "component": self.components.iter().map(|(code, kind, expression)| json!({
                "code": code, "type": kind, "expression": expression,
            })).collect::<Vec<_>>(),
        })
    }

    /// The parameter itself, for each of its types. Equal ones are the same, so that this may be called as often as
    /// needed. Nothing, if so many others were defined since the process began that no more are compiled.
    pub fn parameters(&self, indexed: bool) -> Vec<(ResourceType, &'static SearchParameter)> {
        let parameter = self.interned(indexed);
        parameter
            .into_iter()
            .flat_map(|parameter| self.bases.iter().map(move |kind| (*kind, parameter)))
            .collect()
    }

    fn check(&self) -> Result<(), Issue> {
        let composite = self.kind == "composite";
        if composite == self.components.is_empty() {
            let words = "a composite parameter, and no other, has components";
            return Err(Issue::error(IssueCode::Required, words).at("SearchParameter.component".to_owned()));
        }
        if self.bases.is_empty() {
            let issue = Issue::error(IssueCode::Required, "is required");
            return Err(issue.at("SearchParameter.base".to_owned()));
        }
        let expressions = self.components.iter().map(|(.., expression)| expression).chain([&self.expression]);
        if expressions.into_iter().any(|expression| expression.len() > EXPRESSION_BYTES_MAX) {
            let words = format!("expressions have {EXPRESSION_BYTES_MAX} bytes at most");
            return Err(Issue::error(IssueCode::TooLong, words).at("SearchParameter.expression".to_owned()));
        }
        if self.compile().is_none() {
            let words = match fhirpath::Expression::compile(&self.expression) {
                Err(error) => error.to_string(),
                Ok(_) => "the expressions of a composite parameter must be plain paths".to_owned(),
            };
            return Err(
                Issue::error(IssueCode::NotSupported, words).at("SearchParameter.expression".to_owned())
            );
        }
        Ok(())
    }

    fn compile(&self) -> Option<Compiled> {
        let kind = kind_of(self.kind)?;
        let paths = Expression::compile(&self.expression);
        // Only if all of its types say that there are many.
        let many = |base: &ResourceType| {
            paths.as_ref().and_then(|paths| few_values_at(paths, *base)).is_some_and(|few| !few)
        };
        let few = !self.bases.iter().all(many);
        let parts = self
            .components
            .iter()
            .map(|(_, kind, expression)| Some((kind_of(kind)?, Expression::compile(expression)?)));
        Some(Compiled {
            kind,
            parts: parts.collect::<Option<_>>()?,
            expression: match kind {
                ParameterKind::Composite => paths?,
                _ => Expression::General(fhirpath::Expression::compile(&self.expression).ok()?),
            },
            low_entropy: kind == ParameterKind::Token && few,
        })
    }

    /// The one parameter that is like this; nothing if there are too many others.
    fn interned(&self, indexed: bool) -> Option<&'static SearchParameter> {
        let mut interned = INTERNED.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (self.clone(), indexed);
        if let Some(parameter) = interned.get(&key) {
            return Some(parameter);
        }
        if interned.len() >= INTERNED_MAX {
            return None;
        }
        let Compiled { kind, expression, parts, low_entropy } = self.compile()?;
        let kept = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
        let parts = self.components.iter().zip(parts);
        let parameter: &'static SearchParameter = Box::leak(Box::new(SearchParameter {
            code: kept(&self.code),
            kind,
            targets: match self.targets.as_slice() {
                [] if kind == ParameterKind::Reference => ResourceType::all().collect(),
                targets => targets.to_vec(),
            },
            low_entropy,
            indexed,
            components: parts
                .map(|((code, ..), (kind, expression))| Component { code: kept(code), kind, expression })
                .collect(),
            expression,
        }));
        interned.insert(key, parameter);
        Some(parameter)
    }
}

/// What its texts come to.
struct Compiled {
    kind: ParameterKind,
    expression: Expression,
    /// Of a composite.
    parts: Vec<(ParameterKind, Expression)>,
    low_entropy: bool,
}

/// Queries hold parameters for as long as they like, as they do the specification's own; so what was compiled is never
/// let go, and its number is bounded.
static INTERNED: LazyLock<Mutex<HashMap<(Added, bool), &'static SearchParameter>>> =
    LazyLock::new(Mutex::default);

const KINDS: [(&str, ParameterKind); 8] = [
    ("number", ParameterKind::Number),
    ("date", ParameterKind::Date),
    ("string", ParameterKind::String),
    ("token", ParameterKind::Token),
    ("reference", ParameterKind::Reference),
    ("composite", ParameterKind::Composite),
    ("quantity", ParameterKind::Quantity),
    ("uri", ParameterKind::Uri),
];

fn types(resource: &Value, name: &str) -> Result<Vec<ResourceType>, Issue> {
    let names = resource.get(name).and_then(Value::as_array).into_iter().flatten();
    let kinds = names.map(|name| name.as_str().and_then(ResourceType::parse));
    kinds.collect::<Option<_>>().ok_or_else(|| {
        Issue::error(IssueCode::NotSupported, "must name resource types of FHIR R4")
            .at(format!("SearchParameter.{name}"))
    })
}

/// The types that it is for; `Resource` and `DomainResource` are all that are one.
fn bases(resource: &Value) -> Result<Vec<ResourceType>, Issue> {
    let names: Vec<&str> = resource
        .get("base")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if names.contains(&"Resource") {
        return Ok(ResourceType::all().collect());
    }
    if names.contains(&"DomainResource") {
        let is_domain = |kind: &ResourceType| !["Binary", "Bundle", "Parameters"].contains(&kind.name());
        return Ok(ResourceType::all().filter(is_domain).collect());
    }
    let mut kinds = types(resource, "base")?;
    kinds.sort_unstable_by_key(|kind| kind.name());
    kinds.dedup();
    Ok(kinds)
}

/// Name, type and expression of each part: a part's definition is the standard parameter of its base that has the
/// name with which the definition's URL ends, as `code` in `http://hl7.org/fhir/SearchParameter/Observation-code`.
fn components(resource: &Value) -> Result<Vec<(String, String, String)>, Issue> {
    let parts = resource.get("component").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let refused = |index: usize, words: &str| {
        Issue::error(IssueCode::NotSupported, words).at(format!("SearchParameter.component[{index}]"))
    };
    if parts.len() > COMPONENTS_MAX {
        return Err(refused(COMPONENTS_MAX, "a composite parameter has eight parts at most"));
    }
    let bases = bases(resource)?;
    let read = |(index, part): (usize, &Value)| {
        let text = |name: &str| part.get(name).and_then(Value::as_str);
        let expression = text("expression").unwrap_or_default().to_owned();
        // As `to_json` writes it.
        if let (Some(code), Some(kind)) = (text("code"), text("type")) {
            return Ok((code.to_owned(), kind.to_owned(), expression));
        }
        let url = text("definition").unwrap_or_default().split('|').next().unwrap_or_default();
        let name = url.rsplit('/').next().unwrap_or_default();
        let codes = name.match_indices('-').filter_map(|(dash, _)| name.get(dash + 1..));
        let known =
            codes.flat_map(|code| bases.iter().filter_map(move |base| parameters::parameter(*base, code)));
        let known = known.into_iter().find_map(|known| {
            KINDS.iter().find(|(_, kind)| *kind == known.kind).map(|(name, _)| (known.code, *name))
        });
        let (code, kind) = known.ok_or_else(|| {
            refused(index, "must be defined by one of the specification's parameters of the base")
        })?;
        Ok((code.to_owned(), kind.to_owned(), expression))
    };
    parts.iter().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::{Handling, Parameters, Query, extract, parse};

    const BASE: &str = "https://h/fhir/R4";

    fn resource(code: &str, kind: &str, base: &str, expression: &str) -> Value {
        json!({"resourceType": "SearchParameter", "status": "active", "code": code, "type": kind,
            "base": [base], "expression": expression})
    }

    /// Whether `resource` is found by `value` of a parameter that is added.
    fn finds(parameter: &Value, resource: &Value, name: &str, value: &str) -> bool {
        let kind = ResourceType::parse(resource["resourceType"].as_str().unwrap()).unwrap();
        let mut parameters = Parameters::default();
        for (kind, parameter) in Added::read(parameter).unwrap().unwrap().parameters(true) {
            parameters.add(kind, parameter);
        }
        let pairs = [(name.to_owned(), value.to_owned())];
        let (query, _): (Query, _) = parse(kind, &pairs, Handling::Strict, BASE, &parameters).unwrap();
        query.matches(&extract(kind, resource, BASE, &parameters), "1", ward_base::Timestamp(0)).unwrap()
    }

    #[test]
    fn each_type_of_parameter_finds_what_its_expression_says() {
        let patient = json!({"resourceType": "Patient", "multipleBirthInteger": 3,
            "extension": [
                {"url": "urn:race", "valueCoding": {"system": "urn:cdc", "code": "2106-3"}},
                {"url": "urn:doctor", "valueReference": {"reference": "Practitioner/p"}},
                {"url": "urn:seen", "valueDate": "2024-03-05"},
                {"url": "urn:page", "valueUri": "https://example.org/x"},
                {"url": "urn:height", "valueQuantity": {"value": 180, "unit": "cm"}}],
            "name": [{"use": "official", "family": "Lovelace"}, {"use": "maiden", "family": "Byron"}]});
        let extension = |url: &str| format!("Patient.extension.where(url='{url}').value");
        for (kind, expression, hit, miss) in [
            ("token", extension("urn:race"), "urn:cdc|2106-3", "2107-1"),
            ("reference", extension("urn:doctor"), "Practitioner/p", "Practitioner/q"),
            ("date", extension("urn:seen"), "ge2024", "2023"),
            ("uri", extension("urn:page"), "https://example.org/x", "https://example.org"),
            ("quantity", extension("urn:height"), "gt170", "lt170"),
            ("number", "Patient.multipleBirth".to_owned(), "3", "4"),
            ("string", "Patient.name.where(use = 'maiden').family".to_owned(), "byr", "love"),
            ("token", "Patient.name.where(use = 'maiden').exists()".to_owned(), "true", "false"),
        ] {
            let parameter = resource("mine", kind, "Patient", &expression);
            assert!(finds(&parameter, &patient, "mine", hit), "{expression}");
            assert!(!finds(&parameter, &patient, "mine", miss), "{expression}");
        }
    }

    #[test]
    fn a_composite_parameter_is_about_one_element() {
        let mut parameter = resource("code-value", "composite", "Observation", "Observation.component");
        parameter["component"] = json!([
            {"definition": "http://hl7.org/fhir/SearchParameter/Observation-component-code", "expression": "code"},
            {"definition": "http://hl7.org/fhir/SearchParameter/Observation-component-value-quantity",
                "expression": "value.as(Quantity)"}]);
        let part = |code: &str, value: u32| json!({"code": {"coding": [{"code": code}]}, "valueQuantity": {"value": value}});
        let observation = json!({"resourceType": "Observation", "component": [part("a", 1), part("b", 2)]});
        assert!(finds(&parameter, &observation, "code-value", "a$1"));
        assert!(!finds(&parameter, &observation, "code-value", "a$2"));
    }

    #[test]
    fn what_may_have_few_values_is_not_indexed_alone() {
        let few = |kind: &str, base: &str, expression: &str| {
            let added = Added::read(&resource("mine", kind, base, expression)).unwrap().unwrap();
            added.parameters(true)[0].1.low_entropy
        };
        assert!(few("token", "Patient", "Patient.extension.where(url='urn:race').value.code"));
        assert!(few("token", "Patient", "Patient.gender") && few("token", "Patient", "Patient.active"));
        assert!(
            !few("token", "Patient", "Patient.identifier") && !few("token", "Condition", "Condition.code")
        );
        assert!(!few("string", "Patient", "Patient.extension.value"));
    }

    #[test]
    fn what_is_read_is_written_the_same_and_made_once() {
        let added =
            Added::read(&resource("mine", "token", "DomainResource", "DomainResource.extension.value"));
        let added = added.unwrap().unwrap();
        assert!(added.bases().len() > 100);
        let again = Added::read(&added.to_json()).unwrap().unwrap();
        assert_eq!(added, again);
        let (first, second) = (added.parameters(true), again.parameters(true));
        assert!(std::ptr::eq(first[7].1, second[7].1) && std::ptr::eq(first[7].1, first[8].1));
        assert!(!std::ptr::eq(first[7].1, added.parameters(false)[7].1));
    }

    #[test]
    fn what_cannot_be_searched_is_refused_or_left_alone() {
        let good = resource("mine", "token", "Patient", "Patient.gender");
        let with = |name: &str, value: Value| {
            let mut changed = good.clone();
            changed[name] = value;
            Added::read(&changed)
        };
        for (name, value) in [
            ("code", json!("a b")),
            ("code", json!("_mine")),
            ("code", json!("x".repeat(65))),
            ("base", json!([])),
            ("base", json!(["Potato"])),
            ("expression", json!("Patient.(")),
            ("expression", json!("x".repeat(1 << 20))),
            ("type", json!("composite")),
            ("component", json!([{"definition": "urn:x", "expression": "code"}])),
        ] {
            let issue = with(name, value.clone()).unwrap_err();
            assert!(
                issue.expression.is_some_and(|place| place.contains(name) || place.contains("component")),
                "{name}"
            );
        }
        assert_eq!(with("status", json!("draft")), Ok(None));
        assert_eq!(with("type", json!("special")), Ok(None));
    }
}
