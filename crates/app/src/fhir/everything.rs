//! `$everything` (<https://hl7.org/fhir/R4/operation-patient-everything.html>): the whole record of a patient or an
//! encounter, with what it refers to, page by page.

use ward_audit::Class;
use ward_fhir::ResourceType;
use ward_fhir::outcome::IssueCode;
use ward_fhir::search::{ParameterKind, parameter};
use ward_identity::Permission;
use ward_store::ResourceKey;
use ward_transport::RequestBody;

use super::operation;
use super::search::{self, Scope};
use crate::call::Call;
use crate::form;
use crate::problem::Problem;
use crate::reply::Reply;

/// What may stand in a URL: all but dates of care.
const HARMLESS: [&str; 6] = ["_count", "_cursor", "_format", "_pretty", "_since", "_type"];

/// `GET` or `POST [base]/Patient/id/$everything`.
pub(crate) async fn everything(
    call: &mut Call,
    owner: ResourceKey,
    query: Option<&str>,
    body: Option<RequestBody>,
) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "everything", Some(owner.resource_type));
    call.about(&owner, None);
    if !matches!(owner.resource_type.name(), "Patient" | "Encounter") {
        return Err(Problem::no_such_path());
    }
    super::media::acceptable(call, query)?;
    call.permit(Permission::Read, Some(owner.resource_type))?;
    let mut pairs = form::pairs(query.unwrap_or_default().as_bytes())?;
    let tells = pairs.iter().any(|(name, _)| !HARMLESS.contains(&name.as_str()));
    if tells && !call.app.settings.allow_phi_in_urls {
        return Err(Problem::phi_in_operation());
    }
    if let Some(body) = body {
        pairs.extend(operation::parameters(call, body).await?);
    }
    let key = owner.clone();
    let stored = call.app.store.read(move |session| Ok::<_, Problem>(session.current(&key)?)).await?;
    let stored = stored.ok_or_else(Problem::not_found)?;
    call.touches(&stored.patients, 0);
    if stored.deleted {
        return Err(Problem::gone());
    }
    search::answer(call, Scope::everything(owner, stored.patients), pairs).await
}

/// The operation's parameters as those of a search of one type.
pub(crate) fn parameters(
    kind: ResourceType,
    pairs: &[(String, String)],
) -> Result<Vec<(String, String)>, Problem> {
    let dated = parameter(kind, "date").is_some_and(|parameter| parameter.kind == ParameterKind::Date);
    let mut own = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        match name.as_str() {
            "_since" => own.push(("_lastUpdated".to_owned(), format!("ge{value}"))),
            // What has no date of care, such as the patient, belongs to any.
            "start" | "end" if !dated => {}
            "start" => own.push(("date".to_owned(), format!("ge{value}"))),
            "end" => own.push(("date".to_owned(), format!("le{value}"))),
            "_count" | "_format" | "_pretty" => own.push((name.clone(), value.clone())),
            _ => {
                let words = "$everything takes `_since`, `_type`, `_count`, `start` and `end`";
                return Err(Problem::malformed(IssueCode::NotSupported, words));
            }
        }
    }
    Ok(own)
}
