//! What of a query the blind index can answer: for each filter the tokens of which a match has at least one.
//!
//! A plan may let too much through, never too little: what it lets through is checked after decryption.

use std::collections::HashSet;

use ward_fhir::ResourceType;
use ward_fhir::search::{
    Filter, FilterValue, Modifier, ParameterKind, Prefix, Query, Summary, Total, normalize_string,
};
use ward_keys::Tokenizer;

use crate::{
    index::Index,
    radix,
    token::{SUBJECT_DATE_LEVEL, TargetTokens, Tokens, is_subject},
};

/// Filters on so many subjects are not combined with others.
const SUBJECTS_MAX: usize = 4;
/// A larger group, by one key, is not worth walking.
const GROUP_TOKENS_MAX: usize = 256;

/// How a query is narrowed down.
#[derive(Default)]
pub(crate) struct Plan {
    /// A match has one token of each group.
    pub(crate) groups: Vec<Vec<i64>>,
    /// A match is one of these, if given.
    pub(crate) ids: Option<Vec<String>>,
    /// A match was changed from here up to there (exclusive), if given.
    pub(crate) updated: Option<(i64, i64)>,
}

/// Whether the number of all matches is asked for.
pub(crate) fn wants_total(query: &Query) -> bool {
    query.total == Total::Accurate || query.summary == Summary::Count
}

/// The plan of a query, and of a further filter if there is one. What its links narrow down is not in it.
pub(crate) fn plan(index: &Index, query: &Query, further: Option<&Filter>) -> Plan {
    // By each key, the same groups in the same order: a match has a token of a group by one of them.
    let mut plans = index.tokenizers().map(|tokenizer| by_key(tokenizer, query, further));
    let mut plan = plans.next().unwrap_or_default();
    for other in plans {
        plan.groups.iter_mut().zip(other.groups).for_each(|(group, other)| group.extend(other));
    }
    let groups = std::mem::take(&mut plan.groups).into_iter();
    plan.groups = groups.filter_map(|group| worth_walking(index, group)).collect();
    plan
}

fn by_key(tokenizer: &Tokenizer, query: &Query, further: Option<&Filter>) -> Plan {
    let tokens = Tokens::new(tokenizer, query.resource_type);
    let filters = || query.filters.iter().chain(further);
    let subjects = filters().find_map(subjects).unwrap_or_default();
    let subjects: Vec<TargetTokens<'_>> = subjects.into_iter().map(|id| tokens.target(id)).collect();
    let mut plan = Plan::default();
    // Spans of time of one parameter narrow each other down. The index holds all values of a parameter as one span, so
    // this is right for several values, too.
    let mut spans: Vec<(&'static str, (i64, i64))> = Vec::new();
    for filter in filters() {
        match (filter.parameter.code, filter.modifier, filter.values.as_slice()) {
            ("_id", None, values) => {
                let ids = values.iter().filter_map(token_code).map(str::to_owned).collect();
                // Several must all hold; the check sees to it.
                plan.ids.get_or_insert(ids);
            }
            (code, None, [value])
                if filter.parameter.kind == ParameterKind::Date && filter.parameter.indexed =>
            {
                let Some(span) = span(value) else { continue };
                match spans.iter_mut().find(|(known, _)| *known == code) {
                    Some((_, known)) => *known = narrowed(*known, span),
                    None => spans.push((code, span)),
                }
            }
            ("_lastUpdated", ..) => {}
            _ if !filter.parameter.indexed => {}
            _ => plan.groups.extend(group(&tokens, &subjects, filter)),
        }
    }
    for (code, (start, end)) in spans {
        if code == "_lastUpdated" {
            // Searches see milliseconds.
            plan.updated = Some((start.saturating_sub(1000), end.saturating_add(1000)));
        } else {
            plan.groups.push(date_group(&tokens, &subjects, code, &[(start, end)]));
        }
    }
    if let Some(compartment) = &query.compartment {
        // A resource is in its own compartment without referring to itself.
        if compartment.resource_type != query.resource_type {
            plan.groups.push(vec![tokens.target(&compartment.id).reference()]);
        }
    }
    plan
}

/// The tokens of resources of this type that refer to one of `ids`; nothing if there are too many to walk.
pub(crate) fn referring(index: &Index, resource_type: ResourceType, ids: &[&str]) -> Option<Vec<i64>> {
    let by_key = index.tokenizers().flat_map(|tokenizer| {
        let tokens = Tokens::new(tokenizer, resource_type);
        ids.iter().map(move |id| tokens.target(id).reference()).collect::<Vec<_>>()
    });
    worth_walking(index, by_key.collect())
}

fn worth_walking(index: &Index, mut group: Vec<i64>) -> Option<Vec<i64>> {
    group.sort_unstable();
    group.dedup();
    (group.len() <= GROUP_TOKENS_MAX * index.tokenizers().count()).then_some(group)
}

impl Plan {
    /// A match is one of these.
    pub(crate) fn narrow_to_ids(&mut self, ids: Vec<String>) {
        match &mut self.ids {
            None => self.ids = Some(ids),
            Some(known) => {
                let ids: HashSet<String> = ids.into_iter().collect();
                known.retain(|id| ids.contains(id));
            }
        }
    }

    /// A match is let through by one of these: it is one of all their ids, or has a token of one group of each.
    pub(crate) fn narrow_to_any(&mut self, index: &Index, branches: Vec<Self>) {
        let fewest = |branch: &Self| branch.groups.iter().min_by_key(|group| group.len()).cloned();
        let group: Option<Vec<Vec<i64>>> = branches.iter().map(fewest).collect();
        self.groups.extend(group.and_then(|groups| worth_walking(index, groups.concat())));
        let ids: Option<Vec<Vec<String>>> = branches.into_iter().map(|branch| branch.ids).collect();
        if let Some(ids) = ids {
            self.narrow_to_ids(ids.concat());
        }
    }
}

/// Where a span lies that reaches into both.
fn narrowed((start, end): (i64, i64), (other_start, other_end): (i64, i64)) -> (i64, i64) {
    let (after, before) = (start.max(other_start), end.min(other_end));
    (after.min(before), after.max(before).max(after.min(before).saturating_add(1)))
}

/// The ids of whom all matches are about, if the filter says so.
fn subjects(filter: &Filter) -> Option<Vec<&str>> {
    if !is_subject(filter.parameter.code) || filter.values.len() > SUBJECTS_MAX || !is_plain_reference(filter)
    {
        return None;
    }
    let ids = filter.values.iter().map(|value| match value {
        FilterValue::Reference { id: Some(id), .. } => Some(id.as_str()),
        _ => None,
    });
    ids.collect()
}

fn is_plain_reference(filter: &Filter) -> bool {
    matches!(filter.modifier, None | Some(Modifier::Type(_)))
}

fn token_code(value: &FilterValue) -> Option<&str> {
    match value {
        FilterValue::Token { code: Some(code), .. } => Some(code),
        _ => None,
    }
}

/// The tokens of a filter; `None` if it is left to the check.
fn group(tokens: &Tokens<'_>, subjects: &[TargetTokens<'_>], filter: &Filter) -> Option<Vec<i64>> {
    match filter.modifier {
        Some(Modifier::Missing | Modifier::Not | Modifier::Text | Modifier::Contains) => return None,
        // A canonical is indexed without its version, too.
        Some(Modifier::Below) if filter.parameter.kind == ParameterKind::Reference => {}
        Some(Modifier::Below | Modifier::In | Modifier::NotIn) => return None,
        Some(Modifier::Other | Modifier::End | Modifier::Ordered(_)) => return None,
        None
        | Some(
            Modifier::Exact
            | Modifier::Whole
            | Modifier::Identifier
            | Modifier::Type(_)
            | Modifier::OfType
            | Modifier::Above,
        ) => {}
    }
    if filter.parameter.kind == ParameterKind::Date {
        let spans = filter.values.iter().map(span).collect::<Option<Vec<_>>>()?;
        return Some(date_group(tokens, subjects, filter.parameter.code, &spans));
    }
    let mut group = Vec::new();
    for value in &filter.values {
        group.extend(value_tokens(tokens, subjects, filter, value)?);
    }
    Some(group)
}

fn value_tokens(
    tokens: &Tokens<'_>,
    subjects: &[TargetTokens<'_>],
    filter: &Filter,
    value: &FilterValue,
) -> Option<Vec<i64>> {
    match value {
        FilterValue::Token { code: Some(code), .. } if filter.modifier == Some(Modifier::Identifier) => {
            Some(vec![tokens.reference_identifier(code)])
        }
        FilterValue::Token { code: Some(code), .. } if !subjects.is_empty() => {
            Some(subjects.iter().map(|subject| subject.code(code)).collect())
        }
        FilterValue::Token { code: Some(code), .. } if !filter.parameter.low_entropy => {
            Some(vec![tokens.code(code)])
        }
        FilterValue::Token { code: None, system } if filter.parameter.code == "identifier" => match system {
            ward_fhir::search::TokenSystem::Is(system) if filter.modifier.is_none() => {
                Some(vec![tokens.identifier_system(system)])
            }
            _ => None,
        },
        FilterValue::String(text) => Some(vec![tokens.longest_prefix(&normalize_string(text))?]),
        FilterValue::Identifier { value, .. } if !filter.parameter.low_entropy => {
            Some(vec![tokens.code(value)])
        }
        FilterValue::Uri(uri) if filter.modifier == Some(Modifier::Above) => {
            let ends = uri.match_indices('/').flat_map(|(at, _)| [at, at + 1]).chain([uri.len()]);
            Some(ends.filter_map(|end| uri.get(..end)).map(|root| tokens.uri(root)).collect())
        }
        FilterValue::Uri(uri) => Some(vec![tokens.uri(uri), tokens.reference_url(uri)]),
        FilterValue::Reference { id: Some(id), .. } => Some(vec![tokens.target(id).reference()]),
        FilterValue::Reference { id: None, url: Some(url), .. }
            if filter.modifier == Some(Modifier::Below) =>
        {
            Some(vec![tokens.reference_url(url.split('|').next().unwrap_or_default())])
        }
        FilterValue::Reference { id: None, url: Some(url), .. } => Some(vec![tokens.reference_url(url)]),
        FilterValue::Composite(parts) => match parts.first()? {
            // Dates are indexed as parameters of their own only.
            FilterValue::Composite(_) | FilterValue::Date { .. } => None,
            first => value_tokens(tokens, subjects, filter, first),
        },
        _ => None,
    }
}

fn date_group(
    tokens: &Tokens<'_>,
    subjects: &[TargetTokens<'_>],
    parameter: &str,
    spans: &[(i64, i64)],
) -> Vec<i64> {
    let mut group = Vec::new();
    for (start, end) in spans {
        if subjects.is_empty() {
            let nodes = radix::asked(*start, *end, 0);
            group.extend(nodes.into_iter().map(|(role, node)| tokens.date(parameter, role, node)));
            continue;
        }
        let nodes = radix::asked(*start, *end, SUBJECT_DATE_LEVEL);
        for subject in subjects {
            group.extend(nodes.iter().map(|(role, node)| subject.date(parameter, *role, *node)));
        }
    }
    group
}

/// The time that a matching value reaches into.
fn span(value: &FilterValue) -> Option<(i64, i64)> {
    let FilterValue::Date { prefix, start, end } = value else { return None };
    let (start, end) = (*start, *end);
    let margin = end.saturating_sub(start);
    Some(match prefix {
        Prefix::Equal | Prefix::Within | Prefix::Overlapping => (start, end),
        Prefix::NotEqual => return None,
        Prefix::Less | Prefix::EndsBefore => (i64::MIN, start),
        Prefix::LessOrEqual => (i64::MIN, end),
        Prefix::Greater | Prefix::StartsAfter => (end, i64::MAX),
        Prefix::GreaterOrEqual => (start, i64::MAX),
        Prefix::Approximately => (start.saturating_sub(margin), end.saturating_add(margin)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_one_parameter_narrow_each_other_down() {
        assert_eq!(narrowed((10, i64::MAX), (i64::MIN, 20)), (10, 20));
        // Only several values can be both before 10 and after 20; together they reach over what lies between.
        assert_eq!(narrowed((20, i64::MAX), (i64::MIN, 10)), (10, 20));
        assert_eq!(narrowed((10, i64::MAX), (i64::MIN, 10)), (10, 11));
    }
}
