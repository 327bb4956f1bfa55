//! Bulk Data export (<https://hl7.org/fhir/uv/bulkdata/STU2/export.html>), of everything, of all patients or of a
//! group's members, for service accounts.
//!
//! A job is what was asked, kept sealed for a day. Nothing is written out: each file of its manifest is made while it
//! is downloaded, page by page, so that no plain text waits anywhere, and whose records leave stands in the audit log
//! before they do. What was changed after the job began may be in a file in its new form; it comes again with the
//! next export since this one.

use std::collections::HashSet;

use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ward_audit::Class;
use ward_base::{Phi, ResourceId, Timestamp};
use ward_fhir::outcome::IssueCode;
use ward_fhir::search::{self, Handling, Query};
use ward_fhir::{Moment, ResourceType, compartment};
use ward_identity::{Permission, token};
use ward_store::{Page, Position, RecordKind, ResourceKey, Session, Stored};
use ward_transport::RequestBody;

use super::{media, operation};
use crate::app::App;
use crate::authenticate::{decode, encode};
use crate::call::Call;
use crate::form;
use crate::outflow::{self, Line, Pages};
use crate::problem::Problem;
use crate::reply::Reply;

/// How long a job is kept.
const KEPT_SECONDS: i64 = 24 * 3600;
/// Resources in one page of a file.
const PAGE: u32 = 500;
/// Resources in one file, or a few more in the last of a type: whoever was interrupted goes on with the next.
const FILE: u32 = 10_000;
const FORMATS: [&str; 3] = [media::FHIR_NDJSON, "application/ndjson", "ndjson"];

/// Whose records are exported.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Extent {
    /// Everything.
    System,
    /// What is about patients.
    Patients,
    /// What is about the members of this group.
    Group(String),
}

#[derive(Serialize, Deserialize)]
struct Job {
    account: String,
    /// The address that was asked.
    request: String,
    extent: Extent,
    /// Names of resource types.
    types: Vec<String>,
    /// Where the files of each begin; those of what was changed since a moment are one for each type.
    files: Vec<Vec<Vec<u8>>>,
    /// Only what was changed since, as a FHIR instant.
    since: Option<String>,
    made: Timestamp,
}

/// `GET` or `POST [base]/$export` and the like: begins a job.
pub(crate) async fn begin(
    call: &mut Call,
    extent: Extent,
    query: Option<&str>,
    body: Option<RequestBody>,
) -> Result<Reply, Problem> {
    call.doing(Class::Disclosure, "export", None);
    if call.head {
        return Err(Problem::method_not_allowed("GET, POST"));
    }
    media::acceptable(call, None)?;
    if !media::prefers_async(call) {
        let words = "an export is asynchronous: send the header `Prefer: respond-async`";
        return Err(Problem::malformed(IssueCode::Required, words));
    }
    let mut pairs = form::pairs(query.unwrap_or_default().as_bytes())?;
    if let Some(body) = body {
        pairs.extend(operation::parameters(call, body).await?);
    }
    call.entry.query = Some(Phi::new(super::search::written(&pairs)));
    let (mut types, mut since) = (Vec::new(), None);
    for (name, value) in &pairs {
        match name.as_str() {
            "_type" => types.extend(value.split(',').map(|name| name.trim().to_owned())),
            "_since" => {
                let words = "`_since` must be a moment such as 2015-02-07T13:28:17Z";
                let moment = Moment::parse(value);
                let moment = moment.ok_or_else(|| Problem::malformed(IssueCode::Value, words))?;
                since = Some(Timestamp(moment.start).to_instant());
            }
            "_outputFormat" if FORMATS.contains(&value.replace(' ', "+").as_str()) => {}
            "_outputFormat" => {
                let words = "exports are given as application/fhir+ndjson only";
                return Err(Problem::malformed(IssueCode::NotSupported, words));
            }
            _ => {
                let words =
                    "an export takes `_type`, `_since` and `_outputFormat`; others are not supported yet";
                return Err(Problem::malformed(IssueCode::NotSupported, words));
            }
        }
    }
    let belongs = |kind: &ResourceType| matches!(extent, Extent::System) || compartment::is_member(*kind);
    let kinds = if types.is_empty() {
        let may = |kind: &ResourceType| permit(call, *kind).is_ok();
        ResourceType::all().filter(belongs).filter(may).collect()
    } else {
        let named: Option<Vec<ResourceType>> = types.iter().map(|name| ResourceType::parse(name)).collect();
        let named = named.filter(|kinds| kinds.iter().all(belongs)).ok_or_else(|| {
            let words =
                "`_type` must name resource types of FHIR R4, and those of patients unless all is exported";
            Problem::malformed(IssueCode::Value, words)
        })?;
        named.iter().try_for_each(|kind| permit(call, *kind))?;
        named
    };
    if kinds.is_empty() {
        // Nothing at all: for the reason that the policy gives.
        call.permit(Permission::BulkExport, None)?;
    }
    let place = match &extent {
        Extent::System => "$export".to_owned(),
        Extent::Patients => "Patient/$export".to_owned(),
        Extent::Group(id) => {
            call.about(&group(id)?, None);
            members(call, id).await?;
            format!("Group/{id}/$export")
        }
    };
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    let files = match since {
        Some(_) => vec![Vec::new(); kinds.len()],
        None => files(call, kinds.clone()).await?,
    };
    let job = Job {
        account: call.account()?,
        request: format!("{}/{place}{query}", call.app.settings.base),
        extent,
        types: kinds.iter().map(|kind| kind.name().to_owned()).collect(),
        files,
        since,
        made: call.now,
    };
    call.intend().await?;
    let (secret, key) = token::new_token(&*call.app.random);
    let (record, expires) = (encode(&job)?, call.now.plus_seconds(KEPT_SECONDS));
    call.app
        .store
        .write(move |transaction| {
            Ok::<_, Problem>(transaction.put_record(RecordKind::ExportJob, &key, &record, Some(expires))?)
        })
        .await?;
    let id = std::str::from_utf8(secret.expose()).map_err(|_| Problem::internal())?;
    let mut reply = Reply::empty(StatusCode::ACCEPTED);
    let url = format!("{}/$export-status/{id}", call.app.settings.base);
    let url = HeaderValue::try_from(url).map_err(|_| Problem::internal())?;
    reply.header(header::CONTENT_LOCATION, url);
    Ok(reply)
}

/// `GET [base]/$export-status/job`: the manifest.
pub(crate) async fn status(call: &mut Call, id: &str) -> Result<Reply, Problem> {
    call.doing(Class::Disclosure, "export-status", None);
    let (job, _) = job(call, id).await?;
    let base = call.app.settings.base.clone();
    let mut output = Vec::new();
    for (name, files) in job.types.iter().zip(&job.files) {
        let kind = ResourceType::parse(name).ok_or_else(Problem::internal)?;
        // Lost scopes since, or nothing there.
        if permit(call, kind).is_err() || !any(call, kind, &job).await? {
            continue;
        }
        for number in 1..=files.len().max(1) {
            output.push(json!({"type": name, "url": format!("{base}/$export-file/{id}/{name}/{number}")}));
        }
    }
    let manifest = json!({
        "transactionTime": job.made.to_instant(), "request": job.request, "requiresAccessToken": true,
        "output": output, "error": [],
    });
    Ok(Reply::json(StatusCode::OK, &manifest))
}

/// `DELETE [base]/$export-status/job`.
pub(crate) async fn cancel(call: &mut Call, id: &str) -> Result<Reply, Problem> {
    call.doing(Class::Disclosure, "export-cancel", None);
    let (_, key) = job(call, id).await?;
    call.intend().await?;
    call.app
        .store
        .write(move |transaction| Ok::<_, Problem>(transaction.delete_record(RecordKind::ExportJob, &key)?))
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `GET [base]/$export-file/job/Type/number`: resources of a type, one a line.
pub(crate) async fn file(call: &mut Call, id: &str, name: &str, number: &str) -> Result<Reply, Problem> {
    call.doing(Class::Disclosure, "export", None);
    let (job, _) = job(call, id).await?;
    let place = job.types.iter().position(|known| known == name).ok_or_else(Problem::not_found)?;
    let kind = ResourceType::parse(name).ok_or_else(Problem::not_found)?;
    let files = job.files.get(place).ok_or_else(Problem::internal)?;
    let index = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    let after = match index {
        Some(index) if index < files.len() => files.get(index).map(|start| Position::from_bytes(start)),
        Some(0) => None,
        _ => return Err(Problem::not_found()),
    };
    call.entry.resource_type = Some(kind.name());
    permit(call, kind)?;
    let members = match &job.extent {
        Extent::Group(group) => Some(members(call, group).await?),
        Extent::System | Extent::Patients => None,
    };
    let page = Some(Page { count: PAGE, after });
    Ok(outflow::reply(call, media::FHIR_NDJSON, File { kind, job, members, page }))
}

/// Where the files of these types begin.
async fn files(call: &Call, kinds: Vec<ResourceType>) -> Result<Vec<Vec<Vec<u8>>>, Problem> {
    let begin = move |session: &mut dyn Session| {
        let parts = kinds.into_iter().map(|kind| session.parts(kind, FILE));
        let parts = parts.map(|parts| Ok(parts?.iter().map(Position::to_bytes).collect()));
        parts.collect::<Result<Vec<_>, Problem>>()
    };
    call.app.store.read(begin).await
}

/// Fails unless the caller may take resources of this type along.
fn permit(call: &Call, kind: ResourceType) -> Result<(), Problem> {
    call.permit(Permission::BulkExport, Some(kind))
}

/// A job of the caller's, and under which key it is kept.
async fn job(call: &Call, id: &str) -> Result<(Job, String), Problem> {
    let key = token::storage_key(id).ok_or_else(Problem::not_found)?;
    let wanted = key.clone();
    let record = call
        .app
        .store
        .read(move |session| Ok::<_, Problem>(session.record(RecordKind::ExportJob, &wanted)?))
        .await?;
    let job: Job = decode(&record.ok_or_else(Problem::not_found)?)?;
    if job.account == call.account()? { Ok((job, key)) } else { Err(Problem::not_found()) }
}

fn group(id: &str) -> Result<ResourceKey, Problem> {
    let resource_type = ResourceType::parse("Group").ok_or_else(Problem::internal)?;
    let id = ResourceId::parse(id).map_err(|_| Problem::not_found())?;
    Ok(ResourceKey { resource_type, id })
}

/// The patients who are in a group now.
async fn members(call: &Call, id: &str) -> Result<HashSet<ResourceId>, Problem> {
    let key = group(id)?;
    permit(call, key.resource_type)?;
    let group = call.app.store.read(move |session| Ok::<_, Problem>(session.current(&key)?)).await?;
    let group = group.filter(|group| !group.deleted).ok_or_else(Problem::not_found)?;
    let resource: Value = serde_json::from_slice(group.body.expose()).map_err(|_| Problem::internal())?;
    let listed = resource.get("member").and_then(Value::as_array).into_iter().flatten();
    let present = listed.filter(|member| is_present(member, call.now));
    let references = present.filter_map(|member| member.pointer("/entity/reference").and_then(Value::as_str));
    // Which of them are patients here, in whatever form they are written, the store has found out.
    let named: HashSet<&str> = references.filter_map(|reference| reference.rsplit('/').next()).collect();
    Ok(group.patients.into_iter().filter(|patient| named.contains(patient.as_str())).collect())
}

/// Whether a member of a group has neither left nor is to come.
fn is_present(member: &Value, now: Timestamp) -> bool {
    let moment = |end: &str| member.pointer(end).and_then(Value::as_str).and_then(Moment::parse);
    member.get("inactive") != Some(&Value::Bool(true))
        && moment("/period/start").is_none_or(|start| start.start <= now.micros())
        && moment("/period/end").is_none_or(|end| end.end > now.micros())
}

/// What the job takes of a type.
fn query(app: &App, kind: ResourceType, job: &Job) -> Result<Query, Problem> {
    let mut pairs = Vec::new();
    if let Some(since) = &job.since {
        // In the order of change, so that only what changed is looked at.
        pairs.push(("_lastUpdated".to_owned(), format!("ge{since}")));
        pairs.push(("_sort".to_owned(), "_lastUpdated".to_owned()));
    }
    let parameters = app.store.parameters();
    let parsed = search::parse(kind, &pairs, Handling::Strict, &app.settings.base, &parameters);
    parsed.map(|(query, _)| query).map_err(Problem::bad_query)
}

async fn any(call: &Call, kind: ResourceType, job: &Job) -> Result<bool, Problem> {
    let query = query(&call.app, kind, job)?;
    let page = Page { count: 1, after: None };
    let found = move |session: &mut dyn Session| Ok::<_, Problem>(session.search(&[query], &page)?);
    Ok(!call.app.store.read(found).await?.hits.is_empty())
}

/// The resources of a type that a job gives out.
struct File {
    kind: ResourceType,
    job: Job,
    /// Of the group, if it is one's.
    members: Option<HashSet<ResourceId>>,
    /// The next page, unless all were given.
    page: Option<Page>,
}

impl File {
    fn holds(&self, stored: &Stored) -> bool {
        match (&self.job.extent, &self.members) {
            (Extent::System, _) => true,
            (_, Some(members)) => stored.patients.iter().any(|patient| members.contains(patient)),
            (_, None) => !stored.patients.is_empty(),
        }
    }
}

impl Pages for File {
    async fn next(&mut self, app: &App) -> Result<Option<Vec<Line>>, Problem> {
        let Some(page) = self.page.take() else { return Ok(None) };
        let query = query(app, self.kind, &self.job)?;
        let search = move |session: &mut dyn Session| Ok::<_, Problem>(session.search(&[query], &page)?);
        let found = app.store.read(search).await?;
        self.page = found.next.map(|next| Page { count: PAGE, after: Some(next) });
        let held = found.hits.into_iter().filter(|stored| self.holds(stored));
        Ok(Some(held.map(|stored| Line { text: stored.body, patients: stored.patients }).collect()))
    }
}
