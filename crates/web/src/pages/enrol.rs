//! Accepting an invitation: password and second factor.

use std::sync::Arc;

use askama::Template;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use qrcode::QrCode;
use qrcode::render::svg;
use serde::Deserialize;
use ward_base::Secret;
use zeroize::Zeroizing;

use super::{Layout, Message, has_error, html, six_digits, unprocessable};
use crate::app::Enrolment;
use crate::cookie::is_token;
use crate::form::Form;
use crate::observation::FieldError;
use crate::site::Site;
use crate::trouble::Trouble;
use crate::visit::Visit;

#[derive(Template)]
#[template(path = "enrol.html")]
struct EnrolPage {
    layout: Layout,
    token: String,
    username: String,
    secret: String,
    /// An `<svg>` element.
    qr: String,
    errors: Vec<FieldError>,
}

/// The form.
#[derive(Deserialize)]
pub(crate) struct Chosen {
    #[serde(default)]
    password: Zeroizing<String>,
    #[serde(default)]
    password_again: Zeroizing<String>,
    #[serde(default)]
    code: Zeroizing<String>,
}

impl EnrolPage {
    fn new(token: String, enrolment: &Enrolment, errors: Vec<FieldError>) -> Result<Self, Trouble> {
        let layout = Layout::open("Set up your account").with_errors(&errors);
        let qr = qr(&enrolment.otpauth_uri).ok_or(Trouble::Unavailable)?;
        let secret = grouped(&enrolment.totp_secret);
        Ok(Self { layout, token, username: enrolment.username.clone(), secret, qr, errors })
    }

    fn is_wrong(&self, field: &str) -> bool {
        has_error(&self.errors, field)
    }
}

/// `GET /enrol/{token}`.
pub(crate) async fn form(
    State(site): State<Arc<Site>>,
    visit: Visit,
    Path(token): Path<String>,
) -> Result<Response, Trouble> {
    match invitation(&site, &visit, &token).await? {
        Some(enrolment) => html(&EnrolPage::new(token, &enrolment, vec![])?),
        None => Ok(used()),
    }
}

/// `POST /enrol/{token}`.
pub(crate) async fn complete(
    State(site): State<Arc<Site>>,
    visit: Visit,
    Path(token): Path<String>,
    Form(chosen): Form<Chosen>,
) -> Result<Response, Trouble> {
    let Some(enrolment) = invitation(&site, &visit, &token).await? else { return Ok(used()) };
    let errors = match checked(&chosen, &enrolment.username) {
        Ok(code) => match site.app.enrol(&visit, &token, &chosen.password, &code).await {
            Ok(()) => return Ok(Redirect::to("/sign-in?enrolled").into_response()),
            Err(trouble @ (Trouble::Unavailable | Trouble::Locked)) => return Err(trouble),
            Err(Trouble::Unknown) => return Ok(perhaps()),
            Err(_) => vec![FieldError::new(
                "code",
                "This code does not fit. Check the clock of your phone, wait for the next code and enter that.",
            )],
        },
        Err(errors) => errors,
    };
    unprocessable(&EnrolPage::new(token, &enrolment, errors)?)
}

/// What the link leads to; `None` if it was used, has ended or never was.
async fn invitation(site: &Site, visit: &Visit, token: &str) -> Result<Option<Enrolment>, Trouble> {
    if !is_token(token) {
        return Ok(None);
    }
    match site.app.enrolment(visit, token).await {
        Ok(enrolment) => Ok(Some(enrolment)),
        Err(trouble @ (Trouble::Unavailable | Trouble::Locked)) => Err(trouble),
        Err(_) => Ok(None),
    }
}

/// The answer to a completed form was lost.
fn perhaps() -> Response {
    let mut response = Message::page(
        "Perhaps not set up",
        "It is not known whether your account is set up. Try to sign in; if that does not work, open the link again.",
        Some(("/sign-in", "Sign in")),
    );
    *response.status_mut() = http::StatusCode::BAD_GATEWAY;
    response
}

fn used() -> Response {
    let mut response = Message::page(
        "This link is no longer good",
        "It works once and for 24 hours. If you have not used it, ask your administrator for a new one.",
        Some(("/sign-in", "Sign in")),
    );
    *response.status_mut() = http::StatusCode::GONE;
    response
}

/// The code, or everything that is to be corrected.
fn checked(chosen: &Chosen, username: &str) -> Result<Zeroizing<String>, Vec<FieldError>> {
    let mut errors = Vec::new();
    let password = Secret::new(chosen.password.as_bytes().to_vec());
    if let Err(weakness) = ward_identity::password::check(&password, username) {
        errors.push(FieldError::new("password", weakness.to_string()));
    } else if chosen.password != chosen.password_again {
        errors.push(FieldError::new("password_again", "The two passwords are not the same."));
    }
    match six_digits(&chosen.code) {
        Ok(code) if errors.is_empty() => Ok(code),
        code => {
            errors.extend(code.err());
            Err(errors)
        }
    }
}

/// The QR code, without the XML declaration that has no place in HTML, and with a name.
fn qr(uri: &str) -> Option<String> {
    let code = QrCode::new(uri).ok()?;
    let drawn = code.render::<svg::Color<'_>>().min_dimensions(200, 200).quiet_zone(false).build();
    let (_, attributes) = drawn.split_once("<svg ")?;
    Some(format!(
        "<svg role=\"img\" aria-label=\"QR code for the authenticator app; the key below is the same\" {attributes}"
    ))
}

/// In groups of four, as people type.
fn grouped(secret: &str) -> String {
    let characters: Vec<char> = secret.chars().collect();
    characters.chunks(4).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_shows_code_and_key_and_no_inline_style() {
        let enrolment = Enrolment {
            username: "ada<b>".to_owned(),
            totp_secret: "GEZDGNBVGY3TQOJQ".to_owned(),
            otpauth_uri: "otpauth://totp/Ward:ada?secret=GEZDGNBVGY3TQOJQ&issuer=Ward".to_owned(),
        };
        let page = EnrolPage::new("t".repeat(43), &enrolment, vec![]).unwrap().render().unwrap();
        assert!(page.contains("GEZD GNBV GY3T QOJQ"));
        assert!(page.contains("<svg role=\"img\" aria-label=\"QR code"));
        assert!(!page.contains("<?xml") && !page.contains("style="));
        assert!(page.contains("ada&#60;b&#62;"), "escaped");
    }

    #[test]
    fn mistakes_are_found_before_anything_is_sent() {
        let fields = |password: &str, again: &str, code: &str| {
            let typed = |text: &str| Zeroizing::new(text.to_owned());
            let chosen =
                Chosen { password: typed(password), password_again: typed(again), code: typed(code) };
            let errors = checked(&chosen, "ada").err().unwrap_or_default();
            errors.iter().map(|error| error.field).collect::<Vec<_>>()
        };
        assert_eq!(fields("quiet lamp over rivers", "quiet lamp over rivers", "123 456"), [""; 0]);
        assert_eq!(fields("quiet lamp over rivers", "another", "12345"), ["password_again", "code"]);
        assert_eq!(fields("short", "short", ""), ["password", "code"]);
    }
}
