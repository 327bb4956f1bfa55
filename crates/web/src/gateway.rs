//! The way of an API request through this tier: straight on to the app tier, body and answer streamed.
//!
//! The cookies of the pages end here: a browser's session is no credential for the API, so a page of another
//! site that makes a browser call it gets nowhere. What concerns one connection only stays on it. Everything
//! else goes on as it came, `Authorization`, `Host` and `Origin` included.

use http::{HeaderValue, Request, Response, StatusCode, header};
use ward_transport::{Body, RequestBody, Upstream, without_hop_headers};

const FHIR_UNAVAILABLE: &str = r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"transient","diagnostics":"the service is not available now; try again in a few seconds"}]}"#;
const OAUTH_UNAVAILABLE: &str = r#"{"error":"temporarily_unavailable","error_description":"the service is not available now; try again in a few seconds"}"#;

/// Whether a path belongs to the API.
pub(crate) fn is_api(path: &str) -> bool {
    const PREFIXES: [&str; 4] = ["/fhir/R4", "/oauth", "/ward", "/.well-known"];
    PREFIXES
        .iter()
        .any(|prefix| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Passes a request on and its answer back.
pub(crate) async fn pass(upstream: &Upstream, mut request: Request<RequestBody>) -> Response<Body> {
    let is_fhir = request.uri().path().starts_with("/fhir/");
    without_hop_headers(request.headers_mut());
    request.headers_mut().remove(header::COOKIE);
    match upstream.send(request.map(Body::from)).await {
        Ok(mut response) => {
            without_hop_headers(response.headers_mut());
            response.map(Body::from)
        }
        Err(_) => unavailable(is_fhir),
    }
}

fn unavailable(is_fhir: bool) -> Response<Body> {
    let (body, media_type) = if is_fhir {
        (FHIR_UNAVAILABLE, "application/fhir+json; charset=utf-8")
    } else {
        (OAUTH_UNAVAILABLE, "application/json")
    };
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_segments_belong_to_the_api() {
        for path in [
            "/fhir/R4",
            "/fhir/R4/Patient/1",
            "/oauth/token",
            "/ward/users",
            "/.well-known/smart-configuration",
        ] {
            assert!(is_api(path), "{path}");
        }
        for path in
            ["/", "/session", "/session/sign-in", "/fhir/R4B/x", "/fhir", "/wards", "/oauthx", "/FHIR/R4"]
        {
            assert!(!is_api(path), "{path}");
        }
    }

    #[test]
    fn the_answers_in_an_emergency_are_json() {
        for text in [FHIR_UNAVAILABLE, OAUTH_UNAVAILABLE] {
            serde_json::from_str::<serde_json::Value>(text).unwrap();
        }
    }
}
