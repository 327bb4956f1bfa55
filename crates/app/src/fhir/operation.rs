//! What operations share (<https://hl7.org/fhir/R4/operations.html>): their parameters; and `$validate`.

use http::StatusCode;
use serde_json::Value;
use ward_audit::Class;
use ward_base::ResourceId;
use ward_fhir::ResourceType;
use ward_fhir::outcome::{Issue, IssueCode, Severity, operation_outcome};
use ward_identity::Permission;
use ward_transport::RequestBody;

use super::media::{FHIR_JSON, FHIR_JSON_NAME};
use crate::call::{Call, aside};
use crate::form;
use crate::problem::Problem;
use crate::reply::Reply;

const PARAMETERS_MAX: usize = 256;
const BYTES_MAX: usize = 256 << 10;

/// `POST [base]/Type/$validate` and `[base]/Type/id/$validate`
/// (<https://hl7.org/fhir/R4/resource-operation-validate.html>): what a create or an update would say of the resource.
/// Nothing is stored, and the answer holds nothing of it.
pub(crate) async fn validate(
    call: &mut Call,
    kind: ResourceType,
    id: Option<ResourceId>,
    query: Option<&str>,
    body: RequestBody,
) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "validate", Some(kind));
    super::media::acceptable(call, query)?;
    // Whoever may write resources of the type may ask whether they would be taken.
    call.permit(Permission::Create, Some(kind)).or_else(|_| call.permit(Permission::Update, Some(kind)))?;
    let bytes = call.body(body, &FHIR_JSON, FHIR_JSON_NAME, call.resource_bytes_max()).await?;
    let mut mode = None;
    for (name, value) in form::pairs(query.unwrap_or_default().as_bytes())? {
        match name.as_str() {
            "mode" => mode = Some(value),
            "profile" => return Err(no_profiles()),
            _ => {}
        }
    }
    let limits = call.json_limits();
    let issues = aside(bytes.len(), move || {
        let body = ward_fhir::json::parse(&bytes, &limits)?;
        let (resource, mode) = asked(body, kind, mode)?;
        Ok(issues(resource.as_ref(), kind, id.as_ref(), mode.as_deref()))
    })
    .await?;
    Ok(Reply::fhir(StatusCode::OK, operation_outcome(&issues).to_string().into_bytes()))
}

fn no_profiles() -> Problem {
    let words = "resources are validated against the specification itself; profiles are not supported yet";
    Problem::malformed(IssueCode::NotSupported, words)
}

/// The resource and the mode: the body is either the resource or `Parameters` with both.
fn asked(
    body: Value,
    kind: ResourceType,
    mode: Option<String>,
) -> Result<(Option<Value>, Option<String>), Problem> {
    let is_parameters = body.get("resourceType").and_then(Value::as_str) == Some("Parameters");
    if !is_parameters || kind.name() == "Parameters" && body.pointer("/parameter/0/resource").is_none() {
        return Ok((Some(body), mode));
    }
    let (mut resource, mut mode) = (None, mode);
    for one in body.get("parameter").and_then(Value::as_array).into_iter().flatten() {
        match one.get("name").and_then(Value::as_str) {
            Some("resource") => resource = one.get("resource").cloned(),
            Some("mode") => mode = one.get("valueCode").and_then(Value::as_str).map(str::to_owned),
            Some("profile") => return Err(no_profiles()),
            _ => {}
        }
    }
    Ok((resource, mode))
}

fn issues(
    resource: Option<&Value>,
    kind: ResourceType,
    id: Option<&ResourceId>,
    mode: Option<&str>,
) -> Vec<Issue> {
    let told = |code, words: &str| vec![Issue::error(code, words)];
    match mode {
        None | Some("create" | "update") => {}
        Some("delete") => return fine(),
        Some(_) => return told(IssueCode::Value, "`mode` must be create, update or delete"),
    }
    let Some(resource) = resource else {
        return told(IssueCode::Required, "there is no resource to validate");
    };
    if resource.get("resourceType").and_then(Value::as_str) != Some(kind.name()) {
        return told(IssueCode::Invalid, "the resource is of another type than the address says");
    }
    let stated = resource.get("id").and_then(Value::as_str);
    if mode == Some("update") && stated.is_none()
        || id.is_some_and(|id| stated.is_some_and(|stated| stated != id.as_str()))
    {
        return told(IssueCode::Invalid, "an update must have the id that stands in the address");
    }
    let issues = ward_fhir::validate::resource(resource);
    if issues.is_empty() { fine() } else { issues }
}

fn fine() -> Vec<Issue> {
    let words = "nothing is wrong with it";
    vec![Issue { severity: Severity::Information, ..Issue::error(IssueCode::Informational, words) }]
}

/// Names and plain values of a `Parameters` resource; an empty body has none.
pub(crate) async fn parameters(call: &Call, body: RequestBody) -> Result<Vec<(String, String)>, Problem> {
    let all = values(call, body).await?;
    all.into_iter()
        .map(|(name, value)| Some((name, plain(&value)?)))
        .collect::<Option<_>>()
        .ok_or_else(not_plain)
}

/// Names and values of a `Parameters` resource; an empty body has none.
pub(crate) async fn values(call: &Call, body: RequestBody) -> Result<Vec<(String, Value)>, Problem> {
    if call.header(http::header::CONTENT_LENGTH) == Some("0") {
        return Ok(Vec::new());
    }
    let bytes = call.body(body, &FHIR_JSON, FHIR_JSON_NAME, BYTES_MAX).await?;
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let resource = ward_fhir::json::parse(&bytes, &call.json_limits())?;
    if resource.get("resourceType").and_then(Value::as_str) != Some("Parameters") {
        return Err(not_plain());
    }
    let list = resource.get("parameter").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if list.len() > PARAMETERS_MAX {
        return Err(not_plain());
    }
    list.iter().map(|one| value(one).ok_or_else(not_plain)).collect()
}

fn not_plain() -> Problem {
    let words =
        "the body must be a Parameters resource whose parameters have the values that the operation takes";
    Problem::malformed(IssueCode::Structure, words)
}

fn value(parameter: &Value) -> Option<(String, Value)> {
    let members = parameter.as_object()?;
    let name = members.get("name")?.as_str()?.to_owned();
    let (_, value) = members.iter().find(|(key, _)| key.starts_with("value"))?;
    Some((name, value.clone()))
}

/// A value that is one of text.
pub(crate) fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
