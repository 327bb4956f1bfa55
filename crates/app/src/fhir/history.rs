//! History of a resource, a type or everything (<https://hl7.org/fhir/R4/http.html#history>).

use std::collections::HashMap;

use http::StatusCode;
use ward_audit::Class;
use ward_base::Timestamp;
use ward_fhir::Moment;
use ward_fhir::outcome::IssueCode;
use ward_identity::Permission;
use ward_store::{HistoryPage, HistoryScope, PAGE_BYTES_MAX, Page, Position, ResourceKey, Session, Stored};

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
/// So many versions are looked at for one page of those that were current at a time. It may have none then, and still
/// a next one.
const LOOKED_AT_MAX: usize = 1_000;
const LOOKED_AT_ONCE: u32 = 100;

/// What was asked, understood.
pub(crate) struct Asked {
    pub(crate) scope: HistoryScope,
    page: Page,
    /// What is asked beside the page, as it was sent.
    pairs: Vec<(String, String)>,
    /// Versions from then on.
    since: Option<Timestamp>,
    /// Versions that were current at some point of this span, in microseconds, the end exclusive.
    at: Option<(i64, i64)>,
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
        let (mut since, mut at) = (None, None);
        if ["_since", "_at"].iter().any(|once| pairs.iter().filter(|(name, _)| name == once).count() > 1) {
            let words = "history takes `_since` and `_at` once each";
            return Err(Problem::malformed(IssueCode::Value, words));
        }
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
                "_at" => {
                    let words =
                        "`_at` must be a date or moment such as 2015-02, ge2015 or 2015-02-07T13:28:17Z";
                    at = Some(span(value).ok_or_else(|| Problem::malformed(IssueCode::Value, words))?);
                }
                "_format" | "_pretty" => {}
                _ => {
                    let words = "history takes `_count`, `_since` and `_at`; `_list` is not supported";
                    return Err(Problem::malformed(IssueCode::NotSupported, words));
                }
            }
        }
        page.count = counted.unwrap_or(page.count);
        pairs.retain(|(name, _)| matches!(name.as_str(), "_since" | "_at"));
        Ok(Self { scope, page, pairs, since, at })
    }

    /// What the store finds. Fails if it is about one resource that never was.
    pub(crate) fn run(&self, session: &mut (impl Session + ?Sized)) -> Result<HistoryPage, Problem> {
        match self.at {
            Some(_) if self.page.count == 0 => {
                Ok(HistoryPage { total: None, ..self.newest(session, &self.page)? })
            }
            Some((start, end)) => self.current_within(session, start, end),
            None => self.newest(session, &self.page),
        }
    }

    /// A page of versions that were current at some point of a span.
    fn current_within(
        &self,
        session: &mut (impl Session + ?Sized),
        start: i64,
        end: i64,
    ) -> Result<HistoryPage, Problem> {
        let mut page = Page { count: self.page.count.max(LOOKED_AT_ONCE), after: self.page.after.clone() };
        if page.after.is_none() && !matches!(self.scope, HistoryScope::Instance(_)) {
            page.after = Some(Position::before(Timestamp(end)));
        }
        // The newest come first, so what replaced a version was seen before it, or on a page before, or after the end.
        let goes_on = self.page.after.is_some();
        let mut replaced: HashMap<ResourceKey, Timestamp> = HashMap::new();
        let mut kept = HistoryPage::default();
        let (mut looked_at, mut bytes) = (0, 0_usize);
        loop {
            let found = self.newest(session, &page)?;
            let mut left = found.entries.len();
            for (stored, place) in found.entries.into_iter().zip(found.places) {
                (looked_at, left) = (looked_at + 1, left - 1);
                let mut next = replaced.insert(stored.key.clone(), stored.updated);
                if goes_on && next.is_none() && stored.updated.micros() < start {
                    next = session.version(&stored.key, stored.version + 1)?.map(|next| next.updated);
                }
                if was_current(&stored, next, start, end) {
                    bytes = bytes.saturating_add(stored.body.expose().len());
                    kept.entries.push(stored);
                }
                let full = kept.entries.len() == self.page.count as usize || bytes > PAGE_BYTES_MAX;
                if full || looked_at == LOOKED_AT_MAX {
                    kept.next = (left > 0 || found.next.is_some()).then_some(place);
                    return Ok(kept);
                }
            }
            page.after = found.next;
            if page.after.is_none() {
                return Ok(kept);
            }
        }
    }

    /// A page of versions, those of long ago left out.
    fn newest(&self, session: &mut (impl Session + ?Sized), page: &Page) -> Result<HistoryPage, Problem> {
        let mut found = session.history(&self.scope, page)?;
        if matches!(self.scope, HistoryScope::Instance(_)) && found.total.is_none() {
            return Err(Problem::not_found());
        }
        if let Some(since) = self.since {
            // What clients are shown is exact to a millisecond. The newest come first.
            let is_older = |stored: &Stored| stored.updated.micros() / 1000 < since.micros() / 1000;
            if let Some(length) = found.entries.iter().position(is_older) {
                found.entries.truncate(length);
                found.places.truncate(length);
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
        // Moments have nothing else in them that a URL could not hold.
        let own = self.pairs.iter().map(|(name, value)| format!("{name}={}", value.replace('+', "%2B")));
        let own = own.collect::<Vec<_>>().join("&");
        let mark = if own.is_empty() { "" } else { "?" };
        let mut links = vec![("self", format!("{base}/{place}{mark}{own}"))];
        if let Some(next) = &found.next {
            let cursor = Cursor::new(&place, &self.pairs, self.page.count, Some(next), now);
            let text = app.cursors.seal(&cursor, account, &*app.random).ok_or_else(Problem::internal)?;
            links.push(("next", format!("{base}/{place}?_cursor={text}")));
        }
        Ok(bundle(base, found, &links))
    }
}

/// The time that `_at` means, as a search for a date would have it.
fn span(text: &str) -> Option<(i64, i64)> {
    let prefixed = text.split_at_checked(2).filter(|(prefix, _)| prefix.starts_with(char::is_alphabetic));
    let (prefix, rest) = prefixed.unwrap_or(("eq", text));
    let Moment { start, end, .. } = Moment::parse(rest)?;
    Some(match prefix {
        "eq" => (start, end),
        "lt" | "eb" => (i64::MIN, start),
        "le" => (i64::MIN, end),
        "gt" | "sa" => (end, i64::MAX),
        "ge" => (start, i64::MAX),
        _ => return None,
    })
}

/// Whether a version was there before the end, and was not replaced by the `next` one before the start, as clients see
/// it: to a millisecond. That something was deleted is of the time of its deletion only.
fn was_current(stored: &Stored, next: Option<Timestamp>, start: i64, end: i64) -> bool {
    let since = stored.updated.micros();
    let shown = |moment: Timestamp| moment.micros().div_euclid(1000) * 1000;
    since < end && (since >= start || !stored.deleted && next.is_none_or(|next| shown(next) > start))
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
