//! Search (<https://hl7.org/fhir/R4/search.html>).

use http::StatusCode;
use ward_audit::Class;
use ward_base::{Phi, ResourceId, Timestamp};
use ward_fhir::ResourceType;
use ward_fhir::outcome::{Issue, IssueCode, operation_outcome};
use ward_fhir::search::{self, Filter, FilterValue, Handling, Query, Summary, allowed_in_url};
use ward_identity::Permission;
use ward_store::{Page, Position, SearchPage};
use ward_transport::RequestBody;

use super::media;
use super::text::{BundleText, full_url, partial};
use crate::app::App;
use crate::call::Call;
use crate::cursor::Cursor;
use crate::form;
use crate::problem::Problem;
use crate::reply::Reply;

/// Entries of a page if none are asked for.
const PAGE_SIZE: u32 = 50;
const FORM_BYTES_MAX: usize = 256 << 10;
const FORM: &str = "application/x-www-form-urlencoded";

/// What clients add to a paging link.
const LINK_TAKES: [&str; 3] = ["_cursor", "_format", "_pretty"];

/// What was asked, understood.
pub(crate) struct Asked {
    pairs: Vec<(String, String)>,
    pub(crate) query: Query,
    warnings: Vec<Issue>,
    count: u32,
    after: Option<Position>,
}

impl Asked {
    /// The query for the sealed part of the audit log.
    pub(crate) fn written(&self) -> Phi<String> {
        const CHARACTERS_MAX: usize = 4096;
        let text: Vec<String> = self.pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Phi::new(text.join("&").chars().take(CHARACTERS_MAX).collect())
    }

    /// The patients that the query names. That nothing was found tells of them, too.
    pub(crate) fn patients(&self) -> Vec<ResourceId> {
        let of_patients = self.query.resource_type.name() == "Patient";
        let named = |filter: &Filter| -> Vec<ResourceId> {
            let id = |value: &FilterValue| match value {
                FilterValue::Reference { resource_type, id: Some(id), .. }
                    if resource_type.is_none_or(|kind| kind.name() == "Patient") =>
                {
                    ResourceId::parse(id).ok()
                }
                FilterValue::Token { code: Some(id), .. }
                    if of_patients && filter.parameter.code == "_id" =>
                {
                    ResourceId::parse(id).ok()
                }
                _ => None,
            };
            let about_patients = filter.parameter.targets.iter().any(|kind| kind.name() == "Patient");
            if about_patients || of_patients {
                filter.values.iter().filter_map(id).collect()
            } else {
                Vec::new()
            }
        };
        self.query.filters.iter().flat_map(named).collect()
    }

    /// The page to ask the store for.
    pub(crate) fn page(&self) -> Page {
        let count = if self.query.summary == Summary::Count { 0 } else { self.count };
        Page { count, after: self.after.clone() }
    }
}

/// `GET [base]/Type?…`: parameters that tell nothing, or a paging link.
pub(crate) async fn by_get(
    call: &mut Call,
    kind: ResourceType,
    query: Option<&str>,
) -> Result<Reply, Problem> {
    let pairs = begin(call, kind, query)?;
    search(call, kind, pairs).await
}

/// `POST [base]/Type/_search`.
pub(crate) async fn by_post(
    call: &mut Call,
    kind: ResourceType,
    query: Option<&str>,
    body: RequestBody,
) -> Result<Reply, Problem> {
    let mut pairs = begin(call, kind, query)?;
    let body = call.body(body, &[FORM], FORM, FORM_BYTES_MAX).await?;
    pairs.extend(form::pairs(&body)?);
    search(call, kind, pairs).await
}

/// The parameters that stand in the address, if they may.
fn begin(call: &mut Call, kind: ResourceType, query: Option<&str>) -> Result<Vec<(String, String)>, Problem> {
    call.doing(Class::Rest, "search", Some(kind));
    media::acceptable(call, query)?;
    call.permit(Permission::Search, Some(kind))?;
    let pairs = form::pairs(query.unwrap_or_default().as_bytes())?;
    let tells = |(name, value): &(String, String)| !allowed_in_url(name, value, kind);
    if !call.app.settings.allow_phi_in_urls && pairs.iter().any(tells) {
        return Err(Problem::phi_in_url(kind));
    }
    Ok(pairs)
}

async fn search(call: &mut Call, kind: ResourceType, pairs: Vec<(String, String)>) -> Result<Reply, Problem> {
    let account = call.account()?;
    let handling = media::preferred_handling(call);
    let asked = understand(&call.app, &account, call.now, kind, pairs, handling)?;
    call.entry.query = Some(asked.written());
    call.asks_about(asked.patients());
    let (asked, found) = call
        .app
        .store
        .read(move |session| {
            let found = session.search(&asked.query, &asked.page())?;
            Ok::<_, Problem>((asked, found))
        })
        .await?;
    for stored in &found.hits {
        call.touches(&stored.patients, 1);
    }
    Ok(Reply::fhir(StatusCode::OK, text(&call.app, &account, call.now, &asked, found)?))
}

/// Understands a query, or the paging link that stands for one.
pub(crate) fn understand(
    app: &App,
    account: &str,
    now: Timestamp,
    kind: ResourceType,
    pairs: Vec<(String, String)>,
    handling: Handling,
) -> Result<Asked, Problem> {
    let (after, counted, pairs, handling) = match pairs.iter().find(|(name, _)| name == "_cursor") {
        Some(_) if pairs.iter().any(|(name, _)| !LINK_TAKES.contains(&name.as_str())) => {
            return Err(Problem::bad_cursor());
        }
        Some((_, link)) => {
            let cursor = app.cursors.open(link, kind.name(), account, now)?;
            // What is in a link was accepted once.
            (cursor.position()?, Some(cursor.count), cursor.query, Handling::Lenient)
        }
        None => (None, None, pairs, handling),
    };
    let (mut query, warnings) =
        search::parse(kind, &pairs, handling, &app.settings.base).map_err(Problem::bad_query)?;
    let count =
        counted.unwrap_or_else(|| query.count.unwrap_or(PAGE_SIZE).min(app.settings.limits.page_size));
    if count == 0 {
        query.summary = Summary::Count;
    }
    Ok(Asked { pairs, query, warnings, count, after })
}

/// The Bundle of what was found.
pub(crate) fn text(
    app: &App,
    account: &str,
    now: Timestamp,
    asked: &Asked,
    found: SearchPage,
) -> Result<Vec<u8>, Problem> {
    let links = links(app, account, now, asked, found.next.as_ref())?;
    bundle(&app.settings.base, &asked.query, found, &links, &asked.warnings)
}

/// The links to this page and the next. What tells anything is sealed.
fn links(
    app: &App,
    account: &str,
    now: Timestamp,
    asked: &Asked,
    next: Option<&Position>,
) -> Result<Vec<(&'static str, String)>, Problem> {
    let (base, kind, pairs) = (&app.settings.base, asked.query.resource_type, &asked.pairs);
    let sealed = |after: Option<&Position>| {
        let cursor = Cursor::new(kind.name(), pairs, asked.count, after, now);
        let text = app.cursors.seal(&cursor, account, &*app.random);
        text.map(|text| format!("{base}/{kind}?_cursor={text}"))
    };
    let plain = pairs.iter().all(|(name, value)| {
        let harmless =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.,:/".contains(&byte));
        allowed_in_url(name, value, kind) && harmless(name) && harmless(value)
    });
    let own = if asked.after.is_none() && plain {
        let query: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Some(if query.is_empty() {
            format!("{base}/{kind}")
        } else {
            format!("{base}/{kind}?{}", query.join("&"))
        })
    } else {
        sealed(asked.after.as_ref())
    };
    let mut links: Vec<(&'static str, String)> = own.into_iter().map(|own| ("self", own)).collect();
    if let Some(next) = next {
        let words = "the search has more values than fit into a paging link; ask for fewer of them at a time";
        let link = sealed(Some(next)).ok_or_else(|| Problem::malformed(IssueCode::TooLong, words))?;
        links.push(("next", link));
    }
    Ok(links)
}

fn bundle(
    base: &str,
    query: &Query,
    found: SearchPage,
    links: &[(&str, String)],
    warnings: &[Issue],
) -> Result<Vec<u8>, Problem> {
    let mut bundle = BundleText::new("searchset", found.total, links);
    for stored in found.hits {
        let url = full_url(base, &stored);
        let body = partial(stored.body, query.summary, &query.elements)?;
        bundle.entry(&[
            url.as_bytes(),
            b",\"resource\":",
            body.expose(),
            b",\"search\":{\"mode\":\"match\"}",
        ]);
    }
    if !warnings.is_empty() {
        let outcome = operation_outcome(warnings).to_string();
        bundle.entry(&[b"\"resource\":", outcome.as_bytes(), b",\"search\":{\"mode\":\"outcome\"}"]);
    }
    Ok(bundle.finish())
}
