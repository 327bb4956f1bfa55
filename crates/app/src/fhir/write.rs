//! Create, update and delete.

use std::sync::Arc;

use http::{StatusCode, header};
use serde_json::Value;
use ward_audit::Class;
use ward_base::ResourceId;
use ward_fhir::ResourceType;
use ward_fhir::bundle::version_tag;
use ward_fhir::outcome::{Issue, IssueCode, Severity, operation_outcome};
use ward_identity::Permission;
use ward_store::{Expected, Prepared, ResourceKey, StoreError, WriteOutcome, Written};
use ward_transport::RequestBody;

use super::media::{self, FHIR_JSON, FHIR_JSON_NAME, Return};
use crate::call::{Call, aside};
use crate::problem::Problem;
use crate::reply::Reply;

/// `POST [base]/Type`.
pub(crate) async fn create(call: &mut Call, kind: ResourceType, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "create", Some(kind));
    media::acceptable(call, None)?;
    call.permit(Permission::Create, Some(kind))?;
    if call.headers.contains_key("if-none-exist") {
        let words = "conditional create is not supported yet; search first, then create";
        return Err(Problem::malformed(IssueCode::NotSupported, words));
    }
    let key = ResourceKey { resource_type: kind, id: ResourceId::random(&*call.app.random) };
    let prepared = prepared(call, &key, false, body).await?;
    put(call, key, prepared, Expected::Absent).await
}

/// `PUT [base]/Type/id`.
pub(crate) async fn update(call: &mut Call, key: ResourceKey, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "update", Some(key.resource_type));
    call.about(&key, None);
    media::acceptable(call, None)?;
    call.permit(Permission::Update, Some(key.resource_type))?;
    let expected = narrowed(call, key.resource_type, expected(call)?);
    let prepared = prepared(call, &key, true, body).await?;
    // Whoever it was about until now is touched as well.
    let asked = key.clone();
    let before = call.app.store.read(move |session| Ok::<_, Problem>(session.current(&asked)?)).await?;
    call.touches(before.iter().flat_map(|stored| &stored.patients), 0);
    put(call, key, prepared, expected).await
}

/// `DELETE [base]/Type/id`.
pub(crate) async fn delete(call: &mut Call, key: ResourceKey) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "delete", Some(key.resource_type));
    call.about(&key, None);
    call.permit(Permission::Delete, Some(key.resource_type))?;
    let expected = if call.headers.contains_key(header::IF_MATCH) { expected(call)? } else { Expected::Any };
    let asked = key.clone();
    let current = call.app.store.read(move |session| Ok::<_, Problem>(session.current(&asked)?)).await?;
    let current = current.ok_or_else(Problem::not_found)?;
    call.touches(&current.patients, 1);
    if current.deleted {
        return Ok(Reply::empty(StatusCode::NO_CONTENT).versioned(current.version, current.updated));
    }
    call.intend().await?;
    let version = call
        .app
        .store
        .write(move |transaction| Ok::<_, Problem>(transaction.delete(&key, expected)?))
        .await?;
    Ok(match version {
        Some(version) => Reply::empty(StatusCode::NO_CONTENT).tagged(version),
        None => Reply::empty(StatusCode::NO_CONTENT),
    })
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
pub(crate) fn narrowed(call: &Call, kind: ResourceType, expected: Expected) -> Expected {
    match expected {
        Expected::Any | Expected::Known | Expected::Absent
            if call.permit(Permission::Create, Some(kind)).is_err() =>
        {
            Expected::Current
        }
        expected => expected,
    }
}

/// The body as a valid resource of this type, ready to be stored; with this id in it, if it must have one.
async fn prepared(
    call: &Call,
    key: &ResourceKey,
    has_id: bool,
    body: RequestBody,
) -> Result<Box<Prepared>, Problem> {
    let bytes = call.body(body, &FHIR_JSON, FHIR_JSON_NAME, call.resource_bytes_max()).await?;
    let (app, key, limits) = (Arc::clone(&call.app), key.clone(), call.json_limits());
    aside(bytes.len(), move || {
        let resource = ward_fhir::json::parse(&bytes, &limits)?;
        check(&resource, key.resource_type)?;
        if has_id && resource.get("id").and_then(Value::as_str) != Some(key.id.as_str()) {
            let words = "the resource must have the id that stands in the address";
            return Err(Problem::malformed(IssueCode::Invalid, words));
        }
        Ok(Box::new(app.store.prepare(&key, &resource)?))
    })
    .await
}

/// Fails unless `resource` is a valid resource of this type.
pub(crate) fn check(resource: &Value, kind: ResourceType) -> Result<(), Problem> {
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
    let issues = ward_fhir::validate::resource(resource);
    if issues.iter().any(Issue::is_error) { Err(Problem::invalid(issues)) } else { Ok(()) }
}

async fn put(
    call: &mut Call,
    key: ResourceKey,
    prepared: Box<Prepared>,
    expected: Expected,
) -> Result<Reply, Problem> {
    call.about(&key, None);
    call.touches(prepared.patients(), 1);
    call.intend().await?;
    let prepared = Arc::new(prepared);
    let stored = Arc::clone(&prepared);
    let written = call
        .app
        .store
        .write(move |transaction| {
            transaction.put(&stored, expected).map_err(|error| conflict(error, expected))
        })
        .await?;
    call.about(&key, Some(written.version));
    answer(call, &key, &prepared, &written)
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
        Return::Minimal => Reply::empty(status),
        Return::Representation => Reply::fhir(status, prepared.served(written)?.into_inner()),
        Return::OperationOutcome => {
            let done = Issue {
                severity: Severity::Information,
                ..Issue::error(IssueCode::Informational, "the resource was stored")
            };
            Reply::fhir(status, operation_outcome(&[done]).to_string().into_bytes())
        }
    };
    let reply = reply.versioned(written.version, written.updated);
    Ok(match written.outcome {
        WriteOutcome::Created => reply.located(&location(&call.app.settings.base, key, written.version)),
        WriteOutcome::Updated => reply,
    })
}

/// The address of a version.
pub(crate) fn location(base: &str, key: &ResourceKey, version: u64) -> String {
    format!("{base}/{}/{}/_history/{version}", key.resource_type, key.id.as_str())
}
