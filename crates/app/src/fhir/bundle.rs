//! Transactions and batches (<https://hl7.org/fhir/R4/http.html#transaction>).
//!
//! Each entry needs the permission that it would need by itself, and has an entry of its own in the audit log. A
//! transaction is one write of the store: all of it is there afterwards, or nothing.

use std::collections::HashSet;
use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;
use ward_audit::{Class, Entry as AuditEntry, Outcome};
use ward_fhir::bundle::{self, Entry, History, Kind, Method as EntryMethod, Plan};
use ward_fhir::outcome::{Issue, IssueCode};
use ward_store::{ResourceKey, Session, Transaction};
use ward_transport::RequestBody;

use super::condition::TRIES;
use super::media::{self, FHIR_JSON, FHIR_JSON_NAME};
use super::resolve::{self, Resolved};
use super::step::{self, Done, Step, Steps, What, Writing};
use super::text::{BundleText, response};
use crate::call::{Call, aside};
use crate::problem::Problem;
use crate::reply::Reply;

/// Searches and histories in one Bundle at most: each may go through a lot.
const QUERIES_MAX: usize = 50;
/// So many resources a search examines in a transaction that writes: others wait for it.
const EFFORT_WHILE_WRITING: usize = 5000;
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
    let mut tries_left = TRIES;
    loop {
        tries_left -= 1;
        let mut notes = Vec::new();
        match try_transaction(call, entries.clone(), &mut notes).await {
            Err(problem) if problem.is_race() && tries_left > 0 => {}
            Err(problem) => {
                // That it failed tells of whatever was asked, and an intent has an end.
                let tells = |note: &AuditEntry| {
                    note.outcome == Outcome::Intent || note.query.is_some() || !note.patients.is_empty()
                };
                let told = notes.into_iter().filter(tells).map(|note| closing(note, Err(&problem)));
                call.record(told.collect()).await?;
                return Err(problem);
            }
            done => return done,
        }
    }
}

/// The entries' notes for the log are in `notes` afterwards, if it fails.
async fn try_transaction(
    call: &mut Call,
    entries: Vec<Entry>,
    notes: &mut Vec<AuditEntry>,
) -> Result<Reply, Problem> {
    let mut asked = Vec::new();
    let resolved = resolve::resolve(call, Kind::Transaction, &entries, &mut asked).await;
    *notes = entries.iter().zip(&asked).map(|(entry, asked)| step::note(call, entry, asked)).collect();
    let mut resolved = resolved?;
    let steps = Arc::new(Steps::new(call, Kind::Transaction, &entries, &mut resolved)?);
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
    let deleted: HashSet<ResourceKey> = prepared
        .iter()
        .filter(|(_, step)| matches!(&step.what, What::Delete { .. }))
        .filter_map(|(_, step)| step.written().cloned())
        .collect();
    let writes = prepared.iter().any(|(_, step)| step.is_write());
    for ((index, mut step), note) in prepared.into_iter().zip(notes.iter_mut()) {
        let again = step.written().is_some_and(|key| !written.insert(key.clone()))
            || step.created_unless().is_some_and(|unless| !created.insert(unless))
            || step.counts_on().any(|key| deleted.contains(&key));
        if again {
            return Err(Problem::same_resource().at_entry(index));
        }
        *note = step.entry(note);
        step.permit(call).map_err(|problem| problem.at_entry(index))?;
        if writes {
            step.bound(EFFORT_WHILE_WRITING);
        }
        permitted.push(Permitted { index, step, entry: note.clone() });
    }
    name_those_before(call, &mut permitted).await?;
    let intents = permitted.iter().filter(|one| one.step.is_write()).map(|one| one.entry.clone());
    call.record(intents.collect()).await?;
    let permitted = Arc::new(permitted);
    let carried_out = Arc::clone(&permitted);
    // What only reads does not keep the one writer busy.
    let mut done = if writes {
        let apply = move |transaction: &mut dyn Transaction| {
            let mut held = HashSet::new();
            for one in carried_out.iter() {
                one.step.holds(transaction, &mut held).map_err(|problem| problem.at_entry(one.index))?;
            }
            each(&carried_out, |step| step.write(transaction, &steps))
        };
        call.app.write(call.writer()?, apply).await?
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
    let mut asked = Vec::new();
    let mut resolved = resolve::resolve(call, Kind::Batch, &entries, &mut asked).await?;
    let notes: Vec<AuditEntry> =
        entries.iter().zip(&asked).map(|(entry, asked)| step::note(call, entry, asked)).collect();
    let steps = Arc::new(Steps::new(call, Kind::Batch, &entries, &mut resolved)?);
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
    for ((index, step), note) in prepared.into_iter().zip(notes) {
        match step {
            Ok(mut step) => {
                let entry = step.entry(&note);
                match step.permit(call) {
                    Ok(()) => permitted.push(Permitted { index, step, entry }),
                    Err(problem) => answers.push((index, entry, Err(problem))),
                }
            }
            Err(problem) => answers.push((index, note, Err(problem))),
        }
    }
    name_those_before(call, &mut permitted).await?;
    let intents = permitted.iter().filter(|one| one.step.is_write()).map(|one| one.entry.clone());
    call.record(intents.collect()).await?;
    let (writes, reads): (Vec<_>, Vec<_>) = permitted.into_iter().partition(|one| one.step.is_write());
    // Each for itself, but handed over together: writes share commits.
    let mut running = Vec::with_capacity(writes.len());
    for Permitted { index, step, entry } in writes {
        let (steps, app, by) = (Arc::clone(&steps), Arc::clone(&call.app), call.writer()?);
        let write = async move {
            let write = move |transaction: &mut dyn Transaction| {
                step.holds(transaction, &mut HashSet::new())?;
                step.write(transaction, &steps)
            };
            app.write(by, write).await
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
