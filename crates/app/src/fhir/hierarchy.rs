//! Which resources are part of one, and of which it is a part
//! (<https://hl7.org/fhir/R4/search.html#recursive>).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ward_fhir::ResourceType;
use ward_fhir::outcome::IssueCode;
use ward_fhir::search::{Filter, FilterValue, Include, Modifier, Query, TokenSystem, parameter, parent};
use ward_store::{Page, Session};

use crate::problem::Problem;

/// So many parts a resource has at first hand at most. The store bounds how many there are in all.
const PARTS_MAX: u32 = 1_000;
/// So many hierarchies one search asks for at most; they share what it may examine.
const HIERARCHIES_MAX: usize = 20;
/// What a search that is not bounded otherwise may examine for its hierarchies.
const EFFORT: usize = 50_000;

/// The hierarchies that one search asks for, each looked up once.
pub(crate) struct Hierarchies {
    known: HashMap<(bool, ResourceType, String), Vec<String>>,
    /// So many resources may be examined for each.
    effort: usize,
}

impl Hierarchies {
    /// For a search that may examine so many resources, if that is bounded.
    pub(crate) fn new(effort: Option<usize>) -> Self {
        let effort = effort.unwrap_or(EFFORT).min(EFFORT) / HIERARCHIES_MAX;
        Self { known: HashMap::new(), effort }
    }

    /// The ids of a resource and of all that are part of it, or of all of which it is a part.
    pub(crate) fn related(
        &mut self,
        session: &mut (impl Session + ?Sized),
        modifier: Modifier,
        kind: ResourceType,
        id: &str,
    ) -> Result<&[String], Problem> {
        let asked = (modifier == Modifier::Below, kind, id.to_owned());
        if self.known.len() == HIERARCHIES_MAX && !self.known.contains_key(&asked) {
            let words = format!("a search goes by {HIERARCHIES_MAX} hierarchies of resources at most");
            return Err(Problem::malformed(IssueCode::TooCostly, words));
        }
        Ok(match self.known.entry(asked) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(look_up(session, modifier, kind, id, self.effort)?),
        })
    }
}

fn look_up(
    session: &mut (impl Session + ?Sized),
    modifier: Modifier,
    kind: ResourceType,
    id: &str,
    effort: usize,
) -> Result<Vec<String>, Problem> {
    let parent = parent(kind).ok_or_else(Problem::internal)?;
    let below = modifier == Modifier::Below;
    let mut query = Query::all(kind);
    query.filters.push(if below { Filter::referring(parent, kind, id) } else { is(kind, id)? });
    query.includes.push(Include {
        source: kind,
        parameter: Some(parent),
        target: Some(kind),
        reverse: below,
        iterate: true,
    });
    query.effort = Some(effort);
    let found = session.search(&[query], &Page { count: PARTS_MAX, after: None })?;
    if found.next.is_some() {
        let words = "a resource in the search has too many parts, or too large ones; take a narrower one";
        return Err(Problem::malformed(IssueCode::TooCostly, words));
    }
    let mut ids = vec![id.to_owned()];
    ids.extend(found.hits.iter().chain(&found.included).map(|stored| stored.key.id.as_str().to_owned()));
    Ok(ids)
}

fn is(kind: ResourceType, id: &str) -> Result<Filter, Problem> {
    let parameter = parameter(kind, "_id").ok_or_else(Problem::internal)?;
    let id = FilterValue::Token { system: TokenSystem::Any, code: Some(id.to_owned()) };
    Ok(Filter { parameter, modifier: None, values: vec![id] })
}
