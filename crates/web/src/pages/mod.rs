//! The pages. Each handler asks the app tier, makes a plain struct of the answer, and renders one template.
//!
//! Titles hold no patient's name: browsers keep them in their history.

pub(crate) mod accesses;
pub(crate) mod chart;
pub(crate) mod enrol;
pub(crate) mod find;
pub(crate) mod observation;
pub(crate) mod session;
pub(crate) mod sign_in;

use askama::Template;
use axum::response::{Html, IntoResponse as _, Response};
use http::StatusCode;
use serde_json::Value;
use ward_base::{Phi, ResourceId};
use zeroize::Zeroizing;

use crate::app::Me;
use crate::assets::{Assets, assets};
use crate::handle::Kind;
use crate::observation::FieldError;
use crate::site::Site;
use crate::trouble::Trouble;
use crate::visit::Signed;

/// What the frame of every page needs.
pub(crate) struct Layout {
    title: &'static str,
    /// Something typed is to be corrected.
    wrong: bool,
    me: Option<Me>,
    assets: &'static Assets,
}

impl Layout {
    /// A page for somebody signed in.
    pub(crate) fn signed_in(title: &'static str, me: Me) -> Self {
        Self { title, wrong: false, me: Some(me), assets: assets() }
    }

    /// A page for anybody.
    pub(crate) fn open(title: &'static str) -> Self {
        Self { title, wrong: false, me: None, assets: assets() }
    }

    fn with_errors(mut self, errors: &[FieldError]) -> Self {
        self.wrong = !errors.is_empty();
        self
    }
}

/// A page of a heading, a paragraph and perhaps a way on.
#[derive(Template)]
#[template(path = "message.html")]
pub(crate) struct Message {
    layout: Layout,
    words: &'static str,
    /// Address and text.
    link: Option<(&'static str, &'static str)>,
}

impl Message {
    /// The whole page, for anybody.
    pub(crate) fn page(
        title: &'static str,
        words: &'static str,
        link: Option<(&'static str, &'static str)>,
    ) -> Response {
        let message = Self { layout: Layout::open(title), words, link };
        match message.render() {
            Ok(page) => Html(page).into_response(),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, title).into_response(),
        }
    }
}

/// Renders a page.
fn html(page: &impl Template) -> Result<Response, Trouble> {
    page.render().map(|page| Html(page).into_response()).map_err(|_| Trouble::Unavailable)
}

/// Renders a form that is to be corrected.
fn unprocessable(page: &impl Template) -> Result<Response, Trouble> {
    let mut response = html(page)?;
    *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
    Ok(response)
}

/// The patient's id that a handle of this session stands for.
fn patient_id(signed: &Signed, handle: &str) -> Result<Phi<String>, Trouble> {
    let value = signed.handles.open(Kind::Patient, handle).ok_or(Trouble::Missing)?;
    let id = value.expose().strip_prefix("Patient/").ok_or(Trouble::Missing)?;
    ResourceId::parse(id).map_err(|_| Trouble::Missing)?;
    Ok(Phi::new(id.to_owned()))
}

/// The patient with the lines for the head of the page, and who is looking.
async fn patient_and_me(
    site: &Site,
    signed: &Signed,
    id: &Phi<String>,
) -> Result<(crate::view::patient::Patient, Me), Trouble> {
    let (me, patient) =
        tokio::join!(site.app.me(&signed.visit, false), site.app.patient(&signed.visit, id.expose()));
    let me = me?;
    Ok((read_patient(site, &patient?), me))
}

fn read_patient(site: &Site, resource: &Phi<Value>) -> crate::view::patient::Patient {
    crate::view::patient::Patient::new(resource.expose(), site.clock.now())
}

/// A code as it is meant (many apps show `123 456`), or what to correct.
fn six_digits(code: &str) -> Result<Zeroizing<String>, FieldError> {
    let code: Zeroizing<String> =
        Zeroizing::new(code.chars().filter(|character| !character.is_whitespace()).collect());
    if code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(code)
    } else {
        Err(FieldError::new("code", "Enter the six digits that the app shows."))
    }
}

fn has_error(errors: &[FieldError], field: &str) -> bool {
    errors.iter().any(|error| error.field == field)
}
