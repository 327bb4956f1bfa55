//! Searches by value sets, kinds of codes and hierarchies of resources: `:in`, `:not-in`, `:above` and `:below`
//! (<https://hl7.org/fhir/R4/search.html#modifiers>). Plain codes and references take their place before the search
//! runs, out of the definitions and resources of the same snapshot.

use std::collections::BTreeSet;

use ward_fhir::ResourceType;
use ward_fhir::outcome::IssueCode;
use ward_fhir::search::{Filter, FilterValue, Modifier, Query, TokenSystem};
use ward_fhir::terminology::Terminology;
use ward_store::Session;

use super::definitions::{Held, terminology};
use super::hierarchy::Hierarchies;
use crate::problem::Problem;

/// So many values one condition becomes at most: each candidate is compared with all of them.
const CODES_MAX: usize = 2_000;
/// So many all conditions of one search, over all types.
const CODES_IN_ALL_MAX: usize = 50_000;

/// Whether the query or one that it leads to asks by value sets, kinds or hierarchies.
pub(crate) fn are_asked_for(query: &Query) -> bool {
    query.filters.iter().any(Filter::needs_lookup) || query.inner().any(are_asked_for)
}

/// The queries with plain values, if any of them asks by value sets, kinds or hierarchies.
pub(crate) fn resolved(
    queries: &[Query],
    session: &mut (impl Session + ?Sized),
) -> Result<Option<Vec<Query>>, Problem> {
    if !queries.iter().any(are_asked_for) {
        return Ok(None);
    }
    let mut queries = queries.to_vec();
    let effort = queries.first().and_then(|query| query.effort);
    let mut known = Hierarchies::new(effort);
    queries.iter_mut().try_for_each(|query| hierarchies(query, session, &mut known))?;
    let mut resolver = Resolver { terminology: terminology(session), codes: 0 };
    queries.iter_mut().try_for_each(|query| resolver.query(query))?;
    Ok(Some(queries))
}

/// Puts plain references in the place of hierarchies.
fn hierarchies(
    query: &mut Query,
    session: &mut (impl Session + ?Sized),
    known: &mut Hierarchies,
) -> Result<(), Problem> {
    for filter in query.filters.iter_mut().filter(|filter| filter.needs_lookup()) {
        let Some(modifier @ (Modifier::Above | Modifier::Below)) = filter.modifier else { continue };
        let mut related = BTreeSet::new();
        for value in &filter.values {
            // Codes have their turn later.
            let FilterValue::Reference { resource_type: Some(kind), id: Some(id), .. } = value else {
                continue;
            };
            let ids = known.related(session, modifier, *kind, id)?;
            related.extend(ids.iter().map(|id| (*kind, id.clone())));
            if related.len() > CODES_MAX {
                return Err(too_many());
            }
        }
        if !related.is_empty() {
            filter.modifier = None;
            filter.values = related.into_iter().map(reference).collect();
        }
    }
    query.inner_mut().try_for_each(|inner| hierarchies(inner, session, known))
}

fn reference((kind, id): (ResourceType, String)) -> FilterValue {
    FilterValue::Reference { resource_type: Some(kind), id: Some(id), url: None }
}

fn too_many() -> Problem {
    let words = format!(
        "a value set, code or resource in the search stands for too many: {CODES_MAX} in one condition and \
         {CODES_IN_ALL_MAX} in all are possible; take a narrower one"
    );
    Problem::malformed(IssueCode::TooCostly, words)
}

struct Resolver<'s, S: Session + ?Sized> {
    terminology: Terminology<Held<'s, S>>,
    codes: usize,
}

impl<S: Session + ?Sized> Resolver<'_, S> {
    fn query(&mut self, query: &mut Query) -> Result<(), Problem> {
        for filter in query.filters.iter_mut().filter(|filter| filter.needs_lookup()) {
            self.filter(filter)?;
        }
        query.inner_mut().try_for_each(|inner| self.query(inner))
    }

    fn filter(&mut self, filter: &mut Filter) -> Result<(), Problem> {
        let mut codes = Vec::new();
        for value in &filter.values {
            let before = codes.len();
            match value {
                FilterValue::ValueSet(canonical) => {
                    let expansion = self.terminology.expand(canonical)?;
                    let room = CODES_MAX + 1 - codes.len();
                    codes
                        .extend(expansion.codes().iter().take(room).map(|one| token(&one.system, &one.code)));
                }
                FilterValue::Token { system: TokenSystem::Is(url), code: Some(code) } => {
                    let system = self.terminology.code_system(url, None)?;
                    let related = match filter.modifier {
                        Some(Modifier::Above) => system.generalizations_of(code)?,
                        _ => system.kinds_of(code)?,
                    };
                    let room = CODES_MAX + 1 - codes.len();
                    codes.extend(related.into_iter().take(room).map(|code| token(url, code)));
                }
                // The grammar makes nothing else.
                _ => return Err(Problem::internal()),
            }
            self.codes += codes.len() - before;
            if codes.len() > CODES_MAX || self.codes > CODES_IN_ALL_MAX {
                return Err(too_many());
            }
        }
        filter.modifier = (filter.modifier == Some(Modifier::NotIn)).then_some(Modifier::Not);
        filter.values = codes;
        Ok(())
    }
}

fn token(system: &str, code: &str) -> FilterValue {
    FilterValue::Token { system: TokenSystem::Is(system.to_owned()), code: Some(code.to_owned()) }
}
