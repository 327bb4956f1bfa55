//! Transaction and batch Bundles: what to do, in which order (<https://hl7.org/fhir/R4/http.html#transaction>).

mod references;

use std::collections::HashSet;

use serde_json::{Map, Value};
use ward_base::ResourceId;

pub use references::{conditional_references, restful, rewrite_references};

use crate::ResourceType;
use crate::outcome::{Issue, IssueCode};
use crate::primitive::Primitive;

/// More issues than this help nobody.
const ISSUES_MAX: usize = 50;

/// Whether the entries stand or fall together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All or nothing.
    Transaction,
    /// Each for itself.
    Batch,
}

/// The interaction of an entry, in the order in which they are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// Delete, perhaps conditional.
    Delete,
    /// Create (perhaps conditional) or search by form.
    Post,
    /// Update, perhaps conditional or creating.
    Put,
    /// Patch.
    Patch,
    /// Read, vread, history or search.
    Get,
    /// As `Get`, without a body.
    Head,
}

/// What `request.url` of an entry refers to.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// The type; `None` for the server itself (`metadata`, `_history`, a search over all types).
    pub resource_type: Option<ResourceType>,
    /// The id, if one resource is meant.
    pub id: Option<ResourceId>,
    /// Whether history is asked for.
    pub history: History,
    /// What follows the type or id and is none of the above, such as `metadata`, `_search` or `$validate`.
    pub operation: Option<String>,
    /// What follows `?`, as it stands there.
    pub query: Option<String>,
}

/// The `_history` part of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// None: the present state.
    Absent,
    /// `_history`: all versions.
    All,
    /// `_history/n`: that version.
    Version(u64),
}

/// One entry to carry out. Holds protected health information, so there is no `Debug`.
#[derive(Clone)]
pub struct Entry {
    /// Its place in the Bundle, counted from 0; the answer stands at the same place.
    pub index: usize,
    /// What to do.
    pub method: Method,
    /// With what.
    pub target: Target,
    /// The name by which other entries refer to its resource.
    pub full_url: Option<String>,
    /// `ifMatch`: the version that must be the present one.
    pub if_match: Option<u64>,
    /// `ifNoneMatch`, as it stands there (a version tag or `*`).
    pub if_none_match: Option<String>,
    /// `ifModifiedSince`, an instant.
    pub if_modified_since: Option<String>,
    /// `ifNoneExist`: the query under which a create finds that there is nothing to do.
    pub if_none_exist: Option<String>,
    /// The body.
    pub resource: Option<Value>,
}

/// What to do, in which order.
#[derive(Clone)]
pub struct Plan {
    /// Whether the entries stand or fall together.
    pub kind: Kind,
    /// The entries in the order in which they must be carried out: DELETE, POST, PUT and PATCH, GET and HEAD.
    pub entries: Vec<Entry>,
    /// Entries of a batch that cannot be carried out, with the reasons. Always empty for a transaction.
    pub rejected: Vec<(usize, Vec<Issue>)>,
}

/// Plans `bundle`, a transaction or a batch.
///
/// Fails with every reason, at most 50, if it is neither, or is a transaction of which an entry
/// cannot be carried out or two mean the same resource. Each issue says which entry; none holds anything of it. What
/// the plan cannot know is left to who carries it out: whether conditions match the same resource, and whether the
/// resources are valid.
pub fn plan(mut bundle: Value) -> Result<Plan, Vec<Issue>> {
    let refused = |code, place: &str, words: &str| Err(vec![issue(code, place.to_owned(), words)]);
    if bundle.get("resourceType").and_then(Value::as_str) != Some("Bundle") {
        return refused(IssueCode::Structure, "Bundle", "must be a Bundle");
    }
    let kind = match bundle.get("type").and_then(Value::as_str) {
        Some("transaction") => Kind::Transaction,
        Some("batch") => Kind::Batch,
        _ => return refused(IssueCode::Value, "Bundle.type", "must be `transaction` or `batch`"),
    };
    let given = match bundle.get_mut("entry").map(Value::take) {
        Some(Value::Array(entries)) => entries,
        Some(_) => return refused(IssueCode::Structure, "Bundle.entry", "must be an array"),
        None => Vec::new(),
    };
    let mut plan = Plan { kind, entries: Vec::with_capacity(given.len()), rejected: Vec::new() };
    for (index, value) in given.into_iter().enumerate() {
        match read_entry(index, value) {
            Ok(entry) => plan.entries.push(entry),
            Err(issues) => plan.rejected.push((index, issues)),
        }
    }
    if kind == Kind::Transaction {
        let mut issues: Vec<Issue> =
            std::mem::take(&mut plan.rejected).into_iter().flat_map(|(_, all)| all).collect();
        issues.extend(overlaps(&plan.entries));
        issues.truncate(ISSUES_MAX);
        if !issues.is_empty() {
            return Err(issues);
        }
    }
    plan.entries.sort_by_key(|entry| entry.method.rank());
    Ok(plan)
}

impl Method {
    fn parse(code: &str) -> Option<Self> {
        Some(match code {
            "DELETE" => Self::Delete,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            _ => return None,
        })
    }

    /// The step of a transaction in which it is carried out.
    const fn rank(self) -> u8 {
        match self {
            Self::Delete => 0,
            Self::Post => 1,
            Self::Put | Self::Patch => 2,
            Self::Get | Self::Head => 3,
        }
    }
}

fn issue(code: IssueCode, place: String, words: &str) -> Issue {
    Issue::error(code, format!("{place} {words}")).at(place)
}

/// Resources that two entries of a transaction would write, and names that two entries bear.
fn overlaps(entries: &[Entry]) -> Vec<Issue> {
    let (mut written, mut named) = (HashSet::new(), HashSet::new());
    let mut issues = Vec::new();
    for entry in entries {
        let writes = matches!(entry.method, Method::Delete | Method::Put | Method::Patch);
        if let (true, Some(id)) = (writes, &entry.target.id)
            && !written.insert((entry.target.resource_type, id))
        {
            let place = format!("Bundle.entry[{}].request.url", entry.index);
            issues.push(issue(IssueCode::Duplicate, place, "names a resource that another entry writes"));
        }
        if let Some(full_url) = &entry.full_url
            && !named.insert(full_url)
        {
            let place = format!("Bundle.entry[{}].fullUrl", entry.index);
            issues.push(issue(IssueCode::Duplicate, place, "must be unlike every other"));
        }
    }
    issues
}

fn read_entry(index: usize, value: Value) -> Result<Entry, Vec<Issue>> {
    let mut reader = Reader { index, issues: Vec::new() };
    let Value::Object(mut entry) = value else {
        return Err(vec![reader.issue("", IssueCode::Structure, "must be an object")]);
    };
    let resource = entry.remove("resource");
    let request = match entry.get("request") {
        Some(Value::Object(request)) => request,
        Some(_) => return Err(vec![reader.issue(".request", IssueCode::Structure, "must be an object")]),
        None => return Err(vec![reader.issue(".request", IssueCode::Required, "is required")]),
    };
    let method = reader.read(request, "method", Method::parse, "must be a method of HTTP that FHIR knows");
    let url = reader.read(request, "url", target, "must be a relative address of FHIR such as `Patient/1`");
    for required in ["method", "url"] {
        if !request.contains_key(required) {
            reader.report(&format!(".request.{required}"), IssueCode::Required, "is required");
        }
    }
    let if_match =
        reader.read(request, "ifMatch", version_tag, "must be a version of this server such as `W/\"1\"`");
    let instant = |text: &str| Primitive::Instant.accepts_text(text).then(|| text.to_owned());
    let if_modified_since =
        reader.read(request, "ifModifiedSince", instant, Primitive::Instant.expectation());
    let any = |text: &str| Some(text.to_owned());
    let if_none_match = reader.read(request, "ifNoneMatch", any, "");
    let if_none_exist = reader.read(request, "ifNoneExist", any, "");
    let full_url = match entry.get("fullUrl") {
        Some(Value::String(url)) => Some(url.clone()),
        Some(_) => {
            reader.report(".fullUrl", IssueCode::Structure, "must be text");
            None
        }
        None => None,
    };
    if let (Some(method), Some(target)) = (method, &url) {
        reader.check(method, target, resource.as_ref());
    }
    match (method, url) {
        (Some(method), Some(target)) if reader.issues.is_empty() => Ok(Entry {
            index,
            method,
            target,
            full_url,
            if_match,
            if_none_match,
            if_modified_since,
            if_none_exist,
            resource,
        }),
        _ => Err(reader.issues),
    }
}

/// Collects what is wrong with one entry.
struct Reader {
    index: usize,
    issues: Vec<Issue>,
}

impl Reader {
    fn issue(&self, place: &str, code: IssueCode, words: &str) -> Issue {
        issue(code, format!("Bundle.entry[{}]{place}", self.index), words)
    }

    fn report(&mut self, place: &str, code: IssueCode, words: &str) {
        self.issues.push(self.issue(place, code, words));
    }

    /// What the text at `key` of the request says; nothing, perhaps with a reason, if it says nothing.
    fn read<T>(
        &mut self,
        request: &Map<String, Value>,
        key: &str,
        read: impl FnOnce(&str) -> Option<T>,
        words: &str,
    ) -> Option<T> {
        let (code, words) = match request.get(key)? {
            Value::String(text) => match read(text) {
                Some(value) => return Some(value),
                None => (IssueCode::Value, words),
            },
            _ => (IssueCode::Structure, "must be text"),
        };
        self.report(&format!(".request.{key}"), code, words);
        None
    }

    /// Whether the method can be applied to the target with this body.
    fn check(&mut self, method: Method, target: &Target, resource: Option<&Value>) {
        const URL: &str = ".request.url";
        let typed = target.resource_type.is_some();
        let conditional =
            target.id.is_none() && target.query.as_deref().is_some_and(|query| !query.is_empty());
        let plain = target.history == History::Absent && target.operation.is_none();
        match method {
            Method::Get | Method::Head => return,
            Method::Post => {
                if target.operation.is_some() {
                    return;
                }
                if !typed || !plain || target.id.is_some() || target.query.is_some() {
                    return self.report(
                        URL,
                        IssueCode::Value,
                        "must be a resource type alone, or an operation",
                    );
                }
            }
            Method::Put | Method::Patch | Method::Delete => {
                if !typed || !plain || (target.id.is_some() == conditional) {
                    let words = "must be a resource type with an id, or with a condition after `?`";
                    return self.report(URL, IssueCode::Value, words);
                }
            }
        }
        if method == Method::Delete {
            return;
        }
        let Some(resource) = resource else {
            return self.report(".resource", IssueCode::Required, "is required");
        };
        let kind = resource.get("resourceType").and_then(Value::as_str).and_then(ResourceType::parse);
        if kind.is_none() {
            return self.report(".resource", IssueCode::Structure, "must be a resource of FHIR R4");
        }
        // A patch is not of the type that it changes.
        if method != Method::Patch && kind != target.resource_type {
            self.report(URL, IssueCode::Value, "must have the type of the resource");
        }
        let id = resource.get("id").and_then(Value::as_str);
        if method == Method::Put
            && let (Some(wanted), Some(id)) = (&target.id, id)
            && wanted.as_str() != id
        {
            self.report(URL, IssueCode::Value, "must have the id of the resource");
        }
    }
}

/// Reads a version tag, `W/"1"`, or what some clients send for it, `"1"` or `1`.
pub fn version_tag(tag: &str) -> Option<u64> {
    let tag = tag.trim();
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    whole(tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag))
}

fn whole(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// What `url`, relative to the base of FHIR, refers to: `Type`, `Type/id`, `Type/id/_history/n`, `Type?query`,
/// `Type/$operation`, `metadata` and their like. One `/` may stand before it. `None` if it is absolute, leads
/// elsewhere or means nothing in FHIR.
pub fn target(url: &str) -> Option<Target> {
    let url = url.strip_prefix('/').unwrap_or(url);
    if url.contains('#') {
        return None;
    }
    let (path, query) = match url.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (url, None),
    };
    let server = Target { resource_type: None, id: None, history: History::Absent, operation: None, query };
    if path.is_empty() {
        return server.query.is_some().then_some(server);
    }
    let mut parts = path.split('/');
    let first = parts.next()?;
    let Some(kind) = ResourceType::parse(first) else {
        return match first {
            "_history" if parts.next().is_none() => Some(Target { history: History::All, ..server }),
            "metadata" | "_search" if parts.next().is_none() => {
                Some(Target { operation: Some(first.to_owned()), ..server })
            }
            _ if is_operation(first) && parts.next().is_none() => {
                Some(Target { operation: Some(first.to_owned()), ..server })
            }
            _ => None,
        };
    };
    let mut target = Target { resource_type: Some(kind), ..server };
    let mut part = parts.next();
    // Dots alone are ids by their letters, and steps along a path to everyone else.
    let id = part.filter(|part| !matches!(*part, "." | "..")).and_then(|part| ResourceId::parse(part).ok());
    if let Some(id) = id {
        target.id = Some(id);
        part = parts.next();
    }
    match part {
        None => {}
        Some("_history") => {
            target.history = match parts.next() {
                None => History::All,
                Some(version) if target.id.is_some() => History::Version(whole(version)?),
                Some(_) => return None,
            };
        }
        Some("_search") if target.id.is_none() => target.operation = Some("_search".to_owned()),
        // `Patient/1/Observation` searches in a compartment.
        Some(name)
            if is_operation(name)
                || (target.id.is_some() && (name == "*" || ResourceType::parse(name).is_some())) =>
        {
            target.operation = Some(name.to_owned());
        }
        Some(_) => return None,
    }
    parts.next().is_none().then_some(target)
}

fn is_operation(name: &str) -> bool {
    let name = name.strip_prefix('$').unwrap_or_default();
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn entry(method: &str, url: &str) -> Value {
        json!({"request": {"method": method, "url": url}})
    }

    fn with_resource(method: &str, url: &str, resource: Value) -> Value {
        json!({"request": {"method": method, "url": url}, "resource": resource})
    }

    fn bundle(kind: &str, entries: &[Value]) -> Value {
        json!({"resourceType": "Bundle", "type": kind, "entry": entries})
    }

    fn reasons(bundle: &Value) -> Vec<String> {
        match plan(bundle.clone()) {
            Ok(_) => Vec::new(),
            Err(issues) => issues
                .into_iter()
                .map(|issue| {
                    assert!(issue.diagnostics.starts_with(issue.expression.as_deref().unwrap()));
                    format!("{}: {}", issue.code.code(), issue.diagnostics)
                })
                .collect(),
        }
    }

    #[test]
    fn entries_come_in_the_order_of_the_specification() {
        let patient = json!({"resourceType": "Patient", "id": "p"});
        let plan = plan(bundle(
            "transaction",
            &[
                entry("GET", "Patient?name=x"),
                with_resource("PUT", "Patient/p", patient.clone()),
                with_resource("POST", "Patient", patient.clone()),
                entry("HEAD", "Patient/q"),
                entry("DELETE", "Patient/q"),
                with_resource("PATCH", "Patient/r", json!({"resourceType": "Binary", "contentType": "x"})),
                with_resource("PUT", "Patient?identifier=x", patient),
                entry("DELETE", "Patient?identifier=y"),
            ],
        ))
        .unwrap_or_else(|_| panic!("the Bundle is right"));
        assert_eq!(
            plan.entries.iter().map(|entry| entry.index).collect::<Vec<_>>(),
            [4, 7, 2, 1, 5, 6, 0, 3]
        );
        assert!(plan.kind == Kind::Transaction && plan.rejected.is_empty());
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_by_place_only() {
        let patient = json!({"resourceType": "Patient", "id": "secret"});
        assert_eq!(reasons(&json!({"resourceType": "Patient"})), ["structure: Bundle must be a Bundle"]);
        assert_eq!(
            reasons(&bundle("document", &[])),
            ["value: Bundle.type must be `transaction` or `batch`"]
        );
        expect_test::expect![[r#"
            structure: Bundle.entry[0] must be an object
            required: Bundle.entry[1].request is required
            required: Bundle.entry[2].request.method is required
            required: Bundle.entry[2].request.url is required
            value: Bundle.entry[3].request.method must be a method of HTTP that FHIR knows
            structure: Bundle.entry[4].request.method must be text
            value: Bundle.entry[5].request.url must be a relative address of FHIR such as `Patient/1`
            required: Bundle.entry[6].resource is required
            structure: Bundle.entry[7].resource must be a resource of FHIR R4
            value: Bundle.entry[8].request.url must have the type of the resource
            value: Bundle.entry[9].request.url must have the id of the resource
            value: Bundle.entry[10].request.url must be a resource type with an id, or with a condition after `?`
            value: Bundle.entry[11].request.url must be a resource type with an id, or with a condition after `?`
            value: Bundle.entry[12].request.url must be a resource type alone, or an operation
            value: Bundle.entry[13].request.ifMatch must be a version of this server such as `W/"1"`
        "#]]
        .assert_eq(
            &reasons(&bundle("transaction", &[
                json!(1),
                json!({}),
                json!({"request": {}}),
                entry("SECRET", "Patient/1"),
                json!({"request": {"method": 1, "url": "Patient/1"}}),
                entry("GET", "https://secret.example/Patient/1"),
                entry("POST", "Patient"),
                with_resource("POST", "Patient", json!({"resourceType": "Secret"})),
                with_resource("PUT", "Group/secret", patient.clone()),
                with_resource("PUT", "Patient/2", patient.clone()),
                entry("DELETE", "Patient"),
                entry("DELETE", "Patient/3/_history/1"),
                with_resource("POST", "Patient/4", patient),
                json!({"request": {"method": "DELETE", "url": "Patient/5", "ifMatch": "W/\"secret\""}}),
            ]))
            .into_iter()
            .map(|line| line + "\n")
            .collect::<String>(),
        );
    }

    #[test]
    fn the_same_resource_is_not_written_twice_in_a_transaction() {
        let named = |url: &str| json!({"fullUrl": url, "request": {"method": "GET", "url": "Patient/1"}});
        let twice = [
            entry("DELETE", "Patient/1"),
            with_resource("PUT", "Patient/1", json!({"resourceType": "Patient"})),
        ];
        let expected = ["duplicate: Bundle.entry[1].request.url names a resource that another entry writes"];
        assert_eq!(reasons(&bundle("transaction", &twice)), expected);
        assert!(reasons(&bundle("batch", &twice)).is_empty());
        let names = [named("urn:uuid:1"), named("urn:uuid:2"), named("urn:uuid:1")];
        assert_eq!(
            reasons(&bundle("transaction", &names)),
            ["duplicate: Bundle.entry[2].fullUrl must be unlike every other"]
        );
    }

    #[test]
    fn a_batch_goes_on_without_what_it_cannot_do() {
        let plan = plan(bundle("batch", &[entry("GET", "x"), entry("GET", "Patient/1")]))
            .unwrap_or_else(|_| panic!("a batch is planned in part"));
        assert_eq!(plan.entries.len(), 1);
        assert_eq!(plan.rejected.len(), 1);
        assert_eq!(plan.rejected[0].0, 0);
        assert!(plan.rejected[0].1[0].diagnostics.contains("Bundle.entry[0]"));
    }

    #[test]
    fn targets_are_read_as_the_specification_writes_them() {
        let shown = |url: &str| {
            target(url).map(|target| {
                format!(
                    "{} {} {:?} {} {}",
                    target.resource_type.map_or("-", ResourceType::name),
                    target.id.as_ref().map_or("-", ResourceId::as_str),
                    target.history,
                    target.operation.as_deref().unwrap_or("-"),
                    target.query.as_deref().unwrap_or("-")
                )
            })
        };
        for (url, expected) in [
            ("Patient", "Patient - Absent - -"),
            ("/Patient/1", "Patient 1 Absent - -"),
            ("Patient/1/_history", "Patient 1 All - -"),
            ("Patient/1/_history/2", "Patient 1 Version(2) - -"),
            ("Patient/_history?_count=1", "Patient - All - _count=1"),
            ("Patient?name=a/b?c", "Patient - Absent - name=a/b?c"),
            ("Patient/_search", "Patient - Absent _search -"),
            ("Patient/$validate", "Patient - Absent $validate -"),
            ("Patient/1/$everything?start=2020", "Patient 1 Absent $everything start=2020"),
            ("Patient/1/Observation", "Patient 1 Absent Observation -"),
            ("metadata", "- - Absent metadata -"),
            ("_history", "- - All - -"),
            ("?_type=Patient", "- - Absent - _type=Patient"),
            ("$process-message", "- - Absent $process-message -"),
        ] {
            assert_eq!(shown(url).as_deref(), Some(expected), "{url}");
        }
        for url in [
            "",
            "/",
            "//h/Patient/1",
            "https://h/fhir/R4/Patient/1",
            "urn:uuid:1",
            "Patient/",
            "Patient/1/",
            "patient/1",
            "Patient/a_b",
            "Patient/1/x",
            "Patient/_history/1",
            "Patient/1/_history/a",
            "Patient/1/_history/1/2",
            "Patient/../Group",
            "metadata/x",
            "Patient/$",
            "Patient/1#x",
            "Patient/_search/x",
            "Patient/1/_search",
            "Patient/1/_history/99999999999999999999999",
        ] {
            assert!(target(url).is_none(), "{url}");
        }
    }

    /// JSON with the names that matter here, so that it gets far.
    fn arbitrary_json() -> impl Strategy<Value = Value> {
        let names = "resourceType|type|entry|request|method|url|resource|fullUrl|ifMatch|reference|subject|text|div|contained|extension|valueUri|_status|[a-z]{0,3}";
        let texts = "Bundle|transaction|batch|Patient|PUT|POST|DELETE|GET|Patient/1|urn:uuid:1|<div href=\"urn:uuid:1\"|\\PC{0,8}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            texts.prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 8, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec((names, inner), 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn arbitrary_entry() -> impl Strategy<Value = Value> {
        let method = prop_oneof![
            Just("GET"),
            Just("HEAD"),
            Just("POST"),
            Just("PUT"),
            Just("PATCH"),
            Just("DELETE"),
            Just("X")
        ];
        let url = prop_oneof![
            "Patient",
            "Patient/[1-9]{1,2}",
            "Patient[?]x=[a-z]",
            "Patient/_history",
            "[a-z/?]{0,4}"
        ];
        let resource = prop_oneof![Just(json!({"resourceType": "Patient"})), arbitrary_json()];
        (method, url, proptest::option::of(resource)).prop_map(|(method, url, resource)| {
            let mut value = entry(method, &url);
            if let (Some(resource), Value::Object(object)) = (resource, &mut value) {
                object.insert("resource".to_owned(), resource);
            }
            value
        })
    }

    proptest! {
        #[test]
        fn arbitrary_json_never_panics(mut value in arbitrary_json()) {
            let _ = plan(value.clone());
            let _ = plan(bundle("transaction", std::slice::from_ref(&value)));
            let _ = crate::validate::resource(&value);
            let _ = crate::validate::resource(&json!({"resourceType": "Observation", "contained": [value.clone()], "subject": value.clone(), "text": value.clone(), "value": value.clone()}));
            rewrite_references(&mut value, &|link| (link == "urn:uuid:1").then(|| "Patient/a".to_owned()));
            let mut within = json!({"resourceType": "Observation", "contained": [value.clone()], "subject": value, "text": {"div": "<div href=\"urn:uuid:1"}});
            rewrite_references(&mut within, &|link| (link == "urn:uuid:1").then(|| "Patient/a".to_owned()));
        }

        #[test]
        fn a_plan_has_every_entry_once_and_in_order(entries in proptest::collection::vec(arbitrary_entry(), 0..12)) {
            for kind in ["batch", "transaction"] {
                let Ok(plan) = plan(bundle(kind, &entries)) else {
                    prop_assert_eq!(kind, "transaction");
                    continue;
                };
                let planned = plan.entries.iter().map(|entry| entry.index);
                let mut all: Vec<usize> = planned.chain(plan.rejected.iter().map(|(index, _)| *index)).collect();
                all.sort_unstable();
                prop_assert_eq!(all, (0..entries.len()).collect::<Vec<_>>());
                prop_assert!(plan.entries.is_sorted_by_key(|entry| entry.method.rank()));
                prop_assert!(kind == "batch" || plan.rejected.is_empty());
                for entry in &plan.entries {
                    prop_assert_eq!(entry.resource.as_ref(), entries[entry.index].get("resource"));
                }
            }
        }
    }
}
