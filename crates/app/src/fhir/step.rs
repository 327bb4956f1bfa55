//! What an entry of a Bundle comes down to: prepared on any thread, carried out in the store.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;
use ward_audit::{Entry as AuditEntry, Outcome};
use ward_base::{Phi, ResourceId, Timestamp};
use ward_fhir::bundle::{self, Entry, History, Kind, Method as EntryMethod, rewrite_references};
use ward_fhir::outcome::IssueCode;
use ward_fhir::search::Handling;
use ward_fhir::{Moment, ResourceType};
use ward_identity::Permission;
use ward_store::{
    Expected, HistoryScope, Prepared, ResourceKey, Session, StoreError, Stored, Transaction, WriteOutcome,
};

use super::condition::Condition;
use super::patch::Patch;
use super::read::{Known, Part};
use super::resolve::{self, Check, Resolved};
use super::{history, media, search, subscription, write};
use crate::app::App;
use crate::call::Call;
use crate::form;
use crate::problem::Problem;

/// What an entry comes down to.
pub(super) struct Step {
    pub(super) what: What,
    /// What its conditions must still find.
    pub(super) checks: Vec<Check>,
}

pub(super) enum What {
    Put {
        key: ResourceKey,
        prepared: Box<Prepared>,
        expected: Expected,
        by: Writing,
    },
    /// A conditional create that found this.
    Keep {
        stored: Box<Stored>,
    },
    Delete {
        key: ResourceKey,
        expected: Expected,
    },
    /// A conditional delete that found nothing.
    DeleteNothing {
        kind: ResourceType,
    },
    Read {
        key: ResourceKey,
        version: Option<u64>,
        known: Known,
        part: Part,
    },
    History(Box<history::Asked>),
    Search(Box<search::Asked>),
}

/// By which interaction a version is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    Create,
    Update,
    /// Unless a version was asked for, a version that came in between is not the client's fault.
    Patch {
        version_wanted: bool,
    },
}

/// What became of it.
pub(super) struct Done {
    pub(super) status: StatusCode,
    pub(super) location: Option<String>,
    pub(super) version: Option<(u64, Timestamp)>,
    pub(super) resource: Option<Phi<Vec<u8>>>,
    /// Whose data it touched, and in how many resources.
    pub(super) patients: Vec<ResourceId>,
    pub(super) rows: usize,
}

impl Done {
    /// What is done without anything to show.
    const fn without_resource(status: StatusCode) -> Self {
        Self { status, location: None, version: None, resource: None, patients: Vec::new(), rows: 0 }
    }

    /// What was read.
    fn found(resource: Phi<Vec<u8>>, patients: Vec<ResourceId>, rows: usize) -> Self {
        Self { resource: Some(resource), patients, rows, ..Self::without_resource(StatusCode::OK) }
    }
}

/// What all entries of one Bundle share.
pub(super) struct Steps {
    app: Arc<App>,
    account: String,
    now: Timestamp,
    handling: Handling,
    /// The ids of what entries create or update, by the entry's place.
    ids: HashMap<usize, ResourceId>,
    kind: Kind,
    names: Names,
}

/// The names that the entries of a Bundle have for each other.
#[derive(Default)]
struct Names {
    /// What each `fullUrl` stands for from now on.
    assigned: HashMap<String, String>,
    /// The same by what comes after the base of a `fullUrl` such as `https://h/fhir/Patient/1`, for relative
    /// references out of resources with the same base (<https://hl7.org/fhir/R4/bundle.html#references>).
    relative: HashMap<String, HashMap<String, String>>,
}

impl Names {
    fn add(&mut self, url: &str, stands_for: &str) {
        if let Some((base, of_one)) = bundle::restful(url) {
            let of_base = self.relative.entry(base.to_owned()).or_default();
            of_base.insert(of_one.to_owned(), stands_for.to_owned());
        }
        self.assigned.insert(url.to_owned(), stands_for.to_owned());
    }

    /// What `link` in the resource of an entry with this `fullUrl` stands for.
    fn get(&self, full_url: Option<&str>, link: &str) -> Option<&String> {
        let relative =
            full_url.and_then(bundle::restful).and_then(|(base, _)| self.relative.get(base)?.get(link));
        relative.or_else(|| self.assigned.get(link))
    }
}

impl Steps {
    /// Gives an id to whatever is made, and finds out what the entries' names for each other stand for. What goes
    /// wrong with one entry becomes its problem.
    pub(super) fn new(
        call: &Call,
        bundle_kind: Kind,
        entries: &[Entry],
        resolved: &mut [Result<Resolved, Problem>],
    ) -> Result<Self, Problem> {
        let (mut ids, mut names) = (HashMap::new(), Names::default());
        for (entry, resolved) in entries.iter().zip(resolved.iter_mut()) {
            let (Some(kind), Ok(known)) = (entry.target.resource_type, &*resolved) else { continue };
            let matched = known.matched.as_ref().map(|stored| stored.key.id.clone());
            let id = match (entry.method, matched) {
                (EntryMethod::Post, _) if entry.target.operation.is_some() => None,
                (EntryMethod::Post | EntryMethod::Put, Some(matched)) => Some(matched),
                (EntryMethod::Post, None) => Some(ResourceId::random(&*call.app.random)),
                (EntryMethod::Put, None) if entry.target.id.is_none() => {
                    let stated = entry.resource.as_ref().and_then(|resource| resource.get("id"));
                    match write::chosen_id(call, stated.and_then(Value::as_str)) {
                        Ok(id) => Some(id),
                        Err(problem) => {
                            *resolved = Err(problem);
                            continue;
                        }
                    }
                }
                (EntryMethod::Put, None) => entry.target.id.clone(),
                _ => None,
            };
            let Some(id) = id else { continue };
            if let Some(url) = &entry.full_url {
                names.add(url, &format!("{kind}/{}", id.as_str()));
            }
            ids.insert(entry.index, id);
        }
        for resolved in resolved.iter_mut() {
            let Ok(known) = resolved else { continue };
            for (link, condition) in std::mem::take(&mut known.pending) {
                let made = entries
                    .iter()
                    .filter_map(|entry| Some((entry.resource.as_ref()?, ids.get(&entry.index)?)));
                match resolve::within(&condition, made, &call.app.settings.base, call.now) {
                    Ok(id) => {
                        let kind = link.split('?').next().unwrap_or_default();
                        let stands_for = format!("{kind}/{}", id.as_str());
                        known.references.insert(link, stands_for);
                    }
                    Err(problem) => {
                        *resolved = Err(problem);
                        break;
                    }
                }
            }
        }
        Ok(Self {
            app: Arc::clone(&call.app),
            account: call.account()?,
            now: call.now,
            handling: media::preferred_handling(call),
            ids,
            kind: bundle_kind,
            names,
        })
    }

    /// The entry, ready to be carried out. CPU work only.
    pub(super) fn prepare(&self, entry: Entry, resolved: Resolved) -> Result<Step, Problem> {
        let Resolved { matched, references, checks, .. } = resolved;
        Ok(Step { what: self.what(entry, matched, &references)?, checks })
    }

    fn what(
        &self,
        mut entry: Entry,
        matched: Option<Box<Stored>>,
        references: &HashMap<String, String>,
    ) -> Result<What, Problem> {
        let unsupported = |words: &str| Err(Problem::malformed(IssueCode::NotSupported, words));
        let target = entry.target.clone();
        let Some(kind) = target.resource_type else {
            return match (entry.method, target.history, target.operation) {
                (EntryMethod::Get, History::All, None) => {
                    self.history(HistoryScope::System, target.query.as_deref())
                }
                (EntryMethod::Get, History::Absent, None) => {
                    self.search(search::Scope::system(), target.query.as_deref())
                }
                _ => unsupported("an entry must name a resource type"),
            };
        };
        match (entry.method, target.id, target.history, target.operation.as_deref()) {
            (EntryMethod::Post, None, History::Absent, None) => match matched {
                Some(stored) => Ok(What::Keep { stored }),
                None => self.put(kind, &mut entry, references, Expected::Absent, Writing::Create),
            },
            (EntryMethod::Put, Some(id), History::Absent, None) => {
                let chosen = self.app.settings.accept_client_ids;
                let expected = match (entry.if_match, entry.if_none_match.as_deref()) {
                    (Some(version), None) => Expected::Version(version),
                    (None, Some("*")) if chosen => Expected::Absent,
                    (None, None) => {
                        if chosen {
                            Expected::Any
                        } else {
                            Expected::Known
                        }
                    }
                    _ => {
                        let words = "`ifNoneMatch` of an update can only be `*`, alone, and where clients may choose ids";
                        return Err(Problem::malformed(IssueCode::Value, words));
                    }
                };
                let stated =
                    entry.resource.as_ref().and_then(|resource| resource.get("id")).and_then(Value::as_str);
                if stated != Some(id.as_str()) {
                    let words = "the resource must have the id that stands in its request's url";
                    return Err(Problem::malformed(IssueCode::Invalid, words));
                }
                self.put(kind, &mut entry, references, expected, Writing::Update)
            }
            (EntryMethod::Put, None, History::Absent, None) => {
                let id = self.ids.get(&entry.index).ok_or_else(Problem::internal)?;
                let expected = match (&matched, entry.if_match) {
                    (None, Some(_)) => return Err(Problem::precondition_failed()),
                    (None, None) => Expected::Absent,
                    (Some(_), Some(version)) => Expected::Version(version),
                    (Some(_), None) => Expected::Current,
                };
                if let Some(members) = entry.resource.as_mut().and_then(Value::as_object_mut) {
                    let stated = members.get("id").and_then(Value::as_str);
                    if stated.is_some_and(|stated| stated != id.as_str()) {
                        return Err(Problem::other_id());
                    }
                    members.insert("id".to_owned(), id.as_str().into());
                }
                self.put(kind, &mut entry, references, expected, Writing::Update)
            }
            (EntryMethod::Patch, _, History::Absent, None) => {
                let stored = matched.ok_or_else(Problem::nothing_matches)?;
                if stored.deleted {
                    return Err(Problem::gone().about(stored.patients));
                }
                if entry.if_match.is_some_and(|version| version != stored.version) {
                    return Err(Problem::precondition_failed());
                }
                let resource = Patch::in_bundle(entry.resource.as_ref())?.apply(&stored)?;
                write::check_resource(&resource, kind)?;
                let prepared = Box::new(self.app.store.prepare(&stored.key, &resource)?);
                let by = Writing::Patch { version_wanted: entry.if_match.is_some() };
                Ok(What::Put { key: stored.key, prepared, expected: Expected::Version(stored.version), by })
            }
            (EntryMethod::Delete, id, History::Absent, None) => {
                let found = id.map(|id| ResourceKey { resource_type: kind, id });
                match found.or(matched.map(|stored| stored.key)) {
                    Some(key) => {
                        let expected = entry.if_match.map_or(Expected::Any, Expected::Version);
                        Ok(What::Delete { key, expected })
                    }
                    None => Ok(What::DeleteNothing { kind }),
                }
            }
            (EntryMethod::Get, Some(id), of, None) => {
                let key = ResourceKey { resource_type: kind, id };
                let version = match of {
                    History::Absent => None,
                    History::Version(version) => Some(version),
                    History::All => {
                        return self.history(HistoryScope::Instance(key), target.query.as_deref());
                    }
                };
                let since = entry.if_modified_since.as_deref().and_then(Moment::parse);
                let known = Known {
                    tags: entry.if_none_match.clone(),
                    since: since.map(|moment| Timestamp(moment.start)),
                };
                let part = Part::read(target.query.as_deref())?;
                Ok(What::Read { key, version, known, part })
            }
            (EntryMethod::Get, None, History::All, None) => {
                self.history(HistoryScope::Type(kind), target.query.as_deref())
            }
            (EntryMethod::Get, None, History::Absent, None) => {
                self.search(search::Scope::of_type(kind), target.query.as_deref())
            }
            (EntryMethod::Get, Some(id), History::Absent, Some(member)) if !member.starts_with('$') => {
                let owner = ResourceKey { resource_type: kind, id };
                self.search(search::Scope::compartment(owner, member)?, target.query.as_deref())
            }
            _ => unsupported("this interaction is not supported in a Bundle yet"),
        }
    }

    fn search(&self, scope: search::Scope, query: Option<&str>) -> Result<What, Problem> {
        let pairs = form::pairs(query.unwrap_or_default().as_bytes())?;
        let asked = search::understand(&self.app, &self.account, self.now, scope, pairs, self.handling)?;
        Ok(What::Search(Box::new(asked)))
    }

    fn put(
        &self,
        kind: ResourceType,
        entry: &mut Entry,
        references: &HashMap<String, String>,
        expected: Expected,
        by: Writing,
    ) -> Result<What, Problem> {
        let id = self.ids.get(&entry.index).cloned().ok_or_else(Problem::internal)?;
        let words = "an entry that writes must have a resource";
        let mut resource =
            entry.resource.take().ok_or_else(|| Problem::malformed(IssueCode::Required, words))?;
        let (full_url, refers_to_other) = (entry.full_url.as_deref(), Cell::new(false));
        rewrite_references(&mut resource, &|link| {
            let in_bundle = || {
                let of_itself = full_url == Some(link);
                if self.kind == Kind::Transaction || of_itself {
                    return self.names.get(full_url, link);
                }
                // An address means what is at it; another name means nothing outside of the Bundle.
                let is_other = bundle::restful(link).is_none() && self.names.assigned.contains_key(link);
                refers_to_other.set(refers_to_other.get() || is_other);
                None
            };
            references.get(link).or_else(in_bundle).cloned()
        });
        if refers_to_other.get() {
            let words = "entries of a batch cannot refer to each other; send a transaction";
            return Err(Problem::malformed(IssueCode::Invalid, words));
        }
        write::check_resource(&resource, kind)?;
        let key = ResourceKey { resource_type: kind, id };
        let prepared = Box::new(self.app.store.prepare(&key, &resource)?);
        Ok(What::Put { key, prepared, expected, by })
    }

    fn history(&self, scope: HistoryScope, query: Option<&str>) -> Result<What, Problem> {
        let asked = history::Asked::read(&self.app, &self.account, self.now, scope, query)?;
        Ok(What::History(Box::new(asked)))
    }
}

/// What the log says of an entry before anything of it is understood.
pub(super) fn note(call: &Call, entry: &Entry, asked: &resolve::Asked) -> AuditEntry {
    let mut note = call.entry.clone();
    note.action = match (entry.method, &entry.target.id, entry.target.history) {
        (EntryMethod::Post, ..) => "create",
        (EntryMethod::Put, ..) => "update",
        (EntryMethod::Patch, ..) => "patch",
        (EntryMethod::Delete, ..) => "delete",
        (_, Some(_), History::Absent) => "read",
        (_, _, History::Version(_)) => "vread",
        (_, _, History::All) => "history",
        (_, None, History::Absent) => "search",
    };
    let kind = entry.target.resource_type;
    note.resource_type = kind.map(ResourceType::name);
    note.resource = kind.zip(entry.target.id.clone()).map(|(kind, id)| (kind.name(), id, None));
    let is_read = matches!(entry.method, EntryMethod::Get | EntryMethod::Head);
    let read = entry.target.query.as_ref().filter(|_| is_read);
    let queries: Vec<&str> = asked.queries.iter().chain(read).map(String::as_str).collect();
    note.query = (!queries.is_empty()).then(|| Phi::new(queries.join("\n")));
    note.patients.clone_from(&asked.patients);
    note
}

impl Step {
    /// The name of the interaction in the audit log, and what it takes.
    const fn interaction(&self) -> (&'static str, Permission) {
        match &self.what {
            What::Put { by: Writing::Create, .. } | What::Keep { .. } => ("create", Permission::Create),
            What::Put { by: Writing::Update, .. } => ("update", Permission::Update),
            What::Put { by: Writing::Patch { .. }, .. } => ("patch", Permission::Patch),
            What::Delete { .. } | What::DeleteNothing { .. } => ("delete", Permission::Delete),
            What::Read { version: None, .. } => ("read", Permission::Read),
            What::Read { .. } => ("vread", Permission::History),
            What::History(asked) => match asked.scope {
                HistoryScope::Instance(_) => ("history", Permission::History),
                HistoryScope::Type(_) | HistoryScope::System => ("history", Permission::TypeHistory),
            },
            What::Search(_) => ("search", Permission::Search),
        }
    }

    fn kind(&self) -> Option<ResourceType> {
        match &self.what {
            What::DeleteNothing { kind } => Some(*kind),
            What::Search(asked) => asked.kind(),
            What::History(asked) => match &asked.scope {
                HistoryScope::Instance(key) => Some(key.resource_type),
                HistoryScope::Type(kind) => Some(*kind),
                HistoryScope::System => None,
            },
            _ => self.key().map(|key| key.resource_type),
        }
    }

    /// The one resource that it is about.
    fn key(&self) -> Option<&ResourceKey> {
        match &self.what {
            What::Put { key, .. } | What::Delete { key, .. } | What::Read { key, .. } => Some(key),
            What::Keep { stored } => Some(&stored.key),
            What::History(asked) => match &asked.scope {
                HistoryScope::Instance(key) => Some(key),
                HistoryScope::Type(_) | HistoryScope::System => None,
            },
            What::Search(_) | What::DeleteNothing { .. } => None,
        }
    }

    /// The resource that it writes.
    pub(super) const fn written(&self) -> Option<&ResourceKey> {
        match &self.what {
            What::Put { key, .. } | What::Delete { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Type and condition of a conditional create that found nothing: another like it would find this one.
    pub(super) fn created_unless(&self) -> Option<(ResourceType, String)> {
        match (&self.what, self.own_check()) {
            (What::Put { key, by: Writing::Create, .. }, Some(check)) => {
                Some((key.resource_type, check.condition.asked().written().into_inner()))
            }
            _ => None,
        }
    }

    /// The condition that says which resource it is about.
    fn own_check(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.is_own)
    }

    /// Whether it writes, or must know at the moment of writing that there is nothing to do.
    pub(super) const fn is_write(&self) -> bool {
        !matches!(&self.what, What::Read { .. } | What::History(_) | What::Search(_))
    }

    /// Fails unless the caller may.
    pub(super) fn permit(&mut self, call: &Call) -> Result<(), Problem> {
        let (permission, kind) = (self.interaction().1, self.kind());
        match &mut self.what {
            What::Search(asked) => asked.permit(call),
            What::Put { key, prepared, by: Writing::Update, expected } => {
                call.permit(permission, kind)?;
                *expected = write::narrowed(call, key.resource_type, *expected)?;
                subscription::check(call, prepared)
            }
            What::Put { prepared, .. } => {
                call.permit(permission, kind)?;
                subscription::check(call, prepared)
            }
            _ => call.permit(permission, kind),
        }
    }

    /// The entry for the audit log, an intent for now, from what `note` says already.
    pub(super) fn entry(&self, note: &AuditEntry) -> AuditEntry {
        let mut entry = note.clone();
        entry.action = self.interaction().0;
        entry.outcome = Outcome::Intent;
        entry.resource_type = self.kind().map(ResourceType::name);
        entry.resource = self.key().map(|key| (key.resource_type.name(), key.id.clone(), None));
        match &self.what {
            What::Put { prepared, .. } => {
                entry.patients.extend_from_slice(prepared.patients());
                entry.rows = 1;
            }
            What::Keep { stored } => entry.patients.extend_from_slice(&stored.patients),
            What::Search(asked) => {
                entry.query = Some(asked.written());
                entry.patients.extend(asked.patients());
            }
            _ => {}
        }
        entry
    }

    /// Lets a search examine so many resources at most.
    pub(super) fn bound(&mut self, effort: usize) {
        if let What::Search(asked) = &mut self.what {
            asked.bound(effort);
        }
    }

    /// The resources that its conditions found: not to be deleted by another entry.
    pub(super) fn counts_on(&self) -> impl Iterator<Item = ResourceKey> {
        let is_own_delete = |check: &Check| check.is_own && matches!(&self.what, What::Delete { .. });
        self.checks.iter().filter(move |check| !is_own_delete(check)).filter_map(|check| {
            let resource_type = check.condition.asked().kind()?;
            Some(ResourceKey { resource_type, id: check.finds.clone()? })
        })
    }

    /// Whether its conditions still find what they found.
    /// Conditions in `held` are known to hold.
    pub(super) fn holds(
        &self,
        session: &mut dyn Transaction,
        held: &mut HashSet<*const Condition>,
    ) -> Result<(), Problem> {
        for check in &self.checks {
            if held.insert(Arc::as_ptr(&check.condition))
                && !check.condition.still_finds(session, check.finds.as_ref())?
            {
                return Err(Problem::raced());
            }
        }
        Ok(())
    }

    /// Carries out what writes.
    pub(super) fn write(&self, transaction: &mut dyn Transaction, steps: &Steps) -> Result<Done, Problem> {
        match &self.what {
            What::Put { key, prepared, expected, by } => {
                let written = transaction.put(prepared, *expected).map_err(|error| match (error, by) {
                    (StoreError::Conflict, Writing::Patch { version_wanted: false }) => Problem::raced(),
                    (error, _) => write::conflict(error, *expected),
                })?;
                let status = match written.outcome {
                    WriteOutcome::Created => StatusCode::CREATED,
                    WriteOutcome::Updated => StatusCode::OK,
                };
                Ok(Done {
                    status,
                    location: Some(write::location(&steps.app.settings.base, key, written.version)),
                    version: Some((written.version, written.updated)),
                    resource: None,
                    patients: prepared.patients().to_vec(),
                    rows: 1,
                })
            }
            What::Keep { stored } => Ok(Done {
                status: StatusCode::OK,
                location: Some(write::location(&steps.app.settings.base, &stored.key, stored.version)),
                version: Some((stored.version, stored.updated)),
                resource: None,
                patients: stored.patients.clone(),
                rows: 1,
            }),
            What::Delete { key, expected } => {
                let patients = transaction.current(key)?.map(|stored| stored.patients).unwrap_or_default();
                transaction.delete(key, *expected)?;
                Ok(Done { patients, rows: 1, ..Done::without_resource(StatusCode::NO_CONTENT) })
            }
            What::DeleteNothing { .. } => Ok(Done::without_resource(StatusCode::NO_CONTENT)),
            _ => self.read(transaction, steps),
        }
    }

    /// Carries out what reads.
    pub(super) fn read(&self, session: &mut (impl Session + ?Sized), steps: &Steps) -> Result<Done, Problem> {
        match &self.what {
            What::Read { key, version, known, part } => {
                let found = match version {
                    None => session.current(key)?,
                    Some(version) => session.version(key, *version)?,
                };
                let stored = found.ok_or_else(Problem::not_found)?;
                if stored.deleted {
                    return Err(Problem::gone().about(stored.patients));
                }
                let version = Some((stored.version, stored.updated));
                if known.is(&stored) {
                    let unchanged = Done::without_resource(StatusCode::NOT_MODIFIED);
                    return Ok(Done { version, patients: stored.patients, ..unchanged });
                }
                Ok(Done { version, ..Done::found(part.of(stored.body)?, stored.patients, 1) })
            }
            What::History(asked) => {
                let found = asked.run(session)?;
                let rows = found.entries.len();
                let patients =
                    found.entries.iter().flat_map(|stored| stored.patients.iter().cloned()).collect();
                let text = asked.text(&steps.app, &steps.account, steps.now, found)?;
                Ok(Done::found(Phi::new(text), patients, rows))
            }
            What::Search(asked) => {
                let found = asked.run(session)?;
                let given = || found.hits.iter().chain(&found.included);
                let rows = given().count();
                let patients = given().flat_map(|stored| stored.patients.iter().cloned()).collect();
                let text = search::text(&steps.app, &steps.account, steps.now, asked, found)?;
                Ok(Done::found(Phi::new(text), patients, rows))
            }
            _ => Err(Problem::internal()),
        }
    }
}
