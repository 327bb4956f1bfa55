//! History of a resource, a type or everything (<https://hl7.org/fhir/R4/http.html#history>).

use http::StatusCode;
use ward_audit::Class;
use ward_base::Timestamp;
use ward_fhir::Moment;
use ward_fhir::outcome::IssueCode;
use ward_identity::Permission;
use ward_store::{HistoryPage, HistoryScope, Page, Session, Stored};

use super::media;
use super::text::{BundleText, full_url, response};
use crate::app::App;
use crate::call::Call;
use crate::cursor::Cursor;
use crate::form;
use crate::problem::Problem;
use crate::reply::Reply;

/// Entries of a page if none are asked for.
const PAGE_SIZE: u32 = 50;

/// What was asked, understood.
pub(crate) struct Asked {
    pub(crate) scope: HistoryScope,
    page: Page,
    /// Versions from then on.
    since: Option<Timestamp>,
}

impl Asked {
    /// Understands the parameters of a history, or the paging link that stands for them.
    pub(crate) fn read(
        app: &App,
        account: &str,
        now: Timestamp,
        scope: HistoryScope,
        query: Option<&str>,
    ) -> Result<Self, Problem> {
        let mut pairs = form::pairs(query.unwrap_or_default().as_bytes())?;
        let mut page = Page { count: PAGE_SIZE, after: None };
        let mut counted = None;
        if let Some((_, link)) = pairs.iter().find(|(name, _)| name == "_cursor") {
            let cursor = app.cursors.open(link, &place(&scope), account, now)?;
            page.after = cursor.position()?;
            counted = Some(cursor.count);
            pairs = cursor.query;
        }
        let mut since = None;
        for (name, value) in &pairs {
            match name.as_str() {
                "_count" => {
                    let words = "`_count` must be a whole number";
                    let count: u32 =
                        value.parse().map_err(|_| Problem::malformed(IssueCode::Value, words))?;
                    page.count = count.min(app.settings.limits.page_size);
                }
                "_since" => {
                    let words = "`_since` must be a moment such as 2015-02-07T13:28:17Z";
                    let moment =
                        Moment::parse(value).ok_or_else(|| Problem::malformed(IssueCode::Value, words))?;
                    since = Some(Timestamp(moment.start));
                }
                "_format" | "_pretty" => {}
                _ => {
                    let words =
                        "history takes `_count` and `_since`; `_at` and `_list` are not supported yet";
                    return Err(Problem::malformed(IssueCode::NotSupported, words));
                }
            }
        }
        page.count = counted.unwrap_or(page.count);
        Ok(Self { scope, page, since })
    }

    /// What the store finds. Fails if it is about one resource that never was.
    pub(crate) fn run(&self, session: &mut (impl Session + ?Sized)) -> Result<HistoryPage, Problem> {
        let mut found = session.history(&self.scope, &self.page)?;
        if matches!(self.scope, HistoryScope::Instance(_)) && found.total.is_none() {
            return Err(Problem::not_found());
        }
        if let Some(since) = self.since {
            let all = found.entries.len();
            // What clients are shown is exact to a millisecond. The newest come first.
            found.entries.retain(|stored| stored.updated.micros() / 1000 >= since.micros() / 1000);
            if found.entries.len() < all {
                found.next = None;
            }
            found.total = None;
        }
        Ok(found)
    }

    /// The Bundle of what was found.
    pub(crate) fn text(
        &self,
        app: &App,
        account: &str,
        now: Timestamp,
        found: HistoryPage,
    ) -> Result<Vec<u8>, Problem> {
        let (base, place) = (&app.settings.base, place(&self.scope));
        let since = self.since.map(|since| ("_since".to_owned(), since.to_instant()));
        let own = since.as_ref().map_or_else(String::new, |(name, value)| format!("?{name}={value}"));
        let mut links = vec![("self", format!("{base}/{place}{own}"))];
        if let Some(next) = &found.next {
            let pairs: Vec<(String, String)> = since.into_iter().collect();
            let cursor = Cursor::new(&place, &pairs, self.page.count, Some(next), now);
            let text = app.cursors.seal(&cursor, account, &*app.random).ok_or_else(Problem::internal)?;
            links.push(("next", format!("{base}/{place}?_cursor={text}")));
        }
        Ok(bundle(base, found, &links))
    }
}

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
    let account = call.account()?;
    let asked = Asked::read(&call.app, &account, call.now, scope, query)?;
    let (asked, found) = call
        .app
        .store
        .read(move |session| {
            let found = asked.run(session)?;
            Ok::<_, Problem>((asked, found))
        })
        .await?;
    for stored in &found.entries {
        call.touches(&stored.patients, 1);
    }
    Ok(Reply::fhir(StatusCode::OK, asked.text(&call.app, &account, call.now, found)?))
}

/// The address after the base.
fn place(scope: &HistoryScope) -> String {
    match scope {
        HistoryScope::Instance(key) => format!("{}/{}/_history", key.resource_type, key.id.as_str()),
        HistoryScope::Type(kind) => format!("{kind}/_history"),
        HistoryScope::System => "_history".to_owned(),
    }
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
