use std::collections::HashMap;
use std::sync::LazyLock;

use super::expression::Expression;
use crate::ResourceType;
use crate::definitions::{self, ElementType};
use crate::primitive::Primitive;

/// The type of a search parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// A number.
    Number,
    /// A date, a moment or a span of time.
    Date,
    /// Text for people.
    String,
    /// A coded value or identifier.
    Token,
    /// A reference to another resource.
    Reference,
    /// Several parameters about the same element.
    Composite,
    /// A number with a unit.
    Quantity,
    /// A URI.
    Uri,
    /// Words anywhere in a text: `_text` and `_content`. Not indexed.
    Words,
    /// A place on the earth: `near`. Not indexed.
    Place,
}

impl ParameterKind {
    /// Whether results can be ordered by it.
    pub const fn has_order(self) -> bool {
        !matches!(self, Self::Composite | Self::Words | Self::Place)
    }
}

/// One search parameter of one resource type.
#[derive(Debug)]
pub struct SearchParameter {
    /// Its name in a query, such as `birthdate`.
    pub code: &'static str,
    /// Its type.
    pub kind: ParameterKind,
    /// What a reference may point to.
    pub targets: Vec<ResourceType>,
    /// It has few possible values, so their frequencies would tell them: not to be indexed by value alone.
    pub low_entropy: bool,
    /// Whether an index may be relied on to hold its values for all resources. If not, only looking at each answers.
    pub indexed: bool,
    /// Of a composite, in order.
    pub components: Vec<Component>,
    pub(crate) expression: Expression,
}

impl SearchParameter {
    /// Whether a member of this name at the top of a resource may be part of what the parameter finds there.
    pub(crate) fn looks_at(&self, member: &str) -> bool {
        if self.kind == ParameterKind::Words {
            return self.code != "_text" || member == "text";
        }
        // A composite of a resource as a whole looks at what its components do.
        let whole = self.expression.is_itself() && !self.components.is_empty();
        !whole && self.expression.looks_at(member)
            || self.components.iter().any(|component| component.expression.looks_at(member))
    }
}

/// One part of a composite parameter.
#[derive(Debug)]
pub struct Component {
    /// The name of the parameter it is like.
    pub code: &'static str,
    /// Its type.
    pub kind: ParameterKind,
    pub(crate) expression: Expression,
}

/// Every search parameter that is in use: the specification's, and those that were added to it.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    added: HashMap<ResourceType, Vec<&'static SearchParameter>>,
}

impl Parameters {
    /// Adds a parameter to those of a type, unless one has its name already.
    pub fn add(&mut self, kind: ResourceType, parameter: &'static SearchParameter) {
        if self.named(kind, parameter.code).is_none() {
            self.added.entry(kind).or_default().push(parameter);
        }
    }

    /// All parameters of a type, those common to all types included.
    pub fn of(&self, kind: ResourceType) -> impl Iterator<Item = &'static SearchParameter> + use<'_> {
        parameters(kind).iter().chain(self.added_to(kind))
    }

    /// The parameter of `kind` with this name.
    pub fn named(&self, kind: ResourceType, code: &str) -> Option<&'static SearchParameter> {
        parameter(kind, code).or_else(|| self.added_to(kind).find(|parameter| parameter.code == code))
    }

    /// What was added to the specification's parameters of a type.
    pub fn added_to(&self, kind: ResourceType) -> impl Iterator<Item = &'static SearchParameter> + use<'_> {
        self.added.get(&kind).into_iter().flatten().copied()
    }
}

static PARAMETERS: LazyLock<HashMap<ResourceType, Vec<SearchParameter>>> = LazyLock::new(|| {
    let lines: Vec<Vec<&'static str>> = include_str!("../../definitions/search_parameters.txt")
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    ResourceType::all()
        .map(|kind| {
            let bases = [kind.name(), "DomainResource", "Resource"];
            let of_type = lines.iter().filter(|line| line.first().is_some_and(|base| bases.contains(base)));
            let mut parameters: Vec<SearchParameter> = of_type.filter_map(|line| read(line, kind)).collect();
            parameters.sort_by_key(|parameter| parameter.code);
            parameters.dedup_by_key(|parameter| parameter.code);
            (kind, parameters)
        })
        .collect()
});

/// The specification's parameters of a type, by name; those common to all types included.
pub fn parameters(kind: ResourceType) -> &'static [SearchParameter] {
    PARAMETERS.get(&kind).map_or(&[], Vec::as_slice)
}

/// The specification's parameter of `kind` with this name.
pub fn parameter(kind: ResourceType, code: &str) -> Option<&'static SearchParameter> {
    let all = parameters(kind);
    all.binary_search_by(|parameter| parameter.code.cmp(code)).ok().and_then(|index| all.get(index))
}

/// The parameter by which a resource of `kind` is part of another of its type, if it can be
/// (<https://hl7.org/fhir/R4/search.html#recursive>).
pub fn parent(kind: ResourceType) -> Option<&'static SearchParameter> {
    let known = parameter(kind, "partof").or_else(|| parameter(kind, "part-of"));
    known.filter(|parameter| parameter.targets.contains(&kind))
}

pub(super) fn kind_of(name: &str) -> Option<ParameterKind> {
    Some(match name {
        "number" => ParameterKind::Number,
        "date" => ParameterKind::Date,
        "string" => ParameterKind::String,
        "token" => ParameterKind::Token,
        "reference" => ParameterKind::Reference,
        "composite" => ParameterKind::Composite,
        "quantity" => ParameterKind::Quantity,
        "uri" => ParameterKind::Uri,
        _ => return None,
    })
}

fn read(line: &[&'static str], owner: ResourceType) -> Option<SearchParameter> {
    let [_, code, kind, targets, expression, components] = line else { return None };
    let kind = match *code {
        "_text" | "_content" => ParameterKind::Words,
        "near" => ParameterKind::Place,
        // Stored queries and `_filter` have no expression.
        _ if expression.is_empty() => return None,
        _ => kind_of(kind)?,
    };
    let only = only_target(expression);
    let expression =
        if kind == ParameterKind::Words { Expression::default() } else { Expression::compile(expression)? };
    let components = components
        .split(';')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let mut words = part.splitn(3, '=');
            Some(Component {
                code: words.next()?,
                kind: kind_of(words.next()?)?,
                expression: Expression::compile(words.next()?)?,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    let low_entropy = kind == ParameterKind::Token && has_few_values(&expression, owner);
    let targets = targets.split(',').filter_map(ResourceType::parse);
    let targets = targets.filter(|target| only.is_none_or(|only| only == *target)).collect();
    Some(SearchParameter { code, kind, targets, low_entropy, indexed: true, components, expression })
}

/// The one type that every path of an expression keeps references to, whatever its parameter says beside.
fn only_target(expression: &str) -> Option<ResourceType> {
    let kept = |path: &str| {
        let (_, kept) = path.trim().rsplit_once(".where(resolve() is ")?;
        ResourceType::parse(kept.strip_suffix(')')?)
    };
    let mut paths = expression.split('|').map(kept);
    let first = paths.next().flatten()?;
    paths.all(|other| other == Some(first)).then_some(first)
}

/// Codes that the specification lists, if they are few, and truth values.
fn has_few_values(expression: &Expression, owner: ResourceType) -> bool {
    expression.is_boolean() || few_values_at(expression, owner).unwrap_or(false)
}

/// Whether the one element that a plain path leads to has few possible values; nothing if it is no such path.
pub(super) fn few_values_at(expression: &Expression, owner: ResourceType) -> Option<bool> {
    let path = expression.plain_path()?;
    let mut definition = definitions::resource(owner.name())?;
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        let element = definition.element(name)?;
        match element.of {
            _ if names.peek().is_none() => {
                let boolean = matches!(element.of, ElementType::Primitive(Primitive::Boolean));
                return Some(boolean || element.codes.is_some_and(|codes| codes.len() <= 32));
            }
            ElementType::Complex(id) => definition = definitions::definition(id),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_standard_expression_compiles() {
        let mut compiled = 0;
        for line in include_str!("../../definitions/search_parameters.txt").lines() {
            let words: Vec<&'static str> = line.split('\t').collect();
            if words[4].is_empty() || words[2] == "special" {
                continue;
            }
            let owner = ResourceType::parse(words[0]).or_else(|| ResourceType::all().next()).unwrap();
            assert!(read(&words, owner).is_some(), "{line}");
            compiled += 1;
        }
        assert!(compiled > 1600, "{compiled}");
    }

    #[test]
    fn a_parameter_leads_to_what_its_expression_keeps() {
        let targets = |kind: &str, code| {
            let parameter = parameter(ResourceType::parse(kind).unwrap(), code).unwrap();
            parameter.targets.iter().map(|target| target.name()).collect::<Vec<_>>()
        };
        assert_eq!(targets("Observation", "patient"), ["Patient"]);
        assert_eq!(targets("Observation", "subject").len(), 4);
        assert_eq!(targets("Encounter", "practitioner"), ["Practitioner"]);
    }

    #[test]
    fn few_valued_parameters_are_known() {
        let low = |kind: &str, code| parameter(ResourceType::parse(kind).unwrap(), code).unwrap().low_entropy;
        assert!(low("Patient", "gender") && low("Patient", "active") && low("Patient", "deceased"));
        assert!(low("Observation", "status"));
        assert!(!low("Observation", "code") && !low("Patient", "identifier"));
    }
}
