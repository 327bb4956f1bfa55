//! One request on its way through the tier: who makes it, from where, and what the audit log will say of it.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use ward_audit::{Actor, Class, Entry, Outcome};
use ward_base::{Phi, RequestId, ResourceId, Timestamp};
use ward_fhir::ResourceType;
use ward_fhir::json::Limits;
use ward_identity::{Decision, Op, POLICY_VERSION, Permission, Purpose, Request, decide};
use ward_store::ResourceKey;
use ward_transport::{BodyError, RequestBody};

use crate::app::App;
use crate::authenticate::{Found, authenticate};
use crate::problem::Problem;
use crate::subscriptions::Writer;

/// Sets the purpose of use of a request.
const PURPOSE: &str = "x-ward-purpose-of-use";
/// A page's question that nobody asked: it does not keep a session alive.
const PASSIVE: &str = "x-ward-passive";
const USER_AGENT_BYTES_MAX: usize = 512;
/// The longest body that holds no resource.
const JSON_BYTES_MAX: usize = 64 << 10;

/// A request without its body.
pub(crate) struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) headers: HeaderMap,
    pub(crate) now: Timestamp,
    pub(crate) id: RequestId,
    /// What the log will say when the request is done.
    pub(crate) entry: Entry,
    /// Only the head of the answer is asked for.
    pub(crate) head: bool,
    /// The log says that the request was refused, though its answer does not let on.
    pub(crate) refused_unsaid: bool,
    caller: Option<Caller>,
}

struct Caller {
    op: Op,
    found: Found,
    key: String,
}

impl Call {
    /// A request of which nothing is known but its headers.
    pub(crate) fn new(app: Arc<App>, headers: HeaderMap) -> Self {
        let now = app.clock.now();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let id = text("x-request-id")
            .and_then(RequestId::parse)
            .unwrap_or_else(|| RequestId::new(&*app.clock, &*app.random));
        let mut entry = Entry::new(now, id, Class::Rest, "unknown", Outcome::Failed);
        entry.policy_version = POLICY_VERSION;
        // The public edge sets it to the address it saw, whatever the client said.
        entry.address = text("x-forwarded-for")
            .and_then(|list| list.split(',').next())
            .and_then(|address| address.trim().parse::<IpAddr>().ok())
            .map(Phi::new);
        entry.user_agent = headers.get(header::USER_AGENT).map(|agent| {
            Phi::new(String::from_utf8_lossy(agent.as_bytes()).chars().take(USER_AGENT_BYTES_MAX).collect())
        });
        Self { app, headers, now, id, entry, head: false, refused_unsaid: false, caller: None }
    }

    /// It is later than when the request came: its body took its time.
    pub(crate) fn refresh(&mut self) {
        self.now = self.app.clock.now();
    }

    /// A header's text.
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Names what is being done, for the audit log.
    pub(crate) fn doing(&mut self, class: Class, action: &'static str, kind: Option<ResourceType>) {
        self.entry.class = class;
        self.entry.action = action;
        self.entry.resource_type = kind.map(ResourceType::name);
    }

    /// Finds out who is asking. Fails if that is nobody.
    pub(crate) async fn authenticate(&mut self) -> Result<(), Problem> {
        let purpose = match self.header(PURPOSE) {
            None => None,
            Some(word) => Some(Purpose::parse(word).ok_or_else(|| {
                Problem::malformed(
                    ward_fhir::outcome::IssueCode::Value,
                    "the header x-ward-purpose-of-use must be TREATMENT, PAYMENT, OPERATIONS, EMERGENCY, \
                     PATIENT-REQUEST, PUBLIC-HEALTH, RESEARCH or SYSTEM",
                )
            })?),
        };
        let passive = self.headers.contains_key(PASSIVE);
        let request = Request { id: self.id, now: self.now, purpose };
        let authorization = self.header(header::AUTHORIZATION).map(str::to_owned);
        let (op, found, key) = authenticate(&self.app, authorization.as_deref(), request, passive).await?;
        self.entry.actor = match (op.user(), op.client()) {
            (Some(user), _) => Actor::User(user.to_owned()),
            (_, Some(client)) => Actor::Client(client.to_owned()),
            _ => Actor::Anonymous,
        };
        self.entry.roles = op.roles().iter().map(|role| role.name()).collect();
        self.entry.mfa = Some(op.mfa().name());
        self.entry.purpose = Some(op.purpose().name());
        self.entry.session = Some(key.clone());
        self.caller = Some(Caller { op, found, key });
        Ok(())
    }

    fn caller(&self) -> Result<&Caller, Problem> {
        self.caller.as_ref().ok_or_else(Problem::unauthenticated)
    }

    /// The session that was found, and its storage key.
    pub(crate) fn session(&self) -> Result<(&Found, &str), Problem> {
        self.caller().map(|caller| (&caller.found, caller.key.as_str()))
    }

    /// Whose the request is: what paging links are bound to.
    pub(crate) fn account(&self) -> Result<String, Problem> {
        let op = &self.caller()?.op;
        Ok(match (op.user(), op.client()) {
            (Some(user), _) => format!("user/{user}"),
            (_, client) => format!("client/{}", client.unwrap_or_default()),
        })
    }

    /// On whose behalf resources are written.
    pub(crate) fn writer(&self) -> Result<Writer, Problem> {
        Ok(Writer::Caller(self.caller()?.found.session.holder.clone()))
    }

    /// Fails unless the policy lets the caller do it.
    pub(crate) fn permit(&self, permission: Permission, kind: Option<ResourceType>) -> Result<(), Problem> {
        match decide(&self.caller()?.op, permission, kind.map(ResourceType::name)) {
            Decision::Allow => Ok(()),
            Decision::Deny(reason) => Err(Problem::forbidden(reason)),
        }
    }

    /// Notes which resource the request is about.
    pub(crate) fn about(&mut self, key: &ResourceKey, version: Option<u64>) {
        self.entry.resource_type = Some(key.resource_type.name());
        self.entry.resource = Some((key.resource_type.name(), key.id.clone(), version));
    }

    /// Notes whose data is touched, and in how many resources.
    pub(crate) fn touches<'a>(&mut self, patients: impl IntoIterator<Item = &'a ResourceId>, rows: usize) {
        self.entry.patients.extend(patients.into_iter().cloned());
        self.entry.rows = self.entry.rows.saturating_add(u32::try_from(rows).unwrap_or(u32::MAX));
    }

    /// Makes the intent durable, before anything is changed.
    pub(crate) async fn intend(&self) -> Result<(), Problem> {
        let mut entry = self.entry.clone();
        entry.outcome = Outcome::Intent;
        self.record(vec![entry]).await
    }

    /// Makes entries durable, each patient named once in each.
    pub(crate) async fn record(&self, mut entries: Vec<Entry>) -> Result<(), Problem> {
        for entry in &mut entries {
            entry.patients.sort_unstable();
            entry.patients.dedup();
        }
        self.app.trail.append(entries).await.map_err(|_| Problem::audit_unavailable())
    }

    /// The whole body, of one of these media types, no longer than `bytes_max`.
    pub(crate) async fn body(
        &self,
        body: RequestBody,
        media_types: &[&str],
        expected: &'static str,
        bytes_max: usize,
    ) -> Result<Bytes, Problem> {
        let sent = self.header(header::CONTENT_TYPE).unwrap_or_default();
        let media_type = sent.split(';').next().unwrap_or_default().trim();
        if !media_types.iter().any(|known| known.eq_ignore_ascii_case(media_type)) {
            return Err(Problem::unsupported_media_type(expected));
        }
        match Limited::new(body, bytes_max).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) => match error.downcast::<BodyError>() {
                Ok(error) => Err((*error).into()),
                Err(_) => Err(BodyError::TooLarge.into()),
            },
        }
    }

    /// The body as JSON that is no resource.
    pub(crate) async fn json(&self, body: RequestBody) -> Result<Value, Problem> {
        let bytes = self.body(body, &["application/json"], "application/json", JSON_BYTES_MAX).await?;
        Ok(ward_fhir::json::parse(&bytes, &self.json_limits())?)
    }

    /// The most bytes of a body that holds resources.
    pub(crate) fn resource_bytes_max(&self) -> usize {
        usize::try_from(self.app.settings.limits.body_bytes).unwrap_or(usize::MAX)
    }

    /// Notes that the request asks about these patients, whether or not anything of theirs is found.
    pub(crate) fn asks_about(&mut self, patients: impl IntoIterator<Item = ResourceId>) {
        self.entry.patients.extend(patients);
    }

    /// The bounds of JSON from outside.
    pub(crate) fn json_limits(&self) -> Limits {
        Limits { bytes: self.resource_bytes_max(), depth: self.app.settings.limits.json_depth }
    }
}

/// What takes longer than an async thread should be kept for.
const LONG_BYTES: usize = 64 << 10;

/// Does work on a body of so many bytes: on this thread if it is short, on one for such things if it is not.
pub(crate) async fn aside<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if bytes <= LONG_BYTES {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(|_| Problem::internal())?
}
