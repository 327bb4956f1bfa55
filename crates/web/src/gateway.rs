//! The way of an API request through this tier: straight on to the app tier, body and answer streamed.
//!
//! The cookies of the pages end here: a browser's session is no credential for the API, so a page of another
//! site that makes a browser call it gets nowhere. What concerns one connection only stays on it. Everything
//! else goes on as it came, `Authorization`, `Host` and `Origin` included.

use http::{Request, Response, header};
use ward_transport::{Audience, Body, Refusal, RequestBody, Upstream, is_below, without_hop_headers};

/// Whether a path belongs to the API.
pub(crate) fn is_api(path: &str) -> bool {
    ["/fhir/R4", "/oauth", "/ward", "/.well-known"].iter().any(|prefix| is_below(path, prefix))
}

/// Passes a request on and its answer back.
pub(crate) async fn pass(upstream: &Upstream, mut request: Request<RequestBody>) -> Response<Body> {
    let audience = Audience::of(request.uri().path());
    without_hop_headers(request.headers_mut());
    request.headers_mut().remove(header::COOKIE);
    match upstream.send(request.map(Body::from)).await {
        Ok(mut response) => {
            without_hop_headers(response.headers_mut());
            response.map(Body::from)
        }
        Err(error) => Refusal::from(error).answer(audience),
    }
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
}
