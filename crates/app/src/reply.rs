//! An answer on its way out.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use ward_base::Timestamp;
use ward_transport::Body;

const FHIR: HeaderValue = HeaderValue::from_static("application/fhir+json; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Status, headers and body. Nothing of it is kept by anyone on the way: every reply forbids caches.
pub(crate) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Body,
}

impl Reply {
    fn new(status: StatusCode, media_type: HeaderValue, body: Body) -> Self {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::CONTENT_TYPE, media_type);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Self { status, headers, body }
    }

    /// FHIR JSON.
    pub(crate) fn fhir(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, FHIR, Body::full(body.into()))
    }

    /// Other JSON.
    pub(crate) fn json(status: StatusCode, body: &Value) -> Self {
        Self::new(status, JSON, Body::full(body.to_string().into_bytes()))
    }

    /// Lines of JSON.
    pub(crate) fn ndjson(content_type: &'static str, body: Body) -> Self {
        Self::new(StatusCode::OK, HeaderValue::from_static(content_type), body)
    }

    /// No body.
    pub(crate) fn empty(status: StatusCode) -> Self {
        let mut reply = Self::new(status, FHIR, Body::empty());
        reply.headers.remove(header::CONTENT_TYPE);
        reply
    }

    /// Sets a header.
    pub(crate) fn header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    /// Sets `ETag`.
    #[must_use]
    pub(crate) fn tagged(mut self, version: u64) -> Self {
        if let Ok(tag) = HeaderValue::try_from(format!("W/\"{version}\"")) {
            self.header(header::ETAG, tag);
        }
        self
    }

    /// Sets `ETag` and `Last-Modified`.
    #[must_use]
    pub(crate) fn versioned(self, version: u64, updated: Timestamp) -> Self {
        let mut reply = self.tagged(version);
        if let Some(date) = http_date(updated).and_then(|date| HeaderValue::try_from(date).ok()) {
            reply.header(header::LAST_MODIFIED, date);
        }
        reply
    }

    /// Sets `Location`.
    #[must_use]
    pub(crate) fn located(mut self, url: &str) -> Self {
        if let Ok(value) = HeaderValue::try_from(url) {
            self.header(header::LOCATION, value);
        }
        self
    }

    /// The status.
    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// Without its body, as HEAD wants it.
    #[must_use]
    pub(crate) fn without_body(mut self) -> Self {
        self.body = Body::empty();
        self
    }

    /// The response.
    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// A moment as RFC 9110, section 5.6.7, writes it.
fn http_date(moment: Timestamp) -> Option<String> {
    let moment = jiff::Timestamp::from_second(moment.seconds()).ok()?;
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&moment).ok()
}

/// Reads [`http_date`].
pub(crate) fn read_http_date(text: &str) -> Option<Timestamp> {
    let moment = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Timestamp(moment.as_microsecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_http() {
        let moment = Timestamp(784_111_777_000_000);
        assert_eq!(http_date(moment).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(read_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(moment));
        assert_eq!(read_http_date("yesterday"), None);
    }
}
