//! Create, update and delete.

use http::{StatusCode, header};
use serde_json::Value;
use ward_audit::Class;
use ward_base::ResourceId;
use ward_fhir::ResourceType;
use ward_fhir::outcome::{Issue, IssueCode, Severity, operation_outcome};
use ward_identity::Permission;
use ward_store::{Expected, Prepared, ResourceKey, StoreError, WriteOutcome, Written};
use ward_transport::RequestBody;

use super::media::{self, FHIR_JSON, FHIR_JSON_NAME, Return};
use crate::call::Call;
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
    let resource = resource(call, kind, body).await?;
    let key = ResourceKey { resource_type: kind, id: ResourceId::random(&*call.app.random) };
    put(call, key, &resource, Expected::Absent).await
}

/// `PUT [base]/Type/id`.
pub(crate) async fn update(call: &mut Call, key: ResourceKey, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "update", Some(key.resource_type));
    call.about(&key, None);
    media::acceptable(call, None)?;
    call.permit(Permission::Update, Some(key.resource_type))?;
    let mut expected = expected(call)?;
    if expected == Expected::Any && call.permit(Permission::Create, Some(key.resource_type)).is_err() {
        // Whoever may not create may not do it by updating either.
        expected = Expected::Known;
    }
    let resource = resource(call, key.resource_type, body).await?;
    if resource.get("id").and_then(Value::as_str) != Some(key.id.as_str()) {
        let words = "the resource must have the id that stands in the address";
        return Err(Problem::malformed(IssueCode::Invalid, words));
    }
    put(call, key, &resource, expected).await
}

/// `DELETE [base]/Type/id`.
pub(crate) async fn delete(call: &mut Call, key: ResourceKey) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "delete", Some(key.resource_type));
    call.about(&key, None);
    call.permit(Permission::Delete, Some(key.resource_type))?;
    let expected = match call.header(header::IF_MATCH) {
        Some(_) => expected(call)?,
        None => Expected::Any,
    };
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

/// What `If-Match` demands; without it, that the id was given out here or may be chosen.
fn expected(call: &Call) -> Result<Expected, Problem> {
    match call.header(header::IF_MATCH) {
        Some(tag) => media::version_tag(tag).map(Expected::Version).ok_or_else(|| {
            Problem::malformed(IssueCode::Value, "`If-Match` must be a version such as W/\"3\"")
        }),
        None if call.app.settings.accept_client_ids => Ok(Expected::Any),
        None => Ok(Expected::Known),
    }
}

/// The body as a valid resource of this type.
async fn resource(call: &Call, kind: ResourceType, body: RequestBody) -> Result<Value, Problem> {
    let bytes = call.body(body, &FHIR_JSON, FHIR_JSON_NAME).await?;
    let resource = ward_fhir::json::parse(&bytes, &call.json_limits())?;
    check(&resource, kind)?;
    Ok(resource)
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
    resource: &Value,
    expected: Expected,
) -> Result<Reply, Problem> {
    let prepared = call.app.store.prepare(&key, resource)?;
    call.about(&key, None);
    call.touches(prepared.patients(), 1);
    call.intend().await?;
    let (prepared, written) = call
        .app
        .store
        .write(move |transaction| match transaction.put(&prepared, expected) {
            Ok(written) => Ok((prepared, written)),
            Err(StoreError::Conflict) if expected == Expected::Known => Err(Problem::no_update_as_create()),
            Err(error) => Err(error.into()),
        })
        .await?;
    call.about(&key, Some(written.version));
    answer(call, &key, &prepared, &written)
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
