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
    Expected, HistoryScope, Page, Prepared, ResourceKey, Session, StoreError, Stored, Transaction,
    WriteOutcome,
};
use ward_transport::RequestBody;

use super::media::{self, FHIR_JSON, FHIR_JSON_NAME};
use super::text::{BundleText, response};
use super::{history, search, write};
use crate::app::App;
use crate::call::Call;
use crate::form;
use crate::problem::Problem;
use crate::reply::Reply;

/// `POST [base]`.
pub(crate) async fn bundle(call: &mut Call, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "bundle", None);
    media::acceptable(call, None)?;
    let bytes = call.body(body, &FHIR_JSON, FHIR_JSON_NAME).await?;
    let bundle = ward_fhir::json::parse(&bytes, &call.json_limits())?;
    drop(bytes);
    if bundle.get("resourceType").and_then(Value::as_str) != Some("Bundle") {
        let words = "only a Bundle of type transaction or batch can be sent to this address";
        return Err(Problem::malformed(IssueCode::Invalid, words));
    }
    let most = call.app.settings.limits.bundle_entries;
    if bundle.get("entry").and_then(Value::as_array).is_some_and(|entries| entries.len() > most) {
        return Err(Problem::too_large(format!("a Bundle has {most} entries at most; send it in parts")));
    }
    let plan = bundle::plan(&bundle).map_err(Problem::bad_query)?;
    drop(bundle);
    let steps = Arc::new(Steps::new(call, &plan)?);
    match plan.kind {
        Kind::Transaction => transaction(call, plan, steps).await,
        Kind::Batch => batch(call, plan, steps).await,
    }
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
        if let Self::Put { expected: expected @ Expected::Any, .. } = self
            && call.permit(Permission::Create, kind).is_err()
        {
            // Whoever may not create may not do it by updating either.
            *expected = Expected::Known;
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
            Self::History { .. } | Self::Search(_) => entry.resource = None,
        }
        Ok(entry)
    }

    /// Carries out what writes.
    fn write(&self, transaction: &mut dyn Transaction, steps: &Steps) -> Result<Done, Problem> {
        match self {
            Self::Put { key, prepared, expected } => {
                let written = match transaction.put(prepared, *expected) {
                    Ok(written) => written,
                    Err(StoreError::Conflict) if *expected == Expected::Known => {
                        return Err(Problem::no_update_as_create());
                    }
                    Err(error) => return Err(error.into()),
                };
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
                Ok(Done { status: StatusCode::OK, location: None, version, resource: Some(body), patients })
            }
            Self::History { scope, page } => {
                let found = session.history(scope, page)?;
                let patients =
                    found.entries.iter().flat_map(|stored| stored.patients.iter().cloned()).collect();
                let text = history::text(&steps.app, &steps.account, steps.now, scope, page.count, found)?;
                Ok(Done {
                    status: StatusCode::OK,
                    location: None,
                    version: None,
                    resource: Some(Phi::new(text)),
                    patients,
                })
            }
            Self::Search(asked) => {
                let found = session.search(&asked.query, &asked.page())?;
                let patients = found.hits.iter().flat_map(|stored| stored.patients.iter().cloned()).collect();
                let text = search::text(&steps.app, &steps.account, steps.now, asked, found)?;
                Ok(Done {
                    status: StatusCode::OK,
                    location: None,
                    version: None,
                    resource: Some(Phi::new(text)),
                    patients,
                })
            }
            Self::Put { .. } | Self::Delete { .. } => Err(Problem::internal()),
        }
    }
}

async fn transaction(call: &mut Call, plan: Plan, steps: Arc<Steps>) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "transaction", None);
    let preparing = Arc::clone(&steps);
    let mut prepared = tokio::task::spawn_blocking(move || {
        let step = |entry: Entry| {
            let index = entry.index;
            preparing.prepare(entry).map(|step| (index, step)).map_err(|problem| problem.at_entry(index))
        };
        plan.entries.into_iter().map(step).collect::<Result<Vec<_>, _>>()
    })
    .await
    .map_err(|_| Problem::internal())??;
    let mut intents = Vec::with_capacity(prepared.len());
    for (index, step) in &mut prepared {
        let intent = step.permit(call).map_err(|problem| problem.at_entry(*index))?;
        if step.is_write() {
            call.touches(&intent.patients, 1);
            intents.push(intent);
        }
    }
    call.record(intents).await?;
    let mut done = call
        .app
        .store
        .write(move |transaction| {
            let carry = |(index, step): (usize, Step)| {
                let done = step.write(transaction, &steps).map_err(|problem| problem.at_entry(index))?;
                Ok((index, done))
            };
            prepared.into_iter().map(carry).collect::<Result<Vec<_>, Problem>>()
        })
        .await?;
    done.sort_by_key(|(index, _)| *index);
    let mut text = BundleText::new("transaction-response", None, &[]);
    for (_, done) in done {
        call.touches(&done.patients, usize::from(done.resource.is_some()));
        add(&mut text, &done);
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
    let mut answers: Vec<(usize, Result<Done, Problem>)> =
        plan.rejected.into_iter().map(|(index, issues)| (index, Err(Problem::bad_query(issues)))).collect();
    let (mut entries, mut allowed) = (Vec::new(), Vec::new());
    for (index, step) in prepared {
        let permitted = step.and_then(|mut step| step.permit(call).map(|entry| (step, entry)));
        match permitted {
            Ok((step, entry)) => {
                entries.push(entry);
                allowed.push((index, step));
            }
            Err(problem) => answers.push((index, Err(problem))),
        }
    }
    call.record(entries).await?;
    // Each for itself, but handed over together: they share commits.
    let mut running = Vec::with_capacity(allowed.len());
    for (index, step) in allowed {
        let steps = Arc::clone(&steps);
        running.push((
            index,
            tokio::spawn(async move {
                let app = Arc::clone(&steps.app);
                if step.is_write() {
                    app.store.write(move |transaction| step.write(transaction, &steps)).await
                } else {
                    app.store.read(move |session| step.read(session, &steps)).await
                }
            }),
        ));
    }
    for (index, task) in running {
        answers.push((index, task.await.unwrap_or_else(|_| Err(Problem::internal()))));
    }
    answers.sort_by_key(|(index, _)| *index);
    let mut text = BundleText::new("batch-response", None, &[]);
    for (_, answer) in answers {
        match answer {
            Ok(done) => {
                call.touches(&done.patients, 1);
                add(&mut text, &done);
            }
            Err(problem) => {
                let status = problem.status();
                let issues: Vec<Issue> = problem.into_issues();
                text.entry(&[response(status, None, None, &issues).as_bytes()]);
            }
        }
    }
    Ok(Reply::fhir(StatusCode::OK, text.finish()))
}

fn add(text: &mut BundleText, done: &Done) {
    let response = response(done.status, done.location.as_deref(), done.version, &[]);
    match &done.resource {
        Some(resource) => text.entry(&[b"\"resource\":", resource.expose(), b",", response.as_bytes()]),
        None => text.entry(&[response.as_bytes()]),
    }
}
