//! What a `Subscription` says (<https://hl7.org/fhir/R4/subscription.html>), in either of two forms: criteria that are
//! a search, as R4 has it, or a topic of this server with filters, as the Subscriptions R5 Backport has it
//! (<https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/>). What is not understood, or would be sent where the
//! operator has not allowed it, is refused when it is written.

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::Value;
use ward_base::Timestamp;
use ward_fhir::outcome::{Issue, IssueCode};
use ward_fhir::search::{self, Handling, Query};
use ward_fhir::{Moment, ResourceType};
use ward_identity::Permission;
use ward_store::{Prepared, WriteOutcome, Written};
use ward_transport::Origin;

use super::codes;
use super::condition::SHAPING;
use super::media::FHIR_JSON;
use super::search::QUERY_BYTES_MAX;
use crate::app::Settings;
use crate::call::Call;
use crate::form;
use crate::problem::Problem;

/// Where the Backport defines its extensions and profiles.
pub(crate) const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/";
const HEADERS_MAX: usize = 20;
const HEADER_BYTES_MAX: usize = 4096;
const ENDPOINT_BYTES_MAX: usize = 2048;
/// The shortest pause between two signs of life.
const HEARTBEAT_SECONDS_MIN: i64 = 10;

/// What this server itself says with every notification, or what means something to the connection alone.
const RESERVED_HEADERS: [&str; 14] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A Subscription, understood. Criteria are PHI, and headers are secrets: it cannot be printed.
pub(crate) struct Definition {
    /// Which resources it is about.
    pub(crate) query: Query,
    pub(crate) form: Form,
    pub(crate) endpoint: Endpoint,
    /// Sent with each notification. Secret.
    pub(crate) headers: HeaderMap,
    /// How often it gives a sign of life, if nothing happens.
    pub(crate) heartbeat_seconds: Option<i64>,
    /// When it ends.
    pub(crate) end: Option<Timestamp>,
}

/// How a notification looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// R4's own: an empty `POST`, or the resource in a `PUT`.
    Plain { payload: bool },
    /// The Backport's: a Bundle with the status of the Subscription and as much of the resource as is asked for.
    Topic { canonical: String, content: Content },
}

/// How much of a resource a notification holds
/// (<https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/payloads.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Empty,
    IdOnly,
    FullResource,
}

/// Where it is sent. Its query may hold a secret, so it cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As it stands in a URL: an IPv6 address in brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    /// With its `?`, or empty.
    pub(crate) query: String,
}

/// What whoever writes a Subscription wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Active,
    Off,
}

/// The canonical URL of this server's topic for a type: any of its resources is created, updated or deleted. Every
/// search parameter of the type is a filter.
pub(crate) fn topic(base: &str, kind: ResourceType) -> String {
    format!("{base}/SubscriptionTopic/{kind}")
}

/// Whether a resource of this type is one.
pub(crate) fn is_one(kind: ResourceType) -> bool {
    kind.name() == "Subscription"
}

/// Fails if it is a Subscription that would not be acted on as its writer expects: not understood, to a host that
/// is not allowed, or about what the writer may not see.
pub(crate) fn check(call: &Call, prepared: &Prepared) -> Result<(), Problem> {
    if !is_one(prepared.key().resource_type) {
        return Ok(());
    }
    let unwritten = Written { version: 1, updated: call.now, outcome: WriteOutcome::Created };
    let text = prepared.served(&unwritten)?;
    let resource: Value = serde_json::from_slice(text.expose()).map_err(|_| Problem::internal())?;
    let settings = &call.app.settings;
    let wish = wish(&resource);
    let definition = match (Definition::read(settings, &resource), wish) {
        (Ok(definition), Ok(Wish::Active)) => definition,
        // Whoever wants it off may say so, whatever has become of it.
        (_, Ok(Wish::Off)) => return Ok(()),
        (read, wish) => {
            let issues = [read.err(), wish.err().map(|issue| vec![issue])];
            return Err(Problem::invalid(issues.into_iter().flatten().flatten().collect()));
        }
    };
    if !call.app.subscriptions.has_room_for(&prepared.key().id) {
        let words =
            "this server acts on as many Subscriptions as it can already; turn others `off` or delete them";
        return Err(Problem::invalid(vec![Issue::error(IssueCode::TooCostly, words)]));
    }
    let kind = definition.query.resource_type;
    call.permit(Permission::Read, Some(kind))?;
    call.permit(Permission::Search, Some(kind))
}

/// What the status that a client writes asks for.
pub(crate) fn wish(resource: &Value) -> Result<Wish, Issue> {
    match resource.get("status").and_then(Value::as_str) {
        Some("requested" | "active") => Ok(Wish::Active),
        Some("off") => Ok(Wish::Off),
        _ => {
            let words = "a Subscription is written as `requested`, or as `off`; the server makes it `active` once its \
                         endpoint has been reached, and `error` if it cannot be";
            Err(Issue::error(IssueCode::BusinessRule, words).at("Subscription.status"))
        }
    }
}

impl Definition {
    /// Understands a valid Subscription, whatever its status. Gives everything that is wrong with it; nothing of it is
    /// repeated.
    pub(crate) fn read(settings: &Settings, resource: &Value) -> Result<Self, Vec<Issue>> {
        let mut issues = Vec::new();
        let mut note = |found: Result<(), Vec<Issue>>| issues.extend(found.err().into_iter().flatten());
        let channel = resource.get("channel").unwrap_or(&Value::Null);
        note(rest_hook(channel));
        let mut is_json = None;
        note(payload(channel).map(|found| is_json = Some(found)).map_err(|issue| vec![issue]));
        let mut to = None;
        note(
            endpoint(&settings.endpoints, channel).map(|found| to = Some(found)).map_err(|issue| vec![issue]),
        );
        let mut sent_along = HeaderMap::new();
        note(headers(channel).map(|found| sent_along = found));
        let mut pulse = None;
        note(heartbeat(channel).map(|found| pulse = found).map_err(|issue| vec![issue]));
        let mut about = None;
        note(criteria(&settings.base, resource).map(|found| about = Some(found)));
        let mut content = None;
        note(content_wanted(channel).map(|found| content = found).map_err(|issue| vec![issue]));
        let (Some((query, topic)), Some(endpoint), Some(payload), true) =
            (about, to, is_json, issues.is_empty())
        else {
            return Err(issues);
        };
        let form = match topic {
            None => Form::Plain { payload },
            Some(canonical) => {
                let usual = if payload { Content::IdOnly } else { Content::Empty };
                Form::Topic { canonical, content: content.unwrap_or(usual) }
            }
        };
        let end = resource.get("end").and_then(Value::as_str).and_then(Moment::parse);
        Ok(Self {
            query,
            form,
            endpoint,
            headers: sent_along,
            heartbeat_seconds: pulse,
            end: end.map(|moment| Timestamp(moment.start)),
        })
    }
}

fn refused(code: IssueCode, words: &str, place: &str) -> Issue {
    Issue::error(code, words).at(format!("Subscription.{place}"))
}

/// The value of an extension of the Backport among the `extension` of `element`.
fn backport<'a>(element: Option<&'a Value>, name: &str) -> impl Iterator<Item = &'a Value> {
    let url = format!("{BACKPORT}{name}");
    let list = element.and_then(|element| element.get("extension")).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter(move |one| one.get("url").and_then(Value::as_str) == Some(url.as_str()))
        .filter_map(|one| {
            one.as_object()?.iter().find(|(key, _)| key.starts_with("value")).map(|(_, value)| value)
        })
}

fn rest_hook(channel: &Value) -> Result<(), Vec<Issue>> {
    let other = backport(channel.get("_type"), "backport-channel-type").next().is_some();
    if channel.get("type").and_then(Value::as_str) == Some("rest-hook") && !other {
        return Ok(());
    }
    let words = "notifications are sent by `rest-hook` only: HTTPS requests to `channel.endpoint`";
    Err(vec![refused(IssueCode::NotSupported, words, "channel.type")])
}

/// Whether resources are wanted as JSON; without a payload, nothing is.
fn payload(channel: &Value) -> Result<bool, Issue> {
    let Some(asked) = channel.get("payload").and_then(Value::as_str) else { return Ok(false) };
    let media_type = asked.split(';').next().unwrap_or_default().trim();
    if FHIR_JSON.iter().any(|known| known.eq_ignore_ascii_case(media_type)) {
        return Ok(true);
    }
    let words = "`payload` must be application/fhir+json, or be left out for notifications without content";
    Err(refused(IssueCode::NotSupported, words, "channel.payload"))
}

fn content_wanted(channel: &Value) -> Result<Option<Content>, Issue> {
    match backport(channel.get("_payload"), "backport-payload-content").next().map(Value::as_str) {
        None => Ok(None),
        Some(Some("empty")) => Ok(Some(Content::Empty)),
        Some(Some("id-only")) => Ok(Some(Content::IdOnly)),
        Some(Some("full-resource")) => Ok(Some(Content::FullResource)),
        Some(_) => {
            let words = "the payload's content must be `empty`, `id-only` or `full-resource`";
            Err(refused(IssueCode::Value, words, "channel.payload"))
        }
    }
}

/// The endpoint, if its origin is on the operator's list. That list is the protection against being sent to a
/// private or loopback address: whoever lists one means it.
fn endpoint(allowed: &[String], channel: &Value) -> Result<Endpoint, Issue> {
    let refused = |code, words: &str| Err(refused(code, words, "channel.endpoint"));
    let Some(text) = channel.get("endpoint").and_then(Value::as_str) else {
        return refused(IssueCode::Required, "a rest-hook needs an `endpoint`");
    };
    let is_plain = text.len() <= ENDPOINT_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && !text.contains(['#', '\\']);
    let uri = text.parse::<Uri>().ok().filter(|_| is_plain);
    let (Some(uri), Some(origin)) = (&uri, uri.as_ref().and_then(Origin::of)) else {
        let words = "`endpoint` must be an `https://` URL without a user, a password or a fragment";
        return refused(IssueCode::Value, words);
    };
    if !allowed.contains(&origin.to_string()) {
        let words = "this server may not send anything to the host of `endpoint`: its operator must first put its origin, \
                     such as \"https://hooks.example.org\", into `subscriptions.endpoints` of ward.toml";
        return refused(IssueCode::Forbidden, words);
    }
    Ok(Endpoint {
        host: origin.host,
        port: origin.port,
        path: uri.path().to_owned(),
        query: uri.query().map(|query| format!("?{query}")).unwrap_or_default(),
    })
}

fn headers(channel: &Value) -> Result<HeaderMap, Vec<Issue>> {
    let lines = channel.get("header").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (mut headers, mut issues) = (HeaderMap::new(), Vec::new());
    if lines.len() > HEADERS_MAX {
        let words = format!("a channel has {HEADERS_MAX} headers at most");
        return Err(vec![refused(IssueCode::TooLong, &words, "channel.header")]);
    }
    for (index, line) in lines.iter().enumerate() {
        match header(line.as_str().unwrap_or_default()) {
            Ok((name, value)) => {
                headers.append(name, value);
            }
            Err(words) => {
                issues.push(refused(IssueCode::Value, words, &format!("channel.header[{index}]")));
            }
        }
    }
    if issues.is_empty() { Ok(headers) } else { Err(issues) }
}

fn header(line: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    const WANTED: &str = "a header reads `Name: value`, in ASCII and without control characters";
    let (name, value) = line.split_once(':').filter(|_| line.len() <= HEADER_BYTES_MAX).ok_or(WANTED)?;
    let name: HeaderName = name.parse().map_err(|_| WANTED)?;
    if RESERVED_HEADERS.contains(&name.as_str()) {
        return Err(
            "the server itself says what the connection, the host and the content are: leave this header out",
        );
    }
    let value = value.trim();
    if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(WANTED);
    }
    let mut value = HeaderValue::from_str(value).map_err(|_| WANTED)?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn heartbeat(channel: &Value) -> Result<Option<i64>, Issue> {
    let Some(value) = backport(Some(channel), "backport-heartbeat-period").next() else { return Ok(None) };
    match value.as_i64().filter(|seconds| *seconds >= HEARTBEAT_SECONDS_MIN) {
        Some(seconds) => Ok(Some(seconds)),
        None => {
            let words = format!("the heartbeat period must be {HEARTBEAT_SECONDS_MIN} seconds or more");
            Err(refused(IssueCode::Value, &words, "channel"))
        }
    }
}

/// The search that says what it is about, and the topic if it names one.
fn criteria(base: &str, resource: &Value) -> Result<(Query, Option<String>), Vec<Issue>> {
    let told = |code, words: &str| vec![refused(code, words, "criteria")];
    let text = resource.get("criteria").and_then(Value::as_str).unwrap_or_default();
    if !text.starts_with("http://") && !text.starts_with("https://") {
        let (kind, pairs) = parse_search(text).map_err(|words| told(IssueCode::Value, words))?;
        return Ok((understand(base, kind, &pairs)?, None));
    }
    let canonical = text.split('|').next().unwrap_or_default();
    let named = canonical.strip_prefix(base).and_then(|rest| rest.strip_prefix("/SubscriptionTopic/"));
    let Some(kind) = named.and_then(ResourceType::parse) else {
        let words = "the server does not have this topic; it has one for each resource type, named in its CapabilityStatement: \
                     `[base]/SubscriptionTopic/[type]`";
        return Err(told(IssueCode::NotFound, words));
    };
    let mut pairs = Vec::new();
    for filter in backport(resource.get("_criteria"), "backport-filter-criteria") {
        let (of, more) = parse_search(filter.as_str().unwrap_or_default())
            .map_err(|words| told(IssueCode::Value, words))?;
        if of != kind {
            let words = "a filter must be on resources of the topic's own type";
            return Err(told(IssueCode::NotSupported, words));
        }
        pairs.extend(more);
    }
    Ok((understand(base, kind, &pairs)?, Some(canonical.to_owned())))
}

type Pairs = Vec<(String, String)>;

/// `Type?name=value&…`
fn parse_search(text: &str) -> Result<(ResourceType, Pairs), &'static str> {
    let (kind, query) = text.split_once('?').unwrap_or((text, ""));
    let kind = ResourceType::parse(kind).ok_or(
        "criteria are a search such as `Observation?code=…`, beginning with a resource type of FHIR R4, or a topic's URL",
    )?;
    let pairs = form::pairs(query.as_bytes())
        .map_err(|_| "the search parameters are not encoded UTF-8, or too many")?;
    Ok((kind, pairs))
}

/// Criteria are asked of one resource by itself, at the moment it is written.
fn understand(base: &str, kind: ResourceType, pairs: &Pairs) -> Result<Query, Vec<Issue>> {
    let told = |words: &str| vec![refused(IssueCode::NotSupported, words, "criteria")];
    let shapes = |name: &str| SHAPING.contains(&name.split(':').next().unwrap_or_default());
    if pairs.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>() > QUERY_BYTES_MAX {
        let words = format!("criteria have {QUERY_BYTES_MAX} bytes at most");
        return Err(vec![refused(IssueCode::TooLong, &words, "criteria")]);
    }
    if pairs.iter().any(|(name, _)| shapes(name)) {
        return Err(told(
            "criteria say which resources are meant: they have no order, size, summary or includes",
        ));
    }
    // By the specification's parameters: one that was added may be taken away again.
    let read = search::parse(kind, pairs, Handling::Strict, base, &search::Parameters::default());
    let (query, _) = read.map_err(|issues| {
        issues.into_iter().map(|issue| issue.at("Subscription.criteria")).collect::<Vec<_>>()
    })?;
    if query.asks_of_others() {
        let words =
            "criteria are asked of each resource by itself: they cannot ask by chains, `_has` or `_list`";
        return Err(told(words));
    }
    if codes::are_asked_for(&query) {
        return Err(told(
            "criteria cannot ask by `:in`, `:not-in`, `:above` or `:below` of codes and resources; name them",
        ));
    }
    Ok(query)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn settings() -> Settings {
        Settings {
            origin: "https://h".to_owned(),
            base: "https://h/fhir/R4".to_owned(),
            accept_client_ids: false,
            allow_phi_in_urls: false,
            idle_seconds: 1,
            absolute_seconds: 1,
            limits: crate::AppLimits { body_bytes: 1, json_depth: 1, bundle_entries: 1, page_size: 1 },
            started: ward_base::Timestamp(0),
            endpoints: vec!["https://hooks.example".to_owned(), "https://[::1]:8443".to_owned()],
        }
    }

    pub(crate) fn subscription() -> Value {
        json!({
            "resourceType": "Subscription", "status": "requested", "reason": "r", "criteria": "Observation?code=a|1",
            "channel": {"type": "rest-hook", "endpoint": "https://hooks.example/in?x=1", "payload": "application/fhir+json",
                "header": ["Authorization: Bearer canary"]},
        })
    }

    pub(crate) fn of_topic(filters: &[&str], content: &str) -> Value {
        let mut resource = subscription();
        resource["criteria"] = "https://h/fhir/R4/SubscriptionTopic/Encounter".into();
        let filter = |filter: &&str| json!({"url": format!("{BACKPORT}backport-filter-criteria"), "valueString": filter});
        if !filters.is_empty() {
            resource["_criteria"] = json!({"extension": filters.iter().map(filter).collect::<Vec<_>>()});
        }
        resource["channel"]["_payload"] = json!({"extension": [
            {"url": format!("{BACKPORT}backport-payload-content"), "valueCode": content},
        ]});
        resource
    }

    fn read(resource: &Value) -> Result<Definition, Vec<Issue>> {
        assert_eq!(ward_fhir::validate::resource(resource), [], "{resource}");
        Definition::read(&settings(), resource)
    }

    /// The words that refuse `resource`, which never repeat it.
    fn refusal(resource: &Value) -> String {
        let issues = Definition::read(&settings(), resource).err().unwrap_or_default();
        let words: Vec<String> = issues
            .iter()
            .map(|issue| {
                format!("{}: {}", issue.expression.as_deref().unwrap_or_default(), issue.diagnostics)
            })
            .collect();
        assert!(!words.concat().contains("canary"), "{words:?}");
        words.join("\n")
    }

    fn changed(pointer: &str, value: Value) -> Value {
        let mut resource = subscription();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        resource.pointer_mut(parent).unwrap()[name] = value;
        resource
    }

    #[test]
    fn both_forms_are_understood() {
        let plain = read(&subscription()).unwrap();
        assert_eq!(plain.form, Form::Plain { payload: true });
        assert_eq!(plain.query.resource_type.name(), "Observation");
        assert_eq!(plain.query.filters.len(), 1);
        assert_eq!(plain.headers["authorization"], "Bearer canary");
        assert!(plain.headers["authorization"].is_sensitive());
        let (host, path, query) = ("hooks.example".to_owned(), "/in".to_owned(), "?x=1".to_owned());
        assert!(plain.endpoint == Endpoint { host, port: 443, path, query });

        let topic =
            read(&of_topic(&["Encounter?patient=Patient/1", "Encounter?status=planned"], "full-resource"));
        let topic = topic.unwrap();
        let canonical = super::topic("https://h/fhir/R4", topic.query.resource_type);
        assert_eq!(topic.form, Form::Topic { canonical, content: Content::FullResource });
        assert_eq!(topic.query.filters.len(), 2);

        // What a notification holds, if it is not said.
        let mut usual = of_topic(&[], "empty");
        usual["channel"].as_object_mut().unwrap().shift_remove("_payload");
        let content = |resource: &Value| match read(resource).unwrap().form {
            Form::Topic { content, .. } => content,
            Form::Plain { .. } => panic!("a topic"),
        };
        assert_eq!(content(&usual), Content::IdOnly);
        usual["channel"].as_object_mut().unwrap().shift_remove("payload");
        assert_eq!(content(&usual), Content::Empty);
        usual["criteria"] = "Observation".into();
        assert_eq!(read(&usual).unwrap().form, Form::Plain { payload: false });
    }

    #[test]
    fn an_endpoint_must_be_on_the_list_to_the_letter() {
        let endpoint = |url: &str| changed("/channel/endpoint", url.into());
        for fine in ["https://hooks.example", "https://HOOKS.example:443/a", "https://[::1]:8443/?a=b"] {
            assert_eq!(refusal(&endpoint(fine)), "", "{fine}");
        }
        for unlisted in [
            "https://canary.example/",
            "https://hooks.example:8443/",
            "https://hooks.example.canary/",
            "https://[::1]/",
            "https://127.0.0.1/",
        ] {
            assert!(
                refusal(&endpoint(unlisted)).contains("`subscriptions.endpoints` of ward.toml"),
                "{unlisted}"
            );
        }
        for wrong in [
            "http://hooks.example/",
            "https://me:canary@hooks.example/",
            "https://hooks.example/#canary",
            "https://hooks.example\\@canary/",
            "https://hooks.example/\r\nX: canary",
            "hooks.example",
            "ftp://hooks.example",
            "/canary",
            "https://hooks.example:99999/",
            "https://hooks.example:0/",
        ] {
            assert!(refusal(&endpoint(wrong)).contains("must be an `https://` URL"), "{wrong}");
        }
    }

    #[test]
    fn what_would_not_be_acted_on_is_refused_with_words() {
        for (pointer, value, words) in [
            ("/channel/type", json!("websocket"), "by `rest-hook` only"),
            ("/channel/payload", json!("application/fhir+xml"), "must be application/fhir+json"),
            ("/criteria", json!("canary?code=1"), "beginning with a resource type"),
            ("/criteria", json!("Observation?canary=1"), "the 1st search parameter"),
            ("/criteria", json!("Observation?date=canary"), "the 1st search parameter"),
            ("/criteria", json!("Observation?subject:Patient.name=canary"), "cannot ask by chains"),
            ("/criteria", json!("Patient?_has:Observation:patient:code=canary"), "cannot ask by chains"),
            ("/criteria", json!("Patient?_list=canary"), "cannot ask by chains"),
            ("/criteria", json!("Observation?_filter=not(patient.name eq canary)"), "cannot ask by chains"),
            ("/criteria", json!(format!("Patient?name={}", "canary,".repeat(2000))), "bytes at most"),
            ("/criteria", json!("Observation?_filter=not(code in http://canary)"), "name them"),
            ("/criteria", json!("Observation?_include=Observation:subject"), "no order, size"),
            ("/criteria", json!("Observation?_sort=date"), "no order, size"),
            ("/criteria", json!("Observation?code:in=http://canary"), "name them"),
            ("/criteria", json!("https://h/fhir/R4/SubscriptionTopic/canary"), "does not have this topic"),
            ("/criteria", json!("https://canary/SubscriptionTopic/Patient"), "does not have this topic"),
            ("/channel/header", json!(["canary"]), "reads `Name: value`"),
            ("/channel/header", json!(["Na me: canary"]), "reads `Name: value`"),
            ("/channel/header", json!(["X: a\r\nY: canary"]), "reads `Name: value`"),
            ("/channel/header", json!(["X: canaré"]), "reads `Name: value`"),
            ("/channel/header", json!(["Host: canary"]), "leave this header out"),
            ("/channel/header", json!(["content-LENGTH: 1"]), "leave this header out"),
            ("/channel/header", json!(["Transfer-Encoding: chunked"]), "leave this header out"),
            ("/channel/header", json!(vec!["X: 1"; 21]), "20 headers at most"),
            (
                "/channel/extension",
                json!([{"url": format!("{BACKPORT}backport-heartbeat-period"), "valueUnsignedInt": 1}]),
                "10 seconds or more",
            ),
        ] {
            let said = refusal(&changed(pointer, value));
            assert!(said.contains(words), "{pointer}: {said}");
        }
        assert!(refusal(&of_topic(&["Patient?name=canary"], "empty")).contains("the topic's own type"));
        assert!(refusal(&of_topic(&[], "canary")).contains("`empty`, `id-only` or `full-resource`"));
        let mut all = changed("/channel/type", json!("sms"));
        all["criteria"] = "canary".into();
        assert_eq!(refusal(&all).lines().count(), 2, "everything that is wrong is told at once");
    }

    #[test]
    fn a_status_is_a_wish() {
        let wish = |status: &str| super::wish(&changed("/status", status.into())).ok();
        assert_eq!(wish("requested"), Some(Wish::Active));
        assert_eq!(wish("active"), Some(Wish::Active));
        assert_eq!(wish("off"), Some(Wish::Off));
        assert_eq!(wish("error"), None);
    }
}
