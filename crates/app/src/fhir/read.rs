//! Read and vread.

use http::{StatusCode, header};
use ward_audit::Class;
use ward_base::{Phi, Timestamp};
use ward_fhir::bundle::version_tag;
use ward_fhir::outcome::IssueCode;
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
    let known = Known {
        tags: call.header(header::IF_NONE_MATCH).map(str::to_owned),
        since: call.header(header::IF_MODIFIED_SINCE).and_then(read_http_date),
    };
    if known.is(&stored) {
        return Ok(Reply::empty(StatusCode::NOT_MODIFIED).versioned(stored.version, stored.updated));
    }
    let body = Part::read(query)?.of(stored.body)?;
    Ok(Reply::fhir(StatusCode::OK, body.into_inner()).versioned(stored.version, stored.updated))
}

/// What the client says that it has already (conditional read).
pub(crate) struct Known {
    /// As in `If-None-Match`.
    pub(crate) tags: Option<String>,
    /// As in `If-Modified-Since`; counts without tags only.
    pub(crate) since: Option<Timestamp>,
}

impl Known {
    /// Whether it has this version.
    pub(crate) fn is(&self, stored: &Stored) -> bool {
        match (&self.tags, self.since) {
            (Some(tags), _) => {
                tags.split(',').any(|tag| tag.trim() == "*" || version_tag(tag) == Some(stored.version))
            }
            (None, since) => since.is_some_and(|since| stored.updated.seconds() <= since.seconds()),
        }
    }
}

/// The part of a resource that `_summary` and `_elements` ask for.
pub(crate) struct Part {
    summary: Summary,
    elements: Vec<String>,
}

impl Part {
    /// Understands the parameters of a read.
    pub(crate) fn read(query: Option<&str>) -> Result<Self, Problem> {
        let mut part = Self { summary: Summary::False, elements: Vec::new() };
        for (name, value) in form::pairs(query.unwrap_or_default().as_bytes())? {
            match name.as_str() {
                "_summary" => {
                    // There is nothing to count.
                    let summary = Summary::parse(&value).filter(|summary| *summary != Summary::Count);
                    let words = "`_summary` of a read must be true, false, data or text";
                    part.summary = summary.ok_or_else(|| Problem::malformed(IssueCode::Value, words))?;
                }
                "_elements" => part.elements.extend(value.split(',').map(|name| name.trim().to_owned())),
                _ => {}
            }
        }
        Ok(part)
    }

    /// The part of this resource.
    pub(crate) fn of(&self, body: Phi<Vec<u8>>) -> Result<Phi<Vec<u8>>, Problem> {
        partial(body, self.summary, &self.elements)
    }
}
