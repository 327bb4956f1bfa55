//! Signing in: user name and password, then the code on a page of its own.

use std::sync::Arc;

use askama::Template;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use http::{HeaderValue, header};
use serde::Deserialize;
use ward_base::Secret;
use zeroize::Zeroizing;

use super::{Layout, html, six_digits, unprocessable};
use crate::cookie;
use crate::form::Form;
use crate::observation::FieldError;
use crate::site::Site;
use crate::trouble::Trouble;
use crate::visit::Visit;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    layout: Layout,
    enrolled: bool,
    username: String,
    errors: Vec<FieldError>,
}

#[derive(Template)]
#[template(path = "code.html")]
struct CodePage {
    layout: Layout,
    errors: Vec<FieldError>,
}

/// The first form.
#[derive(Deserialize)]
pub(crate) struct Password {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: Zeroizing<String>,
}

/// The second form.
#[derive(Deserialize)]
pub(crate) struct Code {
    #[serde(default)]
    code: Zeroizing<String>,
}

/// `GET /sign-in`.
pub(crate) async fn form(RawQuery(query): RawQuery) -> Result<Response, Trouble> {
    let enrolled = query.as_deref() == Some("enrolled");
    html(&SignInPage { layout: Layout::open("Sign in"), enrolled, username: String::new(), errors: vec![] })
}

/// `POST /sign-in`.
pub(crate) async fn password(
    State(site): State<Arc<Site>>,
    visit: Visit,
    Form(typed): Form<Password>,
) -> Result<Response, Trouble> {
    let again = |username: String, error: FieldError| {
        let errors = vec![error];
        let layout = Layout::open("Sign in").with_errors(&errors);
        unprocessable(&SignInPage { layout, enrolled: false, username, errors })
    };
    if typed.username.trim().is_empty() {
        return again(String::new(), FieldError::new("username", "Enter your user name."));
    }
    if typed.password.is_empty() {
        return again(typed.username, FieldError::new("password", "Enter your password."));
    }
    match site.app.sign_in(&visit, &typed.username, &typed.password).await {
        Ok(challenge) => {
            let value = text(&challenge).and_then(cookie::set_challenge).ok_or(Trouble::Unavailable)?;
            let mut response = Redirect::to("/sign-in/code").into_response();
            response.headers_mut().append(header::SET_COOKIE, value);
            Ok(response)
        }
        Err(Trouble::Locked) => Err(Trouble::Locked),
        Err(Trouble::Unavailable) => Err(Trouble::Unavailable),
        Err(_) => again(typed.username, FieldError::new("username", "User name or password is not right.")),
    }
}

/// `GET /sign-in/code`.
pub(crate) async fn code_form(visit: Visit) -> Result<Response, Trouble> {
    if visit.challenge.is_none() {
        return Err(Trouble::SignedOut);
    }
    html(&CodePage { layout: Layout::open("Enter your code"), errors: vec![] })
}

/// `POST /sign-in/code`.
pub(crate) async fn code(
    State(site): State<Arc<Site>>,
    visit: Visit,
    Form(typed): Form<Code>,
) -> Result<Response, Trouble> {
    let Some(challenge) = visit.challenge.as_ref() else { return Err(Trouble::SignedOut) };
    let challenge = text(challenge).ok_or(Trouble::SignedOut)?;
    let again = |error: FieldError| {
        let errors = vec![error];
        let layout = Layout::open("Enter your code").with_errors(&errors);
        unprocessable(&CodePage { layout, errors })
    };
    // What cannot be a code must not count towards the lock.
    let code = match six_digits(&typed.code) {
        Ok(code) => code,
        Err(error) => return again(error),
    };
    match site.app.second_factor(&visit, challenge, &code).await {
        Ok(session) => {
            let value = text(&session).and_then(cookie::set_session).ok_or(Trouble::Unavailable)?;
            let mut response = Redirect::to("/").into_response();
            response.headers_mut().append(header::SET_COOKIE, value);
            response.headers_mut().append(header::SET_COOKIE, HeaderValue::from_static(cookie::NO_CHALLENGE));
            Ok(response)
        }
        Err(trouble @ (Trouble::Locked | Trouble::Unavailable)) => Err(trouble),
        Err(_) => again(FieldError::new(
            "code",
            "The user name, the password or this code is not right, the code was used before, or this took too \
             long. Wait for the next code, or start again.",
        )),
    }
}

fn text(secret: &Secret) -> Option<&str> {
    std::str::from_utf8(secret.expose()).ok()
}
