//! FHIR Subscriptions at work (<https://hl7.org/fhir/R4/subscription.html>): whose criteria a write meets is queued in
//! the same transaction as the write, and told to the endpoint afterwards, in order and at least once.
//!
//! A Subscription is acted on if an account wrote it (what is imported is kept and not acted on): a sealed record
//! beside the resource says which account, and where it stands ([`mod@ledger`]). Every instance keeps the list of those
//! in memory, so that a write of a type that nobody watches costs a look into a map ([`mod@watch`]). One instance at a
//! time delivers for a Subscription ([`mod@deliver`]).
//!
//! - `requested` begins: events are queued from the moment that the write is acknowledged, and sent once the endpoint
//!   was reached and the server has made it `active`.
//! - `off` (the client) and `error` (the server, after as many tries as the operator allows, or a day) end: changes are
//!   not queued from then on. What was queued before is kept for seven days after its event, and comes first when the
//!   Subscription is written as `requested` again.
//! - It acts with the rights of the account that wrote it last, which are checked again before each delivery.

mod deliver;
mod ledger;
mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use ward_base::ResourceId;
use ward_fhir::ResourceType;
use ward_store::{RecordKind, ResourceKey, Session, Transaction};
use ward_transport::{AuthorityError, Outside};

use crate::app::App;
use crate::config::SubscriptionsConfig;
use crate::fhir::subscription::{self, BACKPORT, Definition, Form};
use crate::problem::Problem;
use ledger::{Registration, State};
use watch::Watched;

pub(crate) use deliver::run;
pub(crate) use ledger::{Change, Notification, events};
pub(crate) use watch::Writer;

/// How long a host outside may take, from its name to the end of its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many are acted on: each costs a look now and then, and at each write of its type.
const SUBSCRIPTIONS_MAX: usize = 1000;

/// What the tier knows of Subscriptions.
pub(crate) struct Subscriptions {
    roster: RwLock<Arc<Roster>>,
    /// One refresh at a time: what was read later also counts later.
    refreshing: tokio::sync::Mutex<()>,
    /// Those for which this instance has queued something since the deliveries looked last.
    queued: Mutex<HashSet<ResourceId>>,
    wake: Notify,
    /// Without endpoints there is nobody to call.
    outside: Option<Outside>,
    retry_ms: u64,
    tries: u32,
    /// Under which name this instance holds leases: the same after a restart, so that it takes its own up again.
    instance: String,
}

impl Subscriptions {
    /// None known yet.
    pub(crate) fn new(config: &SubscriptionsConfig, instance: &str) -> Result<Self, AuthorityError> {
        let outside = match config.endpoints.is_empty() {
            true => None,
            false => Some(Outside::new(&config.authorities_pem, PATIENCE)?),
        };
        Ok(Self {
            roster: RwLock::default(),
            refreshing: tokio::sync::Mutex::default(),
            queued: Mutex::default(),
            wake: Notify::new(),
            outside,
            retry_ms: config.retry_ms,
            tries: config.tries,
            instance: instance.to_owned(),
        })
    }

    /// Those that are acted on, as far as this instance knows.
    fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.roster.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this one may be acted on besides those that are.
    pub(crate) fn has_room_for(&self, id: &ResourceId) -> bool {
        let roster = self.roster();
        roster.by_id.len() < SUBSCRIPTIONS_MAX || roster.by_id.contains_key(id)
    }

    /// Lets the deliveries look at these.
    fn notice(&self, ids: impl IntoIterator<Item = ResourceId>) {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
        self.wake.notify_one();
    }

    fn take_noticed(&self) -> HashSet<ResourceId> {
        std::mem::take(&mut *self.queued.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Those Subscriptions that are acted on.
#[derive(Default)]
struct Roster {
    by_id: HashMap<ResourceId, Arc<Subscribed>>,
    /// Those that are understood, by what they are about, each list in the order of ids.
    by_kind: HashMap<ResourceType, Vec<Arc<Subscribed>>>,
}

/// One of them.
struct Subscribed {
    id: ResourceId,
    registration: Registration,
    /// Nothing, if it is not understood any more: another list of endpoints, another version of the server.
    definition: Option<Arc<Definition>>,
}

impl Subscribed {
    fn key(&self) -> Result<ResourceKey, Problem> {
        key(&self.id)
    }

    /// Whether it wants to hear of deletions. R4's own form does not know them.
    fn hears_deletions(&self) -> bool {
        self.definition.as_ref().is_some_and(|definition| matches!(definition.form, Form::Topic { .. }))
    }
}

fn key(id: &ResourceId) -> Result<ResourceKey, Problem> {
    let resource_type = ResourceType::parse("Subscription").ok_or_else(Problem::internal)?;
    Ok(ResourceKey { resource_type, id: id.clone() })
}

/// Brings the list up to date.
pub(crate) async fn refresh(app: &Arc<App>) -> Result<(), Problem> {
    let _turn = app.subscriptions.refreshing.lock().await;
    let (reading, known) = (Arc::clone(app), app.subscriptions.roster());
    let roster = app.store.read(move |session| read(&reading, &known, session)).await?;
    *app.subscriptions.roster.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(roster);
    Ok(())
}

fn read(app: &App, known: &Roster, session: &mut dyn Session) -> Result<Roster, Problem> {
    let mut roster = Roster::default();
    for (id, record) in session.records(RecordKind::Subscription)? {
        let registration = Registration::decode(&record)?;
        let Ok(id) = ResourceId::parse(&id) else { continue };
        if registration.state == State::Stopped {
            continue;
        }
        let before = known.by_id.get(&id).filter(|one| one.registration.version == registration.version);
        let definition = match before {
            Some(before) => before.definition.clone(),
            None => {
                let Some(stored) = session.version(&key(&id)?, registration.version)? else { continue };
                let resource: Value =
                    serde_json::from_slice(stored.body.expose()).map_err(|_| Problem::internal())?;
                Definition::read(&app.settings, &resource).ok().map(Arc::new)
            }
        };
        roster.by_id.insert(id.clone(), Arc::new(Subscribed { id, registration, definition }));
    }
    let mut all: Vec<_> = roster.by_id.values().cloned().collect();
    all.sort_unstable_by(|left, right| left.id.cmp(&right.id));
    for one in all {
        if let Some(definition) = &one.definition {
            roster.by_kind.entry(definition.query.resource_type).or_default().push(one);
        }
    }
    Ok(roster)
}

impl App {
    /// Runs a write of resources, queueing what it means to Subscriptions with it. As [`ward_store::Store::write`]
    /// otherwise; whatever else writes resources forgets somebody who is to be told.
    pub(crate) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        by: Writer,
        mut operation: impl FnMut(&mut dyn Transaction) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let app = Arc::clone(self);
        let (value, queued, changed) = self
            .store
            .write(move |transaction| {
                // Only now: a Subscription that was acknowledged while this waited its turn is to be told as well.
                let roster = app.subscriptions.roster();
                let mut watched = Watched::new(transaction, &by, &roster, &app.settings.base);
                let value = operation(&mut watched)?;
                let (queued, changed) = watched.finish();
                Ok::<_, Problem>((value, queued, changed))
            })
            .await?;
        if !changed.is_empty() {
            // From the acknowledgement on it is acted on. What is written is written, though: if the list cannot be
            // read now, the deliveries read it again soon.
            if refresh(self).await.is_err() {
                ward_monitor::event!(Error, "subscription.list_not_read");
            }
        }
        if !queued.is_empty() || !changed.is_empty() {
            self.subscriptions.notice(queued.into_iter().chain(changed));
        }
        Ok(value)
    }
}

/// Says in a CapabilityStatement what there is to subscribe to, as the Backport has it
/// (<https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/components.html#subscription-topics-in-r4>).
pub(crate) fn announce(statement: &mut Value, base: &str) {
    let resources = statement.pointer_mut("/rest/0/resource").and_then(Value::as_array_mut);
    let own = resources.into_iter().flatten().find(|one| one["type"] == "Subscription");
    let Some(own) = own else { return };
    let topics: Vec<Value> = ResourceType::all()
        .map(|kind| {
            json!({
                "url": format!("{BACKPORT}capabilitystatement-subscriptiontopic-canonical"),
                "valueCanonical": subscription::topic(base, kind),
            })
        })
        .collect();
    own["extension"] = topics.into();
    own["supportedProfile"] = json!([format!("{BACKPORT}backport-subscription")]);
    let status = json!({
        "name": "status",
        "definition": "http://hl7.org/fhir/uv/subscriptions-backport/OperationDefinition/backport-subscription-status",
    });
    match own.get_mut("operation").and_then(Value::as_array_mut) {
        Some(operations) => operations.push(status),
        None => own["operation"] = json!([status]),
    }
}
