use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{Body, BodyError, UpstreamError};

/// An answer that a hop gives by itself, in the form that whoever asked can read. All its words stand in the source:
/// nothing of a request can come back in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the answer.
    pub status: StatusCode,
    /// What is wrong and what to do, as a part of a sentence; no quotes, no mark-up.
    pub words: &'static str,
    /// Seconds after which trying again may help.
    pub retry_after: Option<u16>,
}

/// Who reads an answer, by the path that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A FHIR client: an OperationOutcome.
    Fhir,
    /// A client of the other APIs: `error` and `error_description`.
    Api,
    /// A person: a page.
    Person,
}

const PAGE_POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

impl Refusal {
    /// One that trying again does not change.
    pub const fn new(status: StatusCode, words: &'static str) -> Self {
        Self { status, words, retry_after: None }
    }

    /// One that may be over in `seconds`.
    pub const fn for_now(status: StatusCode, words: &'static str, seconds: u16) -> Self {
        Self { status, words, retry_after: Some(seconds) }
    }

    /// The whole answer.
    pub fn answer(self, audience: Audience) -> Response<Body> {
        let Self { status, words, retry_after } = self;
        let (media_type, body) = match audience {
            Audience::Fhir => ("application/fhir+json; charset=utf-8", outcome(status, words)),
            Audience::Api => ("application/json", error(status, words)),
            Audience::Person => ("text/html; charset=utf-8", page(status, words)),
        };
        let mut response = Response::new(Body::full(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE"));
        }
        headers.insert(
            HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("same-origin"),
        );
        response
    }
}

impl From<UpstreamError> for Refusal {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::NoTarget | UpstreamError::Connect | UpstreamError::Untrusted => Self::for_now(
                StatusCode::SERVICE_UNAVAILABLE,
                "the service is not available now and nothing was done; try again in a few seconds",
                2,
            ),
            UpstreamError::Closed => Self::new(
                StatusCode::BAD_GATEWAY,
                "the service broke off; if this was to change something, look whether it did before you try again",
            ),
            UpstreamError::Timeout => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "the service took too long; if this was to change something, look whether it did before you try again",
            ),
            UpstreamError::RequestBody(BodyError::TooLarge) => Self::too_large(),
            UpstreamError::RequestBody(BodyError::TooSlow) => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                "the body of the request came too slowly and nothing was done; send it again over a better connection",
            ),
            UpstreamError::RequestBody(BodyError::Broken) => Self::new(
                StatusCode::BAD_REQUEST,
                "the body of the request did not arrive whole and nothing was done; send it again",
            ),
        }
    }
}

impl Refusal {
    /// The body of the request is, or becomes, larger than is taken.
    pub const fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body of the request is larger than is taken here; send it in smaller parts",
        )
    }
}

impl Audience {
    /// Who asks for `path`.
    pub fn of(path: &str) -> Self {
        if is_below(path, "/fhir") {
            Self::Fhir
        } else if ["/oauth", "/ward", "/.well-known"].iter().any(|prefix| is_below(path, prefix)) {
            Self::Api
        } else {
            Self::Person
        }
    }
}

/// Whether `path` is `prefix` or has it as its first segments.
pub fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn outcome(status: StatusCode, words: &str) -> String {
    let code = match status.as_u16() {
        403 => "forbidden",
        404 => "not-found",
        405 | 417 | 501 | 505 => "not-supported",
        408 | 504 => "timeout",
        413 | 414 | 431 => "too-long",
        429 => "throttled",
        502 | 503 => "transient",
        500.. => "exception",
        _ => "invalid",
    };
    format!(
        r#"{{"resourceType":"OperationOutcome","issue":[{{"severity":"error","code":"{code}","diagnostics":"{words}"}}]}}"#
    )
}

fn error(status: StatusCode, words: &str) -> String {
    let code = match status.as_u16() {
        429 | 502..=504 => "temporarily_unavailable",
        500.. => "server_error",
        _ => "invalid_request",
    };
    format!(r#"{{"error":"{code}","error_description":"{words}"}}"#)
}

fn page(status: StatusCode, words: &str) -> String {
    let title = if status.is_server_error() { "Not available now" } else { "This cannot be done" };
    let number = status.as_u16();
    // As a sentence.
    let mut characters = words.chars();
    let first =
        characters.next().map(|first| first.to_ascii_uppercase()).map(String::from).unwrap_or_default();
    let rest = characters.as_str();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} · Ward</title>\n</head>\n<body>\n\
         <main>\n<h1>{title}</h1>\n<p>{first}{rest}.</p>\n<p><a href=\"/\">To the first page</a></p>\n\
         <p><small>Status {number}</small></p>\n</main>\n</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    const ALL: [UpstreamError; 8] = [
        UpstreamError::NoTarget,
        UpstreamError::Connect,
        UpstreamError::Untrusted,
        UpstreamError::Closed,
        UpstreamError::Timeout,
        UpstreamError::RequestBody(BodyError::TooLarge),
        UpstreamError::RequestBody(BodyError::TooSlow),
        UpstreamError::RequestBody(BodyError::Broken),
    ];

    async fn text(response: Response<Body>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn each_audience_can_read_it() {
        for error in ALL {
            let refusal = Refusal::from(error);
            assert!(!refusal.words.contains(['"', '\\', '<', '&', '\n']), "{}", refusal.words);
            let outcome: serde_json::Value =
                serde_json::from_str(&text(refusal.answer(Audience::Fhir)).await).unwrap();
            assert_eq!(outcome["resourceType"], "OperationOutcome");
            assert_eq!(outcome["issue"][0]["diagnostics"], refusal.words);
            let error: serde_json::Value =
                serde_json::from_str(&text(refusal.answer(Audience::Api)).await).unwrap();
            assert_eq!(error["error_description"], refusal.words);
            let page = text(refusal.answer(Audience::Person)).await;
            assert!(
                page.contains("<html lang=\"en\">") && page.contains("<h1>") && !page.contains("<script")
            );
        }
    }

    #[test]
    fn only_what_was_certainly_not_done_is_said_not_to_be() {
        for error in ALL {
            let unknown = matches!(error, UpstreamError::Closed | UpstreamError::Timeout);
            assert_ne!(
                Refusal::from(error).words.contains("nothing was done") || error == ALL[5],
                unknown,
                "{error}"
            );
        }
    }

    #[test]
    fn paths_have_readers() {
        for (path, audience) in [
            ("/fhir/R4/Patient", Audience::Fhir),
            ("/fhir", Audience::Fhir),
            ("/fhirx", Audience::Person),
            ("/oauth/token", Audience::Api),
            ("/ward", Audience::Api),
            ("/wards", Audience::Person),
            ("/.well-known/smart-configuration", Audience::Api),
            ("/", Audience::Person),
            ("", Audience::Person),
        ] {
            assert_eq!(Audience::of(path), audience, "{path}");
        }
    }
}
