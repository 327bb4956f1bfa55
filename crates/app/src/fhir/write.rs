//! Create, update, patch and delete, of the resource that the address names or that a condition finds.

use std::sync::Arc;

use http::{StatusCode, header};
use serde_json::Value;
use ward_audit::Class;
use ward_base::ResourceId;
use ward_fhir::ResourceType;
use ward_fhir::bundle::version_tag;
use ward_fhir::outcome::{Issue, IssueCode, Severity, operation_outcome};
use ward_fhir::search::Added;
use ward_identity::Permission;
use ward_store::{Expected, Prepared, ResourceKey, StoreError, Stored, WriteOutcome, Written};
use ward_transport::RequestBody;

use super::condition::{Condition, Matched, TRIES, if_none_exist};
use super::media::{self, FHIR_JSON, FHIR_JSON_NAME, Return};
use super::patch::{self, Patch};
use super::subscription;
use crate::call::{Call, aside};
use crate::problem::Problem;
use crate::reply::Reply;

/// What a write demands of a condition when it happens: that it finds this resource, or none.
type Check = Option<(Arc<Condition>, Option<ResourceId>)>;

/// `POST [base]/Type`, conditional with `If-None-Exist`.
pub(crate) async fn create(call: &mut Call, kind: ResourceType, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "create", Some(kind));
    media::acceptable(call, None)?;
    call.permit(Permission::Create, Some(kind))?;
    let condition = match call.headers.contains_key("if-none-exist") {
        true => {
            let text = call.header("if-none-exist").ok_or_else(Problem::not_a_condition)?;
            let text = if_none_exist(kind, text);
            let condition = Condition::read(&call.app, &call.account()?, call.now, kind, text)?;
            Some(asked(call, condition)?)
        }
        false => None,
    };
    let key = ResourceKey { resource_type: kind, id: ResourceId::random(&*call.app.random) };
    let resource = received(call, kind, body).await?;
    let prepared = prepare(call, &key, resource).await?;
    for _ in 0..TRIES {
        if let Some(condition) = &condition {
            match found(call, condition).await? {
                Matched::Nothing => {}
                Matched::One(stored) => return already_there(call, *stored),
                Matched::Several => return Err(Problem::several_match()),
            }
        }
        let check = condition.as_ref().map(|condition| (Arc::clone(condition), None));
        if let Some(reply) = put(call, &key, &prepared, Expected::Absent, check).await? {
            return Ok(reply);
        }
    }
    Err(Problem::raced())
}

/// `PUT [base]/Type/id`.
pub(crate) async fn update(call: &mut Call, key: ResourceKey, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "update", Some(key.resource_type));
    call.about(&key, None);
    media::acceptable(call, None)?;
    call.permit(Permission::Update, Some(key.resource_type))?;
    let expected = narrowed(call, key.resource_type, expected(call)?)?;
    let resource = received(call, key.resource_type, body).await?;
    if resource.id() != Some(key.id.as_str()) {
        let words = "the resource must have the id that stands in the address";
        return Err(Problem::malformed(IssueCode::Invalid, words));
    }
    let prepared = prepare(call, &key, resource).await?;
    // Whoever it was about until now is touched as well.
    let before = current(call, &key).await?;
    call.touches(before.iter().flat_map(|stored| &stored.patients), 0);
    put(call, &key, &prepared, expected, None).await?.ok_or_else(Problem::raced)
}

/// `PUT [base]/Type?…`.
pub(crate) async fn conditional_update(
    call: &mut Call,
    kind: ResourceType,
    query: Option<&str>,
    body: RequestBody,
) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "update", Some(kind));
    media::acceptable(call, None)?;
    call.permit(Permission::Update, Some(kind))?;
    let condition = asked(call, Condition::in_url(call, kind, query)?)?;
    let version = patch::version_wanted(call)?;
    let resource = received(call, kind, body).await?;
    let stated = resource.id().map(str::to_owned);
    for _ in 0..TRIES {
        let (id, expected) = match found(call, &condition).await? {
            Matched::Several => return Err(Problem::several_match()),
            Matched::One(stored) => {
                call.touches(&stored.patients, 0);
                let expected = version.map_or(Expected::Current, Expected::Version);
                (stored.key.id.clone(), expected)
            }
            Matched::Nothing if version.is_some() => return Err(Problem::precondition_failed()),
            Matched::Nothing => {
                call.permit(Permission::Create, Some(kind))?;
                (chosen_id(call, stated.as_deref())?, Expected::Absent)
            }
        };
        if stated.as_deref().is_some_and(|stated| stated != id.as_str()) {
            return Err(Problem::other_id());
        }
        let matched = (expected != Expected::Absent).then(|| id.clone());
        let key = ResourceKey { resource_type: kind, id };
        let prepared = prepare(call, &key, resource.with_id(&key.id)).await?;
        let check = Some((Arc::clone(&condition), matched));
        if let Some(reply) = put(call, &key, &prepared, expected, check).await? {
            return Ok(reply);
        }
    }
    Err(Problem::raced())
}

/// The id of what a conditional update makes: the one in the resource, where clients may choose, or a new one.
pub(crate) fn chosen_id(call: &Call, stated: Option<&str>) -> Result<ResourceId, Problem> {
    match stated {
        Some(_) if !call.app.settings.accept_client_ids => Err(Problem::no_update_as_create()),
        Some(stated) => ResourceId::parse(stated).map_err(|_| Problem::other_id()),
        None => Ok(ResourceId::random(&*call.app.random)),
    }
}

/// `PATCH [base]/Type/id`.
pub(crate) async fn patch_one(
    call: &mut Call,
    key: ResourceKey,
    body: RequestBody,
) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "patch", Some(key.resource_type));
    call.about(&key, None);
    media::acceptable(call, None)?;
    call.permit(Permission::Patch, Some(key.resource_type))?;
    let (change, version) = (received_patch(call, body).await?, patch::version_wanted(call)?);
    for _ in 0..TRIES {
        let stored = current(call, &key).await?.ok_or_else(Problem::not_found)?;
        if let Some(reply) = patched(call, &change, version, stored, None).await? {
            return Ok(reply);
        }
    }
    Err(Problem::raced())
}

/// `PATCH [base]/Type?…`.
pub(crate) async fn conditional_patch(
    call: &mut Call,
    kind: ResourceType,
    query: Option<&str>,
    body: RequestBody,
) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "patch", Some(kind));
    media::acceptable(call, None)?;
    call.permit(Permission::Patch, Some(kind))?;
    let condition = asked(call, Condition::in_url(call, kind, query)?)?;
    let (change, version) = (received_patch(call, body).await?, patch::version_wanted(call)?);
    for _ in 0..TRIES {
        let stored = match found(call, &condition).await? {
            Matched::Nothing => return Err(Problem::nothing_matches()),
            Matched::One(stored) => *stored,
            Matched::Several => return Err(Problem::several_match()),
        };
        let check = Some((Arc::clone(&condition), Some(stored.key.id.clone())));
        if let Some(reply) = patched(call, &change, version, stored, check).await? {
            return Ok(reply);
        }
    }
    Err(Problem::raced())
}

/// Patches `stored`; nothing if it has changed meanwhile and no version was asked for.
async fn patched(
    call: &mut Call,
    change: &Arc<Patch>,
    version: Option<u64>,
    stored: Stored,
    check: Check,
) -> Result<Option<Reply>, Problem> {
    call.about(&stored.key, None);
    call.entry.rows = 0;
    call.touches(&stored.patients, 0);
    if stored.deleted {
        return Err(Problem::gone());
    }
    if version.is_some_and(|version| version != stored.version) {
        return Err(Problem::precondition_failed());
    }
    let (key, before) = (stored.key.clone(), stored.version);
    let (app, change) = (Arc::clone(&call.app), Arc::clone(change));
    // Whatever its length: how much work it is, its paths say.
    let prepared = tokio::task::spawn_blocking(move || {
        let resource = change.apply(&stored)?;
        check_resource(&resource, stored.key.resource_type)?;
        Ok::<_, Problem>(Arc::new(app.store.prepare(&stored.key, &resource)?))
    });
    let prepared = prepared.await.map_err(|_| Problem::internal())??;
    match put(call, &key, &prepared, Expected::Version(before), check).await {
        Err(problem) if version.is_none() && problem.status() == StatusCode::PRECONDITION_FAILED => Ok(None),
        other => other,
    }
}

/// `DELETE [base]/Type/id`.
pub(crate) async fn delete(call: &mut Call, key: ResourceKey) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "delete", Some(key.resource_type));
    call.about(&key, None);
    call.permit(Permission::Delete, Some(key.resource_type))?;
    let expected = if call.headers.contains_key(header::IF_MATCH) { expected(call)? } else { Expected::Any };
    let stored = current(call, &key).await?.ok_or_else(Problem::not_found)?;
    deleted(call, stored, expected, None).await?.ok_or_else(Problem::raced)
}

/// `DELETE [base]/Type?…`.
pub(crate) async fn conditional_delete(
    call: &mut Call,
    kind: ResourceType,
    query: Option<&str>,
) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "delete", Some(kind));
    call.permit(Permission::Delete, Some(kind))?;
    let condition = asked(call, Condition::in_url(call, kind, query)?)?;
    let expected = patch::version_wanted(call)?.map_or(Expected::Any, Expected::Version);
    for _ in 0..TRIES {
        let stored = match found(call, &condition).await? {
            Matched::Nothing => return Ok(Reply::empty(StatusCode::NO_CONTENT)),
            Matched::One(stored) => *stored,
            Matched::Several => return Err(Problem::several_match()),
        };
        let check = Some((Arc::clone(&condition), Some(stored.key.id.clone())));
        if let Some(reply) = deleted(call, stored, expected, check).await? {
            return Ok(reply);
        }
    }
    Err(Problem::raced())
}

/// Deletes `stored`; nothing if the condition does not find it any more.
async fn deleted(
    call: &mut Call,
    stored: Stored,
    expected: Expected,
    check: Check,
) -> Result<Option<Reply>, Problem> {
    call.about(&stored.key, None);
    call.entry.rows = 0;
    call.touches(&stored.patients, 1);
    if stored.deleted {
        return Ok(Some(Reply::empty(StatusCode::NO_CONTENT).versioned(stored.version, stored.updated)));
    }
    call.intend().await?;
    let key = stored.key;
    let version = call
        .app
        .write(call.writer()?, move |transaction| {
            if !holds(transaction, &check)? {
                return Ok(None);
            }
            Ok::<_, Problem>(Some(transaction.delete(&key, expected)?))
        })
        .await?;
    Ok(version.map(|version| match version {
        Some(version) => Reply::empty(StatusCode::NO_CONTENT).tagged(version),
        None => Reply::empty(StatusCode::NO_CONTENT),
    }))
}

/// What `If-Match` and `If-None-Match` demand; without them, that the id was given out here or may be chosen.
fn expected(call: &Call) -> Result<Expected, Problem> {
    let malformed = |words: &str| Problem::malformed(IssueCode::Value, words);
    if call.headers.contains_key(header::IF_NONE_MATCH) {
        return match call.header(header::IF_NONE_MATCH) {
            Some("*") if call.app.settings.accept_client_ids => Ok(Expected::Absent),
            _ => Err(malformed("`If-None-Match` of an update can only be `*`, where clients may choose ids")),
        };
    }
    if call.headers.contains_key(header::IF_MATCH) {
        let version = call.header(header::IF_MATCH).and_then(version_tag);
        return version
            .map(Expected::Version)
            .ok_or_else(|| malformed("`If-Match` must be a version such as W/\"3\""));
    }
    Ok(if call.app.settings.accept_client_ids { Expected::Any } else { Expected::Known })
}

/// Whoever may not create may not do it by updating either, nor bring back what was deleted.
pub(crate) fn narrowed(call: &Call, kind: ResourceType, expected: Expected) -> Result<Expected, Problem> {
    let may_create = call.permit(Permission::Create, Some(kind));
    match expected {
        Expected::Absent => may_create.map(|()| expected),
        Expected::Any | Expected::Known if may_create.is_err() => Ok(Expected::Current),
        expected => Ok(expected),
    }
}

/// The condition, if the caller may ask it, noted for the log.
fn asked(call: &mut Call, mut condition: Condition) -> Result<Arc<Condition>, Problem> {
    call.entry.query = Some(condition.asked().written());
    call.asks_about(condition.asked().patients());
    condition.permit(call)?;
    Ok(Arc::new(condition))
}

async fn found(call: &Call, condition: &Arc<Condition>) -> Result<Matched, Problem> {
    let condition = Arc::clone(condition);
    call.app.store.read(move |session| condition.find(session)).await
}

async fn current(call: &Call, key: &ResourceKey) -> Result<Option<Stored>, Problem> {
    let key = key.clone();
    call.app.store.read(move |session| Ok::<_, Problem>(session.current(&key)?)).await
}

/// Whether the condition still finds what it found.
fn holds(session: &mut dyn ward_store::Transaction, check: &Check) -> Result<bool, Problem> {
    match check {
        Some((condition, id)) => condition.still_finds(session, id.as_ref()),
        None => Ok(true),
    }
}

/// A valid resource as it came in.
struct Received(Value, usize);

impl Received {
    fn id(&self) -> Option<&str> {
        self.0.get("id").and_then(Value::as_str)
    }

    /// The same under this id.
    fn with_id(&self, id: &ResourceId) -> Self {
        let mut resource = self.0.clone();
        if let Some(members) = resource.as_object_mut() {
            members.insert("id".to_owned(), id.as_str().into());
        }
        Self(resource, self.1)
    }
}

/// The body as a valid resource of this type.
async fn received(call: &Call, kind: ResourceType, body: RequestBody) -> Result<Received, Problem> {
    let bytes = call.body(body, &FHIR_JSON, FHIR_JSON_NAME, call.resource_bytes_max()).await?;
    let limits = call.json_limits();
    aside(bytes.len(), move || {
        let resource = ward_fhir::json::parse(&bytes, &limits)?;
        check_resource(&resource, kind)?;
        Ok(Received(resource, bytes.len()))
    })
    .await
}

async fn received_patch(call: &Call, body: RequestBody) -> Result<Arc<Patch>, Problem> {
    let is_json_patch = patch::is_json_patch(call.header(header::CONTENT_TYPE).unwrap_or_default());
    let most = call.resource_bytes_max();
    let bytes = call.body(body, &patch::MEDIA_TYPES, patch::MEDIA_TYPE_NAMES, most).await?;
    let limits = call.json_limits();
    aside(bytes.len(), move || {
        Patch::read(ward_fhir::json::parse(&bytes, &limits)?, is_json_patch).map(Arc::new)
    })
    .await
}

/// Made ready to be stored under `key`.
async fn prepare(call: &Call, key: &ResourceKey, resource: Received) -> Result<Arc<Prepared>, Problem> {
    let (app, key) = (Arc::clone(&call.app), key.clone());
    aside(resource.1, move || Ok(Arc::new(app.store.prepare(&key, &resource.0)?))).await
}

/// Fails unless `resource` is a valid resource of this type.
pub(crate) fn check_resource(resource: &Value, kind: ResourceType) -> Result<(), Problem> {
    match resource.get("resourceType").and_then(Value::as_str) {
        Some(named) if named == kind.name() => {}
        Some(_) => {
            let words = "the resource is of another type than the address says";
            return Err(Problem::malformed(IssueCode::Invalid, words));
        }
        None => {
            let words = "a resource is a JSON object with a `resourceType`";
            return Err(Problem::malformed(IssueCode::Structure, words));
        }
    }
    let mut issues = ward_fhir::validate::resource(resource);
    if kind.name() == "SearchParameter" {
        issues.extend(Added::read(resource).err());
    }
    if issues.iter().any(Issue::is_error) { Err(Problem::invalid(issues)) } else { Ok(()) }
}

/// Stores a version, and answers; nothing if the condition does not find what it found any more.
async fn put(
    call: &mut Call,
    key: &ResourceKey,
    prepared: &Arc<Prepared>,
    expected: Expected,
    check: Check,
) -> Result<Option<Reply>, Problem> {
    call.about(key, None);
    call.entry.rows = 0;
    call.touches(prepared.patients(), 1);
    subscription::check(call, prepared)?;
    call.intend().await?;
    let storing = Arc::clone(prepared);
    let written = call
        .app
        .write(call.writer()?, move |transaction| {
            if !holds(transaction, &check)? {
                return Ok(None);
            }
            let written = transaction.put(&storing, expected);
            written.map(Some).map_err(|error| conflict(error, expected))
        })
        .await?;
    let Some(written) = written else { return Ok(None) };
    call.about(key, Some(written.version));
    answer(call, key, prepared, &written).map(Some)
}

/// What a write says whose expectation does not hold.
pub(crate) fn conflict(error: StoreError, expected: Expected) -> Problem {
    match (error, expected) {
        (StoreError::Conflict, Expected::Known | Expected::Current) => Problem::no_update_as_create(),
        (error, _) => error.into(),
    }
}

fn answer(call: &Call, key: &ResourceKey, prepared: &Prepared, written: &Written) -> Result<Reply, Problem> {
    let status = match written.outcome {
        WriteOutcome::Created => StatusCode::CREATED,
        WriteOutcome::Updated => StatusCode::OK,
    };
    let reply = match media::preferred_return(call) {
        Return::Representation => Reply::fhir(status, prepared.served(written)?.into_inner()),
        other => without_resource(status, other, "the resource was stored"),
    };
    let reply = reply.versioned(written.version, written.updated);
    Ok(match written.outcome {
        WriteOutcome::Created => reply.located(&location(&call.app.settings.base, key, written.version)),
        WriteOutcome::Updated => reply,
    })
}

/// A conditional create found that there is nothing to do.
fn already_there(call: &mut Call, stored: Stored) -> Result<Reply, Problem> {
    call.about(&stored.key, Some(stored.version));
    call.touches(&stored.patients, 1);
    // Whoever may not read it learns no more than that it is there.
    let may_read = call.permit(Permission::Read, Some(stored.key.resource_type)).is_ok();
    let reply = match media::preferred_return(call) {
        Return::Representation if may_read => Reply::fhir(StatusCode::OK, stored.body.into_inner()),
        Return::Representation => Reply::empty(StatusCode::OK),
        other => without_resource(StatusCode::OK, other, "a resource that matches is there already"),
    };
    let at = location(&call.app.settings.base, &stored.key, stored.version);
    Ok(reply.versioned(stored.version, stored.updated).located(&at))
}

fn without_resource(status: StatusCode, preferred: Return, words: &str) -> Reply {
    if preferred == Return::Minimal {
        return Reply::empty(status);
    }
    let done = Issue { severity: Severity::Information, ..Issue::error(IssueCode::Informational, words) };
    Reply::fhir(status, operation_outcome(&[done]).to_string().into_bytes())
}

/// The address of a version.
pub(crate) fn location(base: &str, key: &ResourceKey, version: u64) -> String {
    format!("{base}/{}/{}/_history/{version}", key.resource_type, key.id.as_str())
}
