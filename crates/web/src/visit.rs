//! What a page needs to know of its request, and nothing more: who it seems to be, and what the tiers behind
//! have to be told.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ward_base::Secret;

use crate::cookie;
use crate::handle::Handles;
use crate::site::Site;
use crate::trouble::Trouble;

/// Headers that go on to the app tier: the request's id, whom it came from, and what the audit log keeps.
const PASSED_ON: [HeaderName; 5] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    header::HOST,
    header::USER_AGENT,
];

/// One request for a page.
pub(crate) struct Visit {
    pub(crate) passed_on: HeaderMap,
    pub(crate) session: Option<Secret>,
    pub(crate) challenge: Option<Secret>,
}

/// A request that carries a session's token. Whether the session lives, the app tier says with its first answer.
pub(crate) struct Signed {
    pub(crate) visit: Visit,
    pub(crate) handles: Handles,
}

impl Visit {
    fn new(headers: &HeaderMap) -> Self {
        let mut passed_on = HeaderMap::with_capacity(PASSED_ON.len());
        for name in PASSED_ON {
            if let Some(value) = headers.get(&name) {
                passed_on.insert(name, value.clone());
            }
        }
        Self { passed_on, session: cookie::session(headers), challenge: cookie::challenge(headers) }
    }

    /// The `Authorization` header of the session.
    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        let token = self.session.as_ref()?.expose();
        let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl FromRequestParts<Arc<Site>> for Visit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Site>) -> Result<Self, Infallible> {
        Ok(Self::new(&parts.headers))
    }
}

impl FromRequestParts<Arc<Site>> for Signed {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Trouble> {
        let visit = Visit::new(&parts.headers);
        let session = visit.session.as_ref().ok_or(Trouble::SignedOut)?;
        let handles = Handles::new(&site.handle_key, session).ok_or(Trouble::Unavailable)?;
        Ok(Self { visit, handles })
    }
}
