//! Finding a patient.
//!
//! What is typed goes in the body of a form and comes back as a sealed handle in the address of the results, so
//! that going back and forth works and no name stands in a URL.

use std::sync::Arc;

use askama::Template;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ward_base::Phi;

use super::{Layout, has_error, html, unprocessable};
use crate::form::Form;
use crate::handle::{Handles, Kind};
use crate::observation::FieldError;
use crate::site::Site;
use crate::trouble::Trouble;
use crate::view::patient::Patient;
use crate::view::{has_more, resources, text};
use crate::visit::Signed;

const HITS_MAX: &str = "50";
const CHARACTERS_MAX: usize = 100;
const WORDS_MAX: usize = 6;

/// What was typed.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Asked {
    #[serde(default)]
    name: String,
    #[serde(default)]
    birth_date: String,
    #[serde(default)]
    identifier: String,
}

struct Hit {
    handle: String,
    patient: Patient,
}

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage {
    layout: Layout,
    asked: Asked,
    found: Option<Vec<Hit>>,
    more: bool,
    errors: Vec<FieldError>,
}

impl HomePage {
    fn is_wrong(&self, field: &str) -> bool {
        has_error(&self.errors, field)
    }
}

/// `GET /`.
pub(crate) async fn home(State(site): State<Arc<Site>>, signed: Signed) -> Result<Response, Trouble> {
    let me = site.app.me(&signed.visit, false).await?;
    let layout = Layout::signed_in("Find a patient", me);
    html(&HomePage { layout, asked: Asked::default(), found: None, more: false, errors: vec![] })
}

/// `POST /patients`.
pub(crate) async fn ask(
    State(site): State<Arc<Site>>,
    signed: Signed,
    Form(asked): Form<Asked>,
) -> Result<Response, Trouble> {
    let errors = asked.mistakes();
    if !errors.is_empty() {
        let me = site.app.me(&signed.visit, false).await?;
        let layout = Layout::signed_in("Find a patient", me).with_errors(&errors);
        return unprocessable(&HomePage { layout, asked, found: None, more: false, errors });
    }
    let value = serde_json::to_string(&asked).map_err(|_| Trouble::Refused)?;
    let handle =
        signed.handles.seal(Kind::Search, &Phi::new(value), site.random.as_ref()).ok_or(Trouble::Refused)?;
    Ok(Redirect::to(&format!("/patients/found/{handle}")).into_response())
}

/// `GET /patients/found/{search}`.
pub(crate) async fn found(
    State(site): State<Arc<Site>>,
    signed: Signed,
    Path(handle): Path<String>,
) -> Result<Response, Trouble> {
    let sealed = signed.handles.open(Kind::Search, &handle).ok_or(Trouble::Missing)?;
    let asked: Asked = serde_json::from_str(sealed.expose()).map_err(|_| Trouble::Missing)?;
    let parameters = asked.parameters();
    let borrowed: Vec<(&str, &str)> =
        parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (me, answer) =
        tokio::join!(site.app.me(&signed.visit, false), site.app.search(&signed.visit, "Patient", &borrowed));
    let (me, answer) = (me?, answer?);
    let found = hits(&site, &signed.handles, answer.expose()).ok_or(Trouble::Unavailable)?;
    let layout = Layout::signed_in("Patients found", me);
    html(&HomePage { layout, asked, found: Some(found), more: has_more(answer.expose()), errors: vec![] })
}

fn hits(site: &Site, handles: &Handles, bundle: &Value) -> Option<Vec<Hit>> {
    let now = site.clock.now();
    let mut hits = Vec::new();
    for resource in resources(bundle) {
        let Some(id) = text::at(resource, "/id") else { continue };
        let handle = handles.seal(Kind::Patient, &Phi::new(format!("Patient/{id}")), site.random.as_ref())?;
        hits.push(Hit { handle, patient: Patient::new(resource, now) });
    }
    hits.sort_by_cached_key(|hit| (hit.patient.name.to_lowercase(), hit.patient.birth_date.clone()));
    Some(hits)
}

impl Asked {
    fn mistakes(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let birth_date = self.birth_date.trim();
        if self.name.trim().is_empty() && birth_date.is_empty() && self.identifier.trim().is_empty() {
            errors.push(FieldError::new("name", "Enter a name, a birth date or an identifier."));
        }
        for (field, typed) in [("name", &self.name), ("identifier", &self.identifier)] {
            if typed.chars().count() > CHARACTERS_MAX {
                errors.push(FieldError::new(field, "Enter at most 100 characters."));
            }
        }
        if !birth_date.is_empty() && (birth_date.len() > 10 || text::days(birth_date).is_none()) {
            errors.push(FieldError::new(
                "birth_date",
                "Enter the birth date as year-month-day, such as 1980-05-17.",
            ));
        }
        errors
    }

    /// As FHIR search parameters. Each word of a name must fit, in any order.
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters: Vec<(&'static str, String)> =
            self.name.split_whitespace().take(WORDS_MAX).map(|word| ("name", literal(word))).collect();
        let birth_date = self.birth_date.trim();
        if !birth_date.is_empty() {
            parameters.push(("birthdate", birth_date.to_owned()));
        }
        let identifier = self.identifier.trim();
        if !identifier.is_empty() {
            // `system|value` may be typed; a bare value fits in any system.
            parameters.push(("identifier", literal(identifier).replace("\\|", "|")));
        }
        parameters.push(("_count", HITS_MAX.to_owned()));
        parameters
    }
}

/// Text without the meaning that FHIR search gives to some characters
/// (<https://hl7.org/fhir/R4/search.html#escaping>).
fn literal(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '\\' | ',' | '$' | '|') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, birth_date: &str, identifier: &str) -> Asked {
        let [name, birth_date, identifier] = [name, birth_date, identifier].map(str::to_owned);
        Asked { name, birth_date, identifier }
    }

    #[test]
    fn words_of_a_name_are_asked_for_one_by_one_and_literally() {
        let asked = asked(" Ada  Love,lace ", "1815-12-10", "urn:x|A$7");
        let parameters = asked.parameters();
        let expected = [
            ("name", "Ada"),
            ("name", "Love\\,lace"),
            ("birthdate", "1815-12-10"),
            ("identifier", "urn:x|A\\$7"),
            ("_count", "50"),
        ];
        assert!(parameters.iter().map(|(name, value)| (*name, value.as_str())).eq(expected));
    }

    #[test]
    fn mistakes_are_named() {
        let fields = |asked: Asked| asked.mistakes().iter().map(|error| error.field).collect::<Vec<_>>();
        assert_eq!(fields(asked("", " ", "")), ["name"]);
        assert_eq!(fields(asked("", "10.12.1815", "")), ["birth_date"]);
        assert_eq!(fields(asked("", "1815-12-10T00:00:00Z", "")), ["birth_date"]);
        assert_eq!(fields(asked(&"x".repeat(101), "1815", "7")), ["name"]);
        assert_eq!(fields(asked("", "1815", "")), [""; 0]);
    }
}
