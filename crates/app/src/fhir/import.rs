//! Bulk Data import (<https://github.com/smart-on-fhir/bulk-import/blob/master/import.md>): NDJSON files are fetched
//! from hosts that the operator lists, for a service account that may write what they hold.
//!
//! A job is a sealed record of how far it is. What is stored of a file, and the line up to which it is done, are written
//! in one transaction, so that a job that was interrupted goes on where it was, on any instance. What is there already
//! and equal is left alone, so that the same job may be sent again. Ids come along: a host is listed because its files
//! are trusted that far.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode, Uri, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use ward_audit::{Class, Entry, Outcome};
use ward_base::{Phi, Timestamp};
use ward_fhir::ResourceType;
use ward_fhir::json::Limits;
use ward_fhir::outcome::{Issue, IssueCode, operation_outcome};
use ward_identity::{Holder, Op, Permission, decide, token};
use ward_monitor::event;
use ward_store::{RecordKind, Session, Transaction};
use ward_transport::{AuthorityError, Body, Origin, Outside, OutsideBody, OutsideError, RequestBody};

use super::media::{self, FHIR_JSON, FHIR_JSON_NAME, FHIR_NDJSON};
use crate::app::App;
use crate::authenticate::{decode, encode};
use crate::behalf;
use crate::bulk::{self, LineResult, Ready};
use crate::call::Call;
use crate::config::SourcesConfig;
use crate::problem::Problem;
use crate::reply::Reply;
use crate::subscriptions::Writer;

/// How long a job is kept.
const KEPT_SECONDS: i64 = 24 * 3600;
const MANIFEST_BYTES_MAX: usize = 1 << 20;
const INPUTS_MAX: usize = 1_000;
const URL_BYTES_MAX: usize = 2_000;
/// Lines stored in one transaction, and their bytes.
const LINES_AT_ONCE: usize = 500;
const BYTES_AT_ONCE: usize = 4 << 20;
/// Of each file, so many refused lines are told of one by one.
const REFUSALS_TOLD: usize = 100;
/// How long an instance may be silent about a job before another takes it.
const LEASE_SECONDS: i64 = 60;
/// A host is asked so often before the job is given up, with a pause that doubles.
const TRIES: u32 = 6;
const PAUSE_SECONDS: i64 = 1;
/// How often jobs are looked for that other instances left.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long a host may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the tier needs to import.
pub(crate) struct Imports {
    /// The origins that files are fetched from.
    sources: Vec<String>,
    /// Without sources there is nobody to ask.
    outside: Option<Outside>,
    /// The same after a restart, so that an instance takes its own jobs up again.
    instance: String,
    wake: Notify,
}

impl Imports {
    pub(crate) fn new(config: &SourcesConfig, instance: &str) -> Result<Self, AuthorityError> {
        let outside = match config.sources.is_empty() {
            true => None,
            false => Some(Outside::new(&config.authorities_pem, PATIENCE)?),
        };
        let sources = config.sources.clone();
        Ok(Self { sources, outside, instance: instance.to_owned(), wake: Notify::new() })
    }

    /// Where a file is, if it may be fetched from there.
    fn place(&self, url: &str) -> Option<(Origin, String)> {
        let uri: Uri = url.parse().ok().filter(|_| url.len() <= URL_BYTES_MAX && !url.contains('#'))?;
        let origin = Origin::of(&uri).filter(|origin| self.sources.contains(&origin.to_string()))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Some((origin, path))
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Job {
    /// With whose rights.
    holder: Holder,
    account: String,
    /// The address that was asked.
    request: String,
    inputs: Vec<Input>,
    /// Which of them is under way.
    at: usize,
    /// Why it ended before it was done.
    failed: Option<String>,
    /// How often the host was asked in vain.
    tries: u32,
    made: Timestamp,
    /// Which instance is at it, and until when nobody else is.
    instance: String,
    until: Timestamp,
}

/// A file, and what became of its lines.
#[derive(Clone, Serialize, Deserialize)]
struct Input {
    kind: String,
    url: String,
    /// So many are done.
    lines: u64,
    /// Created, updated, or there already.
    taken: u64,
    refused: u64,
    /// Number and reason of the first that were refused. A reason holds nothing of the line.
    refusals: Vec<(u64, String)>,
}

impl Job {
    fn is_over(&self) -> bool {
        self.failed.is_some() || self.at >= self.inputs.len()
    }
}

/// `POST [base]/$import`: begins a job.
pub(crate) async fn begin(call: &mut Call, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "bulk-import", None);
    if !media::prefers_async(call) {
        let words = "an import is asynchronous: send the header `Prefer: respond-async`";
        return Err(Problem::malformed(IssueCode::Required, words));
    }
    let bytes = call.body(body, &FHIR_JSON, FHIR_JSON_NAME, MANIFEST_BYTES_MAX).await?;
    let inputs = inputs(&ward_fhir::json::parse(&bytes, &call.json_limits())?)?;
    for input in &inputs {
        let kind = ResourceType::parse(&input.kind).ok_or_else(Problem::no_such_type)?;
        call.permit(Permission::BulkImport, Some(kind))?;
        if call.app.imports.place(&input.url).is_none() {
            let words =
                "each `url` must be an https address on a host that the operator lists in `import.sources`";
            return Err(Problem::malformed(IssueCode::Forbidden, words));
        }
    }
    let urls: Vec<&str> = inputs.iter().map(|input| input.url.as_str()).collect();
    call.entry.query = Some(Phi::new(urls.join(" ")));
    let job = Job {
        holder: call.session()?.0.session.holder.clone(),
        account: call.account()?,
        request: format!("{}/$import", call.app.settings.base),
        inputs,
        at: 0,
        failed: None,
        tries: 0,
        made: call.now,
        instance: String::new(),
        until: call.now,
    };
    call.intend().await?;
    let (secret, key) = token::new_token(&*call.app.random);
    call.app.store.write(move |transaction| put(transaction, &key, &job)).await?;
    call.app.imports.wake.notify_one();
    let id = std::str::from_utf8(secret.expose()).map_err(|_| Problem::internal())?;
    let url = format!("{}/$import-status/{id}", call.app.settings.base);
    let mut reply = Reply::empty(StatusCode::ACCEPTED);
    reply.header(header::CONTENT_LOCATION, HeaderValue::try_from(url).map_err(|_| Problem::internal())?);
    Ok(reply)
}

/// The files of a manifest, which is plain JSON or `Parameters` of the same names.
fn inputs(manifest: &Value) -> Result<Vec<Input>, Problem> {
    let wrong = |words: &str| Problem::malformed(IssueCode::Value, words);
    let named: Vec<(String, Value)> = match manifest.get("parameter").and_then(Value::as_array) {
        Some(parameters) => parameters.iter().filter_map(parameter).collect(),
        None => {
            let list = manifest.get("input").and_then(Value::as_array).into_iter().flatten();
            let inputs = list.map(|input| ("input".to_owned(), input.clone()));
            let format = manifest.get("inputFormat").map(|format| ("inputFormat".to_owned(), format.clone()));
            inputs.chain(format).collect()
        }
    };
    let mut inputs = Vec::new();
    for (name, value) in &named {
        match name.as_str() {
            "inputFormat" if value.as_str().is_some_and(|format| format.contains("ndjson")) => {}
            "inputFormat" => return Err(wrong("`inputFormat` must be application/fhir+ndjson")),
            "input" => {
                let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
                let (Some(kind), Some(url)) = (text("type"), text("url")) else {
                    return Err(wrong("each `input` must have a `type` and a `url`"));
                };
                inputs.push(Input { kind, url, lines: 0, taken: 0, refused: 0, refusals: Vec::new() });
            }
            _ => {}
        }
    }
    if inputs.is_empty() || inputs.len() > INPUTS_MAX {
        return Err(wrong("a manifest has from one to 1,000 of `input`, each with `type` and `url`"));
    }
    Ok(inputs)
}

/// A parameter as a member of the same name would be: a value, or an object of its parts.
fn parameter(parameter: &Value) -> Option<(String, Value)> {
    let members = parameter.as_object()?;
    let name = members.get("name")?.as_str()?.to_owned();
    if let Some(parts) = members.get("part").and_then(Value::as_array) {
        return Some((
            name,
            parts.iter().filter_map(self::parameter).collect::<serde_json::Map<_, _>>().into(),
        ));
    }
    let (_, value) = members.iter().find(|(key, _)| key.starts_with("value"))?;
    Some((name, value.clone()))
}

/// `GET [base]/$import-status/job`: how far it is, or what came of it.
pub(crate) async fn status(call: &mut Call, id: &str) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "bulk-import-status", None);
    let (job, _) = job(call, id).await?;
    if let Some(words) = &job.failed {
        return Err(Problem::import_failed(words));
    }
    if !job.is_over() {
        let lines: u64 = job.inputs.iter().map(|input| input.lines).sum();
        let words = format!("file {} of {}, {lines} lines done", job.at + 1, job.inputs.len());
        let mut reply = Reply::empty(StatusCode::ACCEPTED);
        let words = HeaderValue::try_from(words).map_err(|_| Problem::internal())?;
        reply.header(header::HeaderName::from_static("x-progress"), words);
        reply.header(header::RETRY_AFTER, HeaderValue::from_static("2"));
        return Ok(reply);
    }
    let base = &call.app.settings.base;
    let output: Vec<Value> = (job.inputs.iter())
        .map(|input| json!({"type": input.kind, "inputUrl": input.url, "count": input.taken}))
        .collect();
    let refused = job.inputs.iter().enumerate().filter(|(_, input)| input.refused > 0);
    let error: Vec<Value> = refused
        .map(|(number, input)| {
            json!({
                "type": "OperationOutcome", "inputUrl": input.url, "count": input.refused,
                "url": format!("{base}/$import-errors/{id}/{}", number + 1),
            })
        })
        .collect();
    let answer = json!({
        "transactionTime": job.made.to_instant(), "request": job.request, "requiresAccessToken": true,
        "output": output, "error": error,
    });
    Ok(Reply::json(StatusCode::OK, &answer))
}

/// `GET [base]/$import-errors/job/number`: why lines of a file were refused, one OperationOutcome a line.
pub(crate) async fn errors(call: &mut Call, id: &str, number: &str) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "bulk-import-status", None);
    let (job, _) = job(call, id).await?;
    let index = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    let input = index.and_then(|index| job.inputs.get(index)).ok_or_else(Problem::not_found)?;
    let told = input.refusals.iter().map(|(line, reason)| format!("line {line}: {reason}"));
    let more = input.refused.saturating_sub(input.refusals.len() as u64);
    let more = (more > 0).then(|| format!("{more} more lines were refused"));
    let lines = told.chain(more).map(|words| {
        let outcome = operation_outcome(&[Issue::error(IssueCode::Invalid, words)]);
        format!("{outcome}\n")
    });
    Ok(Reply::ndjson(FHIR_NDJSON, Body::full(lines.collect::<String>().into_bytes())))
}

/// `DELETE [base]/$import-status/job`: ends it. What is stored stays.
pub(crate) async fn cancel(call: &mut Call, id: &str) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "bulk-import-cancel", None);
    let (_, key) = job(call, id).await?;
    call.intend().await?;
    let forget = move |transaction: &mut dyn Transaction| {
        Ok::<_, Problem>(transaction.delete_record(RecordKind::ImportJob, &key)?)
    };
    call.app.store.write(forget).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// A job of the caller's, and under which key it is kept.
async fn job(call: &Call, id: &str) -> Result<(Job, String), Problem> {
    let key = token::storage_key(id).ok_or_else(Problem::not_found)?;
    let wanted = key.clone();
    let job = call.app.store.read(move |session| get(session, &wanted)).await?;
    let account = call.account()?;
    let job = job.filter(|job| job.account == account).ok_or_else(Problem::not_found)?;
    Ok((job, key))
}

fn get(session: &mut (impl Session + ?Sized), key: &str) -> Result<Option<Job>, Problem> {
    session.record(RecordKind::ImportJob, key)?.map(|record| decode(&record)).transpose()
}

fn put(transaction: &mut (impl Transaction + ?Sized), key: &str, job: &Job) -> Result<(), Problem> {
    let expires = Some(job.made.plus_seconds(KEPT_SECONDS));
    Ok(transaction.put_record(RecordKind::ImportJob, key, &encode(job)?, expires)?)
}

/// Works on jobs until dropped.
pub(crate) async fn run(app: Arc<App>) {
    if app.imports.outside.is_none() {
        return;
    }
    loop {
        let due = work(&app).await.unwrap_or_else(|_| {
            event!(Error, "import.not_done");
            None
        });
        let wait = due.map_or(0, |due| due.micros().saturating_sub(app.clock.now().micros()));
        let wait = due.map_or(LOOK_AGAIN, |_| Duration::from_micros(u64::try_from(wait).unwrap_or(0)));
        tokio::select! {
            () = app.imports.wake.notified() => {}
            () = tokio::time::sleep(wait.min(LOOK_AGAIN)) => {}
        }
    }
}

/// Does what can be done now, job after job; says when the first of those is due that have to wait.
async fn work(app: &Arc<App>) -> Result<Option<Timestamp>, Problem> {
    let mut due: Option<Timestamp> = None;
    let jobs = app.store.read(|session| Ok::<_, Problem>(session.records(RecordKind::ImportJob)?)).await?;
    for (key, record) in jobs {
        let known: Job = decode(&record)?;
        if known.is_over() {
            continue;
        }
        while let Some(job) = claim(app, &key).await? {
            match file(app, &key, &job).await {
                Ok(()) => {}
                Err(Stop::Lost) => break,
                Err(Stop::Final(words)) => end(app, &key, words).await?,
                Err(Stop::Later(words)) if job.tries + 1 >= TRIES => end(app, &key, words).await?,
                Err(Stop::Later(_)) => {
                    let until = app.clock.now().plus_seconds(PAUSE_SECONDS << job.tries.min(8));
                    due = Some(due.map_or(until, |due| due.min(until)));
                    change(app, &key, move |job| {
                        job.tries += 1;
                        // Not before then, by anybody.
                        job.instance = String::new();
                        job.until = until;
                    })
                    .await?;
                    break;
                }
            }
        }
    }
    Ok(due)
}

/// Why a file is not done.
enum Stop {
    /// Somebody else has the job, or it was cancelled.
    Lost,
    /// It is of no use to try again.
    Final(String),
    Later(String),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Later(problem.words())
    }
}

impl From<OutsideError> for Stop {
    fn from(error: OutsideError) -> Self {
        let words = format!("a file could not be fetched: {error}");
        match error {
            OutsideError::Untrusted => Self::Final(words),
            OutsideError::Unreachable | OutsideError::Broken | OutsideError::Late => Self::Later(words),
        }
    }
}

/// Takes a job for a while, unless it is over or somebody else has it.
async fn claim(app: &Arc<App>, key: &str) -> Result<Option<Job>, Problem> {
    let (key, own, now) = (key.to_owned(), app.imports.instance.clone(), app.clock.now());
    app.store
        .write(move |transaction| {
            let job = get(transaction, &key)?.filter(|job| !job.is_over());
            let Some(mut job) = job.filter(|job| job.instance == own || job.until <= now) else {
                return Ok(None);
            };
            job.instance.clone_from(&own);
            job.until = now.plus_seconds(LEASE_SECONDS);
            put(transaction, &key, &job)?;
            Ok::<_, Problem>(Some(job))
        })
        .await
}

/// Changes a job, if it is there.
async fn change(
    app: &Arc<App>,
    key: &str,
    change: impl Fn(&mut Job) + Send + 'static,
) -> Result<(), Problem> {
    let key = key.to_owned();
    app.store
        .write(move |transaction| {
            if let Some(mut job) = get(transaction, &key)? {
                change(&mut job);
                put(transaction, &key, &job)?;
            }
            Ok::<_, Problem>(())
        })
        .await
}

async fn end(app: &Arc<App>, key: &str, words: String) -> Result<(), Problem> {
    event!(Warning, "import.given_up");
    change(app, key, move |job| job.failed = Some(words.clone())).await
}

/// Takes in what is left of the file that is under way.
async fn file(app: &Arc<App>, key: &str, job: &Job) -> Result<(), Stop> {
    let input = job.inputs.get(job.at).ok_or(Stop::Lost)?;
    let unlisted = || Stop::Final("a host is not listed in `import.sources` any more".to_owned());
    let (origin, path) = app.imports.place(&input.url).ok_or_else(unlisted)?;
    let outside = app.imports.outside.as_ref().ok_or_else(unlisted)?;
    let (status, body) = outside.get(&origin.host, origin.port, &path).await?;
    if !status.is_success() {
        let words = format!("the host of a file answered with status {}", status.as_u16());
        let passes = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
        return Err(if passes { Stop::Later(words) } else { Stop::Final(words) });
    }
    let limits = Limits {
        bytes: usize::try_from(app.settings.limits.body_bytes).unwrap_or(usize::MAX),
        depth: app.settings.limits.json_depth,
    };
    let mut lines = Lines { body, held: Vec::new(), ended: false, bytes_max: limits.bytes };
    for _ in 0..input.lines {
        if lines.next().await?.is_none() {
            break;
        }
    }
    let mut last = input.lines;
    loop {
        let first = last;
        let (mut texts, mut bytes, mut ended) = (Vec::new(), 0, false);
        while texts.len() < LINES_AT_ONCE && bytes < BYTES_AT_ONCE && !ended {
            match lines.next().await? {
                Some(line) => {
                    last += 1;
                    bytes += line.len();
                    texts.push((last, line));
                }
                None => ended = true,
            }
        }
        let chunk = Chunk {
            key: key.to_owned(),
            instance: app.imports.instance.clone(),
            at: job.at,
            first,
            last,
            ended,
            until: app.clock.now().plus_seconds(LEASE_SECONDS),
        };
        take(app, &job.holder, input, chunk, texts, &limits).await?;
        if ended {
            return Ok(());
        }
    }
}

/// The lines of a file, as they come.
struct Lines {
    body: OutsideBody,
    held: Vec<u8>,
    ended: bool,
    /// A longer line is no resource.
    bytes_max: usize,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        let mut looked = 0;
        loop {
            let rest = self.held.get(looked..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.held.drain(..=looked + end).collect();
                line.pop();
                return Ok(Some(line));
            }
            looked = self.held.len();
            if looked > self.bytes_max {
                return Err(Stop::Final("a line of a file is longer than a resource may be".to_owned()));
            }
            if self.ended {
                return Ok((!self.held.is_empty()).then(|| std::mem::take(&mut self.held)));
            }
            match self.body.next().await? {
                Some(bytes) => self.held.extend_from_slice(&bytes),
                None => self.ended = true,
            }
        }
    }
}

/// Stores lines of a file, and that they are done.
async fn take(
    app: &Arc<App>,
    holder: &Holder,
    input: &Input,
    chunk: Chunk,
    texts: Vec<(u64, Vec<u8>)>,
    limits: &Limits,
) -> Result<(), Stop> {
    let op = permitted(app, holder, &input.kind).await?;
    let kind = ResourceType::parse(&input.kind).ok_or(Stop::Lost)?;
    let (own, limits) = (Arc::clone(app), *limits);
    let prepared = tokio::task::spawn_blocking(move || prepare(&own, kind, &texts, &limits));
    let (ready, refusals) = prepared.await.map_err(|_| Problem::internal())?;
    let (ready, unchanged) = app.store.read(move |session| bulk::changed(session, ready)).await?;
    let mut entry = behalf::intent(app, &op, "bulk-import");
    entry.resource_type = Some(kind.name());
    let intents = ready.iter().map(|ready| bulk::intent(&entry, ready)).collect::<Vec<Entry>>();
    app.trail.append(intents).await.map_err(|_| Problem::audit_unavailable())?;
    let written = app
        .write(Writer::Import, move |transaction| {
            let Some(job) = chunk.own(transaction)? else { return Ok(None) };
            let stored = ready.iter().map(|ready| bulk::store_line(transaction, ready, true));
            let stored = stored.collect::<Result<Vec<LineResult>, _>>()?;
            chunk.done(transaction, job, unchanged.len() + stored.len(), &refusals)?;
            Ok(Some(stored))
        })
        .await;
    entry.time = app.clock.now();
    entry.query = Some(Phi::new(input.url.clone()));
    entry.outcome = if matches!(written, Ok(Some(_))) { Outcome::Success } else { Outcome::Failed };
    if let Ok(Some(stored)) = &written {
        entry.rows = u32::try_from(stored.len()).unwrap_or(u32::MAX);
        entry.patients = stored.iter().flat_map(|result| result.patients.iter().cloned()).collect();
        entry.patients.sort_unstable();
        entry.patients.dedup();
    }
    app.trail.append(vec![entry]).await.map_err(|_| Problem::audit_unavailable())?;
    written?.map(drop).ok_or(Stop::Lost)
}

/// Some lines of a file, and whose turn it is to store them.
struct Chunk {
    key: String,
    instance: String,
    /// Which of the inputs.
    at: usize,
    /// How many lines are done before, and after.
    first: u64,
    last: u64,
    /// Whether the file ends with them.
    ended: bool,
    /// How long the job stays with the instance from here on.
    until: Timestamp,
}

impl Chunk {
    /// The job, if it is still where it was, and nobody else's.
    fn own(&self, transaction: &mut dyn Transaction) -> Result<Option<Job>, Problem> {
        Ok(get(transaction, &self.key)?.filter(|job| {
            let lines = job.inputs.get(self.at).map(|input| input.lines);
            job.instance == self.instance && job.at == self.at && lines == Some(self.first)
        }))
    }

    /// Writes down that the lines are done, so many of them taken.
    fn done(
        &self,
        transaction: &mut dyn Transaction,
        mut job: Job,
        taken: usize,
        refusals: &[(u64, String)],
    ) -> Result<(), Problem> {
        let input = job.inputs.get_mut(self.at).ok_or_else(Problem::internal)?;
        input.lines = self.last;
        input.taken += taken as u64;
        input.refused += refusals.len() as u64;
        let room = REFUSALS_TOLD.saturating_sub(input.refusals.len());
        input.refusals.extend(refusals.iter().take(room).cloned());
        job.at += usize::from(self.ended);
        job.tries = 0;
        job.until = self.until;
        put(transaction, &self.key, &job)
    }
}

/// What the account may do, if that is to write resources of this type.
async fn permitted(app: &Arc<App>, holder: &Holder, kind: &str) -> Result<Op, Stop> {
    let op = behalf::op(app, holder).await?;
    let op = op.ok_or_else(|| Stop::Final("the account that asked for it is disabled or gone".to_owned()))?;
    if !decide(&op, Permission::BulkImport, Some(kind)).is_allowed() {
        let words = format!("the account that asked for it may not write {kind} resources any more");
        return Err(Stop::Final(words));
    }
    Ok(op)
}

/// Lines made ready to be stored, and why others cannot be.
fn prepare(
    app: &App,
    kind: ResourceType,
    texts: &[(u64, Vec<u8>)],
    limits: &Limits,
) -> (Vec<Ready>, Vec<(u64, String)>) {
    let (mut ready, mut refusals) = (Vec::new(), Vec::new());
    for (line, text) in texts.iter().filter(|(_, text)| !text.trim_ascii().is_empty()) {
        match bulk::prepare_line(app, usize::try_from(*line).unwrap_or(usize::MAX), text, limits) {
            Ok(one) if one.kind() == kind => ready.push(one),
            Ok(_) => refusals.push((*line, format!("is no {kind}, as the manifest says of this file"))),
            Err((_, problem)) => refusals.push((*line, bulk::reasons(problem))),
        }
    }
    (ready, refusals)
}
