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
use ward_fhir::bundle::{
    self, Entry, History, Kind, Method as EntryMethod, Plan, has_conditional_reference, rewrite_references,
};
use ward_fhir::outcome::{Issue, IssueCode};
use ward_fhir::search::Handling;
use ward_identity::Permission;
use ward_store::{Expected, HistoryScope, Page, Prepared, ResourceKey, Session, Transaction, WriteOutcome};
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
enum Step {
    Put { key: ResourceKey, prepared: Box<Prepared>, expected: Expected, creates: bool },
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
    /// Whose data it touched, and in how many resources.
    patients: Vec<ResourceId>,
    rows: usize,
}

impl Done {
    /// What was read.
    fn found(resource: Phi<Vec<u8>>, patients: Vec<ResourceId>, rows: usize) -> Self {
        Self {
            status: StatusCode::OK,
            location: None,
            version: None,
            resource: Some(resource),
            patients,
            rows,
        }
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
    /// The same by what comes after the base of a `fullUrl` such as `https://h/fhir/Patient/1`, for relative
    /// references out of resources with the same base (<https://hl7.org/fhir/R4/bundle.html#references>).
    relative: HashMap<String, HashMap<String, String>>,
}

impl Steps {
    fn new(call: &Call, plan: &Plan) -> Result<Self, Problem> {
        let (mut ids, mut assigned) = (HashMap::new(), HashMap::new());
        let mut relative: HashMap<String, HashMap<String, String>> = HashMap::new();
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
                let stands_for = format!("{kind}/{}", id.as_str());
                if let Some((base, of_one)) = bundle::restful(url) {
                    let of_base = relative.entry(base.to_owned()).or_default();
                    of_base.insert(of_one.to_owned(), stands_for.clone());
                }
                assigned.insert(url.clone(), stands_for);
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
    fn prepare(&self, entry: Entry) -> Result<Step, Problem> {
        let unsupported = |words: &str| Err(Problem::malformed(IssueCode::NotSupported, words));
        if entry.if_none_exist.is_some() {
            return unsupported("conditional create is not supported yet; search first, then create");
        }
        let updates = entry.method == EntryMethod::Put;
        if entry.if_modified_since.is_some() || (entry.if_none_match.is_some() && !updates) {
            return unsupported(
                "`ifModifiedSince`, and `ifNoneMatch` but of an update, are not supported yet",
            );
        }
        let Some(kind) = entry.target.resource_type else {
            return unsupported("an entry must name a resource type");
        };
        let target = entry.target;
        let of_one_or_all = target.id.is_some() || target.history != History::Absent;
        if entry.method == EntryMethod::Get && of_one_or_all && target.query.is_some() {
            return unsupported("in a Bundle, a read or history takes no parameters yet; send it by itself");
        }
        match (entry.method, target.id, target.history, target.operation.as_deref()) {
            (EntryMethod::Post, None, History::Absent, None) => {
                let id = self.ids.get(&entry.index).cloned().ok_or_else(Problem::internal)?;
                self.put(kind, id, entry.full_url.as_deref(), entry.resource, Expected::Absent, true)
            }
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
                self.put(kind, id, entry.full_url.as_deref(), entry.resource, expected, false)
            }
            (EntryMethod::Delete, Some(id), History::Absent, None) => Ok(Step::Delete {
                key: ResourceKey { resource_type: kind, id },
                expected: entry.if_match.map_or(Expected::Any, Expected::Version),
            }),
            (EntryMethod::Get, Some(id), of, None) => {
                let key = ResourceKey { resource_type: kind, id };
                Ok(match of {
                    History::Absent => Step::Read { key, version: None },
                    History::Version(version) => Step::Read { key, version: Some(version) },
                    History::All => Step::History { scope: HistoryScope::Instance(key), page: self.page() },
                })
            }
            (EntryMethod::Get, None, History::All, None) => {
                Ok(Step::History { scope: HistoryScope::Type(kind), page: self.page() })
            }
            (EntryMethod::Get, None, History::Absent, None) => {
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
        full_url: Option<&str>,
        resource: Option<Value>,
        expected: Expected,
        creates: bool,
    ) -> Result<Step, Problem> {
        let words = "an entry that writes must have a resource";
        let mut resource = resource.ok_or_else(|| Problem::malformed(IssueCode::Required, words))?;
        rewrite_references(&mut resource, &self.assigned);
        if let Some(relative) =
            full_url.and_then(bundle::restful).and_then(|(base, _)| self.relative.get(base))
        {
            rewrite_references(&mut resource, relative);
        }
        if has_conditional_reference(&resource) {
            let words =
                "references that search, such as `Patient?identifier=…`, are not supported yet; search first";
            return Err(Problem::malformed(IssueCode::NotSupported, words));
        }
        write::check(&resource, kind)?;
        let key = ResourceKey { resource_type: kind, id };
        let prepared = Box::new(self.app.store.prepare(&key, &resource)?);
        Ok(Step::Put { key, prepared, expected, creates })
    }

    fn page(&self) -> Page {
        Page { count: history::PAGE_SIZE, after: None }
    }
}

impl Step {
    /// The name of the interaction in the audit log, and what it takes.
    const fn interaction(&self) -> (&'static str, Permission) {
        match self {
            Self::Put { creates: true, .. } => ("create", Permission::Create),
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

    /// Fails unless the caller may.
    fn permit(&mut self, call: &Call) -> Result<(), Problem> {
        let kind = self.kind();
        call.permit(self.interaction().1, kind)?;
        if let Self::Put { key, creates: false, expected, .. } = self {
            *expected = write::narrowed(call, key.resource_type, *expected);
        }
        Ok(())
    }

    /// The entry for the audit log, an intent for now.
    fn entry(&self, call: &Call) -> AuditEntry {
        let kind = self.kind();
        let mut entry = call.entry.clone();
        entry.action = self.interaction().0;
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
            Self::History { scope: HistoryScope::Instance(key), .. } => {
                entry.resource = Some((key.resource_type.name(), key.id.clone(), None));
            }
            Self::History { .. } => entry.resource = None,
            Self::Search(asked) => {
                entry.resource = None;
                entry.query = Some(asked.written());
                entry.patients = asked.patients();
            }
        }
        entry
    }

    /// Carries out what writes.
    fn write(&self, transaction: &mut dyn Transaction, steps: &Steps) -> Result<Done, Problem> {
        match self {
            Self::Put { key, prepared, expected, .. } => {
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
                    rows: 1,
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
                    rows: 1,
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
                    return Err(Problem::gone().about(stored.patients));
                }
                let version = Some((stored.version, stored.updated));
                Ok(Done { version, ..Done::found(stored.body, stored.patients, 1) })
            }
            Self::History { scope, page } => {
                let found = session.history(scope, page)?;
                if matches!(scope, HistoryScope::Instance(_)) && found.total.is_none() {
                    return Err(Problem::not_found());
                }
                let rows = found.entries.len();
                let patients =
                    found.entries.iter().flat_map(|stored| stored.patients.iter().cloned()).collect();
                let text = history::text(&steps.app, &steps.account, steps.now, scope, page.count, found)?;
                Ok(Done::found(Phi::new(text), patients, rows))
            }
            Self::Search(asked) => {
                let found = session.search(&asked.query, &asked.page())?;
                let rows = found.hits.len();
                let patients = found.hits.iter().flat_map(|stored| stored.patients.iter().cloned()).collect();
                let text = search::text(&steps.app, &steps.account, steps.now, asked, found)?;
                Ok(Done::found(Phi::new(text), patients, rows))
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
            Step::Put { creates: true, .. } => {}
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
    // What only reads does not keep the one writer busy.
    let mut done = if writes {
        let apply = move |transaction: &mut dyn Transaction| {
            carried(&permitted, |step| step.write(transaction, &steps))
        };
        call.app.store.write(apply).await?
    } else {
        let apply = move |session: &mut dyn Session| carried(&permitted, |step| step.read(session, &steps));
        call.app.store.read(apply).await?
    };
    done.sort_by_key(|(index, ..)| *index);
    let mut text = BundleText::new("transaction-response", None, &[]);
    let mut entries = Vec::with_capacity(done.len());
    for (_, entry, done) in done {
        add(&mut text, &done);
        entries.push(closing(entry, Ok(&done)));
    }
    call.record(entries).await?;
    Ok(Reply::fhir(StatusCode::OK, text.finish()))
}

/// Carries out the steps of a transaction. What does not fit into the answer is not done either.
fn carried(
    permitted: &[Permitted],
    mut carry_out: impl FnMut(&Step) -> Result<Done, Problem>,
) -> Result<Vec<(usize, AuditEntry, Done)>, Problem> {
    let mut room = Room(ANSWER_BYTES_MAX);
    let each = |one: &Permitted| {
        let done = carry_out(&one.step).and_then(|done| room.take(done));
        Ok((one.index, one.entry.clone(), done.map_err(|problem| problem.at_entry(one.index))?))
    };
    permitted.iter().map(each).collect()
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
        let write = async move { app.store.write(move |transaction| step.write(transaction, &steps)).await };
        running.push((index, entry, call.app.tasks.spawn(write)));
    }
    for (index, entry, task) in running {
        answers.push((index, entry, task.await.unwrap_or_else(|_| Err(Problem::internal()))));
    }
    // One after the other: a Bundle has one reader at most.
    let mut room = Room(ANSWER_BYTES_MAX);
    for Permitted { index, step, entry } in reads {
        let steps = Arc::clone(&steps);
        let done = call.app.store.read(move |session| step.read(session, &steps)).await;
        answers.push((index, entry, done.and_then(|done| room.take(done))));
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

fn add(text: &mut BundleText, done: &Done) {
    let response = response(done.status, done.location.as_deref(), done.version, &[]);
    match &done.resource {
        Some(resource) => text.entry(&[b"\"resource\":", resource.expose(), b",", response.as_bytes()]),
        None => text.entry(&[response.as_bytes()]),
    }
}
