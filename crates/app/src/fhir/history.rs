//! History of a resource, a type or everything (<https://hl7.org/fhir/R4/http.html#history>).

use http::StatusCode;
use ward_audit::Class;
use ward_base::Timestamp;
use ward_fhir::outcome::IssueCode;
use ward_identity::Permission;
use ward_store::{HistoryPage, HistoryScope, Page, Stored};

use super::media;
use super::text::{BundleText, full_url, response};
use crate::app::App;
use crate::call::Call;
use crate::cursor::Cursor;
use crate::form;
use crate::problem::Problem;
use crate::reply::Reply;

/// Entries of a page if none are asked for.
pub(crate) const PAGE_SIZE: u32 = 50;

/// `GET …/_history`.
pub(crate) async fn history(
    call: &mut Call,
    scope: HistoryScope,
    query: Option<&str>,
) -> Result<Reply, Problem> {
    let (kind, permission) = match &scope {
        HistoryScope::Instance(key) => (Some(key.resource_type), Permission::History),
        HistoryScope::Type(kind) => (Some(*kind), Permission::TypeHistory),
        HistoryScope::System => (None, Permission::TypeHistory),
    };
    call.doing(Class::Rest, "history", kind);
    if let HistoryScope::Instance(key) = &scope {
        call.about(key, None);
    }
    media::acceptable(call, query)?;
    call.permit(permission, kind)?;
    let page = page(call, &place(&scope), query)?;
    let (scope, count, found) = call
        .app
        .store
        .read(move |session| {
            let found = session.history(&scope, &page)?;
            Ok::<_, Problem>((scope, page.count, found))
        })
        .await?;
    if matches!(scope, HistoryScope::Instance(_)) && found.total.is_none() {
        return Err(Problem::not_found());
    }
    for stored in &found.entries {
        call.touches(&stored.patients, 1);
    }
    let text = text(&call.app, &call.account()?, call.now, &scope, count, found)?;
    Ok(Reply::fhir(StatusCode::OK, text))
}

/// The Bundle of what was found.
pub(crate) fn text(
    app: &App,
    account: &str,
    now: Timestamp,
    scope: &HistoryScope,
    count: u32,
    found: HistoryPage,
) -> Result<Vec<u8>, Problem> {
    let (base, place) = (&app.settings.base, place(scope));
    let mut links = vec![("self", format!("{base}/{place}"))];
    if let Some(next) = &found.next {
        let cursor = Cursor::new(&place, &[], count, Some(next), now);
        let text = app.cursors.seal(&cursor, account, &*app.random).ok_or_else(Problem::internal)?;
        links.push(("next", format!("{base}/{place}?_cursor={text}")));
    }
    Ok(bundle(base, found, &links))
}

/// The address after the base.
fn place(scope: &HistoryScope) -> String {
    match scope {
        HistoryScope::Instance(key) => format!("{}/{}/_history", key.resource_type, key.id.as_str()),
        HistoryScope::Type(kind) => format!("{kind}/_history"),
        HistoryScope::System => "_history".to_owned(),
    }
}

fn page(call: &Call, place: &str, query: Option<&str>) -> Result<Page, Problem> {
    let mut page = Page { count: PAGE_SIZE, after: None };
    for (name, value) in form::pairs(query.unwrap_or_default().as_bytes())? {
        match name.as_str() {
            "_cursor" => {
                let cursor = call.app.cursors.open(&value, place, &call.account()?, call.now)?;
                page = Page { count: cursor.count, after: cursor.position()? };
            }
            "_count" => {
                let words = "`_count` must be a whole number";
                let count: u32 = value.parse().map_err(|_| Problem::malformed(IssueCode::Value, words))?;
                page.count = count.min(call.app.settings.limits.page_size);
            }
            "_format" | "_pretty" => {}
            _ => {
                let words = "history takes `_count` only; `_since` and `_at` are not supported yet";
                return Err(Problem::malformed(IssueCode::NotSupported, words));
            }
        }
    }
    Ok(page)
}

fn bundle(base: &str, found: HistoryPage, links: &[(&str, String)]) -> Vec<u8> {
    let mut bundle = BundleText::new("history", found.total, links);
    for stored in found.entries {
        let url = full_url(base, &stored);
        let (request, status) = request(&stored);
        let response = response(status, None, Some((stored.version, stored.updated)), &[]);
        let (resource, body): (&[u8], &[u8]) =
            if stored.deleted { (b"", b"") } else { (b",\"resource\":", stored.body.expose()) };
        bundle.entry(&[url.as_bytes(), resource, body, b",", request.as_bytes(), b",", response.as_bytes()]);
    }
    bundle.finish()
}

/// `"request":{…}` by which a version came to be, and its status.
fn request(stored: &Stored) -> (String, StatusCode) {
    let kind = stored.key.resource_type;
    let of_one = format!("{kind}/{}", stored.key.id.as_str());
    let (method, url, status) = match (stored.deleted, stored.version) {
        (true, _) => ("DELETE", of_one, StatusCode::NO_CONTENT),
        (false, 1) => ("POST", kind.name().to_owned(), StatusCode::CREATED),
        (false, _) => ("PUT", of_one, StatusCode::OK),
    };
    (format!("\"request\":{{\"method\":\"{method}\",\"url\":\"{url}\"}}"), status)
}
