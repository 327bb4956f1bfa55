//! Transactions and batches (<https://hl7.org/fhir/R4/http.html#transaction>).
//!
//! Each entry needs the permission that it would need by itself, and has an entry of its own in the audit log. A
//! transaction is one write of the store: all of it is there afterwards, or nothing.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;
use ward_audit::{Class, Entry as AuditEntry, Outcome};
use ward_base::{Phi, ResourceId, Timestamp};
use ward_fhir::ResourceType;
use ward_fhir::bundle::{self, Entry, History, Kind, Method as EntryMethod, Plan, rewrite_references};
use ward_fhir::outcome::{Issue, IssueCode};
use ward_fhir::search::Handling;
use ward_identity::Permission;
use ward_store::{
    Expected, HistoryScope, Page, Prepared, ResourceKey, Session, Stored, Transaction, WriteOutcome,
};
use ward_transport::RequestBody;

use super::media::{self, FHIR_JSON, FHIR_JSON_NAME};
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
    let steps = Arc::new(Steps::new(call, &plan)?);
    match plan.kind {
        Kind::Transaction => transaction(call, plan, steps).await,
        Kind::Batch => batch(call, plan, steps).await,
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
    let plan = bundle::plan(&bundle).map_err(Problem::bad_query)?;
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
enum Step {
    Put { key: ResourceKey, prepared: Box<Prepared>, expected: Expected },
    Delete { key: ResourceKey, expected: Expected },
    Read { key: ResourceKey, version: Option<u64> },
    History { scope: HistoryScope, page: Page },
    Search(Box<search::Asked>),
}

/// What became of it.
struct Done {
    status: StatusCode,
    location: Option<String>,
    version: Option<(u64, Timestamp)>,
    resource: Option<Phi<Vec<u8>>>,
    patients: Vec<ResourceId>,
}

impl Done {
    /// What was read.
    fn found(resource: Phi<Vec<u8>>, version: Option<(u64, Timestamp)>, patients: Vec<ResourceId>) -> Self {
        Self { status: StatusCode::OK, location: None, version, resource: Some(resource), patients }
    }
}

/// What all entries of one Bundle share.
struct Steps {
    app: Arc<App>,
    account: String,
    now: Timestamp,
    handling: Handling,
    /// The ids that entries which create get, by the entry's place.
    ids: HashMap<usize, ResourceId>,
    /// What each `fullUrl` stands for from now on.
    assigned: HashMap<String, String>,
}

impl Steps {
    fn new(call: &Call, plan: &Plan) -> Result<Self, Problem> {
        let (mut ids, mut assigned) = (HashMap::new(), HashMap::new());
        for entry in &plan.entries {
            let Some(kind) = entry.target.resource_type else { continue };
            let id = match entry.method {
                EntryMethod::Post if entry.target.operation.is_none() => {
                    let id = ResourceId::random(&*call.app.random);
                    ids.insert(entry.index, id.clone());
                    Some(id)
                }
                EntryMethod::Put => entry.target.id.clone(),
                _ => None,
            };
            if let (Some(url), Some(id)) = (&entry.full_url, id) {
                assigned.insert(url.clone(), format!("{kind}/{}", id.as_str()));
            }
        }
        Ok(Self {
            app: Arc::clone(&call.app),
            account: call.account()?,
            now: call.now,
            handling: media::preferred_handling(call),
            ids,
            assigned,
        })
    }

    /// The entry, ready to be carried out. CPU work only.
    fn prepare(&self, entry: Entry) -> Result<Step, Problem> {
        let unsupported = |words: &str| Err(Problem::malformed(IssueCode::NotSupported, words));
        if entry.if_none_exist.is_some() {
            return unsupported("conditional create is not supported yet; search first, then create");
        }
        let Some(kind) = entry.target.resource_type else {
            return unsupported("an entry must name a resource type");
        };
        let target = entry.target;
        match (entry.method, target.id, target.history, target.operation.as_deref()) {
            (EntryMethod::Post, None, History::Absent, None) => {
                let id = self.ids.get(&entry.index).cloned().ok_or_else(Problem::internal)?;
                self.put(kind, id, entry.resource, Expected::Absent)
            }
            (EntryMethod::Put, Some(id), History::Absent, None) => {
                let expected = match entry.if_match {
                    Some(version) => Expected::Version(version),
                    None if self.app.settings.accept_client_ids => Expected::Any,
                    None => Expected::Known,
                };
                let stated =
                    entry.resource.as_ref().and_then(|resource| resource.get("id")).and_then(Value::as_str);
                if stated != Some(id.as_str()) {
                    let words = "the resource must have the id that stands in its request's url";
                    return Err(Problem::malformed(IssueCode::Invalid, words));
                }
                self.put(kind, id, entry.resource, expected)
            }
            (EntryMethod::Delete, Some(id), History::Absent, None) => Ok(Step::Delete {
                key: ResourceKey { resource_type: kind, id },
                expected: entry.if_match.map_or(Expected::Any, Expected::Version),
            }),
            (EntryMethod::Get | EntryMethod::Head, Some(id), of, None) => {
                let key = ResourceKey { resource_type: kind, id };
                Ok(match of {
                    History::Absent => Step::Read { key, version: None },
                    History::Version(version) => Step::Read { key, version: Some(version) },
                    History::All => Step::History { scope: HistoryScope::Instance(key), page: self.page() },
                })
            }
            (EntryMethod::Get | EntryMethod::Head, None, History::All, None) => {
                Ok(Step::History { scope: HistoryScope::Type(kind), page: self.page() })
            }
            (EntryMethod::Get | EntryMethod::Head, None, History::Absent, None) => {
                let pairs = form::pairs(target.query.unwrap_or_default().as_bytes())?;
                let asked =
                    search::understand(&self.app, &self.account, self.now, kind, pairs, self.handling)?;
                Ok(Step::Search(Box::new(asked)))
            }
            _ => unsupported("this interaction is not supported in a Bundle yet"),
        }
    }

    fn put(
        &self,
        kind: ResourceType,
        id: ResourceId,
        resource: Option<Value>,
        expected: Expected,
    ) -> Result<Step, Problem> {
        let words = "an entry that writes must have a resource";
        let mut resource = resource.ok_or_else(|| Problem::malformed(IssueCode::Required, words))?;
        rewrite_references(&mut resource, &self.assigned);
        write::check(&resource, kind)?;
        let key = ResourceKey { resource_type: kind, id };
        let prepared = Box::new(self.app.store.prepare(&key, &resource)?);
        Ok(Step::Put { key, prepared, expected })
    }

    fn page(&self) -> Page {
        Page { count: history::PAGE_SIZE, after: None }
    }
}

impl Step {
    /// The name of the interaction in the audit log, and what it takes.
    fn interaction(&self, created: bool) -> (&'static str, Permission) {
        match self {
            Self::Put { .. } if created => ("create", Permission::Create),
            Self::Put { .. } => ("update", Permission::Update),
            Self::Delete { .. } => ("delete", Permission::Delete),
            Self::Read { version: None, .. } => ("read", Permission::Read),
            Self::Read { .. } => ("vread", Permission::History),
            Self::History { scope: HistoryScope::Instance(_), .. } => ("history", Permission::History),
            Self::History { .. } => ("history", Permission::TypeHistory),
            Self::Search(_) => ("search", Permission::Search),
        }
    }

    fn kind(&self) -> Option<ResourceType> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Read { key, .. } => {
                Some(key.resource_type)
            }
            Self::History { scope: HistoryScope::Instance(key), .. } => Some(key.resource_type),
            Self::History { scope: HistoryScope::Type(kind), .. } => Some(*kind),
            Self::History { scope: HistoryScope::System, .. } => None,
            Self::Search(asked) => Some(asked.query.resource_type),
        }
    }

    const fn is_write(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Delete { .. })
    }

    /// Fails unless the caller may; gives the entry for the audit log, an intent for now.
    fn permit(&mut self, call: &Call) -> Result<AuditEntry, Problem> {
        let created = matches!(self, Self::Put { expected: Expected::Absent, .. });
        let (action, permission) = self.interaction(created);
        let kind = self.kind();
        call.permit(permission, kind)?;
        if let Self::Put { expected: expected @ (Expected::Any | Expected::Known), .. } = self
            && call.permit(Permission::Create, kind).is_err()
        {
            // Whoever may not create may not do it by updating either, nor bring back what was deleted.
            *expected = Expected::Current;
        }
        let mut entry = call.entry.clone();
        entry.action = action;
        entry.outcome = Outcome::Intent;
        entry.resource_type = kind.map(ResourceType::name);
        entry.patients.clear();
        match self {
            Self::Put { key, prepared, .. } => {
                entry.resource = Some((key.resource_type.name(), key.id.clone(), None));
                entry.patients = prepared.patients().to_vec();
                entry.rows = 1;
            }
            Self::Delete { key, .. } | Self::Read { key, .. } => {
                entry.resource = Some((key.resource_type.name(), key.id.clone(), None));
            }
            Self::History { .. } => entry.resource = None,
            Self::Search(asked) => {
                entry.resource = None;
                entry.query = Some(asked.written());
                entry.patients = asked.patients();
            }
        }
        Ok(entry)
    }

    /// Carries out what writes.
    fn write(&self, transaction: &mut dyn Transaction, steps: &Steps) -> Result<Done, Problem> {
        match self {
            Self::Put { key, prepared, expected } => {
                let written = transaction
                    .put(prepared, *expected)
                    .map_err(|error| write::conflict(error, *expected))?;
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
                })
            }
            Self::Delete { key, expected } => {
                let patients = transaction.current(key)?.map(|stored| stored.patients).unwrap_or_default();
                transaction.delete(key, *expected)?;
                Ok(Done {
                    status: StatusCode::NO_CONTENT,
                    location: None,
                    version: None,
                    resource: None,
                    patients,
                })
            }
            _ => self.read(transaction, steps),
        }
    }

    /// Carries out what reads.
    fn read(&self, session: &mut (impl Session + ?Sized), steps: &Steps) -> Result<Done, Problem> {
        match self {
            Self::Read { key, version } => {
                let found = match version {
                    None => session.current(key)?,
                    Some(version) => session.version(key, *version)?,
                };
                let stored = found.ok_or_else(Problem::not_found)?;
                if stored.deleted {
                    return Err(Problem::gone());
                }
                let version = Some((stored.version, stored.updated));
                let Stored { body, patients, .. } = stored;
                Ok(Done::found(body, version, patients))
            }
            Self::History { scope, page } => {
                let found = session.history(scope, page)?;
                let patients =
                    found.entries.iter().flat_map(|stored| stored.patients.iter().cloned()).collect();
                let text = history::text(&steps.app, &steps.account, steps.now, scope, page.count, found)?;
                Ok(Done::found(Phi::new(text), None, patients))
            }
            Self::Search(asked) => {
                let found = session.search(&asked.query, &asked.page())?;
                let patients = found.hits.iter().flat_map(|stored| stored.patients.iter().cloned()).collect();
                let text = search::text(&steps.app, &steps.account, steps.now, asked, found)?;
                Ok(Done::found(Phi::new(text), None, patients))
            }
            Self::Put { .. } | Self::Delete { .. } => Err(Problem::internal()),
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
        match &one.step {
            Step::Put { expected: Expected::Absent, .. } => {}
            Step::Put { key, .. } | Step::Delete { key, .. } => keys.push((place, key.clone())),
            _ => {}
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
fn closing(mut entry: AuditEntry, done: &Result<Done, Problem>) -> AuditEntry {
    match done {
        Ok(done) => {
            entry.outcome = Outcome::Success;
            entry.status = Some(done.status.as_u16());
            entry.rows = entry.rows.max(u32::from(done.resource.is_some()));
            entry.patients.extend(done.patients.iter().cloned());
        }
        Err(problem) => {
            let refused = problem.status() == StatusCode::FORBIDDEN;
            entry.outcome = if refused { Outcome::Refused } else { Outcome::Failed };
            entry.status = Some(problem.status().as_u16());
        }
    }
    entry
}

async fn transaction(call: &mut Call, plan: Plan, steps: Arc<Steps>) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "transaction", None);
    let preparing = Arc::clone(&steps);
    let prepared = tokio::task::spawn_blocking(move || {
        let step = |entry: Entry| {
            let index = entry.index;
            preparing.prepare(entry).map(|step| (index, step)).map_err(|problem| problem.at_entry(index))
        };
        plan.entries.into_iter().map(step).collect::<Result<Vec<_>, _>>()
    })
    .await
    .map_err(|_| Problem::internal())??;
    let mut permitted = Vec::with_capacity(prepared.len());
    for (index, mut step) in prepared {
        let entry = step.permit(call).map_err(|problem| problem.at_entry(index))?;
        permitted.push(Permitted { index, step, entry });
    }
    name_those_before(call, &mut permitted).await?;
    let writes = permitted.iter().any(|one| one.step.is_write());
    let intents = permitted.iter().filter(|one| one.step.is_write()).map(|one| one.entry.clone());
    call.record(intents.collect()).await?;
    let carried = |one: Permitted, done: Result<Done, Problem>| {
        let done = done.map_err(|problem| problem.at_entry(one.index))?;
        Ok::<_, Problem>((one.index, one.entry, done))
    };
    // What only reads does not keep the one writer busy.
    let mut done = if writes {
        let apply = move |transaction: &mut dyn Transaction| {
            let each = |one: Permitted| {
                let done = one.step.write(transaction, &steps);
                carried(one, done)
            };
            permitted.into_iter().map(each).collect::<Result<Vec<_>, Problem>>()
        };
        call.app.store.write(apply).await?
    } else {
        let apply = move |session: &mut dyn Session| {
            let each = |one: Permitted| {
                let done = one.step.read(session, &steps);
                carried(one, done)
            };
            permitted.into_iter().map(each).collect::<Result<Vec<_>, Problem>>()
        };
        call.app.store.read(apply).await?
    };
    done.sort_by_key(|(index, ..)| *index);
    let mut text = BundleText::new("transaction-response", None, &[]);
    let mut entries = Vec::with_capacity(done.len());
    for (_, entry, done) in done {
        add(&mut text, &done);
        entries.push(closing(entry, &Ok(done)));
    }
    call.record(entries).await?;
    if text.size() > ANSWER_BYTES_MAX {
        let words =
            "it was done, but what its entries read is more than one answer holds; ask for less at once";
        return Err(Problem::too_large(words));
    }
    Ok(Reply::fhir(StatusCode::OK, text.finish()))
}

async fn batch(call: &mut Call, plan: Plan, steps: Arc<Steps>) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "batch", None);
    let preparing = Arc::clone(&steps);
    let prepared = tokio::task::spawn_blocking(move || {
        plan.entries.into_iter().map(|entry| (entry.index, preparing.prepare(entry))).collect::<Vec<_>>()
    })
    .await
    .map_err(|_| Problem::internal())?;
    let mut answers: Vec<(usize, AuditEntry, Result<Done, Problem>)> = plan
        .rejected
        .into_iter()
        .map(|(index, issues)| (index, call.entry.clone(), Err(Problem::bad_query(issues))))
        .collect();
    let mut permitted = Vec::new();
    for (index, step) in prepared {
        match step.and_then(|mut step| step.permit(call).map(|entry| (step, entry))) {
            Ok((step, entry)) => permitted.push(Permitted { index, step, entry }),
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
        let write = async move { app.store.write(move |transaction| step.write(transaction, &steps)).await };
        running.push((index, entry, call.app.tasks.spawn(write)));
    }
    for (index, entry, task) in running {
        answers.push((index, entry, task.await.unwrap_or_else(|_| Err(Problem::internal()))));
    }
    // One after the other: a Bundle has one reader at most.
    let mut room = ANSWER_BYTES_MAX;
    for Permitted { index, step, entry } in reads {
        let steps = Arc::clone(&steps);
        let mut done = call.app.store.read(move |session| step.read(session, &steps)).await;
        if let Ok(Done { resource: Some(resource), .. }) = &done {
            match room.checked_sub(resource.expose().len()) {
                Some(left) => room = left,
                None => {
                    let words = "the entries read more than one answer holds; ask for this one by itself";
                    done = Err(Problem::too_large(words));
                }
            }
        }
        answers.push((index, entry, done));
    }
    answers.sort_by_key(|(index, ..)| *index);
    let mut text = BundleText::new("batch-response", None, &[]);
    let mut entries = Vec::with_capacity(answers.len());
    for (_, entry, answer) in answers {
        entries.push(closing(entry, &answer));
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

fn add(text: &mut BundleText, done: &Done) {
    let response = response(done.status, done.location.as_deref(), done.version, &[]);
    match &done.resource {
        Some(resource) => text.entry(&[b"\"resource\":", resource.expose(), b",", response.as_bytes()]),
        None => text.entry(&[response.as_bytes()]),
    }
}
