//! Whether a request means one thing only and stays within its bounds.

use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri, Version, header};
use http_body::Body;
use ward_transport::Refusal;

use crate::{EdgeConfig, forward};

/// The bounds of a balancer.
pub(crate) struct Bounds {
    body_bytes_max: u64,
    uri_bytes_max: usize,
    head_bytes_max: usize,
    headers_max: usize,
    /// Any if empty.
    hosts: Vec<String>,
}

/// What a head costs on top of its names and values: the request line's spaces and version, and a colon, a space
/// and a line's end for each header.
const LINE_BYTES: usize = 4;

/// Headers of which one tier might take the first and another the last.
const ONCE: [HeaderName; 3] = [header::AUTHORIZATION, header::CONTENT_TYPE, header::ORIGIN];

impl Bounds {
    pub(crate) fn new(config: &EdgeConfig) -> Self {
        Self {
            body_bytes_max: config.limits.request_bytes,
            uri_bytes_max: config.limits.uri_bytes,
            // What the first balancer lets through, and what is added on the way, must fit through the second.
            head_bytes_max: config.limits.header_bytes.saturating_mul(if config.public { 1 } else { 2 }),
            headers_max: config.limits.headers.saturating_sub(if config.public { forward::ADDED } else { 0 }),
            hosts: config.public_hosts.clone(),
        }
    }

    /// Refuses what is beyond them. Reads nothing of the body.
    pub(crate) fn check<B: Body>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let refuse = |status, words| Err(Refusal::new(status, words));
        let (uri, headers) = (request.uri(), request.headers());
        if request.version() != Version::HTTP_11 {
            return refuse(
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "this version of HTTP is not spoken; use HTTP/1.1",
            );
        }
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
            return refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "this method is not allowed; use GET, POST, PUT, PATCH or DELETE",
            );
        }
        if uri.scheme().is_some() || uri.authority().is_some() || !uri.path().starts_with('/') {
            return refuse(
                StatusCode::BAD_REQUEST,
                "the target of the request must be a path; use no proxy for this host",
            );
        }
        let uri_bytes = uri.path_and_query().map_or(0, |target| target.as_str().len());
        if uri_bytes > self.uri_bytes_max {
            return refuse(
                StatusCode::URI_TOO_LONG,
                "the address is too long; send searches as POST to _search",
            );
        }
        let lines = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + LINE_BYTES);
        if uri_bytes + lines.sum::<usize>() > self.head_bytes_max || headers.len() > self.headers_max {
            return refuse(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the headers of the request are too large; delete the cookies of this site and try again",
            );
        }
        if !is_plain(uri) {
            return refuse(
                StatusCode::BAD_REQUEST,
                "the address cannot be taken: it has dot segments, encoded slashes or bytes that must be encoded",
            );
        }
        self.check_host(headers)?;
        if ONCE.iter().any(|name| headers.get_all(name).iter().nth(1).is_some()) {
            return refuse(StatusCode::BAD_REQUEST, "a header that can stand once stands twice");
        }
        if headers.contains_key(header::UPGRADE) {
            return refuse(
                StatusCode::BAD_REQUEST,
                "no other protocol is spoken; send the request without Upgrade",
            );
        }
        if headers
            .get(header::EXPECT)
            .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        {
            return refuse(
                StatusCode::EXPECTATION_FAILED,
                "only 100-continue can be expected; send the request without Expect",
            );
        }
        if request.body().size_hint().lower() > self.body_bytes_max {
            return Err(Refusal::too_large());
        }
        Ok(())
    }

    fn check_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(header::HOST).into_iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "a request must have one Host header"));
        };
        let known = |name: &String| name.as_bytes().eq_ignore_ascii_case(host.as_bytes());
        if self.hosts.is_empty() || self.hosts.iter().any(known) {
            return Ok(());
        }
        Err(Refusal::new(
            StatusCode::MISDIRECTED_REQUEST,
            "this host name is not served here; use the address that your administrator gave you",
        ))
    }
}

/// Whether every tier will see the same path: nothing that some would decode, shorten or treat as a separator.
fn is_plain(uri: &Uri) -> bool {
    let visible = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    uri.query().is_none_or(|query| query.bytes().all(visible))
        && uri.path().bytes().all(visible)
        && uri.path().split('/').all(is_plain_segment)
}

fn is_plain_segment(segment: &str) -> bool {
    let mut dots_only = !segment.is_empty();
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let meant = match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
                    return false;
                };
                let meant = u8::try_from(high << 4 | low).unwrap_or(0);
                if meant.is_ascii_control() || matches!(meant, b'/' | b'\\') {
                    return false;
                }
                meant
            }
            byte => byte,
        };
        dots_only &= meant == b'.';
    }
    // `.` and `..` are ways up and down; more dots are, to some.
    !dots_only
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::*;
    use crate::EdgeLimits;

    fn bounds() -> Bounds {
        let limits = EdgeLimits::default();
        Bounds {
            body_bytes_max: 10,
            uri_bytes_max: 100,
            head_bytes_max: 1000,
            headers_max: limits.headers,
            hosts: vec!["ward.example".to_owned(), "localhost:8443".to_owned()],
        }
    }

    fn checked(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> u16 {
        let request = Request::builder().header("host", "ward.example");
        let request = build(request).body(Empty::<&[u8]>::new()).unwrap();
        bounds().check(&request).map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn plain_paths_pass_and_others_do_not() {
        for path in [
            "/",
            "/a/b.c/..d/%C3%A9",
            "/a//b",
            "/x?q=a%2Fb/../c",
            "/fhir/R4/Patient/1/$everything",
            "/a.",
            "/a%20b",
        ] {
            assert_eq!(checked(|request| request.uri(path)), 200, "{path}");
        }
        for path in [
            "/..",
            "/a/../b",
            "/./a",
            "/a/.",
            "/%2e%2E/a",
            "/.%2e",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a%00",
            "/a%0d%0aX",
            "/a%7f",
            "/a%",
            "/a%4",
            "/a%zz",
            "/...",
            "/é",
            "/a?é",
        ] {
            assert_eq!(checked(|request| request.uri(path)), 400, "{path}");
        }
        // Those that the URI type itself would not hold never come this far.
        assert!(!is_plain_segment("a%5Cb"));
    }

    #[test]
    fn each_bound_has_its_status() {
        assert_eq!(checked(|request| request.uri(format!("/{}", "a".repeat(100)))), 414);
        assert_eq!(checked(|request| request.header("x", "a".repeat(1000))), 431);
        assert_eq!(checked(|request| request.header("host", "ward.example")), 400);
        assert_eq!(checked(|request| request.header("authorization", "a").header("authorization", "b")), 400);
        assert_eq!(
            checked(|request| (0..100).fold(request, |request, n| request.header(format!("x-{n}"), ""))),
            431
        );
        assert_eq!(checked(|request| request.method("TRACE")), 405);
        assert_eq!(checked(|request| request.method("CONNECT").uri("ward.example:443")), 405);
        assert_eq!(checked(|request| request.method("OPTIONS").uri("*")), 400);
        assert_eq!(checked(|request| request.uri("https://ward.example/")), 400);
        assert_eq!(checked(|request| request.header("upgrade", "websocket")), 400);
        assert_eq!(checked(|request| request.header("expect", "a-cookie")), 417);
        assert_eq!(checked(|request| request.header("expect", "100-Continue")), 200);
        assert_eq!(checked(|request| request.version(Version::HTTP_10)), 505);
    }

    #[test]
    fn only_known_hosts_are_served() {
        let host = |host: &str| {
            let request = Request::builder().header("host", host).body(Empty::<&[u8]>::new()).unwrap();
            bounds().check(&request).map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
        };
        assert_eq!(host("WARD.example"), 200);
        assert_eq!(host("localhost:8443"), 200);
        for other in [
            "localhost",
            "ward.example.",
            "ward.example:443",
            "evil.example",
            "",
            "ward.example, evil.example",
        ] {
            assert_eq!(host(other), 421, "{other}");
        }
    }
}
