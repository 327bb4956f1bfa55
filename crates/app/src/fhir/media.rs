//! What a client takes and what it wants back: `Accept`, `_format`, `Prefer`, and the version tags.

use http::header;
use ward_fhir::search::Handling;

use crate::call::Call;
use crate::form;
use crate::problem::Problem;

/// The media types under which FHIR JSON is read.
pub(crate) const FHIR_JSON: [&str; 3] =
    ["application/fhir+json", "application/json", "application/json+fhir"];
/// Of lines of FHIR JSON.
pub(crate) const FHIR_NDJSON: &str = "application/fhir+ndjson";
/// For the words of a refusal.
pub(crate) const FHIR_JSON_NAME: &str = "application/fhir+json";

/// Fails if the client does not take JSON. `_format` counts before `Accept`.
pub(crate) fn acceptable(call: &Call, query: Option<&str>) -> Result<(), Problem> {
    let format = query
        .map(|query| form::pairs(query.as_bytes()))
        .transpose()?
        .and_then(|pairs| pairs.into_iter().find(|(name, _)| name == "_format").map(|(_, value)| value));
    let is_json = |text: &str| {
        let media_type = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        // A `+` in a URL that was not encoded is a blank.
        let media_type = media_type.replace(' ', "+");
        matches!(media_type.as_str(), "json" | "text/json" | "*/*" | "application/*" | "")
            || FHIR_JSON.contains(&media_type.as_str())
    };
    let fine = match (&format, call.header(header::ACCEPT)) {
        (Some(format), _) => is_json(format),
        (None, Some(accepted)) => accepted.split(',').any(is_json),
        (None, None) => true,
    };
    if fine { Ok(()) } else { Err(Problem::not_acceptable()) }
}

/// What `Prefer: return=` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Return {
    Minimal,
    Representation,
    OperationOutcome,
}

/// The answer to a write that the client prefers.
pub(crate) fn preferred_return(call: &Call) -> Return {
    match preference(call, "return") {
        Some("minimal") => Return::Minimal,
        Some("OperationOutcome") => Return::OperationOutcome,
        _ => Return::Representation,
    }
}

/// Whether unknown search parameters are refused.
pub(crate) fn preferred_handling(call: &Call) -> Handling {
    match preference(call, "handling") {
        Some("lenient") => Handling::Lenient,
        _ => Handling::Strict,
    }
}

/// Whether the client wants to come back for the answer (RFC 7240, section 4.1).
pub(crate) fn prefers_async(call: &Call) -> bool {
    let values = call.headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split([',', ';']))
        .any(|one| one.trim().eq_ignore_ascii_case("respond-async"))
}

fn preference<'a>(call: &'a Call, name: &str) -> Option<&'a str> {
    call.headers
        .get_all("prefer")
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.trim().split_once('='))
        .find(|(own, _)| own.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim_matches('"'))
}
