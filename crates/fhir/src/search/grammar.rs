//! From the parameters of a search to a [`Query`].

use super::filter_expression::{self, Expression, Step};
use super::parameters::{ParameterKind, Parameters, SearchParameter, parameter};
use super::query::{Compartment, Filter, Include, Link, Query, Sort, Summary, Total};
use super::value::{Fault, read_modifier, read_value, split_escaped, unescape, wrong};
use crate::ResourceType;
use crate::outcome::{Issue, IssueCode};

/// What to do with a parameter that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// Refuse the search.
    Strict,
    /// Leave it out, and say so.
    Lenient,
}

/// The most values in one parameter, and parameters in one query.
const MOST: usize = 200;

const ELEMENTS_MAX: usize = 64;
const SORT_KEYS_MAX: usize = 4;
/// Chains and `_has` within each other.
const LINKS_DEEP_MAX: usize = 10;
/// Types that the chains of one search lead to, counted at every step.
const LINKED_TYPES_MAX: usize = 256;
/// Tests in the `_filter` of one search, counted for each type that they are asked of.
const TESTS_MAX: usize = 1_000;
const INCLUDES_MAX: usize = 200;

/// Understands decoded `name=value` pairs. Gives the query and warnings, or everything that is wrong.
///
/// Neither names nor values that came from outside are repeated; a parameter is named by its position.
pub fn parse(
    kind: ResourceType,
    pairs: &[(String, String)],
    handling: Handling,
    base: &str,
    parameters: &Parameters,
) -> Result<(Query, Vec<Issue>), Vec<Issue>> {
    let mut query = Query::all(kind);
    let mut reader = Reader { base, parameters, linked_types: 0, tests: 0 };
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    if pairs.len() > MOST {
        return Err(vec![Issue::error(
            IssueCode::TooCostly,
            format!("a search has {MOST} parameters at most"),
        )]);
    }
    for (index, (name, value)) in pairs.iter().enumerate() {
        match reader.take(&mut query, name, value) {
            Ok(()) => {}
            Err(fault) => {
                let place = position(index);
                match (fault, handling) {
                    (Fault::Unknown(words), Handling::Lenient) => warnings.push(Issue::warning(
                        IssueCode::NotSupported,
                        format!("{place} was left out: {words}"),
                    )),
                    (Fault::Unknown(words), Handling::Strict) => {
                        errors.push(Issue::error(IssueCode::NotSupported, format!("{place}: {words}")));
                    }
                    (Fault::Wrong(words), _) => {
                        errors.push(Issue::error(IssueCode::Value, format!("{place}: {words}")));
                    }
                    (Fault::Refused(code, words), _) => {
                        errors.push(Issue::error(code, format!("{place}: {words}")));
                    }
                }
            }
        }
    }
    if errors.is_empty() { Ok((query, warnings)) } else { Err(errors) }
}

fn position(index: usize) -> String {
    let number = index + 1;
    let suffix = match (number % 10, number % 100) {
        (1, 1 | 21..) => "st",
        (2, 2 | 22..) => "nd",
        (3, 3 | 23..) => "rd",
        _ => "th",
    };
    format!("the {number}{suffix} search parameter")
}

const TOO_DEEP: Fault = too_much("chains and `_has` go ten steps deep at most");

const fn too_much(words: &'static str) -> Fault {
    Fault::Refused(IssueCode::TooCostly, words)
}

/// Reads the parameters of one search.
struct Reader<'a> {
    base: &'a str,
    parameters: &'a Parameters,
    linked_types: usize,
    tests: usize,
}

impl Reader<'_> {
    fn take(&mut self, query: &mut Query, name: &str, value: &str) -> Result<(), Fault> {
        match name {
            "_count" => {
                query.count = Some(value.parse().map_err(|_| wrong("`_count` must be a whole number"))?);
            }
            "_total" => {
                query.total = match value {
                    "none" | "estimate" => Total::None,
                    "accurate" => Total::Accurate,
                    _ => return Err(wrong("`_total` must be none, estimate or accurate")),
                };
            }
            "_summary" => {
                query.summary = Summary::parse(value)
                    .ok_or_else(|| wrong("`_summary` must be true, false, count, data or text"))?;
            }
            "_elements" => {
                query.elements =
                    value.split(',').take(ELEMENTS_MAX + 1).map(|part| part.trim().to_owned()).collect();
                if query.elements.len() > ELEMENTS_MAX {
                    return Err(wrong("`_elements` names 64 elements at most"));
                }
            }
            "_sort" => self.sort(query, value)?,
            "_include" | "_include:iterate" | "_include:recurse" => {
                self.includes(query, value, false, name.contains(':'))?;
            }
            "_revinclude" | "_revinclude:iterate" | "_revinclude:recurse" => {
                self.includes(query, value, true, name.contains(':'))?;
            }
            "_format" | "_pretty" => {}
            "_contained" if value == "false" => {}
            "_query" => return Err(wrong("no queries are kept here under a name; ask by search parameters")),
            _ => self.condition(query, name, value, 0)?,
        }
        Ok(())
    }

    /// One condition, on the resource itself or on others.
    fn condition(&mut self, query: &mut Query, name: &str, value: &str, depth: usize) -> Result<(), Fault> {
        if depth > LINKS_DEEP_MAX {
            return Err(TOO_DEEP);
        }
        if let Some(rest) = name.strip_prefix("_has:") {
            let link = self.has(query.resource_type, rest, value, depth)?;
            query.links.push(link);
            return Ok(());
        }
        if let Some((reference, rest)) = name.split_once('.') {
            let mut condition =
                |reader: &mut Self, query: &mut Query| reader.condition(query, rest, value, depth + 1);
            let link = self.chain(query.resource_type, reference, None, &mut condition)?;
            query.links.push(link);
            return Ok(());
        }
        if name == "_filter" {
            let read = filter_expression::read(value)?;
            // The parameter is known, so it is not left out for a name in it that is not; nor is a type of several.
            return self.expression(query, &read, depth).map_err(|fault| match fault {
                Fault::Unknown(words) if depth == 0 => Fault::Wrong(words),
                Fault::Unknown(_) => Fault::Refused(
                    IssueCode::Value,
                    "`_filter` asks by what its type does not know; of several types that a reference leads to, name \
                     one, as in `subject:Patient._filter`",
                ),
                fault => fault,
            });
        }
        if name == "_list" {
            let ids: Vec<String> = split_escaped(value, ',').into_iter().map(unescape).collect();
            if ids.len() > MOST || ids.iter().any(|id| ward_base::ResourceId::parse(id).is_err()) {
                return Err(wrong("`_list` takes ids of List resources; current lists by name are not kept"));
            }
            query.links.push(Link::List(ids));
            return Ok(());
        }
        query.filters.push(self.filter(query.resource_type, name, value)?);
        Ok(())
    }

    /// Adds what an expression asks to the conditions of `query`.
    fn expression(
        &mut self,
        query: &mut Query,
        expression: &Expression<'_>,
        depth: usize,
    ) -> Result<(), Fault> {
        let kind = query.resource_type;
        let mut branch = |part: &Expression<'_>| {
            let mut branch = Query::all(kind);
            self.expression(&mut branch, part, depth).map(|()| branch)
        };
        match expression {
            Expression::All(parts) => {
                return parts.iter().try_for_each(|part| self.expression(query, part, depth));
            }
            Expression::Any(parts) => {
                query.alternatives.push(parts.iter().map(branch).collect::<Result<_, _>>()?);
            }
            Expression::Not(part) => query.exclusions.push(branch(part)?),
            Expression::Test { path, operator, value } => {
                return self.test(query, path, operator, value, depth);
            }
        }
        Ok(())
    }

    fn test(
        &mut self,
        query: &mut Query,
        path: &[Step<'_>],
        operator: &str,
        value: &str,
        depth: usize,
    ) -> Result<(), Fault> {
        if depth > LINKS_DEEP_MAX {
            return Err(TOO_DEEP);
        }
        self.tests += 1;
        if self.tests > TESTS_MAX {
            let words = "`_filter` asks too much: 1000 tests are possible, counted for each type";
            return Err(too_much(words));
        }
        let Some((first, rest)) = path.split_first() else { return Ok(()) };
        if let (Some((operator, value)), false) =
            (filter_expression::opposite(operator, value), rest.is_empty())
        {
            let mut branch = Query::all(query.resource_type);
            self.test(&mut branch, path, operator, value, depth)?;
            query.exclusions.push(branch);
            return Ok(());
        }
        if rest.is_empty() {
            let parameter = self.known(query.resource_type, first.name)?;
            query.filters.push(filter_expression::filter(parameter, operator, value, self.base)?);
            return Ok(());
        }
        let mut condition =
            |reader: &mut Self, query: &mut Query| reader.test(query, rest, operator, value, depth + 1);
        let within = first.within.as_ref().map(|within| (within, depth + 1));
        let link = self.chain(query.resource_type, first.name, within, &mut condition)?;
        query.links.push(link);
        Ok(())
    }

    /// A chain by a reference such as `subject:Patient`: what it leads to must meet the condition, and the expression
    /// within it, at its depth, if there is one.
    fn chain(
        &mut self,
        kind: ResourceType,
        reference: &str,
        within: Option<(&Expression<'_>, usize)>,
        condition: &mut dyn FnMut(&mut Self, &mut Query) -> Result<(), Fault>,
    ) -> Result<Link, Fault> {
        let (code, named) = match reference.split_once(':') {
            Some((code, name)) => {
                let named = ResourceType::parse(name);
                (code, Some(named.ok_or_else(|| wrong("what stands after `:` in a chain must be a type"))?))
            }
            None => (reference, None),
        };
        let parameter = self.known(kind, code)?;
        if parameter.kind != ParameterKind::Reference {
            return Err(wrong("only parameters that are references can be followed by `.`"));
        }
        if named.is_some_and(|named| !parameter.targets.contains(&named)) {
            return Err(wrong("the reference in the chain never leads to this type"));
        }
        let targets = named.as_ref().map_or(parameter.targets.as_slice(), std::slice::from_ref);
        let (mut found, mut fault) = (Vec::new(), None);
        for target in targets {
            self.linked_types += 1;
            if self.linked_types > LINKED_TYPES_MAX {
                return Err(too_much(
                    "the chain leads to too many types; name them, as in `subject:Patient.name`",
                ));
            }
            let mut query = Query::all(*target);
            if let Some((within, depth)) = within {
                self.expression(&mut query, within, depth).map_err(|fault| match fault {
                    // Part of it may be known: to leave out the type would leave out matches.
                    Fault::Unknown(_) if targets.len() > 1 => Fault::Refused(
                        IssueCode::Value,
                        "what stands in brackets is not known to every type that the reference leads to; name one, as \
                         in `subject:Patient[active eq true].name`",
                    ),
                    fault => fault,
                })?;
            }
            match condition(self, &mut query) {
                Ok(()) => found.push(query),
                Err(fault @ Fault::Refused(..)) => return Err(fault),
                // That a parameter is not known to one type does not matter if another knows it.
                Err(other) => match &fault {
                    Some(Fault::Wrong(_)) => {}
                    _ => fault = Some(other),
                },
            }
        }
        match fault {
            Some(fault) if found.is_empty() => Err(fault),
            _ => Ok(Link::Chain { parameter, targets: found }),
        }
    }

    /// `Observation:patient:code`: what stands after `_has:`.
    fn has(&mut self, kind: ResourceType, rest: &str, value: &str, depth: usize) -> Result<Link, Fault> {
        let shape = || wrong("`_has` is written like `_has:Observation:patient:code`");
        let (source, rest) = rest.split_once(':').ok_or_else(shape)?;
        let (code, rest) = rest.split_once(':').ok_or_else(shape)?;
        let source = ResourceType::parse(source).ok_or_else(shape)?;
        let parameter = self.known(source, code)?;
        if parameter.kind != ParameterKind::Reference || !parameter.targets.contains(&kind) {
            return Err(wrong(
                "the second part of `_has` must be a reference that leads to the type searched",
            ));
        }
        self.linked_types += 1;
        let mut query = Query::all(source);
        self.condition(&mut query, rest, value, depth + 1)?;
        Ok(Link::Has { parameter, source: Box::new(query) })
    }

    fn filter(&self, kind: ResourceType, name: &str, value: &str) -> Result<Filter, Fault> {
        let (code, modifier) = match name.split_once(':') {
            Some((code, modifier)) => (code, Some(modifier)),
            None => (name, None),
        };
        let parameter = self.known(kind, code)?;
        let modifier = modifier.map(|modifier| read_modifier(modifier, parameter)).transpose()?;
        let parts = split_escaped(value, ',');
        if parts.len() > MOST {
            return Err(wrong("too many values in one parameter"));
        }
        let values = parts.iter().map(|part| read_value(part, parameter, modifier, self.base));
        Ok(Filter { parameter, modifier, values: values.collect::<Result<_, _>>()? })
    }

    fn known(&self, kind: ResourceType, code: &str) -> Result<&'static SearchParameter, Fault> {
        self.parameters.named(kind, code).ok_or_else(|| {
            let known: Vec<&str> = self.parameters.of(kind).map(|known| known.code).collect();
            Fault::Unknown(format!("{kind} has no such parameter; it has {}", known.join(", ")))
        })
    }

    fn sort(&self, query: &mut Query, value: &str) -> Result<(), Fault> {
        for key in value.split(',').take(SORT_KEYS_MAX + 1) {
            let (code, descending) = match key.trim().strip_prefix('-') {
                Some(code) => (code, true),
                None => (key.trim(), false),
            };
            match self.parameters.named(query.resource_type, code) {
                Some(parameter) if parameter.kind.has_order() => {
                    query.sort.push(Sort { parameter, descending })
                }
                _ => {
                    let words = "`_sort` must name parameters of this type, with `-` before for descending";
                    return Err(wrong(words));
                }
            }
        }
        if query.sort.len() > SORT_KEYS_MAX {
            return Err(wrong("`_sort` has four keys at most"));
        }
        Ok(())
    }

    /// `Observation:subject`, `Observation:subject:Patient`, `Observation:*` or `*`.
    fn includes(&self, query: &mut Query, value: &str, reverse: bool, iterate: bool) -> Result<(), Fault> {
        let kind = query.resource_type;
        let mut parts = value.split(':');
        let (source, code, target, more) = (parts.next(), parts.next(), parts.next(), parts.next());
        let shape = || {
            wrong(
                "`_include` and `_revinclude` are written like `Observation:subject`, with `:Patient` after it for one type only",
            )
        };
        if more.is_some() {
            return Err(shape());
        }
        let target = match target {
            Some(name) => Some(ResourceType::parse(name).ok_or_else(shape)?),
            None => None,
        };
        let mut add = |source, parameter, target| {
            query.includes.push(Include { source, parameter, target, reverse, iterate });
        };
        match (source, code) {
            (Some("*"), None) if reverse => {
                let leads_here = |source: &ResourceType| {
                    self.parameters.of(*source).any(|parameter| parameter.targets.contains(&kind))
                };
                ResourceType::all().filter(leads_here).for_each(|source| add(source, None, Some(kind)));
            }
            (Some("*"), None) => add(kind, None, None),
            (Some(source), Some(code)) => {
                let source = ResourceType::parse(source).ok_or_else(shape)?;
                let parameter = if code == "*" { None } else { Some(self.known(source, code)?) };
                if let Some(parameter) = parameter
                    && (parameter.kind != ParameterKind::Reference
                        || target.is_some_and(|target| !parameter.targets.contains(&target)))
                {
                    return Err(wrong(
                        "what is included must be a reference, and lead to the type that is named",
                    ));
                }
                add(source, parameter, target);
            }
            _ => return Err(shape()),
        }
        if query.includes.len() > INCLUDES_MAX {
            return Err(wrong("too many `_include` and `_revinclude`"));
        }
        Ok(())
    }
}

/// A search in a compartment: what it must belong to, for a query of this type. Nothing if no resource of the type
/// ever does.
pub fn compartment(owner: ResourceType, id: &str, kind: ResourceType) -> Option<Compartment> {
    let parameters: Vec<&'static SearchParameter> =
        crate::compartment::parameters(owner, kind).iter().filter_map(|code| parameter(kind, code)).collect();
    (owner == kind || !parameters.is_empty()).then(|| Compartment {
        resource_type: owner,
        id: id.to_owned(),
        parameters,
    })
}
