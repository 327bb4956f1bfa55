//! Signing out, and the idle warning's questions.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::Message;
use crate::cookie;
use crate::site::Site;
use crate::trouble::Trouble;
use crate::visit::Visit;

/// `POST /sign-out`. The browser forgets the token even if the app tier cannot be told just now; the session then
/// ends by itself.
pub(crate) async fn sign_out(State(site): State<Arc<Site>>, visit: Visit) -> Response {
    if visit.session.is_some() {
        let _ = site.app.sign_out(&visit).await;
    }
    let mut response = Redirect::to("/signed-out").into_response();
    response.headers_mut().append(header::SET_COOKIE, HeaderValue::from_static(cookie::NO_SESSION));
    response
}

/// `GET /signed-out`.
pub(crate) async fn signed_out() -> Response {
    Message::page(
        "You are signed out",
        "Nothing of the records stays on this device.",
        Some(("/sign-in", "Sign in")),
    )
}

/// `GET /session/expired`.
pub(crate) async fn expired() -> Response {
    Message::page(
        "Your session has ended",
        "Nothing had happened for a while, or it had lasted for long. What was not saved is gone.",
        Some(("/sign-in", "Sign in again")),
    )
}

/// `GET /session/remaining`: how many seconds are left. Asking does not count as being there.
///
/// A script asks, so that nobody is signed in must be a status: a redirect to a page would look like an answer.
pub(crate) async fn remaining(State(site): State<Arc<Site>>, visit: Visit) -> Response {
    seconds(&site, &visit, true).await
}

/// `POST /session/renew`: the person is there.
pub(crate) async fn renew(State(site): State<Arc<Site>>, visit: Visit) -> Response {
    seconds(&site, &visit, false).await
}

async fn seconds(site: &Site, visit: &Visit, passive: bool) -> Response {
    match site.app.me(visit, passive).await {
        Ok(me) => Json(json!({"remaining": me.remaining})).into_response(),
        Err(Trouble::Ended) => StatusCode::UNAUTHORIZED.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
