//! Search (<https://hl7.org/fhir/R4/search.html>).

use std::collections::HashSet;
use std::sync::Arc;

use http::StatusCode;
use ward_audit::Class;
use ward_base::{Phi, ResourceId, Timestamp};
use ward_fhir::outcome::{Issue, IssueCode, operation_outcome};
use ward_fhir::search::{
    self, FilterValue, Handling, Include, Link, Modifier, Query, Summary, allowed_in_url,
};
use ward_fhir::{ResourceType, compartment};
use ward_identity::Permission;
use ward_store::{Page, Position, ResourceKey, SearchPage, Session, Stored};
use ward_transport::RequestBody;

use super::text::{BundleText, full_url, partial};
use super::{codes, everything, media};
use crate::app::App;
use crate::call::Call;
use crate::cursor::Cursor;
use crate::form;
use crate::problem::Problem;
use crate::reply::Reply;

/// Entries of a page if none are asked for.
const PAGE_SIZE: u32 = 50;
/// About as many bytes as an entry has beside its resource.
const ENTRY_BYTES: usize = 160;
const FORM_BYTES_MAX: usize = 256 << 10;
const FORM: &str = "application/x-www-form-urlencoded";
/// The longest query: an entry of the audit log holds all of it.
pub(crate) const QUERY_BYTES_MAX: usize = 8000;

/// What clients add to a paging link.
const LINK_TAKES: [&str; 4] = ["_cursor", "_count", "_format", "_pretty"];

/// Where a search was asked: what the address says of it.
#[derive(Clone)]
pub(crate) struct Scope {
    /// The address after the base, such as `Patient`, `Patient/1/Observation` or nothing.
    place: String,
    /// The type searched; without one, `_type` says which.
    kind: Option<ResourceType>,
    /// The resource whose compartment is searched.
    owner: Option<ResourceKey>,
    /// For `$everything`: whom it is about. What the compartment refers to comes along, unless it is about others.
    whole: Option<Vec<ResourceId>>,
}

impl Scope {
    /// `[base]/Type`.
    pub(crate) fn of_type(kind: ResourceType) -> Self {
        Self { place: kind.name().to_owned(), kind: Some(kind), owner: None, whole: None }
    }

    /// `[base]`.
    pub(crate) const fn system() -> Self {
        Self { place: String::new(), kind: None, owner: None, whole: None }
    }

    /// `[base]/Patient/id/Type`, or `*` for every type.
    pub(crate) fn compartment(owner: ResourceKey, kind: &str) -> Result<Self, Problem> {
        if !compartment::OWNERS.contains(&owner.resource_type.name()) {
            return Err(Problem::no_such_path());
        }
        let place = format!("{}/{}/{kind}", owner.resource_type, owner.id.as_str());
        let kind = if kind == "*" { None } else { Some(super::parse(kind)?) };
        Ok(Self { place, kind, owner: Some(owner), whole: None })
    }

    /// `[base]/Patient/id/$everything`, about these patients.
    pub(crate) fn everything(owner: ResourceKey, patients: Vec<ResourceId>) -> Self {
        let place = format!("{}/{}/$everything", owner.resource_type, owner.id.as_str());
        Self { place, kind: None, owner: Some(owner), whole: Some(patients) }
    }
}

/// What was asked, understood.
pub(crate) struct Asked {
    scope: Scope,
    pairs: Vec<(String, String)>,
    /// One a type. They differ in nothing else.
    pub(crate) queries: Vec<Query>,
    /// Whether the types were chosen by whoever asks.
    named: bool,
    warnings: Vec<Issue>,
    count: u32,
    after: Option<Position>,
}

impl Asked {
    /// The query for the sealed part of the audit log, all of it.
    pub(crate) fn written(&self) -> Phi<String> {
        Phi::new(written(&self.pairs))
    }

    /// Lets the search examine so many resources at most.
    pub(crate) fn bound(&mut self, effort: usize) {
        self.queries.iter_mut().for_each(|query| query.effort = Some(effort));
    }

    /// The patients that the query names. That nothing was found tells of them, too.
    pub(crate) fn patients(&self) -> Vec<ResourceId> {
        let owner = self.scope.owner.iter().filter(|owner| owner.resource_type.name() == "Patient");
        let mut named: Vec<ResourceId> = owner.map(|owner| owner.id.clone()).collect();
        self.queries.iter().for_each(|query| name_patients(query, &mut named));
        named
    }

    /// The type that is searched, if it is one.
    pub(crate) const fn kind(&self) -> Option<ResourceType> {
        self.scope.kind
    }

    /// Whether it goes on where an answer ended.
    pub(crate) const fn is_link(&self) -> bool {
        self.after.is_some()
    }

    /// The page to ask the store for.
    pub(crate) fn page(&self) -> Page {
        Page {
            count: if self.summary() == Summary::Count { 0 } else { self.count },
            after: self.after.clone(),
        }
    }

    fn summary(&self) -> Summary {
        self.queries.first().map_or(Summary::False, |query| query.summary)
    }

    /// Narrows the search to what the caller may see, on every way by which it is reached. Fails if nothing is left
    /// of something that was named.
    pub(crate) fn permit(&mut self, call: &Call) -> Result<(), Problem> {
        if self.named {
            self.queries.iter_mut().try_for_each(|query| permit_query(call, query, false))?;
        } else {
            let mut refused = None;
            self.queries.retain_mut(|query| match permit_query(call, query, false) {
                Ok(()) => true,
                Err(problem) => {
                    refused = Some(problem);
                    false
                }
            });
            if let (true, Some(problem)) = (self.queries.is_empty(), refused) {
                return Err(problem);
            }
        }
        if self.queries.iter().any(|query| !query.includes.is_empty()) {
            let may = |kind: &ResourceType| call.permit(Permission::Search, Some(*kind)).is_ok();
            let visible: Arc<HashSet<ResourceType>> = Arc::new(ResourceType::all().filter(may).collect());
            for query in &mut self.queries {
                query.includes.retain(|include| visible.contains(&include.source));
                query.visible = Some(Arc::clone(&visible));
            }
        }
        Ok(())
    }

    /// What the store finds.
    pub(crate) fn run(&self, session: &mut (impl Session + ?Sized)) -> Result<SearchPage, Problem> {
        let mut found = match codes::resolved(&self.queries, session)? {
            Some(queries) => session.search(&queries, &self.page())?,
            None => session.search(&self.queries, &self.page())?,
        };
        if let Some(whole) = &self.scope.whole {
            let concerns = |stored: &Stored| {
                stored.patients.is_empty() || stored.patients.iter().any(|patient| whole.contains(patient))
            };
            found.included.retain(concerns);
        }
        Ok(found)
    }
}

/// Fails unless the caller may search this type, and at least one type that each of its links leads to; every such type
/// if the query is `excluded` from another, which would find more without it.
fn permit_query(call: &Call, query: &mut Query, excluded: bool) -> Result<(), Problem> {
    call.permit(Permission::Search, Some(query.resource_type))?;
    for filter in query.filters.iter().filter(|filter| filter.needs_lookup()) {
        let of_sets = matches!(filter.modifier, Some(Modifier::In | Modifier::NotIn));
        for value in &filter.values {
            let kind = match value {
                FilterValue::Reference { resource_type, .. } => *resource_type,
                _ => ResourceType::parse(if of_sets { "ValueSet" } else { "CodeSystem" }),
            };
            call.permit(Permission::Search, Some(kind.ok_or_else(Problem::internal)?))?;
        }
    }
    for link in &mut query.links {
        match link {
            Link::Chain { targets, .. } => {
                let mut refused = None;
                targets.retain_mut(|target| match permit_query(call, target, excluded) {
                    Ok(()) => true,
                    Err(problem) => {
                        refused = Some(problem);
                        false
                    }
                });
                if let (true, Some(problem)) = (excluded || targets.is_empty(), refused) {
                    return Err(problem);
                }
            }
            Link::Has { source, .. } => permit_query(call, source, excluded)?,
            Link::List(_) => {
                let list = ResourceType::parse("List").ok_or_else(Problem::internal)?;
                call.permit(Permission::Search, Some(list))?;
            }
        }
    }
    query.alternatives.iter_mut().flatten().try_for_each(|branch| permit_query(call, branch, excluded))?;
    query.exclusions.iter_mut().try_for_each(|branch| permit_query(call, branch, true))
}

/// The patients that a query and its links name by id.
fn name_patients(query: &Query, named: &mut Vec<ResourceId>) {
    let of_patients = query.resource_type.name() == "Patient";
    for filter in &query.filters {
        let about_patients = filter.parameter.targets.iter().any(|kind| kind.name() == "Patient");
        if !about_patients && !of_patients {
            continue;
        }
        named.extend(filter.values.iter().filter_map(|value| match value {
            FilterValue::Reference { resource_type, id: Some(id), .. }
                if resource_type.is_none_or(|kind| kind.name() == "Patient") =>
            {
                ResourceId::parse(id).ok()
            }
            FilterValue::Token { code: Some(id), .. } if of_patients && filter.parameter.code == "_id" => {
                ResourceId::parse(id).ok()
            }
            _ => None,
        }));
    }
    query.inner().for_each(|inner| name_patients(inner, named));
}

/// `GET [base]/Type?…` and the like: parameters that tell nothing, or a paging link.
pub(crate) async fn by_get(call: &mut Call, scope: Scope, query: Option<&str>) -> Result<Reply, Problem> {
    let pairs = begin(call, &scope, query)?;
    answer(call, scope, pairs).await
}

/// `POST [base]/Type/_search` and the like.
pub(crate) async fn by_post(
    call: &mut Call,
    scope: Scope,
    query: Option<&str>,
    body: RequestBody,
) -> Result<Reply, Problem> {
    let mut pairs = begin(call, &scope, query)?;
    let body = call.body(body, &[FORM], FORM, FORM_BYTES_MAX).await?;
    pairs.extend(form::pairs(&body)?);
    answer(call, scope, pairs).await
}

/// The parameters that stand in the address, if they may.
fn begin(call: &mut Call, scope: &Scope, query: Option<&str>) -> Result<Vec<(String, String)>, Problem> {
    call.doing(Class::Rest, "search", scope.kind);
    media::acceptable(call, query)?;
    if let Some(kind) = scope.kind {
        call.permit(Permission::Search, Some(kind))?;
    }
    let pairs = form::pairs(query.unwrap_or_default().as_bytes())?;
    let tells = |(name, value): &(String, String)| !may_stand_in_url(scope, name, value);
    if !call.app.settings.allow_phi_in_urls && pairs.iter().any(tells) {
        return Err(Problem::phi_in_url(&scope.place));
    }
    Ok(pairs)
}

fn may_stand_in_url(scope: &Scope, name: &str, value: &str) -> bool {
    // Without a type, only what all types have counts, and `Basic` has nothing else of that kind.
    let kind = scope.kind.or_else(|| ResourceType::parse("Basic"));
    kind.is_some_and(|kind| allowed_in_url(name, value, kind))
}

/// Answers a search whose parameters may be asked.
pub(crate) async fn answer(
    call: &mut Call,
    scope: Scope,
    pairs: Vec<(String, String)>,
) -> Result<Reply, Problem> {
    let account = call.account()?;
    let handling = media::preferred_handling(call);
    let mut asked = understand(&call.app, &account, call.now, scope, pairs, handling)?;
    call.entry.query = Some(asked.written());
    call.asks_about(asked.patients());
    asked.permit(call)?;
    let (asked, found) = call
        .app
        .store
        .read(move |session| {
            let found = asked.run(session)?;
            Ok::<_, Problem>((asked, found))
        })
        .await?;
    for stored in found.hits.iter().chain(&found.included) {
        call.touches(&stored.patients, 1);
    }
    Ok(Reply::fhir(StatusCode::OK, text(&call.app, &account, call.now, &asked, found)?))
}

/// Understands a query, or the paging link that stands for one.
pub(crate) fn understand(
    app: &App,
    account: &str,
    now: Timestamp,
    scope: Scope,
    pairs: Vec<(String, String)>,
    handling: Handling,
) -> Result<Asked, Problem> {
    let (after, counted, pairs, handling) = match pairs.iter().find(|(name, _)| name == "_cursor") {
        Some(_) if pairs.iter().any(|(name, _)| !LINK_TAKES.contains(&name.as_str())) => {
            return Err(Problem::bad_cursor());
        }
        Some((_, link)) => {
            let cursor = app.cursors.open(link, &scope.place, account, now)?;
            let other =
                pairs.iter().find(|(name, _)| name == "_count").and_then(|(_, value)| value.parse().ok());
            let count = other.map_or(cursor.count, |count: u32| count.min(app.settings.limits.page_size));
            // What is in a link was accepted once.
            (cursor.position()?, Some(count), cursor.query, Handling::Lenient)
        }
        None => (None, None, pairs, handling),
    };
    // What the log cannot hold is not asked.
    if serde_json::Value::from(written(&pairs)).to_string().len() > QUERY_BYTES_MAX {
        let words = format!("a search has {QUERY_BYTES_MAX} bytes at most; ask for fewer values at a time");
        return Err(Problem::malformed(IssueCode::TooLong, words));
    }
    let (kinds, named) = kinds(&scope, &pairs)?;
    let understood: Vec<(String, String)> = match scope.kind {
        Some(_) => pairs.clone(),
        None => pairs.iter().filter(|(name, _)| name != "_type").cloned().collect(),
    };
    let (mut queries, mut warnings) = (Vec::with_capacity(kinds.len()), Vec::new());
    let parameters = app.store.parameters();
    for kind in kinds {
        let own = scope.whole.is_some().then(|| everything::parameters(kind, &understood)).transpose()?;
        let pairs = own.as_ref().unwrap_or(&understood);
        let (mut query, said) = search::parse(kind, pairs, handling, &app.settings.base, &parameters)
            .map_err(Problem::bad_query)?;
        if scope.whole.is_some() {
            query.includes.push(Include::references_of(kind));
        }
        if let Some(owner) = &scope.owner {
            let within = search::compartment(owner.resource_type, owner.id.as_str(), kind);
            query.compartment = Some(within.ok_or_else(Problem::not_in_compartment)?);
        }
        warnings = said;
        queries.push(query);
    }
    let asked_for = queries.first().and_then(|query| query.count);
    let count = counted.unwrap_or_else(|| asked_for.unwrap_or(PAGE_SIZE).min(app.settings.limits.page_size));
    if count == 0 {
        queries.iter_mut().for_each(|query| query.summary = Summary::Count);
    }
    Ok(Asked { scope, pairs, queries, named, warnings, count, after })
}

/// A query in one text.
pub(crate) fn written(pairs: &[(String, String)]) -> String {
    let text: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    text.join("&")
}

/// The types that are searched, and whether they were named.
fn kinds(scope: &Scope, pairs: &[(String, String)]) -> Result<(Vec<ResourceType>, bool), Problem> {
    if let Some(kind) = scope.kind {
        return Ok((vec![kind], true));
    }
    let mut named = pairs.iter().filter(|(name, _)| name == "_type").flat_map(|(_, value)| value.split(','));
    let mut kinds = named.try_fold(Vec::new(), |mut kinds, name| {
        kinds.push(ResourceType::parse(name.trim())?);
        Some(kinds)
    });
    let named = kinds.as_ref().is_none_or(|kinds| !kinds.is_empty());
    if !named {
        let belongs = |kind: &ResourceType| {
            let owner = scope.owner.as_ref();
            owner.is_none_or(|owner| search::compartment(owner.resource_type, "", *kind).is_some())
        };
        kinds = Some(ResourceType::all().filter(belongs).collect());
    }
    let mut kinds = kinds.ok_or_else(|| {
        let words = "`_type` must name resource types of FHIR R4, with `,` between; names are case-sensitive";
        Problem::malformed(IssueCode::Value, words)
    })?;
    kinds.sort_unstable_by_key(|kind| kind.name());
    kinds.dedup();
    Ok((kinds, named))
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
    bundle(&app.settings.base, asked, found, &links)
}

/// The links to this page and the next. What tells anything is sealed.
fn links(
    app: &App,
    account: &str,
    now: Timestamp,
    asked: &Asked,
    next: Option<&Position>,
) -> Result<Vec<(&'static str, String)>, Problem> {
    let (pairs, place) = (&asked.pairs, &asked.scope.place);
    let address = format!("{}/{place}", app.settings.base);
    let address = address.trim_end_matches('/');
    let sealed = |after: Option<&Position>| {
        let cursor = Cursor::new(place, pairs, asked.count, after, now);
        let text = app.cursors.seal(&cursor, account, &*app.random);
        text.map(|text| format!("{address}?_cursor={text}"))
    };
    let plain = pairs.iter().all(|(name, value)| {
        let harmless =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.,:/".contains(&byte));
        may_stand_in_url(&asked.scope, name, value) && harmless(name) && harmless(value)
    });
    let own = if asked.after.is_none() && plain {
        let query: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Some(if query.is_empty() { address.to_owned() } else { format!("{address}?{}", query.join("&")) })
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
    asked: &Asked,
    found: SearchPage,
    links: &[(&str, String)],
) -> Result<Vec<u8>, Problem> {
    let mut bundle = BundleText::new("searchset", found.total, links);
    let elements = asked.queries.first().map_or(&[][..], |query| query.elements.as_slice());
    let bodies =
        found.hits.iter().chain(&found.included).map(|stored| stored.body.expose().len() + ENTRY_BYTES);
    bundle.reserve(bodies.sum());
    let mut add = |found: Vec<Stored>, mode: &[u8]| {
        found.into_iter().try_for_each(|stored| {
            let url = full_url(base, &stored);
            let body = partial(stored.body, asked.summary(), elements)?;
            bundle.entry(&[url.as_bytes(), b",\"resource\":", body.expose(), mode]);
            Ok::<_, Problem>(())
        })
    };
    add(found.hits, b",\"search\":{\"mode\":\"match\"}")?;
    add(found.included, b",\"search\":{\"mode\":\"include\"}")?;
    if !asked.warnings.is_empty() {
        let outcome = operation_outcome(&asked.warnings).to_string();
        bundle.entry(&[b"\"resource\":", outcome.as_bytes(), b",\"search\":{\"mode\":\"outcome\"}"]);
    }
    Ok(bundle.finish())
}
