//! The rules that the specification states as FHIRPath (<https://hl7.org/fhir/R4/conformance-rules.html#constraints>),
//! from the table `definitions/invariants.txt`.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::definitions::Definition;
use crate::fhirpath::{Expression, Presence};
use crate::outcome::Severity;

/// A rule of a type.
#[derive(Debug)]
pub(crate) struct Invariant {
    /// Its name in the specification, such as `pat-1`.
    pub(crate) key: &'static str,
    pub(crate) severity: Severity,
    /// The specification's words.
    pub(crate) human: &'static str,
    /// What the elements that are there say already.
    pub(crate) presence: Presence,
    pub(crate) check: Check,
}

/// How a rule is looked at where presence does not decide.
#[derive(Debug)]
pub(crate) enum Check {
    Expression(Expression),
    /// `dom-3`: everything contained is referred to. Its expression takes the square of the contained resources.
    ContainedIsReferredTo,
    /// `csd-1`: no code stands twice in a code system. Its expression is too much work for a large one.
    CodesAreDistinct,
    /// `ref-1`: what a reference names in its own resource is there. Nearly all references name none.
    ReferredToIsContained,
}

/// Rules that the validator holds by looking at something else: that objects are not empty and, for a `div`, at the
/// whole narrative.
const HELD_ELSEWHERE: &[&str] = &["ele-1", "txt-1", "txt-2"];

/// A line of the table.
#[derive(Clone, Copy)]
struct Line {
    /// The element below the type that the rule is about, if it is not the type itself.
    element: Option<&'static str>,
    key: &'static str,
    severity: Severity,
    expression: &'static str,
    human: &'static str,
}

/// By the path of the type.
static LINES: LazyLock<HashMap<&'static str, Vec<Line>>> = LazyLock::new(|| {
    let mut lines: HashMap<&'static str, Vec<Line>> = HashMap::new();
    for line in include_str!("../definitions/invariants.txt").lines() {
        let mut parts = line.split('\t');
        let mut part = || parts.next().unwrap_or_default();
        let (path, element, key, severity, expression, human) =
            (part(), part(), part(), part(), part(), part());
        lines.entry(path).or_default().push(Line {
            element: Some(element).filter(|element| !element.is_empty()),
            key,
            severity: if severity == "error" { Severity::Error } else { Severity::Warning },
            expression,
            human,
        });
    }
    lines
});

/// The rules of a type. What cannot be compiled is left out; a test holds that nothing is.
pub(crate) fn of(definition: &Definition) -> Box<[Invariant]> {
    let own = LINES.get(definition.path).into_iter().flatten();
    let is_domain_resource = !definition.path.contains('.') && definition.number("contained").is_some();
    let inherited = is_domain_resource.then(|| LINES.get("DomainResource").into_iter().flatten());
    own.chain(inherited.into_iter().flatten())
        .filter(|line| !HELD_ELSEWHERE.contains(&line.key))
        .filter_map(|line| compile(line, definition))
        .collect()
}

/// The specification's words of a rule of `path`.
pub(crate) fn words(path: &str, key: &str) -> &'static str {
    let line = LINES.get(path).into_iter().flatten().find(|line| line.key == key);
    line.map_or("", |line| line.human)
}

fn compile(line: &Line, definition: &Definition) -> Option<Invariant> {
    let number = |name: &str| definition.number(name);
    let expression = match line.element {
        // For each such element, seen from the type; what says nothing of one is no fault.
        Some(element) => {
            Expression::compile_rule(&format!("{element}.select({}).allTrue()", line.expression))
        }
        None => Expression::compile_rule(line.expression),
    };
    let expression = expression.ok()?;
    let presence = expression.presence(&number);
    let check = match line.key {
        "dom-3" => Check::ContainedIsReferredTo,
        "csd-1" => Check::CodesAreDistinct,
        "ref-1" => Check::ReferredToIsContained,
        _ => Check::Expression(expression),
    };
    Some(Invariant { key: line.key, severity: line.severity, human: line.human, presence, check })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definitions;
    use crate::fhirpath::Answer;

    #[test]
    fn every_rule_is_compiled_for_a_type_that_there_is() {
        let mut count = 0;
        for (path, lines) in LINES.iter() {
            count += lines.len();
            if *path == "DomainResource" {
                continue;
            }
            let definition = definitions::by_path(path).unwrap_or_else(|| panic!("{path}"));
            let compiled = of(definition);
            for line in lines.iter().filter(|line| !HELD_ELSEWHERE.contains(&line.key)) {
                assert!(compiled.iter().any(|rule| rule.key == line.key), "{path} {}", line.key);
                assert!(line.element.is_none_or(|element| definition.number(element).is_some()), "{path}");
                assert!(!line.human.is_empty() && !line.expression.is_empty(), "{path} {}", line.key);
            }
        }
        assert!(count > 200, "{count}");
        let patient = definitions::by_path("Patient").unwrap();
        assert_eq!(
            of(patient).iter().map(|rule| rule.key).collect::<Vec<_>>(),
            ["dom-2", "dom-3", "dom-4", "dom-5"]
        );
    }

    #[test]
    fn presence_decides_what_it_can() {
        let decided = |path: &str, key: &str, elements: &[&str]| {
            let definition = definitions::by_path(path).unwrap();
            let present = elements.iter().map(|name| 1 << definition.number(name).unwrap()).sum();
            let rules = of(definition);
            rules.iter().find(|rule| rule.key == key).unwrap().presence.answer(present)
        };
        assert_eq!(decided("Patient", "dom-3", &["name"]), Answer::Yes);
        assert_eq!(decided("Patient", "dom-3", &["contained"]), Answer::Unknown);
        assert_eq!(decided("Patient.contact", "pat-1", &["gender"]), Answer::No);
        assert_eq!(decided("Patient.contact", "pat-1", &["name"]), Answer::Yes);
        assert_eq!(decided("Extension", "ext-1", &["url", "value"]), Answer::Yes);
        assert_eq!(decided("Extension", "ext-1", &["url", "value", "extension"]), Answer::No);
        assert_eq!(decided("Extension", "ext-1", &["url"]), Answer::No);
        assert_eq!(decided("Period", "per-1", &["start"]), Answer::Yes);
        assert_eq!(decided("Period", "per-1", &["start", "end"]), Answer::Unknown);
        assert_eq!(decided("Observation", "obs-7", &["value"]), Answer::Yes);
        assert_eq!(decided("Observation", "obs-7", &["value", "component"]), Answer::Unknown);
        assert_eq!(decided("Quantity", "qty-3", &["value", "code"]), Answer::No);
        assert_eq!(decided("Organization", "org-3", &["name"]), Answer::Yes);
        assert_eq!(decided("Questionnaire.item", "que-12", &["type"]), Answer::Yes);
        assert_eq!(decided("Questionnaire.item", "que-12", &["type", "enableWhen"]), Answer::Unknown);
        assert_eq!(decided("Reference", "ref-1", &["display"]), Answer::Nothing);
    }
}
