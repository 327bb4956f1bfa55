//! Telling endpoints: a loop that finds out for whom something is to be done, and does it for a few at once, one after
//! the other for each.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use ward_audit::{Actor, Class, Entry, Outcome};
use ward_base::{Phi, RequestId, ResourceId, Timestamp};
use ward_fhir::ResourceType;
use ward_identity::{Holder, POLICY_VERSION, Permission, Purpose, decide};
use ward_monitor::event;
use ward_store::{Expected, ResourceKey, Session, Stored};
use ward_transport::OutsideError;

use super::ledger::{Next, Notification, Registration, Rules, Settled, State, Task, events};
use super::{Subscribed, Writer, refresh};
use crate::app::App;
use crate::behalf;
use crate::fhir::notification::{Occasion, Sender};
use crate::fhir::subscription::Definition;
use crate::problem::Problem;

/// How often the list is read again, for what other instances write, and each Subscription looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Deliveries at once.
const AT_ONCE: usize = 8;
/// Deliveries for one Subscription before another gets its turn.
const IN_A_ROW: usize = 50;

/// Delivers until dropped.
pub(crate) async fn run(app: Arc<App>) {
    let mut state = Deliveries::default();
    let mut looked: Option<Instant> = None;
    loop {
        if looked.is_none_or(|looked| looked.elapsed() >= LOOK_AGAIN) {
            if refresh(&app).await.is_err() {
                event!(Error, "subscription.list_not_read");
            }
            looked = Some(Instant::now());
            state.ready.extend(app.subscriptions.roster().by_id.keys().cloned());
        }
        state.ready.extend(app.subscriptions.take_noticed());
        let now = app.clock.now();
        state.ready.extend(state.later.extract_if(|_, at| *at <= now).map(|(id, _)| id));
        state.start(&app);
        let soonest = state.later.values().min().map_or(LOOK_AGAIN, |at| {
            let micros = at.micros().saturating_sub(now.micros());
            Duration::from_micros(u64::try_from(micros).unwrap_or(0)).min(LOOK_AGAIN)
        });
        tokio::select! {
            () = app.subscriptions.wake.notified() => {}
            () = tokio::time::sleep(soonest) => {}
            Some(ended) = state.running.join_next_with_id() => match ended {
                Ok((task, after)) => state.ended(&app, task, after),
                Err(broken) => state.ended(&app, broken.id(), After::Broken),
            },
        }
    }
}

#[derive(Default)]
struct Deliveries {
    running: JoinSet<After>,
    /// For whom.
    at_work: HashMap<Id, ResourceId>,
    ready: HashSet<ResourceId>,
    later: HashMap<ResourceId, Timestamp>,
}

/// When to look at a Subscription again.
enum After {
    /// When something is queued for it.
    Nothing,
    At(Timestamp),
    AtOnce,
    Broken,
}

impl Deliveries {
    fn start(&mut self, app: &Arc<App>) {
        let busy: HashSet<&ResourceId> = self.at_work.values().collect();
        let idle: Vec<ResourceId> = self.ready.iter().filter(|id| !busy.contains(id)).cloned().collect();
        for id in idle {
            if self.at_work.len() >= AT_ONCE {
                return;
            }
            self.ready.remove(&id);
            let (app, own) = (Arc::clone(app), id.clone());
            let task = self.running.spawn(async move { work(&app, &own).await.unwrap_or(After::Broken) });
            self.at_work.insert(task.id(), id);
        }
    }

    fn ended(&mut self, app: &App, task: Id, after: After) {
        let Some(id) = self.at_work.remove(&task) else { return };
        match after {
            After::Nothing => {}
            After::AtOnce => {
                self.ready.insert(id);
            }
            After::At(at) => {
                self.later.insert(id, at);
            }
            After::Broken => {
                event!(Error, "subscription.delivery_broke");
                self.later.insert(id, app.clock.now().plus_seconds(5));
            }
        }
    }
}

/// Does what is to be done for one Subscription.
async fn work(app: &Arc<App>, id: &ResourceId) -> Result<After, Problem> {
    let mut settled: Option<Settled> = None;
    let (mut last, mut known) = (None, None);
    for turn in 0..=IN_A_ROW {
        let listed = app.subscriptions.roster().by_id.get(id).cloned();
        // What was told is noted also of one that was turned off meanwhile.
        let Some(subscribed) = listed.or_else(|| known.take().filter(|_| settled.is_some())) else {
            return Ok(After::Nothing);
        };
        known = Some(Arc::clone(&subscribed));
        let Some(definition) = subscribed.definition.clone() else {
            put_status(app, &subscribed, State::Stopped, "error", Some(&Cause::NotUnderstood.words()))
                .await?;
            continue;
        };
        if definition.end.is_some_and(|end| end <= app.clock.now()) {
            put_status(app, &subscribed, State::Stopped, "off", None).await?;
            continue;
        }
        let was_settling = settled.is_some();
        let next = advance(app, &subscribed, &definition, settled.take(), turn < IN_A_ROW).await?;
        let task = match next {
            Next::Nothing => return Ok(After::Nothing),
            Next::At(at) => return Ok(After::At(at)),
            Next::Do(_) if turn == IN_A_ROW => return Ok(After::AtOnce),
            Next::Do(task) => task,
            Next::Stale => {
                refresh(app).await?;
                continue;
            }
            Next::GiveUp(tries) => {
                let cause = if was_settling { last.take() } else { None };
                give_up(app, &subscribed, cause, tries).await?;
                continue;
            }
        };
        let told = tell(app, &subscribed, &definition, &task).await;
        settled = Some(match told {
            Ok(()) if task == Task::Handshake => {
                put_status(app, &subscribed, State::Active, "active", None).await?;
                continue;
            }
            Ok(()) => Settled::Told(task),
            Err(Cause::Unready) => Settled::Unready,
            Err(cause) if cause.is_final() => {
                event!(Warning, "subscription.given_up", reason = cause.name());
                put_status(app, &subscribed, State::Stopped, "error", Some(&cause.words())).await?;
                continue;
            }
            Err(cause) => {
                event!(
                    Warning,
                    "subscription.delivery_failed",
                    reason = cause.name(),
                    status = cause.status()
                );
                last = Some(cause);
                Settled::Failed
            }
        });
    }
    Ok(After::AtOnce)
}

/// Looks what is next; the lease is taken only if there is something to do.
async fn advance(
    app: &Arc<App>,
    subscribed: &Arc<Subscribed>,
    definition: &Definition,
    settled: Option<Settled>,
    more: bool,
) -> Result<Next, Problem> {
    let [jitter] = app.random.bytes();
    let heartbeat_seconds = definition.heartbeat_seconds;
    let (own, subscribed) = (Arc::clone(app), Arc::clone(subscribed));
    let rules = move |jitter| Rule {
        app: Arc::clone(&own),
        subscribed: Arc::clone(&subscribed),
        heartbeat_seconds,
        jitter,
    };
    let rule = rules(jitter);
    if settled.is_none() {
        let looked = app.store.read(move |session| rule.rules().look(session)).await?;
        if !matches!(looked, Next::Do(_)) {
            return Ok(looked);
        }
    }
    let rule = rules(jitter);
    app.store.write(move |transaction| rule.rules().advance(transaction, settled.as_ref(), more)).await
}

/// What [`Rules`] borrow.
struct Rule {
    app: Arc<App>,
    subscribed: Arc<Subscribed>,
    heartbeat_seconds: Option<i64>,
    jitter: u8,
}

impl Rule {
    fn rules(&self) -> Rules<'_> {
        let all = &self.app.subscriptions;
        Rules {
            instance: &all.instance,
            id: &self.subscribed.id,
            registration: &self.subscribed.registration,
            heartbeat_seconds: self.heartbeat_seconds,
            retry_ms: all.retry_ms,
            tries: all.tries,
            jitter: self.jitter,
            now: self.app.clock.now(),
        }
    }
}

/// Why an endpoint was not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Outside(OutsideError),
    Status(StatusCode),
    /// The account is disabled or gone.
    Account,
    /// The account may not see what it subscribed to any more.
    Rights,
    /// The Subscription is not understood any more.
    NotUnderstood,
    /// Something here does not work, the audit log perhaps: not the endpoint's fault.
    Unready,
}

impl Cause {
    /// Whether trying again is of no use.
    const fn is_final(self) -> bool {
        matches!(self, Self::Account | Self::Rights | Self::NotUnderstood)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Outside(OutsideError::Unreachable) => "unreachable",
            Self::Outside(OutsideError::Untrusted) => "untrusted",
            Self::Outside(OutsideError::Broken) => "broken",
            Self::Outside(OutsideError::Late) => "late",
            Self::Status(_) => "status",
            Self::Account => "account",
            Self::Rights => "rights",
            Self::NotUnderstood => "not-understood",
            Self::Unready => "unready",
        }
    }

    const fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status.as_u16()),
            _ => None,
        }
    }

    /// For `Subscription.error`: what happened and what to do. Holds nothing of any record.
    fn words(self) -> String {
        match self {
            Self::Outside(OutsideError::Unreachable) => "the endpoint cannot be reached".to_owned(),
            Self::Outside(OutsideError::Untrusted) => {
                "the endpoint has no certificate for its name from an authority in `subscriptions.authorities`".to_owned()
            }
            Self::Outside(OutsideError::Broken) => "the endpoint closed the connection without an answer".to_owned(),
            Self::Outside(OutsideError::Late) => "the endpoint did not answer within 10 seconds".to_owned(),
            Self::Status(status) => {
                format!("the endpoint answered with status {} instead of a success", status.as_u16())
            }
            Self::Account => "the account that wrote this Subscription is disabled or gone; write it with another".to_owned(),
            Self::Rights => {
                "the account that wrote this Subscription may not read resources of this type any more".to_owned()
            }
            Self::NotUnderstood => {
                "this server's settings do not allow this Subscription any more, perhaps its endpoint; write it again to be told why".to_owned()
            }
            Self::Unready => "the server could not send notifications".to_owned(),
        }
    }
}

async fn give_up(
    app: &Arc<App>,
    subscribed: &Arc<Subscribed>,
    cause: Option<Cause>,
    tries: u32,
) -> Result<(), Problem> {
    event!(Warning, "subscription.given_up", reason = cause.map(Cause::name), tries = tries);
    let what = cause.map_or_else(|| "the endpoint could not be told".to_owned(), Cause::words);
    let words = format!(
        "{what}; given up after {tries} tries. Write the Subscription as `requested` to begin again: events queued until now \
         are kept for seven days and come first; later changes are not queued until then"
    );
    put_status(app, subscribed, State::Stopped, "error", Some(&words)).await
}

/// Tells an endpoint, if the account may still be told and the log has it.
async fn tell(
    app: &Arc<App>,
    subscribed: &Arc<Subscribed>,
    definition: &Arc<Definition>,
    task: &Task,
) -> Result<(), Cause> {
    let outside = app.subscriptions.outside.as_ref().ok_or(Cause::NotUnderstood)?;
    let op = behalf::op(app, &subscribed.registration.holder).await.map_err(|_| Cause::Unready)?;
    let op = op.ok_or(Cause::Account)?;
    let kind = definition.query.resource_type;
    if !decide(&op, Permission::Read, Some(kind.name())).is_allowed() {
        return Err(Cause::Rights);
    }
    let (own, of) = (Arc::clone(app), Arc::clone(subscribed));
    let wanted = match task {
        Task::Event(_, notification) => Some(notification.clone()),
        Task::Handshake | Task::Heartbeat => None,
    };
    let read = move |session: &mut dyn Session| {
        let stored = wanted.map(|wanted| stored(session, &wanted)).transpose()?.flatten();
        Ok::<_, Problem>((stored, events(session, &of.id)?.unwrap_or_default()))
    };
    let (stored, count) = own.store.read(read).await.map_err(|_| Cause::Unready)?;
    let (occasion, action, count) = match (task, &stored) {
        (Task::Handshake, _) => (Occasion::Handshake, "subscription-handshake", count),
        (Task::Heartbeat, _) => (Occasion::Heartbeat, "subscription-heartbeat", count),
        (Task::Event(number, notification), Some(stored)) => {
            (Occasion::Event { number: *number, notification, stored }, "notify", *number)
        }
        // The version is gone, and with it what there was to tell.
        (Task::Event(..), None) => return Ok(()),
    };
    let sender = Sender { base: &app.settings.base, id: &subscribed.id, definition, events: count };
    let request = sender.request(&occasion, &*app.random).map_err(|_| Cause::Unready)?;
    let endpoint = &definition.endpoint;

    let mut entry = behalf::intent(app, &op, action);
    entry.class = Class::Disclosure;
    entry.resource_type = Some(kind.name());
    entry.query = Some(Phi::new(format!(
        "Subscription/{} https://{}:{}{}",
        subscribed.id.as_str(),
        endpoint.host,
        endpoint.port,
        request.as_ref().map_or(endpoint.path.as_str(), |request| request.uri().path())
    )));
    if let Some(stored) = &stored {
        entry.resource = Some((kind.name(), stored.key.id.clone(), Some(stored.version)));
        entry.patients.clone_from(&stored.patients);
        entry.patients.sort_unstable();
        entry.patients.dedup();
        entry.rows = 1;
    }
    // No entry, no delivery.
    app.trail.append(vec![entry.clone()]).await.map_err(|_| Cause::Unready)?;
    let answer = match request {
        Some(request) => outside.send(&endpoint.host, endpoint.port, request).await.map(Some),
        None => outside.greet(&endpoint.host, endpoint.port).await.map(|()| None),
    };
    let told = match answer {
        Ok(Some(status)) if !status.is_success() => Err(Cause::Status(status)),
        Ok(_) => Ok(()),
        Err(error) => Err(Cause::Outside(error)),
    };
    entry.time = app.clock.now();
    entry.outcome = if told.is_ok() { Outcome::Success } else { Outcome::Failed };
    entry.status = answer.ok().flatten().map(|status| status.as_u16());
    if app.trail.append(vec![entry]).await.is_err() {
        // The intent stands in the log: it may have been told, and the log says so.
        event!(Error, "subscription.outcome_not_logged");
    }
    told
}

/// The version that an event is about.
fn stored(session: &mut dyn Session, notification: &Notification) -> Result<Option<Stored>, Problem> {
    let kind = ResourceType::parse(&notification.kind).ok_or_else(Problem::internal)?;
    let id = ResourceId::parse(&notification.id).map_err(|_| Problem::internal())?;
    Ok(session.version(&ResourceKey { resource_type: kind, id }, notification.version)?)
}

/// Writes down in the Subscription where it stands, unless somebody has changed it meanwhile.
async fn put_status(
    app: &Arc<App>,
    subscribed: &Arc<Subscribed>,
    state: State,
    status: &'static str,
    error: Option<&str>,
) -> Result<(), Problem> {
    let key = subscribed.key()?;
    let wanted = (key.clone(), subscribed.registration.version);
    let stored = app.store.read(move |session| session.version(&wanted.0, wanted.1)).await?;
    let Some(stored) = stored.filter(|stored| !stored.deleted) else { return refresh(app).await };
    let mut resource: Value =
        serde_json::from_slice(stored.body.expose()).map_err(|_| Problem::internal())?;
    let members = resource.as_object_mut().ok_or_else(Problem::internal)?;
    members.insert("status".to_owned(), status.into());
    match error {
        Some(words) => members.insert("error".to_owned(), words.into()),
        None => members.shift_remove("error"),
    };
    let prepared = app.store.prepare(&key, &resource)?;
    let id = RequestId::new(&*app.clock, &*app.random);
    let mut entry = Entry::new(app.clock.now(), id, Class::Rest, "update", Outcome::Intent);
    entry.policy_version = POLICY_VERSION;
    // The server does it because of what they asked for.
    entry.actor = match &subscribed.registration.holder {
        Holder::User { id, .. } => Actor::User(id.clone()),
        Holder::Client { id, .. } => Actor::Client(id.clone()),
    };
    entry.purpose = Some(Purpose::System.name());
    entry.resource_type = Some(key.resource_type.name());
    entry.resource = Some((key.resource_type.name(), key.id.clone(), None));
    entry.patients = prepared.patients().to_vec();
    entry.rows = 1;
    app.trail.append(vec![entry.clone()]).await.map_err(|_| Problem::audit_unavailable())?;
    let version = subscribed.registration.version;
    let written = app
        .write(Writer::Tier, move |transaction| {
            let registration = Registration::of(transaction, &key.id)?;
            let Some(registration) = registration.filter(|now| now.version == version) else {
                return Ok(None);
            };
            let written = transaction.put(&prepared, Expected::Version(version))?;
            let next = Registration { version: written.version, state, ..registration };
            super::ledger::register(transaction, &key.id, &next, written.updated)?;
            Ok(Some(written.version))
        })
        .await;
    entry.time = app.clock.now();
    entry.outcome = if matches!(written, Ok(Some(_))) { Outcome::Success } else { Outcome::Failed };
    if let (Some((_, _, at)), Ok(written)) = (&mut entry.resource, &written) {
        *at = *written;
    }
    app.trail.append(vec![entry]).await.map_err(|_| Problem::audit_unavailable())?;
    match written {
        Ok(Some(_)) => Ok(()),
        // Somebody was faster; what they want counts.
        Ok(None) => refresh(app).await,
        Err(problem) => Err(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authenticate::OPERATOR;
    use ward_base::{Clock as _, SystemClock};
    use ward_identity::Scopes;
    use ward_transport::CertificateAuthority;

    use crate::SubscriptionsConfig;
    use crate::fhir::subscription::tests::{settings, subscription};

    #[tokio::test]
    async fn no_entry_no_delivery() {
        let directory = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::create("hooks", SystemClock.now()).unwrap();
        // Connections wait here to be accepted: whoever called is seen, though nobody answers.
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let origin = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let config = crate::AppConfig {
            subscriptions: SubscriptionsConfig {
                endpoints: vec![origin.clone()],
                authorities_pem: authority.certificate_pem().to_owned(),
                retry_ms: 1,
                tries: 1,
            },
            ..crate::start::tests::config(directory.path())
        };
        let app = Arc::new(crate::start::open(&config, Arc::new(SystemClock)).unwrap());
        let mut resource = subscription();
        resource["channel"]["endpoint"] = origin.clone().into();
        let allowed = crate::app::Settings { endpoints: vec![origin], ..settings() };
        let definition = Arc::new(Definition::read(&allowed, &resource).ok().unwrap());
        let scopes = Scopes::parse("system/*.rs").unwrap();
        let subscribed = |id: &str| {
            let holder = Holder::Client { id: id.to_owned(), scopes: scopes.clone() };
            Arc::new(Subscribed {
                id: ResourceId::parse("s").unwrap(),
                registration: Registration { holder, version: 1, state: State::Pending },
                definition: Some(Arc::clone(&definition)),
            })
        };
        let caller = || listener.accept().ok();
        let called = || caller().is_some();

        let nobody = tell(&app, &subscribed("nobody"), &definition, &Task::Handshake).await;
        assert_eq!((nobody, called()), (Err(Cause::Account), false));
        let (of, its) = (subscribed(OPERATOR), Arc::clone(&definition));
        let (telling, again) = (Arc::clone(&app), Arc::clone(&of));
        let calling = tokio::spawn(async move { tell(&telling, &again, &its, &Task::Handshake).await });
        let held = loop {
            match caller() {
                Some(stream) => break stream,
                None => tokio::task::yield_now().await,
            }
        };
        // As long as nobody answers, there is no outcome: what the log has is the intent.
        assert_eq!(app.trail.state().await.unwrap().0, 1);
        calling.abort();
        drop(held);
        app.trail.close();
        let unlogged = tell(&app, &of, &definition, &Task::Handshake).await;
        assert_eq!((unlogged, called()), (Err(Cause::Unready), false));
        app.store.close().await;
    }
}
