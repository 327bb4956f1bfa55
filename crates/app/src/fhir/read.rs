//! Read and vread.

use http::{StatusCode, header};
use ward_audit::Class;
use ward_fhir::bundle::version_tag;
use ward_fhir::search::Summary;
use ward_identity::Permission;
use ward_store::{ResourceKey, Stored};

use super::media;
use super::text::partial;
use crate::call::Call;
use crate::form;
use crate::problem::Problem;
use crate::reply::{Reply, read_http_date};

/// `GET [base]/Type/id`.
pub(crate) async fn read(call: &mut Call, key: ResourceKey, query: Option<&str>) -> Result<Reply, Problem> {
    begin(call, "read", Permission::Read, &key, query)?;
    let found = call.app.store.read(move |session| Ok::<_, Problem>(session.current(&key)?)).await?;
    give(call, found, query)
}

/// `GET [base]/Type/id/_history/version`.
pub(crate) async fn version(
    call: &mut Call,
    key: ResourceKey,
    version: u64,
    query: Option<&str>,
) -> Result<Reply, Problem> {
    begin(call, "vread", Permission::History, &key, query)?;
    let found = call.app.store.read(move |session| Ok::<_, Problem>(session.version(&key, version)?)).await?;
    give(call, found, query)
}

fn begin(
    call: &mut Call,
    action: &'static str,
    permission: Permission,
    key: &ResourceKey,
    query: Option<&str>,
) -> Result<(), Problem> {
    call.doing(Class::Rest, action, Some(key.resource_type));
    call.about(key, None);
    media::acceptable(call, query)?;
    call.permit(permission, Some(key.resource_type))
}

fn give(call: &mut Call, found: Option<Stored>, query: Option<&str>) -> Result<Reply, Problem> {
    let stored = found.ok_or_else(Problem::not_found)?;
    call.about(&stored.key, Some(stored.version));
    call.touches(&stored.patients, 1);
    if stored.deleted {
        return Err(Problem::gone());
    }
    if is_known(call, &stored) {
        return Ok(Reply::empty(StatusCode::NOT_MODIFIED).versioned(stored.version, stored.updated));
    }
    let (summary, elements) = part(query)?;
    let body = partial(stored.body, summary, &elements)?;
    Ok(Reply::fhir(StatusCode::OK, body.into_inner()).versioned(stored.version, stored.updated))
}

/// Whether the client has this version already (conditional read).
fn is_known(call: &Call, stored: &Stored) -> bool {
    if let Some(tags) = call.header(header::IF_NONE_MATCH) {
        return tags.split(',').any(|tag| tag.trim() == "*" || version_tag(tag) == Some(stored.version));
    }
    call.header(header::IF_MODIFIED_SINCE)
        .and_then(read_http_date)
        .is_some_and(|since| stored.updated.seconds() <= since.seconds())
}

/// The part that `_summary` and `_elements` ask for.
fn part(query: Option<&str>) -> Result<(Summary, Vec<String>), Problem> {
    let (mut summary, mut elements) = (Summary::False, Vec::new());
    for (name, value) in form::pairs(query.unwrap_or_default().as_bytes())? {
        match (name.as_str(), value.as_str()) {
            ("_summary", "text") => summary = Summary::Text,
            ("_summary", "data") => summary = Summary::Data,
            ("_elements", names) => elements.extend(names.split(',').map(|name| name.trim().to_owned())),
            _ => {}
        }
    }
    Ok((summary, elements))
}
