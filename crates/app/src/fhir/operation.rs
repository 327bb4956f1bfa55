//! What operations share (<https://hl7.org/fhir/R4/operations.html>): their parameters; and `$validate`.

use http::StatusCode;
use serde_json::Value;
use ward_audit::Class;
use ward_base::ResourceId;
use ward_fhir::ResourceType;
use ward_fhir::outcome::{Issue, IssueCode, Severity, operation_outcome};
use ward_fhir::profile::{self, Definitions as _};
use ward_identity::Permission;
use ward_store::Session;
use ward_transport::RequestBody;

use super::definitions::Held;
use super::media::{FHIR_JSON, FHIR_JSON_NAME};
use crate::call::{Call, aside};
use crate::form;
use crate::problem::Problem;
use crate::reply::Reply;

const PARAMETERS_MAX: usize = 256;
const PROFILES_MAX: usize = 20;
/// Where the specification's own profiles are: those of its types need no definition here.
const SPECIFICATION: &str = "http://hl7.org/fhir/StructureDefinition/";
const BYTES_MAX: usize = 256 << 10;

/// `POST [base]/Type/$validate` and `[base]/Type/id/$validate`
/// (<https://hl7.org/fhir/R4/resource-operation-validate.html>): what a create or an update would say of the resource.
/// Nothing is stored, and the answer holds nothing of it. It is held to the profiles that are asked for, and to those
/// that it states and that are stored here as StructureDefinitions.
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
    let mut asked = Asked::default();
    for (name, value) in form::pairs(query.unwrap_or_default().as_bytes())? {
        match name.as_str() {
            "mode" => asked.mode = Some(value),
            "profile" => asked.profiles.push(value),
            _ => {}
        }
    }
    let limits = call.json_limits();
    let (asked, mut issues) = aside(bytes.len(), move || {
        let body = ward_fhir::json::parse(&bytes, &limits)?;
        let asked = asked.with(body, kind);
        let issues = issues(asked.resource.as_ref(), kind, id.as_ref(), asked.mode.as_deref());
        Ok((asked, issues))
    })
    .await?;
    if asked.profiles.len() > PROFILES_MAX {
        return Err(Problem::malformed(
            IssueCode::TooCostly,
            "a resource is held to 20 profiles at once at most",
        ));
    }
    if let Some(resource) = asked.resource.filter(|_| asked.mode.as_deref() != Some("delete")) {
        let profiles = asked.profiles;
        let check = move |session: &mut dyn Session| against_profiles(session, &resource, &profiles);
        issues.extend(call.app.store.read(check).await?);
        issues.sort_by_key(|issue| !issue.is_error());
    }
    if issues.is_empty() {
        issues = fine();
    }
    Ok(Reply::fhir(StatusCode::OK, operation_outcome(&issues).to_string().into_bytes()))
}

/// What is to be validated, and how.
#[derive(Default)]
struct Asked {
    resource: Option<Value>,
    mode: Option<String>,
    profiles: Vec<String>,
}

impl Asked {
    /// With what the body says: it is either the resource or `Parameters` with all of it.
    fn with(mut self, body: Value, kind: ResourceType) -> Self {
        let is_parameters = body.get("resourceType").and_then(Value::as_str) == Some("Parameters");
        if !is_parameters || kind.name() == "Parameters" && body.pointer("/parameter/0/resource").is_none() {
            self.resource = Some(body);
            return self;
        }
        for one in body.get("parameter").and_then(Value::as_array).into_iter().flatten() {
            let text = |names: &[&str]| {
                names.iter().find_map(|name| one.get(*name)).and_then(Value::as_str).map(str::to_owned)
            };
            match one.get("name").and_then(Value::as_str) {
                Some("resource") => self.resource = one.get("resource").cloned(),
                Some("mode") => self.mode = text(&["valueCode", "valueString"]),
                Some("profile") => {
                    self.profiles.extend(text(&["valueCanonical", "valueUri", "valueString"]));
                }
                _ => {}
            }
        }
        self
    }
}

/// The issues with the profiles that are asked for, and with those that the resource states. Of these, what is not
/// stored here is only told.
fn against_profiles(
    session: &mut dyn Session,
    resource: &Value,
    asked: &[String],
) -> Result<Vec<Issue>, Problem> {
    let mut definitions = Held::new(session);
    let mut profiles: Vec<&str> = asked.iter().map(String::as_str).collect();
    let stated = resource.pointer("/meta/profile").and_then(Value::as_array).into_iter().flatten();
    let mut issues = Vec::new();
    for (index, url) in stated.take(PROFILES_MAX).enumerate() {
        let Some(url) = url.as_str().filter(|url| !profiles.contains(url)) else { continue };
        let (plain, version) = url.split_once('|').map_or((url, None), |(url, version)| (url, Some(version)));
        let known =
            plain.starts_with(SPECIFICATION) || definitions.structure_definition(plain, version)?.is_some();
        if known {
            profiles.push(url);
        } else {
            let kind = resource.get("resourceType").and_then(Value::as_str).unwrap_or_default();
            let words = "this profile is not stored here, so the resource was not held to it";
            let place = ResourceType::parse(kind).map_or("Resource", ResourceType::name);
            issues.push(
                Issue::warning(IssueCode::NotFound, words).at(format!("{place}.meta.profile[{index}]")),
            );
        }
    }
    if !profiles.is_empty() {
        issues.extend(profile::validate(resource, &profiles, &mut definitions)?);
    }
    Ok(issues)
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
        Some("delete") => return Vec::new(),
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
    ward_fhir::validate::resource(resource)
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
