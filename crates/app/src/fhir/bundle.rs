//! Transactions and batches (<https://hl7.org/fhir/R4/http.html#transaction>).
//!
//! Each entry needs the permission that it would need by itself, and has an entry of its own in the audit log. A
//! transaction is one write of the store: all of it is there afterwards, or nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;
use ward_audit::{Class, Entry as AuditEntry, Outcome};
use ward_base::{Phi, ResourceId, Timestamp};
use ward_fhir::bundle::{self, Entry, History, Kind, Method as EntryMethod, Plan, rewrite_references};
use ward_fhir::outcome::{Issue, IssueCode};
use ward_fhir::search::Handling;
use ward_fhir::{Moment, ResourceType};
use ward_identity::Permission;
use ward_store::{
    Expected, HistoryScope, Prepared, ResourceKey, Session, StoreError, Stored, Transaction, WriteOutcome,
};
use ward_transport::RequestBody;

use super::condition::TRIES;
use super::media::{self, FHIR_JSON, FHIR_JSON_NAME};
use super::patch::Patch;
use super::read::{Known, Part};
use super::resolve::{self, Check, Resolved};
use super::text::{BundleText, response};
use super::{history, search, write};
use crate::app::App;
use crate::call::{Call, aside};
use crate::form;
use crate::problem::Problem;
use crate::reply::Reply;

/// Searches and histories in one Bundle at most: each may go through a lot.
const QUERIES_MAX: usize = 50;
/// Of all that the entries of one Bundle read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// `POST [base]`.
pub(crate) async fn bundle(call: &mut Call, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "bundle", None);
    media::acceptable(call, None)?;
    let bytes = call.body(body, &FHIR_JSON, FHIR_JSON_NAME, call.resource_bytes_max()).await?;
    let (limits, most) = (call.json_limits(), call.app.settings.limits.bundle_entries);
    let plan = aside(bytes.len(), move || read(&bytes, &limits, most)).await?;
    match plan.kind {
        Kind::Transaction => {
            call.doing(Class::Rest, "transaction", None);
            transaction(call, plan.entries).await
        }
        Kind::Batch => {
            call.doing(Class::Rest, "batch", None);
            batch(call, plan).await
        }
    }
}

fn read(bytes: &[u8], limits: &ward_fhir::json::Limits, most: usize) -> Result<Plan, Problem> {
    let bundle = ward_fhir::json::parse(bytes, limits)?;
    if bundle.get("resourceType").and_then(Value::as_str) != Some("Bundle") {
        let words = "only a Bundle of type transaction or batch can be sent to this address";
        return Err(Problem::malformed(IssueCode::Invalid, words));
    }
    if bundle.get("entry").and_then(Value::as_array).is_some_and(|entries| entries.len() > most) {
        return Err(Problem::too_large(format!("a Bundle has {most} entries at most; send it in parts")));
    }
    let plan = bundle::plan(bundle).map_err(Problem::bad_query)?;
    let is_query = |entry: &&Entry| {
        matches!(entry.method, EntryMethod::Get | EntryMethod::Head)
            && (entry.target.id.is_none() || entry.target.history == History::All)
    };
    if plan.entries.iter().filter(is_query).count() > QUERIES_MAX {
        let words =
            format!("a Bundle has {QUERIES_MAX} searches and histories at most; send them one by one");
        return Err(Problem::malformed(IssueCode::TooCostly, words));
    }
    Ok(plan)
}

/// What an entry comes down to.
struct Step {
    what: What,
    /// What its conditions must still find.
    checks: Vec<Check>,
}

enum What {
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
enum Writing {
    Create,
    Update,
    /// Unless a version was asked for, a version that came in between is not the client's fault.
    Patch {
        version_wanted: bool,
    },
}

/// What became of it.
struct Done {
    status: StatusCode,
    location: Option<String>,
    version: Option<(u64, Timestamp)>,
    resource: Option<Phi<Vec<u8>>>,
    /// Whose data it touched, and in how many resources.
    patients: Vec<ResourceId>,
    rows: usize,
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
struct Steps {
    app: Arc<App>,
    account: String,
    now: Timestamp,
    handling: Handling,
    /// The ids of what entries create or update, by the entry's place.
    ids: HashMap<usize, ResourceId>,
    /// What each `fullUrl` stands for from now on.
    assigned: HashMap<String, String>,
    /// The same by what comes after the base of a `fullUrl` such as `https://h/fhir/Patient/1`, for relative
    /// references out of resources with the same base (<https://hl7.org/fhir/R4/bundle.html#references>).
    relative: HashMap<String, HashMap<String, String>>,
}

impl Steps {
    /// Gives an id to whatever is made, and finds out what the entries' names for each other stand for. What goes
    /// wrong with one entry becomes its problem.
    fn new(
        call: &Call,
        entries: &[Entry],
        resolved: &mut [Result<Resolved, Problem>],
    ) -> Result<Self, Problem> {
        let (mut ids, mut assigned) = (HashMap::new(), HashMap::new());
        let mut relative: HashMap<String, HashMap<String, String>> = HashMap::new();
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
                let stands_for = format!("{kind}/{}", id.as_str());
                if let Some((base, of_one)) = bundle::restful(url) {
                    let of_base = relative.entry(base.to_owned()).or_default();
                    of_base.insert(of_one.to_owned(), stands_for.clone());
                }
                assigned.insert(url.clone(), stands_for);
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
            assigned,
            relative,
        })
    }

    /// The entry, ready to be carried out. CPU work only.
    fn prepare(&self, entry: Entry, resolved: Resolved) -> Result<Step, Problem> {
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
                None => self.put(kind, &entry, references, Expected::Absent, Writing::Create),
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
                self.put(kind, &entry, references, expected, Writing::Update)
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
                self.put(kind, &entry, references, expected, Writing::Update)
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
        entry: &Entry,
        references: &HashMap<String, String>,
        expected: Expected,
        by: Writing,
    ) -> Result<What, Problem> {
        let id = self.ids.get(&entry.index).cloned().ok_or_else(Problem::internal)?;
        let words = "an entry that writes must have a resource";
        let resource = entry.resource.clone();
        let mut resource = resource.ok_or_else(|| Problem::malformed(IssueCode::Required, words))?;
        rewrite_references(&mut resource, &self.assigned);
        rewrite_references(&mut resource, references);
        if let Some(relative) =
            entry.full_url.as_deref().and_then(bundle::restful).and_then(|(base, _)| self.relative.get(base))
        {
            rewrite_references(&mut resource, relative);
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

impl Step {
    /// The name of the interaction in the audit log, and what it takes.
    const fn interaction(&self) -> (&'static str, Permission) {
        match &self.what {
            What::Put { by: Writing::Create, .. } | What::Keep { .. } => ("create", Permission::Create),
            What::Put { by: Writing::Update, .. } => ("update", Permission::Update),
            What::Put { by: Writing::Patch { .. }, .. } => ("patch", Permission::Update),
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
    const fn written(&self) -> Option<&ResourceKey> {
        match &self.what {
            What::Put { key, .. } | What::Delete { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Type and condition of a conditional create that found nothing: another like it would find this one.
    fn created_unless(&self) -> Option<(ResourceType, String)> {
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
    const fn is_write(&self) -> bool {
        !matches!(&self.what, What::Read { .. } | What::History(_) | What::Search(_))
    }

    /// Fails unless the caller may.
    fn permit(&mut self, call: &Call) -> Result<(), Problem> {
        let (permission, kind) = (self.interaction().1, self.kind());
        match &mut self.what {
            What::Search(asked) => asked.permit(call),
            What::Put { key, by: Writing::Update, expected, .. } => {
                call.permit(permission, kind)?;
                *expected = write::narrowed(call, key.resource_type, *expected);
                Ok(())
            }
            _ => call.permit(permission, kind),
        }
    }

    /// The entry for the audit log, an intent for now.
    fn entry(&self, call: &Call) -> AuditEntry {
        let mut entry = call.entry.clone();
        entry.action = self.interaction().0;
        entry.outcome = Outcome::Intent;
        entry.resource_type = self.kind().map(ResourceType::name);
        entry.resource = self.key().map(|key| (key.resource_type.name(), key.id.clone(), None));
        entry.patients.clear();
        match &self.what {
            What::Put { prepared, .. } => {
                entry.patients = prepared.patients().to_vec();
                entry.rows = 1;
            }
            What::Keep { stored } => entry.patients.clone_from(&stored.patients),
            What::Search(asked) => {
                entry.query = Some(asked.written());
                entry.patients = asked.patients();
            }
            _ => {}
        }
        if let Some(asked) = self.own_check().map(|check| check.condition.asked()) {
            entry.query = Some(asked.written());
            entry.patients.extend(asked.patients());
        }
        entry
    }

    /// Whether its conditions still find what they found.
    fn holds(&self, session: &mut dyn Transaction) -> Result<(), Problem> {
        for check in &self.checks {
            if !check.condition.still_finds(session, check.finds.as_ref())? {
                return Err(Problem::raced());
            }
        }
        Ok(())
    }

    /// Carries out what writes.
    fn write(&self, transaction: &mut dyn Transaction, steps: &Steps) -> Result<Done, Problem> {
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
    fn read(&self, session: &mut (impl Session + ?Sized), steps: &Steps) -> Result<Done, Problem> {
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

/// A step that the caller may take, with its entry for the audit log.
struct Permitted {
    index: usize,
    step: Step,
    entry: AuditEntry,
}

/// Whoever is touched by what is there now is named in the intents as well, not only whom the new versions are about.
async fn name_those_before(call: &Call, permitted: &mut [Permitted]) -> Result<(), Problem> {
    let mut keys = Vec::new();
    for (place, one) in permitted.iter().enumerate() {
        if let Some(key) = one.step.written()
            && !matches!(&one.step.what, What::Put { by: Writing::Create, .. })
        {
            keys.push((place, key.clone()));
        }
    }
    if keys.is_empty() {
        return Ok(());
    }
    let current = move |session: &mut dyn Session| {
        let patients = |(place, key): (usize, ResourceKey)| {
            let stored = session.current(&key)?;
            Ok::<_, Problem>((place, stored.map(|stored| stored.patients).unwrap_or_default()))
        };
        keys.into_iter().map(patients).collect::<Result<Vec<_>, _>>()
    };
    for (place, patients) in call.app.store.read(current).await? {
        if let Some(one) = permitted.get_mut(place) {
            one.entry.patients.extend(patients);
        }
    }
    Ok(())
}

/// What the log says of an entry when it is done.
fn closing(mut entry: AuditEntry, done: Result<&Done, &Problem>) -> AuditEntry {
    match done {
        Ok(done) => {
            entry.outcome = Outcome::Success;
            entry.status = Some(done.status.as_u16());
            entry.rows = u32::try_from(done.rows).unwrap_or(u32::MAX);
            entry.patients.extend(done.patients.iter().cloned());
        }
        Err(problem) => {
            let refused = problem.status() == StatusCode::FORBIDDEN;
            entry.outcome = if refused { Outcome::Refused } else { Outcome::Failed };
            entry.status = Some(problem.status().as_u16());
            entry.patients.extend(problem.patients().iter().cloned());
        }
    }
    entry
}

/// What the answer has room for yet.
struct Room(usize);

impl Room {
    fn take(&mut self, done: Done) -> Result<Done, Problem> {
        let size = done.resource.as_ref().map_or(0, |resource| resource.expose().len());
        match self.0.checked_sub(size) {
            Some(left) => self.0 = left,
            None => {
                let words = "the entries read more than one answer holds; ask for less at once";
                return Err(Problem::too_large(words).about(done.patients));
            }
        }
        Ok(done)
    }
}

/// Carries out a transaction; again if what its conditions find changes meanwhile.
async fn transaction(call: &mut Call, entries: Vec<Entry>) -> Result<Reply, Problem> {
    for _ in 1..TRIES {
        match try_transaction(call, entries.clone()).await {
            Err(problem) if problem.is_race() => {}
            other => return other,
        }
    }
    try_transaction(call, entries).await
}

async fn try_transaction(call: &mut Call, entries: Vec<Entry>) -> Result<Reply, Problem> {
    let mut resolved = resolve::resolve(call, Kind::Transaction, &entries).await?;
    let steps = Arc::new(Steps::new(call, &entries, &mut resolved)?);
    let preparing = Arc::clone(&steps);
    let prepared = tokio::task::spawn_blocking(move || {
        let step = |(entry, resolved): (Entry, Result<Resolved, Problem>)| {
            let index = entry.index;
            resolved
                .and_then(|resolved| preparing.prepare(entry, resolved))
                .map(|step| (index, step))
                .map_err(|problem| problem.at_entry(index))
        };
        entries.into_iter().zip(resolved).map(step).collect::<Result<Vec<_>, _>>()
    })
    .await
    .map_err(|_| Problem::internal())??;
    let mut permitted = Vec::with_capacity(prepared.len());
    let (mut written, mut created) = (HashSet::new(), HashSet::new());
    for (index, mut step) in prepared {
        let again = step.written().is_some_and(|key| !written.insert(key.clone()))
            || step.created_unless().is_some_and(|unless| !created.insert(unless));
        if again {
            return Err(Problem::same_resource().at_entry(index));
        }
        let entry = step.entry(call);
        if let Err(problem) = step.permit(call) {
            call.record(vec![closing(entry, Err(&problem))]).await?;
            return Err(problem.at_entry(index));
        }
        permitted.push(Permitted { index, step, entry });
    }
    name_those_before(call, &mut permitted).await?;
    let writes = permitted.iter().any(|one| one.step.is_write());
    let intents = permitted.iter().filter(|one| one.step.is_write()).map(|one| one.entry.clone());
    call.record(intents.collect()).await?;
    let permitted = Arc::new(permitted);
    let carried_out = Arc::clone(&permitted);
    // What only reads does not keep the one writer busy.
    let mut done = if writes {
        let apply = move |transaction: &mut dyn Transaction| {
            for one in carried_out.iter() {
                one.step.holds(transaction).map_err(|problem| problem.at_entry(one.index))?;
            }
            each(&carried_out, |step| step.write(transaction, &steps))
        };
        call.app.store.write(apply).await?
    } else {
        let apply = move |session: &mut dyn Session| each(&carried_out, |step| step.read(session, &steps));
        call.app.store.read(apply).await?
    };
    done.sort_by_key(|(index, ..)| *index);
    let mut text = BundleText::new("transaction-response", None, &[]);
    let mut entries = Vec::with_capacity(done.len());
    for (_, place, done) in done {
        add(&mut text, &done);
        entries.extend(permitted.get(place).map(|one| closing(one.entry.clone(), Ok(&done))));
    }
    call.record(entries).await?;
    Ok(Reply::fhir(StatusCode::OK, text.finish()))
}

/// Carries out every step; the first that fails, or does not fit into the answer, fails all. Gives for each its place
/// in the Bundle and among the steps.
fn each(
    permitted: &[Permitted],
    mut carry_out: impl FnMut(&Step) -> Result<Done, Problem>,
) -> Result<Vec<(usize, usize, Done)>, Problem> {
    let mut room = Room(ANSWER_BYTES_MAX);
    let mut each = |(place, one): (usize, &Permitted)| {
        let done = carry_out(&one.step).and_then(|done| room.take(done));
        done.map(|done| (one.index, place, done)).map_err(|problem| problem.at_entry(one.index))
    };
    permitted.iter().enumerate().map(&mut each).collect()
}

/// What became of an entry of a batch.
type Answer = (usize, AuditEntry, Result<Done, Problem>);

/// Carries out a batch; those entries again that were raced.
async fn batch(call: &mut Call, plan: Plan) -> Result<Reply, Problem> {
    let mut answers: Vec<Answer> = plan
        .rejected
        .into_iter()
        .map(|(index, issues)| (index, call.entry.clone(), Err(Problem::bad_query(issues))))
        .collect();
    let mut room = Room(ANSWER_BYTES_MAX);
    let mut entries = plan.entries;
    for tries_left in (0..TRIES).rev() {
        let tried = try_batch(call, entries.clone(), &mut room).await?;
        let is_raced = |(_, _, answer): &Answer| answer.as_ref().is_err_and(Problem::is_race);
        let (raced, settled): (Vec<_>, Vec<_>) =
            tried.into_iter().partition(|answer| tries_left > 0 && is_raced(answer));
        answers.extend(settled);
        entries.retain(|entry| raced.iter().any(|(index, ..)| *index == entry.index));
        if entries.is_empty() {
            break;
        }
    }
    answers.sort_by_key(|(index, ..)| *index);
    let mut text = BundleText::new("batch-response", None, &[]);
    let mut entries = Vec::with_capacity(answers.len());
    for (_, entry, answer) in answers {
        entries.push(closing(entry, answer.as_ref()));
        match answer {
            Ok(done) => add(&mut text, &done),
            Err(problem) => {
                let status = problem.status();
                let issues: Vec<Issue> = problem.into_issues();
                text.entry(&[response(status, None, None, &issues).as_bytes()]);
            }
        }
    }
    call.record(entries).await?;
    Ok(Reply::fhir(StatusCode::OK, text.finish()))
}

async fn try_batch(call: &mut Call, entries: Vec<Entry>, room: &mut Room) -> Result<Vec<Answer>, Problem> {
    let mut resolved = resolve::resolve(call, Kind::Batch, &entries).await?;
    let steps = Arc::new(Steps::new(call, &entries, &mut resolved)?);
    let preparing = Arc::clone(&steps);
    let prepared = tokio::task::spawn_blocking(move || {
        let step = |(entry, resolved): (Entry, Result<Resolved, Problem>)| {
            (entry.index, resolved.and_then(|resolved| preparing.prepare(entry, resolved)))
        };
        entries.into_iter().zip(resolved).map(step).collect::<Vec<_>>()
    })
    .await
    .map_err(|_| Problem::internal())?;
    let mut answers: Vec<Answer> = Vec::with_capacity(prepared.len());
    let mut permitted = Vec::new();
    for (index, step) in prepared {
        match step {
            Ok(mut step) => {
                let entry = step.entry(call);
                match step.permit(call) {
                    Ok(()) => permitted.push(Permitted { index, step, entry }),
                    Err(problem) => answers.push((index, entry, Err(problem))),
                }
            }
            Err(problem) => answers.push((index, call.entry.clone(), Err(problem))),
        }
    }
    name_those_before(call, &mut permitted).await?;
    let intents = permitted.iter().filter(|one| one.step.is_write()).map(|one| one.entry.clone());
    call.record(intents.collect()).await?;
    let (writes, reads): (Vec<_>, Vec<_>) = permitted.into_iter().partition(|one| one.step.is_write());
    // Each for itself, but handed over together: writes share commits.
    let mut running = Vec::with_capacity(writes.len());
    for Permitted { index, step, entry } in writes {
        let (steps, app) = (Arc::clone(&steps), Arc::clone(&call.app));
        let write = async move {
            let write = move |transaction: &mut dyn Transaction| {
                step.holds(transaction)?;
                step.write(transaction, &steps)
            };
            app.store.write(write).await
        };
        running.push((index, entry, call.app.tasks.spawn(write)));
    }
    for (index, entry, task) in running {
        answers.push((index, entry, task.await.unwrap_or_else(|_| Err(Problem::internal()))));
    }
    // One after the other: a Bundle has one reader at most.
    for Permitted { index, step, entry } in reads {
        let steps = Arc::clone(&steps);
        let done = call.app.store.read(move |session| step.read(session, &steps)).await;
        answers.push((index, entry, done.and_then(|done| room.take(done))));
    }
    Ok(answers)
}

fn add(text: &mut BundleText, done: &Done) {
    let response = response(done.status, done.location.as_deref(), done.version, &[]);
    match &done.resource {
        Some(resource) => text.entry(&[b"\"resource\":", resource.expose(), b",", response.as_bytes()]),
        None => text.entry(&[response.as_bytes()]),
    }
}
