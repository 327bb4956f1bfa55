//! What the conditions in a Bundle find before it is carried out: conditional creates, updates, patches and deletes,
//! and references that search (`Patient?identifier=…`).
//!
//! All are asked of one moment, each once, and asked again in the write, which only happens if the answers are the
//! same. A reference that finds nothing in the store may mean what the same transaction makes.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use ward_base::ResourceId;
use ward_fhir::ResourceType;
use ward_fhir::bundle::{self, Entry, Kind, Method};
use ward_fhir::outcome::IssueCode;
use ward_identity::Permission;
use ward_store::{ResourceKey, Session, Stored};

use super::condition::{self, Condition, Matched};
use crate::call::Call;
use crate::problem::Problem;

/// Different conditions in one Bundle at most: each may go through a lot.
const CONDITIONS_MAX: usize = 300;

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

/// An entry's conditions for the log, whatever becomes of them.
#[derive(Default)]
pub(crate) struct Asked {
    /// Each with its type, as in a URL.
    pub(crate) queries: Vec<String>,
    /// Whom they name.
    pub(crate) patients: Vec<ResourceId>,
}

/// The different conditions of a Bundle.
#[derive(Default)]
struct Conditions(HashMap<(ResourceType, String), Arc<Condition>>);

impl Conditions {
    /// The condition in this text, if the caller may ask it.
    fn of(
        &mut self,
        call: &Call,
        kind: ResourceType,
        text: &str,
        asked: &mut Asked,
    ) -> Result<Arc<Condition>, Problem> {
        asked.queries.push(format!("{kind}?{text}"));
        let key = (kind, text.to_owned());
        if let Some(known) = self.0.get(&key) {
            asked.patients.extend(known.asked().patients());
            return Ok(Arc::clone(known));
        }
        if self.0.len() >= CONDITIONS_MAX {
            let words =
                format!("a Bundle has {CONDITIONS_MAX} different conditions at most; send it in parts");
            return Err(Problem::malformed(IssueCode::TooCostly, words));
        }
        let mut condition = Condition::read(&call.app, &call.account()?, call.now, kind, text)?;
        asked.patients.extend(condition.asked().patients());
        condition.permit(call)?;
        let condition = Arc::new(condition);
        self.0.insert(key, Arc::clone(&condition));
        Ok(condition)
    }
}

/// What is known of each entry; of some there may be nothing to resolve, and of some it may fail. What each asks is
/// added to `asked`, in the same order.
pub(crate) async fn resolve(
    call: &Call,
    kind: Kind,
    entries: &[Entry],
    asked: &mut Vec<Asked>,
) -> Result<Vec<Result<Resolved, Problem>>, Problem> {
    let mut conditions = Conditions::default();
    let mut all = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut own = Asked::default();
        all.push(wanted(call, entry, &mut conditions, &mut own));
        asked.push(own);
    }
    let asks = |one: &Result<Wanted, Problem>| {
        one.as_ref().is_ok_and(|one| one.own.is_some() || one.patched.is_some() || !one.references.is_empty())
    };
    if !all.iter().any(asks) {
        return Ok(all.into_iter().map(|one| one.map(|_| Resolved::default())).collect());
    }
    let in_transaction = kind == Kind::Transaction;
    let find = move |session: &mut dyn Session| {
        let mut finder = Finder { session, in_transaction, known: HashMap::new() };
        let each = |one: Result<Wanted, Problem>| one.and_then(|one| finder.resolved(one));
        Ok::<_, Problem>(all.into_iter().map(each).collect())
    };
    call.app.store.read(find).await
}

fn wanted(
    call: &Call,
    entry: &Entry,
    conditions: &mut Conditions,
    asked: &mut Asked,
) -> Result<Wanted, Problem> {
    let Some(kind) = entry.target.resource_type else { return Ok(Wanted::default()) };
    if entry.method == Method::Patch {
        // Before anything of it is read: what a patch says of it tells of it.
        call.permit(Permission::Patch, Some(kind))?;
    }
    let own = match (entry.method, &entry.target.id, &entry.target.query, &entry.if_none_exist) {
        (Method::Post, None, _, Some(text)) => {
            Some(conditions.of(call, kind, condition::if_none_exist(kind, text), asked)?)
        }
        (Method::Put | Method::Patch | Method::Delete, None, Some(text), _) => {
            Some(conditions.of(call, kind, text, asked)?)
        }
        _ => None,
    };
    let patched = entry.target.id.clone().filter(|_| entry.method == Method::Patch);
    let mut links = Vec::new();
    if let (Method::Post | Method::Put, Some(resource)) = (entry.method, &entry.resource) {
        bundle::conditional_references(resource, &mut links);
        links.sort_unstable();
        links.dedup();
    }
    let mut references = Vec::with_capacity(links.len());
    for (kind, link) in links {
        let text = link.split_once('?').map_or("", |(_, query)| query);
        let condition = conditions.of(call, kind, text, asked)?;
        references.push((link.to_owned(), condition));
    }
    Ok(Wanted { own, patched: patched.map(|id| ResourceKey { resource_type: kind, id }), references })
}

/// Asks each condition once.
struct Finder<'s> {
    session: &'s mut dyn Session,
    in_transaction: bool,
    known: HashMap<*const Condition, Matched>,
}

impl Finder<'_> {
    fn find(&mut self, condition: &Arc<Condition>) -> Result<Matched, Problem> {
        if let Some(known) = self.known.get(&Arc::as_ptr(condition)) {
            return Ok(known.clone());
        }
        let found = condition.find(self.session)?;
        self.known.insert(Arc::as_ptr(condition), found.clone());
        Ok(found)
    }

    fn resolved(&mut self, wanted: Wanted) -> Result<Resolved, Problem> {
        let mut resolved = Resolved::default();
        if let Some(condition) = wanted.own {
            let matched = match self.find(&condition)? {
                Matched::Nothing => None,
                Matched::One(stored) => Some(stored),
                Matched::Several => return Err(Problem::several_match()),
            };
            let finds = matched.as_ref().map(|stored| stored.key.id.clone());
            resolved.checks.push(Check { condition, finds, is_own: true });
            resolved.matched = matched;
        }
        if let Some(key) = wanted.patched {
            let stored = self.session.current(&key)?.ok_or_else(Problem::not_found)?;
            resolved.matched = Some(Box::new(stored));
        }
        for (link, condition) in wanted.references {
            match self.find(&condition)? {
                Matched::One(stored) => {
                    let Stored { key, .. } = *stored;
                    resolved.references.insert(link, format!("{}/{}", key.resource_type, key.id.as_str()));
                    resolved.checks.push(Check { condition, finds: Some(key.id), is_own: false });
                }
                Matched::Nothing if self.in_transaction => {
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
