//! Adding a vital sign.

use std::sync::Arc;

use askama::Template;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Redirect, Response};

use super::{Layout, has_error, html, patient_and_me, patient_id, unprocessable};
use crate::form::Form;
use crate::observation::{FieldError, Typed, Unit, VITAL_SIGNS, VitalSign, check, now_for_form, units};
use crate::site::Site;
use crate::trouble::Trouble;
use crate::view::patient::Patient;
use crate::visit::Signed;

#[derive(Template)]
#[template(path = "observation.html")]
struct ObservationPage {
    layout: Layout,
    handle: String,
    patient: Patient,
    vital_signs: &'static [VitalSign],
    units: Vec<Unit>,
    typed: Typed,
    errors: Vec<FieldError>,
}

impl ObservationPage {
    fn is_wrong(&self, field: &str) -> bool {
        has_error(&self.errors, field)
    }
}

/// `GET /patients/{handle}/observations/new`.
pub(crate) async fn form(
    State(site): State<Arc<Site>>,
    signed: Signed,
    Path(handle): Path<String>,
) -> Result<Response, Trouble> {
    let typed = Typed { effective: now_for_form(site.clock.now()), ..Typed::default() };
    html(&page(&site, &signed, handle, typed, vec![]).await?)
}

/// `GET /patients/{handle}/observations`: a form with mistakes is shown under this address.
pub(crate) async fn to_form(signed: Signed, Path(handle): Path<String>) -> Result<Redirect, Trouble> {
    patient_id(&signed, &handle)?;
    Ok(Redirect::to(&format!("/patients/{handle}/observations/new")))
}

/// `POST /patients/{handle}/observations`.
pub(crate) async fn add(
    State(site): State<Arc<Site>>,
    signed: Signed,
    Path(handle): Path<String>,
    Form(typed): Form<Typed>,
) -> Result<Response, Trouble> {
    let id = patient_id(&signed, &handle)?;
    match check(&typed, id.expose(), site.clock.now()) {
        Ok(observation) => {
            site.app.create(&signed.visit, "Observation", &observation).await?;
            Ok(Redirect::to(&format!("/patients/{handle}?saved")).into_response())
        }
        Err(errors) => unprocessable(&page(&site, &signed, handle, typed, errors).await?),
    }
}

async fn page(
    site: &Site,
    signed: &Signed,
    handle: String,
    typed: Typed,
    errors: Vec<FieldError>,
) -> Result<ObservationPage, Trouble> {
    let id = patient_id(signed, &handle)?;
    let (patient, me) = patient_and_me(site, signed, &id).await?;
    let layout = Layout::signed_in("Add a measurement", me).with_errors(&errors);
    Ok(ObservationPage { layout, handle, patient, vital_signs: &VITAL_SIGNS, units: units(), typed, errors })
}
