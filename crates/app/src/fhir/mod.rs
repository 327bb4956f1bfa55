//! The FHIR R4 API (<https://hl7.org/fhir/R4/http.html>): from a path to an interaction.

mod bundle;
mod codes;
mod condition;
mod definitions;
mod everything;
mod export;
mod hierarchy;
mod history;
mod import;
mod media;
pub(crate) mod notification;
mod operation;
mod patch;
mod read;
mod resolve;
mod search;
mod step;
pub(crate) mod subscription;
mod terminology;
mod text;
mod write;

pub(crate) use import::{Imports, run as run_imports};
pub(crate) use media::FHIR_NDJSON;
pub(crate) use write::check_resource;

use http::StatusCode;
use ward_audit::Class;
use ward_base::ResourceId;
use ward_fhir::ResourceType;
use ward_store::{HistoryScope, ResourceKey};
use ward_transport::RequestBody;

use crate::call::Call;
use crate::oauth;
use crate::problem::Problem;
use crate::reply::Reply;
use crate::route::Target;

/// Answers a request below the base; `rest` is the path after it.
pub(crate) async fn dispatch(
    call: &mut Call,
    target: &Target<'_>,
    rest: &str,
    body: RequestBody,
) -> Result<Reply, Problem> {
    let segments: Vec<&str> = rest.trim_matches('/').split('/').collect();
    let method = target.method.as_str();
    call.doing(Class::Rest, "unknown-address", None);
    // What anybody may know.
    match (segments.as_slice(), method) {
        (["metadata"], "GET") => {
            call.doing(Class::Rest, "capabilities", None);
            media::acceptable(call, target.query)?;
            return Ok(Reply::fhir(StatusCode::OK, call.app.capability_statement().to_vec()));
        }
        ([".well-known", "smart-configuration"], "GET") => return oauth::smart_configuration(call),
        _ => {}
    }
    call.authenticate().await?;
    match (segments.as_slice(), method) {
        (["$export"] | ["Patient", "$export"] | ["Group", _, "$export"], "GET" | "POST") => {
            let extent = match segments.as_slice() {
                ["Group", id, _] => export::Extent::Group((*id).to_owned()),
                ["Patient", _] => export::Extent::Patients,
                _ => export::Extent::System,
            };
            let body = (method == "POST").then_some(body);
            export::begin(call, extent, target.query, body).await
        }
        (["$import"], "POST") => import::begin(call, body).await,
        (["$import"], _) => Err(Problem::method_not_allowed("POST")),
        (["$import-status", job], "GET") => import::status(call, job).await,
        (["$import-status", job], "DELETE") => import::cancel(call, job).await,
        (["$import-errors", job, number], "GET") => import::errors(call, job, number).await,
        (["$export-status", job], "GET") => export::status(call, job).await,
        (["$export-status", job], "DELETE") => export::cancel(call, job).await,
        (["$export-file", job, kind, number], "GET") => export::file(call, job, kind, number).await,
        ([""], "POST") => bundle::bundle(call, body).await,
        ([""], "GET") => search::by_get(call, search::Scope::system(), target.query).await,
        ([""], _) => Err(Problem::method_not_allowed("GET, POST")),
        (["_search"], "POST") => search::by_post(call, search::Scope::system(), target.query, body).await,
        (["_search"], _) => Err(Problem::method_not_allowed("POST")),
        (["metadata" | "_history"], "POST" | "PUT" | "PATCH" | "DELETE") => {
            Err(Problem::method_not_allowed("GET"))
        }
        (["_history"], "GET") => history::history(call, HistoryScope::System, target.query).await,
        ([kind], "GET") => search::by_get(call, search::Scope::of_type(parse(kind)?), target.query).await,
        ([kind], "POST") => write::create(call, parse(kind)?, body).await,
        ([kind], "PUT") => write::conditional_update(call, parse(kind)?, target.query, body).await,
        ([kind], "PATCH") => write::conditional_patch(call, parse(kind)?, target.query, body).await,
        ([kind], "DELETE") => write::conditional_delete(call, parse(kind)?, target.query).await,
        ([kind], _) => {
            parse(kind)?;
            Err(Problem::method_not_allowed("GET, POST, PUT, PATCH, DELETE"))
        }
        ([kind, "_search"], "POST") => {
            search::by_post(call, search::Scope::of_type(parse(kind)?), target.query, body).await
        }
        ([kind, "_search"], _) => {
            parse(kind)?;
            Err(Problem::method_not_allowed("POST"))
        }
        ([kind @ ("CodeSystem" | "ValueSet"), name], _) if terminology::is_operation(name) => {
            terminology::answer(call, parse(kind)?, None, name, target, body).await
        }
        ([kind @ ("CodeSystem" | "ValueSet"), id, name], _) if terminology::is_operation(name) => {
            let key = key(kind, id)?;
            terminology::answer(call, key.resource_type, Some(key), name, target, body).await
        }
        ([kind @ "Subscription", id, "$status"], "GET" | "POST") => {
            notification::status(call, key(kind, id)?, target.query).await
        }
        ([kind @ "Subscription", id, "$status"], _) => {
            key(kind, id)?;
            Err(Problem::method_not_allowed("GET, POST"))
        }
        ([kind, "$validate"], "POST") => {
            operation::validate(call, parse(kind)?, None, target.query, body).await
        }
        ([kind, id, "$validate"], "POST") => {
            let ResourceKey { resource_type, id } = key(kind, id)?;
            operation::validate(call, resource_type, Some(id), target.query, body).await
        }
        ([kind, "$validate"] | [kind, _, "$validate"], _) => {
            parse(kind)?;
            Err(Problem::method_not_allowed("POST"))
        }
        ([kind, "_history"], "GET") => {
            history::history(call, HistoryScope::Type(parse(kind)?), target.query).await
        }
        ([kind, "_history"], _) => {
            parse(kind)?;
            Err(Problem::method_not_allowed("GET"))
        }
        ([kind, id], "GET") => read::read(call, key(kind, id)?, target.query).await,
        ([kind, id], "PUT") => write::update(call, key(kind, id)?, body).await,
        ([kind, id], "PATCH") => write::patch_one(call, key(kind, id)?, body).await,
        ([kind, id], "DELETE") => write::delete(call, key(kind, id)?).await,
        ([kind, id], _) => {
            key(kind, id)?;
            Err(Problem::method_not_allowed("GET, PUT, PATCH, DELETE"))
        }
        ([kind, id, "_history"], "GET") => {
            history::history(call, HistoryScope::Instance(key(kind, id)?), target.query).await
        }
        ([kind, id, "_history", version], "GET") => {
            let version = version.parse().map_err(|_| Problem::not_found())?;
            read::version(call, key(kind, id)?, version, target.query).await
        }
        ([kind, id, "_history"] | [kind, id, "_history", _], _) => {
            key(kind, id)?;
            Err(Problem::method_not_allowed("GET"))
        }
        ([owner, id, "$everything"], "GET") => {
            everything::everything(call, key(owner, id)?, target.query, None).await
        }
        ([owner, id, "$everything"], "POST") => {
            everything::everything(call, key(owner, id)?, target.query, Some(body)).await
        }
        ([owner, id, "$everything"], _) => {
            key(owner, id)?;
            Err(Problem::method_not_allowed("GET, POST"))
        }
        ([owner, id, kind], "GET") => {
            let scope = search::Scope::compartment(key(owner, id)?, kind)?;
            search::by_get(call, scope, target.query).await
        }
        ([owner, id, kind, "_search"], "POST") => {
            let scope = search::Scope::compartment(key(owner, id)?, kind)?;
            search::by_post(call, scope, target.query, body).await
        }
        ([owner, id, kind], _) => {
            search::Scope::compartment(key(owner, id)?, kind)?;
            Err(Problem::method_not_allowed("GET"))
        }
        _ => Err(Problem::no_such_path()),
    }
}

/// Whether a read of this path begins something that lasts.
pub(crate) fn begins_something(path: &str) -> bool {
    path.trim_end_matches('/').ends_with("/$export")
}

fn parse(kind: &str) -> Result<ResourceType, Problem> {
    ResourceType::parse(kind).ok_or_else(Problem::no_such_type)
}

/// A resource by type and id. What is no id is nobody's.
fn key(kind: &str, id: &str) -> Result<ResourceKey, Problem> {
    let resource_type = parse(kind)?;
    let id = ResourceId::parse(id).map_err(|_| Problem::not_found())?;
    Ok(ResourceKey { resource_type, id })
}
