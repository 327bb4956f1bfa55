use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use ward_base::{RequestId, SystemClock, SystemRandom};
use ward_monitor::event;
use ward_transport::{
    Audience, Body, Caller, Refusal, Repeatable, RequestBody, Serve, UpstreamError, without_hop_headers,
};

use crate::EdgeConfig;
use crate::check::Bounds;
use crate::forward;
use crate::group::Group;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const SEARCH_BYTES_MAX: u64 = 64 << 10;

/// Answers requests by passing them to the target group.
pub(crate) struct Edge {
    group: Arc<Group>,
    bounds: Bounds,
    public: bool,
}

impl Edge {
    pub(crate) fn new(group: Arc<Group>, config: &EdgeConfig) -> Self {
        Self { group, bounds: Bounds::new(config), public: config.public }
    }

    async fn pass(
        &self,
        caller: &Caller,
        mut request: Request<RequestBody>,
        id: &HeaderValue,
        audience: Audience,
    ) -> Result<Response<Body>, Refusal> {
        self.bounds.check(&request)?;
        let headers = request.headers_mut();
        // First, so that nobody can have what is set below taken away by naming it in `Connection`.
        without_hop_headers(headers);
        headers.remove(header::EXPECT);
        if self.public {
            forward::set(headers, *caller.address.expose());
        }
        headers.insert(X_REQUEST_ID, id.clone());
        // API clients keep no cookies, and need no particular target.
        let person = audience == Audience::Person;
        let remembered = if person { self.group.remembered(request.headers()) } else { None };
        let page = person && is_page(request.uri().path());

        let fault = request.body().watch();
        let request = if is_small_search(&request) {
            // It changes nothing, so a target that dies on it is no reason to fail.
            let (mut parts, body) = request.into_parts();
            parts.extensions.insert(Repeatable);
            let body = body.collect().await.map_err(UpstreamError::RequestBody)?.to_bytes();
            Request::from_parts(parts, Body::full(body))
        } else {
            request.map(Body::from)
        };
        let sent = self.group.send(request, remembered.clone()).await;
        let (mut response, member) = sent.map_err(|error| match fault() {
            // Whatever else went wrong followed from that.
            Some(fault) => UpstreamError::RequestBody(fault),
            None => error,
        })?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(UpstreamError::Closed.into());
        }
        without_hop_headers(response.headers_mut());
        response.headers_mut().remove(header::SERVER);
        if !response.body().is_end_stream() && response.body().size_hint().exact().is_none() {
            // Not what delimits the body, whatever it says.
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        if page
            && remembered.is_none_or(|remembered| !Arc::ptr_eq(&remembered, &member))
            && let Some(cookie) = member.cookie()
        {
            response.headers_mut().append(header::SET_COOKIE, cookie.clone());
        }
        Ok(response.map(Body::from))
    }

    /// Between tiers, the id that the public balancer gave; otherwise a new one, whatever the client says.
    fn request_id(&self, request: &Request<RequestBody>) -> RequestId {
        let given = || RequestId::parse(request.headers().get(X_REQUEST_ID)?.to_str().ok()?);
        let given = if self.public { None } else { given() };
        given.unwrap_or_else(|| RequestId::new(&SystemClock, &SystemRandom))
    }
}

impl Serve for Edge {
    type Body = Body;

    async fn serve(&self, caller: &Caller, request: Request<RequestBody>) -> Response<Body> {
        let audience = Audience::of(request.uri().path());
        let id = self.request_id(&request);
        let value = HeaderValue::try_from(id.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""));
        let has_body = !request.body().is_end_stream();
        let mut response = match self.pass(caller, request, &value, audience).await {
            Ok(response) => response,
            Err(refusal) => {
                if matches!(refusal.status.as_u16(), 502..=504) {
                    event!(Warning, "request.not_passed", request = id, status = refusal.status.as_u16());
                }
                let mut response = refusal.answer(audience);
                if has_body {
                    // What is left of the body is not waited for.
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        };
        response.headers_mut().insert(X_REQUEST_ID, value);
        response
    }
}

/// A FHIR search by POST (<https://hl7.org/fhir/R4/http.html#search>), short enough to be kept until it is answered.
fn is_small_search(request: &Request<RequestBody>) -> bool {
    let path = request.uri().path();
    *request.method() == Method::POST
        && path.starts_with("/fhir/")
        && path.ends_with("/_search")
        && request.body().size_hint().exact().is_some_and(|size| size <= SEARCH_BYTES_MAX)
}

/// Whether an answer may carry the sticky cookie: style sheets and the like are kept in shared caches.
fn is_page(path: &str) -> bool {
    !path.starts_with("/assets/") && path != "/healthz"
}
