//! `/ward/import` and `/ward/export`: everything in and out, as NDJSON, for the host's own commands.

use std::sync::Arc;

use serde_json::{Value, json};
use ward_audit::{Class, Entry, Outcome};
use ward_base::ResourceId;
use ward_fhir::ResourceType;
use ward_fhir::outcome::{Issue, IssueCode};
use ward_identity::Permission;
use ward_store::{Expected, Position, Prepared, ResourceKey, Session, Transaction, WriteOutcome};
use ward_transport::{Body, RequestBody};

use crate::app::App;
use crate::call::Call;
use crate::fhir::FHIR_NDJSON;
use crate::form;
use crate::outflow::{self, Line, Pages};
use crate::problem::Problem;
use crate::reply::Reply;
use crate::subscriptions::Writer;

const NDJSON: &str = "application/x-ndjson";
const LINES_MAX: usize = 10_000;
/// Resources in one page of an export.
const EXPORT_PAGE: u32 = 500;
/// Issues told about one line.
const ISSUES_TOLD: usize = 3;

/// A line that can be stored.
pub(crate) struct Ready {
    line: usize,
    resource: Value,
    prepared: Prepared,
}

/// What became of a line.
pub(crate) struct LineResult {
    line: usize,
    kind: Option<ResourceType>,
    outcome: &'static str,
    reason: String,
    /// Whose data it is about or was, if it was stored.
    pub(crate) patients: Vec<ResourceId>,
}

impl Ready {
    /// The type of the resource.
    pub(crate) const fn kind(&self) -> ResourceType {
        self.prepared.key().resource_type
    }
}

impl LineResult {
    fn of(ready: &Ready, outcome: &'static str) -> Self {
        let kind = Some(ready.prepared.key().resource_type);
        Self { line: ready.line, kind, outcome, reason: String::new(), patients: Vec::new() }
    }
}

/// `POST /ward/import[?overwrite=true]`: one resource a line in, one result a line out, in the same order.
///
/// All that is stored of one request is stored together. What is there already and equal is left alone.
pub(crate) async fn import(
    call: &mut Call,
    query: Option<&str>,
    body: RequestBody,
) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "import", None);
    call.authenticate().await?;
    call.permit(Permission::Import, None)?;
    let overwrite = match form::pairs(query.unwrap_or_default().as_bytes())?.as_slice() {
        [] => false,
        [(name, value)] if name == "overwrite" => value == "true",
        _ => return Err(Problem::malformed(IssueCode::Value, "import takes `overwrite=true` only")),
    };
    let body = call.body(body, &[NDJSON, FHIR_NDJSON], NDJSON, call.resource_bytes_max()).await?;
    let (app, limits) = (Arc::clone(&call.app), call.json_limits());
    let (ready, mut results) = tokio::task::spawn_blocking(move || prepare_lines(&app, &body, &limits))
        .await
        .map_err(|_| Problem::internal())??;
    let (ready, unchanged) = call.app.store.read(move |session| changed(session, ready)).await?;
    results.extend(unchanged);
    let intents: Vec<Entry> = ready.iter().map(|ready| intent(&call.entry, ready)).collect();
    call.record(intents).await?;
    let stored = call
        .app
        .write(Writer::Import, move |transaction| {
            ready.iter().map(|ready| store_line(transaction, ready, overwrite)).collect::<Result<Vec<_>, _>>()
        })
        .await?;
    for result in stored {
        call.touches(&result.patients, usize::from(matches!(result.outcome, "created" | "updated")));
        results.push(result);
    }
    results.sort_by_key(|result| result.line);
    let mut text = String::new();
    for result in results {
        text.push_str(
            &json!({
                "line": result.line, "type": result.kind.map_or("unknown", ResourceType::name),
                "outcome": result.outcome, "reason": result.reason,
            })
            .to_string(),
        );
        text.push('\n');
    }
    Ok(Reply::ndjson(NDJSON, Body::full(text.into_bytes())))
}

type PreparedLines = (Vec<Ready>, Vec<LineResult>);

fn prepare_lines(app: &App, body: &[u8], limits: &ward_fhir::json::Limits) -> Result<PreparedLines, Problem> {
    let (mut ready, mut results) = (Vec::new(), Vec::new());
    for (index, text) in body.split(|byte| *byte == b'\n').enumerate() {
        let line = index + 1;
        if line > LINES_MAX {
            return Err(Problem::too_large(format!(
                "an import has {LINES_MAX} lines at most; send it in parts"
            )));
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        match prepare_line(app, line, text, limits) {
            Ok(one) => ready.push(one),
            Err((kind, problem)) => results.push(LineResult {
                line,
                kind,
                outcome: "rejected",
                reason: reasons(problem),
                patients: Vec::new(),
            }),
        }
    }
    Ok((ready, results))
}

/// The first reasons why a line is refused.
pub(crate) fn reasons(problem: Problem) -> String {
    let issues: Vec<Issue> = problem.into_issues();
    let errors = issues.iter().filter(|issue| issue.is_error());
    let told: Vec<String> = errors.take(ISSUES_TOLD).map(told).collect();
    told.join("; ")
}

fn told(issue: &Issue) -> String {
    match &issue.expression {
        Some(place) => format!("{place}: {}", issue.diagnostics),
        None => issue.diagnostics.clone(),
    }
}

/// Makes a line ready to be stored, or says of which type it is and why it cannot be.
pub(crate) fn prepare_line(
    app: &App,
    line: usize,
    text: &[u8],
    limits: &ward_fhir::json::Limits,
) -> Result<Ready, (Option<ResourceType>, Problem)> {
    let mut resource = ward_fhir::json::parse(text, limits).map_err(|error| {
        let words = format!("not JSON that is accepted: {} at column {}", error.kind, error.column);
        (None, Problem::malformed(IssueCode::Structure, words))
    })?;
    let named = resource.get("resourceType").and_then(Value::as_str).and_then(ResourceType::parse);
    let kind = named.ok_or_else(|| {
        let words = "not a resource of FHIR R4: `resourceType` is missing or unknown";
        (None, Problem::malformed(IssueCode::Structure, words))
    })?;
    let mut prepare = || {
        crate::fhir::check_resource(&resource, kind)?;
        let id = match resource.get("id").and_then(Value::as_str) {
            Some(id) => ResourceId::parse(id).map_err(|_| Problem::internal())?,
            None => {
                let id = app.id_of(kind, text);
                resource["id"] = Value::from(id.as_str());
                id
            }
        };
        Ok(app.store.prepare(&ResourceKey { resource_type: kind, id }, &resource)?)
    };
    let prepared = prepare().map_err(|problem: Problem| (Some(kind), problem))?;
    Ok(Ready { line, resource, prepared })
}

/// What differs from what is stored, and what came of the rest: importing again changes nothing and logs no intents.
pub(crate) fn changed(
    session: &mut dyn Session,
    ready: Vec<Ready>,
) -> Result<(Vec<Ready>, Vec<LineResult>), Problem> {
    let (mut differs, mut unchanged) = (Vec::with_capacity(ready.len()), Vec::new());
    for ready in ready {
        if session.original_equals(ready.prepared.key(), &ready.resource)? {
            unchanged.push(LineResult::of(&ready, "unchanged"));
        } else {
            differs.push(ready);
        }
    }
    Ok((differs, unchanged))
}

/// Stores a line, unless it is there and equal, or different and not to be overwritten.
pub(crate) fn store_line(
    transaction: &mut dyn Transaction,
    ready: &Ready,
    overwrite: bool,
) -> Result<LineResult, Problem> {
    let current = transaction.current(ready.prepared.key())?;
    // Another line of the same request may have said the same.
    if current.is_some() && transaction.original_equals(ready.prepared.key(), &ready.resource)? {
        return Ok(LineResult::of(ready, "unchanged"));
    }
    // What was deleted was deleted on purpose: it does not come back unasked.
    if current.is_some() && !overwrite {
        return Ok(LineResult::of(ready, "conflict"));
    }
    let outcome = match transaction.put(&ready.prepared, Expected::Any)?.outcome {
        WriteOutcome::Created => "created",
        WriteOutcome::Updated => "updated",
    };
    let before = current.map(|stored| stored.patients).unwrap_or_default();
    let patients = before.into_iter().chain(ready.prepared.patients().iter().cloned()).collect();
    Ok(LineResult { patients, ..LineResult::of(ready, outcome) })
}

/// What the log says before a line is stored.
pub(crate) fn intent(entry: &Entry, ready: &Ready) -> Entry {
    let (key, patients) = (ready.prepared.key(), ready.prepared.patients());
    let mut entry = entry.clone();
    entry.outcome = Outcome::Intent;
    entry.resource_type = Some(key.resource_type.name());
    entry.resource = Some((key.resource_type.name(), key.id.clone(), None));
    entry.patients = patients.to_vec();
    entry.rows = 1;
    entry
}

/// `GET /ward/export?type=Type`: every current resource of a type, as it came in, one a line.
///
/// Whose records go out stands in the audit log page by page, before each page leaves.
pub(crate) async fn export(call: &mut Call, query: Option<&str>) -> Result<Reply, Problem> {
    call.doing(Class::Disclosure, "export", None);
    call.authenticate().await?;
    call.permit(Permission::Export, None)?;
    let kind = match form::pairs(query.unwrap_or_default().as_bytes())?.as_slice() {
        [(name, value)] if name == "type" => ResourceType::parse(value).ok_or_else(Problem::no_such_type)?,
        _ => {
            return Err(Problem::malformed(IssueCode::Required, "export takes `type=` with a resource type"));
        }
    };
    call.entry.resource_type = Some(kind.name());
    Ok(outflow::reply(call, NDJSON, Originals { kind, after: None, ended: false }))
}

/// Everything of a type as it came in.
struct Originals {
    kind: ResourceType,
    after: Option<Position>,
    ended: bool,
}

impl Pages for Originals {
    async fn next(&mut self, app: &App) -> Result<Option<Vec<Line>>, Problem> {
        if self.ended {
            return Ok(None);
        }
        let (kind, after) = (self.kind, self.after.take());
        let export = move |session: &mut dyn Session| {
            Ok::<_, Problem>(session.export(Some(kind), after.as_ref(), EXPORT_PAGE)?)
        };
        let (page, next) = app.store.read(export).await?;
        self.ended = next.is_none();
        self.after = next;
        let lines = page.into_iter().map(|one| Line { text: one.text, patients: one.patients });
        Ok(Some(lines.collect()))
    }
}
