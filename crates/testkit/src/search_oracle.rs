//! Search in the plainest way: every resource in a list, every question asked of every one of them. Nothing is
//! indexed, encrypted or cut short, so it says what a store's answers must be.

use std::cmp::Ordering;

use serde_json::Value;
use ward_base::Timestamp;
use ward_fhir::ResourceType;
use ward_fhir::search::{
    Include, Link, ParameterKind, Parameters, Query, SearchParameter, SearchValue, extract_for,
    extract_parameter, normalize_string,
};

/// Every resource that was ever stored, in the order in which they were first stored.
pub struct SearchOracle {
    base: String,
    kept: Vec<Kept>,
    parameters: Parameters,
}

struct Kept {
    kind: ResourceType,
    id: String,
    /// None when it is deleted.
    current: Option<(Value, Timestamp)>,
}

/// One resource as it is now.
#[derive(Clone, Copy)]
struct Current<'a> {
    kind: ResourceType,
    id: &'a str,
    value: &'a Value,
    updated: Timestamp,
}

impl SearchOracle {
    /// An empty store at this FHIR base URL.
    pub fn new(base: &str) -> Self {
        Self { base: base.to_owned(), kept: Vec::new(), parameters: Parameters::default() }
    }

    /// From now on, these are the search parameters.
    pub fn know(&mut self, parameters: &Parameters) {
        self.parameters = parameters.clone();
    }

    /// Stores a resource under its own id.
    pub fn put(&mut self, resource: &Value, updated: Timestamp) {
        let kind = ResourceType::parse(resource["resourceType"].as_str().unwrap()).unwrap();
        let id = resource["id"].as_str().unwrap().to_owned();
        let current = Some((resource.clone(), updated));
        match self.kept.iter_mut().find(|kept| kept.kind == kind && kept.id == id) {
            Some(kept) => kept.current = current,
            None => self.kept.push(Kept { kind, id, current }),
        }
    }

    /// Deletes a resource, if it is there.
    pub fn delete(&mut self, kind: ResourceType, id: &str) {
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.kind == kind && kept.id == id) {
            kept.current = None;
        }
    }

    /// All matches of `queries`, which differ in their type only.
    pub fn search(&self, queries: &[Query]) -> Vec<String> {
        let meets = |one: &Current<'_>| queries.iter().any(|query| self.meets(query, *one));
        let mut found: Vec<Current<'_>> = self.all().filter(meets).collect();
        let sort = queries.first().map(|query| query.sort.as_slice()).unwrap_or_default();
        found.sort_by(|a, b| {
            sort.iter().fold(Ordering::Equal, |order, key| {
                order.then_with(|| {
                    let code = key.parameter.code;
                    let (a, b) = (self.key(code, key.descending, *a), self.key(code, key.descending, *b));
                    match (&a, &b) {
                        (Some(a), Some(b)) if key.descending => b.cmp(a),
                        (Some(a), Some(b)) => a.cmp(b),
                        // What has no value comes last either way.
                        _ => a.is_none().cmp(&b.is_none()),
                    }
                })
            })
        });
        found.into_iter().map(|one| one.name()).collect()
    }

    /// What `queries` bring along with a page of these matches, sorted by name.
    pub fn included(&self, queries: &[Query], page: &[String]) -> Vec<String> {
        let includes = || queries.iter().flat_map(|query| &query.includes);
        let mut known: Vec<Current<'_>> = self.all().filter(|one| page.contains(&one.name())).collect();
        let matches = known.len();
        let mut looked_at = 0;
        while looked_at < known.len() {
            let from = known[looked_at];
            for include in includes().filter(|include| include.iterate || looked_at < matches) {
                for other in self.all() {
                    let (source, target) = if include.reverse { (other, from) } else { (from, other) };
                    let is_known = known.iter().any(|one| one.name() == other.name());
                    if !is_known && self.leads(include, source, target) {
                        known.push(other);
                    }
                }
            }
            looked_at += 1;
        }
        let mut names: Vec<String> = known.split_off(matches).iter().map(Current::name).collect();
        names.sort();
        names
    }

    fn all(&self) -> impl Iterator<Item = Current<'_>> {
        self.kept.iter().filter_map(|kept| {
            let (value, updated) = kept.current.as_ref()?;
            Some(Current { kind: kept.kind, id: &kept.id, value, updated: *updated })
        })
    }

    fn meets(&self, query: &Query, one: Current<'_>) -> bool {
        one.kind == query.resource_type
            && query.filters_match(&extract_for(query, one.value, &self.base), one.id, one.updated)
            && query.alternatives.iter().all(|branches| branches.iter().any(|query| self.meets(query, one)))
            && !query.exclusions.iter().any(|query| self.meets(query, one))
            && query.links.iter().all(|link| match link {
                Link::Chain { parameter, targets } => self.all().any(|other| {
                    self.refers(parameter, one, other) && targets.iter().any(|query| self.meets(query, other))
                }),
                Link::Has { parameter, source } => {
                    self.all().any(|other| self.refers(parameter, other, one) && self.meets(source, other))
                }
                Link::List(ids) => self.all().any(|list| {
                    list.kind.name() == "List"
                        && ids.iter().any(|id| id == list.id)
                        && list.value["entry"]
                            .as_array()
                            .into_iter()
                            .flatten()
                            .any(|entry| entry["item"]["reference"].as_str() == Some(one.name().as_str()))
                }),
            })
    }

    fn refers(&self, parameter: &'static SearchParameter, from: Current<'_>, to: Current<'_>) -> bool {
        let is_of_type = self.parameters.of(from.kind).any(|known| std::ptr::eq(known, parameter));
        is_of_type
            && extract_parameter(parameter, from.value, &self.base).iter().any(|value| match value {
                SearchValue::Reference { resource_type: Some(kind), id: Some(id), .. } => {
                    *kind == to.kind && id == to.id
                }
                _ => false,
            })
    }

    fn leads(&self, include: &Include, from: Current<'_>, to: Current<'_>) -> bool {
        from.kind == include.source
            && include.target.is_none_or(|target| target == to.kind)
            && self.parameters.of(include.source).any(|parameter| {
                parameter.kind == ParameterKind::Reference
                    && include.parameter.is_none_or(|named| std::ptr::eq(named, parameter))
                    && self.refers(parameter, from, to)
            })
    }

    /// What a resource is ordered by.
    fn key(&self, code: &str, descending: bool, one: Current<'_>) -> Option<Key> {
        if code == "_id" {
            return Some(Key::Text(one.id.to_owned(), String::new()));
        }
        if code == "_lastUpdated" {
            return Some(Key::Number(one.updated.micros()));
        }
        let parameter = self.parameters.named(one.kind, code)?;
        let values = extract_parameter(parameter, one.value, &self.base);
        let keys = values.into_iter().filter_map(|value| match value {
            SearchValue::Token { system, code, .. } => Some(Key::Text(code?, system.unwrap_or_default())),
            SearchValue::String(text) => Some(Key::Text(normalize_string(&text), String::new())),
            SearchValue::Uri(uri) => Some(Key::Text(uri, String::new())),
            SearchValue::Date { start, .. } => Some(Key::Number(start)),
            other => panic!("no order is known for {other:?}"),
        });
        if descending { keys.max() } else { keys.min() }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Text(String, String),
    Number(i64),
}

impl Current<'_> {
    fn name(&self) -> String {
        format!("{}/{}", self.kind, self.id)
    }
}
