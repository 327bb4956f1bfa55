//! What the conditions in a Bundle find before it is carried out: conditional creates, updates, patches and deletes,
//! and references that search (`Patient?identifier=…`).
//!
//! All are asked of one moment, and asked again in the write, which only happens if the answers are the same. A
//! reference that finds nothing in the store may mean what the same transaction makes.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use ward_base::ResourceId;
use ward_fhir::bundle::{self, Entry, Kind, Method};
use ward_identity::Permission;
use ward_store::{ResourceKey, Session, Stored};

use super::condition::{Condition, Matched};
use crate::call::Call;
use crate::problem::Problem;

/// A condition, and what it must still find when the entry is carried out.
pub(crate) struct Check {
    pub(crate) condition: Arc<Condition>,
    /// One resource, or none.
    pub(crate) finds: Option<ResourceId>,
    /// Whether it says which resource the entry is about, rather than what a reference means.
    pub(crate) is_own: bool,
}

/// What is known of an entry before it is carried out.
#[derive(Default)]
pub(crate) struct Resolved {
    /// What its condition finds, or what its patch changes.
    pub(crate) matched: Option<Box<Stored>>,
    /// What its references that search stand for.
    pub(crate) references: HashMap<String, String>,
    /// References that found nothing: they may mean what the transaction makes.
    pub(crate) pending: Vec<(String, Arc<Condition>)>,
    pub(crate) checks: Vec<Check>,
}

/// What an entry asks.
#[derive(Default)]
struct Wanted {
    own: Option<Arc<Condition>>,
    patched: Option<ResourceKey>,
    references: Vec<(String, Arc<Condition>)>,
}

/// Resolves the conditions of each entry; of some there may be nothing to resolve, and of some it may fail.
pub(crate) async fn resolve(
    call: &Call,
    kind: Kind,
    entries: &[Entry],
) -> Result<Vec<Result<Resolved, Problem>>, Problem> {
    let wanted: Vec<Result<Wanted, Problem>> = entries.iter().map(|entry| wanted(call, entry)).collect();
    let asks = |one: &Result<Wanted, Problem>| {
        one.as_ref().is_ok_and(|one| one.own.is_some() || one.patched.is_some() || !one.references.is_empty())
    };
    if !wanted.iter().any(asks) {
        return Ok(wanted.into_iter().map(|one| one.map(|_| Resolved::default())).collect());
    }
    let in_transaction = kind == Kind::Transaction;
    let find = move |session: &mut dyn Session| {
        let each = |one: Result<Wanted, Problem>| one.and_then(|one| found(session, one, in_transaction));
        Ok::<_, Problem>(wanted.into_iter().map(each).collect())
    };
    call.app.store.read(find).await
}

fn wanted(call: &Call, entry: &Entry) -> Result<Wanted, Problem> {
    let Some(kind) = entry.target.resource_type else { return Ok(Wanted::default()) };
    let condition = |kind, text: &str| {
        let mut condition = Condition::read(&call.app, &call.account()?, call.now, kind, text)?;
        condition.permit(call)?;
        Ok::<_, Problem>(Arc::new(condition))
    };
    let own = match (entry.method, &entry.target.id, &entry.target.query) {
        (Method::Post, None, _) => entry.if_none_exist.as_deref(),
        (Method::Put | Method::Patch | Method::Delete, None, Some(query)) => Some(query.as_str()),
        _ => None,
    };
    if entry.method == Method::Patch {
        // Before anything of it is read: what a patch says of it tells of it.
        call.permit(Permission::Patch, Some(kind))?;
    }
    let patched = entry.target.id.clone().filter(|_| entry.method == Method::Patch);
    let mut links = Vec::new();
    if let (Method::Post | Method::Put, Some(resource)) = (entry.method, &entry.resource) {
        bundle::conditional_references(resource, &mut links);
        links.sort_unstable();
        links.dedup();
    }
    let references = links.into_iter().map(|(kind, link)| Ok((link.to_owned(), condition(kind, link)?)));
    Ok(Wanted {
        own: own.map(|text| condition(kind, text)).transpose()?,
        patched: patched.map(|id| ResourceKey { resource_type: kind, id }),
        references: references.collect::<Result<_, Problem>>()?,
    })
}

fn found(session: &mut dyn Session, wanted: Wanted, in_transaction: bool) -> Result<Resolved, Problem> {
    let mut resolved = Resolved::default();
    if let Some(condition) = wanted.own {
        let matched = match condition.find(session)? {
            Matched::Nothing => None,
            Matched::One(stored) => Some(stored),
            Matched::Several => return Err(Problem::several_match()),
        };
        let finds = matched.as_ref().map(|stored| stored.key.id.clone());
        resolved.checks.push(Check { condition, finds, is_own: true });
        resolved.matched = matched;
    }
    if let Some(key) = wanted.patched {
        resolved.matched = session.current(&key)?.map(Box::new);
    }
    for (link, condition) in wanted.references {
        match condition.find(session)? {
            Matched::One(stored) => {
                let Stored { key, .. } = *stored;
                resolved.references.insert(link, format!("{}/{}", key.resource_type, key.id.as_str()));
                resolved.checks.push(Check { condition, finds: Some(key.id), is_own: false });
            }
            Matched::Nothing if in_transaction => {
                let check = Check { condition: Arc::clone(&condition), finds: None, is_own: false };
                resolved.checks.push(check);
                resolved.pending.push((link, condition));
            }
            Matched::Nothing => return Err(Problem::reference_finds(0)),
            Matched::Several => return Err(Problem::reference_finds(2)),
        }
    }
    Ok(resolved)
}

/// The one resource among these that a pending reference means.
pub(crate) fn within<'a>(
    condition: &Condition,
    made: impl Iterator<Item = (&'a Value, &'a ResourceId)>,
    base: &str,
    now: ward_base::Timestamp,
) -> Result<&'a ResourceId, Problem> {
    let mut matching = made.filter(|(resource, id)| condition.is_met_by(resource, id, base, now));
    match (matching.next(), matching.next()) {
        (Some((_, id)), None) => Ok(id),
        (None, _) => Err(Problem::reference_finds(0)),
        (Some(_), Some(_)) => Err(Problem::reference_finds(2)),
    }
}
