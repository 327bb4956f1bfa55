//! The routes of the pages.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::map_response;
use axum::response::{IntoResponse as _, Redirect};
use axum::routing::{get, post};
use tower_http::csrf::CsrfLayer;
use ward_base::{Clock, Random, Secret};

use crate::app::App;
use crate::assets::asset;
use crate::headers::secured;
use crate::pages::{accesses, chart, enrol, find, observation, session, sign_in};
use crate::trouble::Trouble;

/// The longest form.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// What the pages work with.
pub(crate) struct Site {
    pub(crate) app: App,
    pub(crate) handle_key: Secret,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
}

/// The pages. There is no way from here to the app tier's own paths: what is not named is not found.
///
/// Forms come from `csrf`'s origin or from the host that was asked.
pub(crate) fn routes(site: Arc<Site>, csrf: CsrfLayer) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/", get(find::home))
        .route("/sign-in", get(sign_in::form).post(sign_in::password))
        .route("/sign-in/code", get(sign_in::code_form).post(sign_in::code))
        .route("/sign-out", post(session::sign_out))
        .route("/signed-out", get(session::signed_out))
        .route("/session/expired", get(session::expired))
        .route("/session/remaining", get(session::remaining))
        .route("/session/renew", post(session::renew))
        .route("/enrol/{token}", get(enrol::form).post(enrol::complete))
        // The address that a form with mistakes is shown under may be opened again.
        .route("/patients", get(|| async { Redirect::to("/") }).post(find::ask))
        .route("/patients/found/{search}", get(find::found))
        .route("/patients/{handle}", get(chart::chart))
        .route("/patients/{handle}/accesses", get(accesses::accesses))
        .route("/patients/{handle}/observations", get(observation::to_form).post(observation::add))
        .route("/patients/{handle}/observations/new", get(observation::form))
        .route("/assets/{hash}/{name}", get(asset))
        .fallback(|| async { Trouble::Missing })
        .method_not_allowed_fallback(|| async { Trouble::Missing })
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .layer(csrf.with_rejection_response(|_| Trouble::CrossSite.into_response()))
        .layer(map_response(secured))
        .with_state(site)
}
