//! Which resources are part of one, and of which it is a part
//! (<https://hl7.org/fhir/R4/search.html#recursive>).

use ward_fhir::ResourceType;
use ward_fhir::outcome::IssueCode;
use ward_fhir::search::{
    Filter, FilterValue, Include, Modifier, Query, SearchParameter, TokenSystem, parameter, parent,
};
use ward_store::{Page, Session};

use crate::problem::Problem;

/// So many parts a resource has at first hand at most. The store bounds how many there are in all.
const PARTS_MAX: u32 = 1_000;

/// The ids of a resource and of all that are part of it, or of all of which it is a part.
pub(crate) fn related(
    session: &mut (impl Session + ?Sized),
    modifier: Modifier,
    kind: ResourceType,
    id: &str,
) -> Result<Vec<String>, Problem> {
    let parent = parent(kind).ok_or_else(Problem::internal)?;
    let below = modifier == Modifier::Below;
    let mut query = Query::all(kind);
    query.filters.push(if below { refers(parent, kind, id) } else { is(kind, id)? });
    query.includes.push(Include {
        source: kind,
        parameter: Some(parent),
        target: Some(kind),
        reverse: below,
        iterate: true,
    });
    let found = session.search(&[query], &Page { count: PARTS_MAX, after: None })?;
    if found.next.is_some() {
        let words = format!("a resource in the search has more than {PARTS_MAX} parts; take a narrower one");
        return Err(Problem::malformed(IssueCode::TooCostly, words));
    }
    let mut ids = vec![id.to_owned()];
    ids.extend(found.hits.iter().chain(&found.included).map(|stored| stored.key.id.as_str().to_owned()));
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn refers(parameter: &'static SearchParameter, kind: ResourceType, id: &str) -> Filter {
    let target = FilterValue::Reference { resource_type: Some(kind), id: Some(id.to_owned()), url: None };
    Filter { parameter, modifier: None, values: vec![target] }
}

fn is(kind: ResourceType, id: &str) -> Result<Filter, Problem> {
    let parameter = parameter(kind, "_id").ok_or_else(Problem::internal)?;
    let id = FilterValue::Token { system: TokenSystem::Any, code: Some(id.to_owned()) };
    Ok(Filter { parameter, modifier: None, values: vec![id] })
}
