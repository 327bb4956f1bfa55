//! Who has looked at a record.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::Value;

use super::{Layout, html, patient_and_me, patient_id};
use crate::site::Site;
use crate::trouble::Trouble;
use crate::view::patient::Patient;
use crate::view::text;
use crate::visit::Signed;

#[derive(Template)]
#[template(path = "accesses.html")]
struct AccessesPage {
    layout: Layout,
    handle: String,
    patient: Patient,
    accesses: Vec<Access>,
    /// Not all of them are shown.
    more: bool,
}

/// One line of the audit log, for reading.
struct Access {
    time: String,
    who: String,
    roles: String,
    action: String,
    resource_type: String,
    outcome: String,
    address: String,
}

/// `GET /patients/{handle}/accesses`.
pub(crate) async fn accesses(
    State(site): State<Arc<Site>>,
    signed: Signed,
    Path(handle): Path<String>,
) -> Result<Response, Trouble> {
    let id = patient_id(&signed, &handle)?;
    // The patient first: that this page was opened is an access too, and stands in the list.
    let (patient, me) = patient_and_me(&site, &signed, &id).await?;
    let answer = site.app.accesses(&signed.visit, id.expose()).await?;
    let answer = answer.expose();
    html(&AccessesPage {
        layout: Layout::signed_in("Who has looked at this record", me),
        handle,
        patient,
        accesses: text::items(answer, "accesses").iter().map(Access::new).collect(),
        more: answer.get("complete") == Some(&Value::Bool(false)),
    })
}

/// `Observation (27)`, where one request was about several.
fn counted(kind: String, entry: &Value) -> String {
    match entry.get("count").and_then(Value::as_u64) {
        Some(count) if count > 1 => format!("{kind} ({count})"),
        _ => kind,
    }
}

impl Access {
    fn new(entry: &Value) -> Self {
        let own = |name: &str| text::at(entry, name).unwrap_or_default().to_owned();
        let words = |name: &str| text::word(&own(name));
        let roles = text::items(entry, "roles").iter().filter_map(|role| role.as_str().map(text::word));
        Self {
            time: text::date(&own("/time")),
            who: own("/who"),
            roles: text::joined(roles).unwrap_or_default(),
            action: words("/action"),
            resource_type: counted(own("/resource_type"), entry),
            outcome: words("/outcome"),
            address: own("/address"),
        }
    }
}
