//! The sealed records behind a Subscription, and what is to be done next for it.

use serde::{Deserialize, Serialize};
use ward_base::{ResourceId, Timestamp};
use ward_identity::Holder;
use ward_store::{RecordKind, Session, StoreError, Transaction};

use crate::authenticate::decode;
use crate::problem::Problem;

/// How long an event is kept that could not be told.
const KEPT_SECONDS: i64 = 7 * 86_400;
/// How long an instance may be at a delivery before another takes it for dead; longer than a delivery takes.
const LEASE_SECONDS: i64 = 60;
/// After so long without success, a Subscription is given up, however often it was tried.
const GIVE_UP_SECONDS: i64 = 86_400;
/// The longest wait between two tries.
const WAIT_MS_MAX: u64 = 3_600_000;
/// The wait if it was not the endpoint's fault.
const OWN_FAULT_SECONDS: i64 = 5;

/// That a Subscription is acted on.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Registration {
    /// With whose rights.
    pub(super) holder: Holder,
    /// The version of the resource that says what it is.
    pub(super) version: u64,
    pub(super) state: State,
}

impl Registration {
    pub(super) fn decode(record: &[u8]) -> Result<Self, Problem> {
        decode(record)
    }

    pub(super) fn of(
        session: &mut (impl Session + ?Sized),
        id: &ResourceId,
    ) -> Result<Option<Self>, Problem> {
        session.record(RecordKind::Subscription, id.as_str())?.map(|record| decode(&record)).transpose()
    }
}

/// Where a Subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// Its endpoint was not reached yet.
    Pending,
    Active,
    /// The client's `off`, or the server's `off` or `error`.
    Stopped,
}

/// Something that a Subscription is to be told of.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notification {
    /// The resource, as it stands after it.
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) version: u64,
    pub(crate) change: Change,
    pub(crate) at: Timestamp,
}

/// An id is not for logs.
impl std::fmt::Debug for Notification {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Notification(..)")
    }
}

/// What happened to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Change {
    Create,
    Update,
    Delete,
}

/// How far the deliveries have come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Delivery {
    /// The number of the last event that was told.
    delivered: u64,
    /// Tries in vain since.
    tries: u32,
    /// Not before.
    due: Timestamp,
    /// Since when it fails.
    failing: Option<Timestamp>,
    /// When something was heard last.
    sent: Timestamp,
    /// Which instance is at it, and until when nobody else is.
    holder: String,
    until: Timestamp,
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Handshake,
    Event(u64, Notification),
    Heartbeat,
}

/// What came of it.
pub(super) enum Settled {
    Told(Task),
    Failed,
    /// It was not the endpoint's fault: no try is counted.
    Unready,
}

/// What is to be done for a Subscription.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// Not before.
    At(Timestamp),
    /// The list does not know its present version.
    Stale,
    Do(Task),
    /// It has failed for too long: so many tries.
    GiveUp(u32),
}

/// What is needed to know what is next.
pub(super) struct Rules<'a> {
    pub(super) instance: &'a str,
    /// The Subscription as the list has it.
    pub(super) id: &'a ResourceId,
    pub(super) registration: &'a Registration,
    pub(super) heartbeat_seconds: Option<i64>,
    pub(super) retry_ms: u64,
    pub(super) tries: u32,
    /// In 256ths, how much longer to wait than is due.
    pub(super) jitter: u8,
    pub(super) now: Timestamp,
}

/// How many events a Subscription has had.
pub(crate) fn events(
    session: &mut (impl Session + ?Sized),
    id: &ResourceId,
) -> Result<Option<u64>, StoreError> {
    let Some(record) = session.record(RecordKind::SubscriptionEvents, id.as_str())? else { return Ok(None) };
    let bytes: [u8; 8] = record.try_into().map_err(|_| StoreError::Corrupt)?;
    Ok(Some(u64::from_be_bytes(bytes)))
}

/// Queues an event. It gets the next number in the same transaction, so that there are no gaps. A Subscription that
/// was deleted since the list was read gets none.
pub(super) fn queue(
    transaction: &mut (impl Transaction + ?Sized),
    id: &ResourceId,
    notification: &Notification,
) -> Result<(), StoreError> {
    let Some(count) = events(transaction, id)? else { return Ok(()) };
    let number = count.saturating_add(1);
    let record = serde_json::to_vec(notification).map_err(|_| StoreError::Unstorable)?;
    let expires = notification.at.plus_seconds(KEPT_SECONDS);
    transaction.put_record(RecordKind::SubscriptionEvents, id.as_str(), &number.to_be_bytes(), None)?;
    transaction.put_record(RecordKind::Notification, &place(id, number), &record, Some(expires))
}

fn place(id: &ResourceId, number: u64) -> String {
    format!("{}/{number}", id.as_str())
}

/// Notes that an account has written a Subscription: from now on, it is acted on if that is wished. Whatever failed
/// before is forgotten.
pub(super) fn register(
    transaction: &mut (impl Transaction + ?Sized),
    id: &ResourceId,
    registration: &Registration,
    now: Timestamp,
) -> Result<(), StoreError> {
    let record = serde_json::to_vec(registration).map_err(|_| StoreError::Unstorable)?;
    transaction.put_record(RecordKind::Subscription, id.as_str(), &record, None)?;
    if events(transaction, id)?.is_none() {
        transaction.put_record(RecordKind::SubscriptionEvents, id.as_str(), &0_u64.to_be_bytes(), None)?;
    }
    let before = Delivery::of(transaction, id).map_err(|_| StoreError::Corrupt)?;
    let fresh = Delivery { tries: 0, due: Timestamp(0), failing: None, sent: now, ..before };
    fresh.put(transaction, id)
}

/// Forgets a Subscription.
pub(super) fn forget(
    transaction: &mut (impl Transaction + ?Sized),
    id: &ResourceId,
) -> Result<(), StoreError> {
    for kind in [RecordKind::Subscription, RecordKind::SubscriptionEvents, RecordKind::Delivery] {
        transaction.delete_record(kind, id.as_str())?;
    }
    Ok(())
}

impl Delivery {
    fn of(session: &mut (impl Session + ?Sized), id: &ResourceId) -> Result<Self, Problem> {
        let none = Self {
            delivered: 0,
            tries: 0,
            due: Timestamp(0),
            failing: None,
            sent: Timestamp(0),
            holder: String::new(),
            until: Timestamp(0),
        };
        let record = session.record(RecordKind::Delivery, id.as_str())?;
        record.map_or(Ok(none), |record| decode(&record))
    }

    fn put(&self, transaction: &mut (impl Transaction + ?Sized), id: &ResourceId) -> Result<(), StoreError> {
        let record = serde_json::to_vec(self).map_err(|_| StoreError::Unstorable)?;
        transaction.put_record(RecordKind::Delivery, id.as_str(), &record, None)
    }
}

impl Rules<'_> {
    /// What is next, looked at without changing anything.
    pub(super) fn look(&self, session: &mut (impl Session + ?Sized)) -> Result<Next, Problem> {
        let Some(registration) = Registration::of(session, self.id)? else { return Ok(Next::Nothing) };
        let delivery = Delivery::of(session, self.id)?;
        self.next(session, &registration, &delivery)
    }

    /// Notes what came of the last delivery, and takes up the next, if `more` is wanted: nobody else delivers for this
    /// Subscription until it is settled, or the lease has ended.
    pub(super) fn advance(
        &self,
        transaction: &mut dyn Transaction,
        settled: Option<&Settled>,
        more: bool,
    ) -> Result<Next, Problem> {
        let Some(registration) = Registration::of(transaction, self.id)? else { return Ok(Next::Nothing) };
        let mut delivery = Delivery::of(transaction, self.id)?;
        if self.is_held_by_another(&delivery) {
            return Ok(Next::At(delivery.until));
        }
        let is_same = registration.version == self.registration.version;
        match settled {
            None => {}
            Some(Settled::Told(task)) => {
                if let Task::Event(number, _) = task
                    && delivery.delivered < *number
                {
                    delivery.delivered = *number;
                    transaction.delete_record(RecordKind::Notification, &place(self.id, *number))?;
                }
                (delivery.tries, delivery.failing, delivery.due) = (0, None, Timestamp(0));
                delivery.sent = self.now;
            }
            // What was changed meanwhile is tried anew.
            Some(_) if !is_same => {}
            Some(Settled::Unready) => delivery.due = self.now.plus_seconds(OWN_FAULT_SECONDS),
            Some(Settled::Failed) => {
                delivery.tries = delivery.tries.saturating_add(1);
                delivery.failing.get_or_insert(self.now);
                delivery.due = self.now_and(self.wait_ms(delivery.tries));
            }
        }
        let next = self.next(transaction, &registration, &delivery)?;
        if more && matches!(next, Next::Do(_)) {
            self.instance.clone_into(&mut delivery.holder);
            delivery.until = self.now.plus_seconds(LEASE_SECONDS);
        } else {
            delivery.until = Timestamp(0);
        }
        delivery.put(transaction, self.id)?;
        Ok(next)
    }

    fn next(
        &self,
        session: &mut (impl Session + ?Sized),
        registration: &Registration,
        delivery: &Delivery,
    ) -> Result<Next, Problem> {
        if registration.version != self.registration.version || registration.state != self.registration.state
        {
            return Ok(Next::Stale);
        }
        if self.is_held_by_another(delivery) {
            return Ok(Next::At(delivery.until));
        }
        let for_long = delivery.failing.is_some_and(|since| self.now >= since.plus_seconds(GIVE_UP_SECONDS));
        if delivery.tries >= self.tries || for_long {
            return Ok(Next::GiveUp(delivery.tries));
        }
        let task = match registration.state {
            State::Stopped => return Ok(Next::Nothing),
            State::Pending => Task::Handshake,
            State::Active => match self.first_kept(session, delivery.delivered)? {
                Some((number, notification)) => Task::Event(number, notification),
                None => match self.heartbeat_seconds {
                    None => return Ok(Next::Nothing),
                    Some(seconds) if delivery.sent.plus_seconds(seconds) <= self.now => Task::Heartbeat,
                    Some(seconds) => return Ok(Next::At(delivery.sent.plus_seconds(seconds))),
                },
            },
        };
        Ok(if delivery.due > self.now { Next::At(delivery.due) } else { Next::Do(task) })
    }

    fn is_held_by_another(&self, delivery: &Delivery) -> bool {
        delivery.until > self.now && delivery.holder != self.instance
    }

    /// The first event after `delivered` that was not kept for too long.
    fn first_kept(
        &self,
        session: &mut (impl Session + ?Sized),
        delivered: u64,
    ) -> Result<Option<(u64, Notification)>, Problem> {
        let last = events(session, self.id)?.unwrap_or_default();
        let mut kept = |number: u64| {
            let record = session.record(RecordKind::Notification, &place(self.id, number))?;
            record.map(|record| Ok::<_, Problem>((number, decode(&record)?))).transpose()
        };
        let (mut gone, mut first) = (delivered, None);
        if gone < last {
            first = kept(gone + 1)?;
            gone += u64::from(first.is_none());
        }
        // Events expire in their order, so halving finds the first that has not.
        let mut end = last.saturating_add(1);
        while first.is_none() && end - gone > 1 {
            let middle = gone + (end - gone) / 2;
            match kept(middle)? {
                Some(found) if middle - gone == 1 => first = Some(found),
                Some(_) => end = middle + 1,
                None => gone = middle,
            }
        }
        Ok(first)
    }

    /// The wait after so many tries: doubled with each, and a bit longer by chance, so that what failed together is
    /// not tried together.
    fn wait_ms(&self, tries: u32) -> u64 {
        let doubled =
            self.retry_ms.saturating_mul(1_u64.checked_shl(tries.saturating_sub(1)).unwrap_or(u64::MAX));
        let wait = doubled.min(WAIT_MS_MAX);
        wait.saturating_add(wait.saturating_mul(self.jitter.into()) / 1024)
    }

    fn now_and(&self, milliseconds: u64) -> Timestamp {
        let micros = i64::try_from(milliseconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        Timestamp(self.now.micros().saturating_add(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use ward_base::FixedClock;
    use ward_identity::Scopes;
    use ward_store::Store;

    use crate::app::App;

    const START: Timestamp = Timestamp(1_790_000_000_000_000);

    fn id() -> ResourceId {
        ResourceId::parse("s").unwrap()
    }

    fn registration(version: u64, state: State) -> Registration {
        let scopes = Scopes::parse("system/*.rs").unwrap();
        Registration { holder: Holder::Client { id: "c".to_owned(), scopes }, version, state }
    }

    fn event(number: u64) -> Notification {
        Notification {
            kind: "Patient".to_owned(),
            id: number.to_string(),
            version: 1,
            change: Change::Create,
            at: START,
        }
    }

    /// A store, and one instance's view of one Subscription in it.
    struct Bench {
        _directory: tempfile::TempDir,
        app: App,
        clock: Arc<FixedClock>,
        id: ResourceId,
        known: Registration,
        heartbeat_seconds: Option<i64>,
    }

    impl Bench {
        async fn new(state: State) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let clock = Arc::new(FixedClock::new(START));
            let config = crate::start::tests::config(directory.path());
            let app = crate::start::open(&config, clock.clone()).unwrap();
            let known = registration(1, state);
            let bench = Self { _directory: directory, app, clock, id: id(), known, heartbeat_seconds: None };
            bench.register(1, state).await;
            bench
        }

        fn store(&self) -> &Store {
            &self.app.store
        }

        async fn register(&self, version: u64, state: State) {
            let now = self.app.clock.now();
            let write = move |transaction: &mut dyn Transaction| {
                register(transaction, &id(), &registration(version, state), now)
            };
            self.store().write(write).await.unwrap();
        }

        async fn queue(&self, numbers: std::ops::RangeInclusive<u64>) {
            let at = self.app.clock.now();
            let write = move |transaction: &mut dyn Transaction| {
                numbers
                    .clone()
                    .try_for_each(|number| queue(transaction, &id(), &Notification { at, ..event(number) }))
            };
            self.store().write(write).await.unwrap();
        }

        async fn advance(&self, instance: &'static str, settled: Option<Settled>) -> Next {
            let (id, known, now) = (self.id.clone(), self.known.clone(), self.app.clock.now());
            let heartbeat_seconds = self.heartbeat_seconds;
            let write = move |transaction: &mut dyn Transaction| {
                let rules = Rules {
                    instance,
                    id: &id,
                    registration: &known,
                    heartbeat_seconds,
                    retry_ms: 1000,
                    tries: 3,
                    jitter: 0,
                    now,
                };
                rules.advance(transaction, settled.as_ref(), true)
            };
            self.store().write(write).await.unwrap()
        }

        async fn close(self) {
            self.app.store.close().await;
            self.app.trail.close();
        }
    }

    #[tokio::test]
    async fn events_are_told_in_order_without_gaps_by_one_instance_at_a_time() {
        let bench = Bench::new(State::Active).await;
        assert_eq!(bench.advance("a", None).await, Next::Nothing);
        bench.queue(1..=2).await;
        bench.queue(3..=3).await;
        let task = Task::Event(1, event(1));
        assert_eq!(bench.advance("a", None).await, Next::Do(task.clone()));
        // Another waits for the lease's end; the same, started again, goes on at once.
        assert_eq!(bench.advance("b", None).await, Next::At(START.plus_seconds(LEASE_SECONDS)));
        assert_eq!(bench.advance("a", None).await, Next::Do(task.clone()));
        assert_eq!(bench.advance("a", Some(Settled::Told(task))).await, Next::Do(Task::Event(2, event(2))));
        bench.clock.advance_seconds(LEASE_SECONDS);
        assert_eq!(bench.advance("b", None).await, Next::Do(Task::Event(2, event(2))));
        let told = Settled::Told(Task::Event(2, event(2)));
        assert_eq!(bench.advance("b", Some(told)).await, Next::Do(Task::Event(3, event(3))));
        assert_eq!(bench.advance("b", Some(Settled::Told(Task::Event(3, event(3))))).await, Next::Nothing);
        let left = bench.store().read(|session| session.records(RecordKind::Notification)).await.unwrap();
        assert!(left.is_empty(), "what was told is not kept");
        bench.close().await;
    }

    #[tokio::test]
    async fn instances_of_one_server_number_events_without_gaps_and_take_turns() {
        let server = ward_testkit::Postgres::shared();
        let directory = tempfile::tempdir().unwrap();
        let database = crate::DatabaseConfig {
            hosts: vec![("localhost".to_owned(), server.port())],
            name: server.new_database(),
            user: server.user().to_owned(),
            password: Some(server.password().to_owned().into()),
            authorities_pem: server.authority_pem().to_owned(),
            certificate: None,
            connections: 4,
        };
        let clock = Arc::new(FixedClock::new(START));
        let open = |number: u8| {
            let config = crate::AppConfig {
                directory: directory.path().join(format!("app-{number}")),
                audit_origin: format!("ward.test/audit/app-{number}"),
                database: Some(database.clone()),
                ..crate::start::tests::config(directory.path())
            };
            crate::start::open(&config, clock.clone())
        };
        let bench = |app| Bench {
            _directory: tempfile::tempdir().unwrap(),
            app,
            clock: clock.clone(),
            id: id(),
            known: registration(1, State::Active),
            heartbeat_seconds: None,
        };
        let first = bench(open(1).unwrap());
        std::fs::create_dir_all(directory.path().join("app-2")).unwrap();
        let key = |number: u8| directory.path().join(format!("app-{number}/tenant-key"));
        std::fs::copy(key(1), key(2)).unwrap();
        let second = bench(open(2).unwrap());
        first.register(1, State::Active).await;
        // Each write asks for the next number, whatever it is.
        let one = |app: &App| {
            let store = app.store.clone();
            tokio::spawn(async move {
                let write = |transaction: &mut dyn Transaction| queue(transaction, &id(), &event(0));
                store.write(write).await
            })
        };
        let writes: Vec<_> = (0..20).flat_map(|_| [one(&first.app), one(&second.app)]).collect();
        for write in writes {
            write.await.unwrap().unwrap();
        }
        let count = first.store().read(|session| events(session, &id())).await.unwrap();
        let kept = second.store().read(|session| session.records(RecordKind::Notification)).await.unwrap();
        assert_eq!((count, kept.len()), (Some(40), 40));
        let (left, right) = tokio::join!(first.advance("1", None), second.advance("2", None));
        let wait = Next::At(START.plus_seconds(LEASE_SECONDS));
        let task = Next::Do(Task::Event(1, event(0)));
        assert!([(&left, &right), (&right, &left)].contains(&(&task, &wait)), "{left:?} {right:?}");
        first.close().await;
        second.close().await;
    }

    #[tokio::test]
    async fn what_fails_is_tried_later_and_later_and_given_up_until_it_is_written_again() {
        let bench = Bench::new(State::Active).await;
        bench.queue(1..=1).await;
        let task = || Next::Do(Task::Event(1, event(1)));
        assert_eq!(bench.advance("a", None).await, task());
        assert_eq!(bench.advance("a", Some(Settled::Unready)).await, Next::At(START.plus_seconds(5)));
        bench.clock.advance_seconds(5);
        assert_eq!(bench.advance("a", None).await, task());
        assert_eq!(bench.advance("a", Some(Settled::Failed)).await, Next::At(START.plus_seconds(6)));
        assert_eq!(
            bench.advance("b", None).await,
            Next::At(START.plus_seconds(6)),
            "no lease while it waits"
        );
        bench.clock.advance_seconds(1);
        assert_eq!(bench.advance("b", None).await, task());
        assert_eq!(bench.advance("b", Some(Settled::Failed)).await, Next::At(START.plus_seconds(8)));
        bench.clock.advance_seconds(2);
        assert_eq!(bench.advance("a", Some(Settled::Failed)).await, Next::GiveUp(3));
        assert_eq!(bench.advance("a", None).await, Next::GiveUp(3));
        bench.register(2, State::Pending).await;
        assert_eq!(bench.advance("a", None).await, Next::Stale);
        let bench = Bench { known: registration(2, State::Pending), ..bench };
        assert_eq!(bench.advance("a", None).await, Next::Do(Task::Handshake));
        bench.register(3, State::Active).await;
        let bench = Bench { known: registration(3, State::Active), ..bench };
        assert_eq!(bench.advance("a", None).await, task(), "what was queued comes first");
        // A day of failures is enough, however few.
        assert!(matches!(bench.advance("a", Some(Settled::Failed)).await, Next::At(_)));
        bench.clock.advance_seconds(GIVE_UP_SECONDS);
        assert_eq!(bench.advance("a", None).await, Next::GiveUp(1));
        bench.close().await;
    }

    #[tokio::test]
    async fn what_was_kept_for_too_long_is_passed_over() {
        for (old, new) in [(1, 1), (2, 1), (7, 5), (64, 1), (5, 0)] {
            let bench = Bench::new(State::Active).await;
            bench.queue(1..=old).await;
            bench.clock.advance_seconds(KEPT_SECONDS);
            let expected = match new {
                0 => Next::Nothing,
                _ => {
                    bench.queue(old + 1..=old + new).await;
                    let at = bench.app.clock.now();
                    Next::Do(Task::Event(old + 1, Notification { at, ..event(old + 1) }))
                }
            };
            assert_eq!(bench.advance("a", None).await, expected, "{old} expired, {new} kept");
            bench.close().await;
        }
    }

    #[tokio::test]
    async fn a_quiet_subscription_gives_a_sign_of_life() {
        let bench = Bench::new(State::Active).await;
        let bench = Bench { heartbeat_seconds: Some(60), ..bench };
        assert_eq!(bench.advance("a", None).await, Next::At(START.plus_seconds(60)));
        bench.clock.advance_seconds(60);
        assert_eq!(bench.advance("a", None).await, Next::Do(Task::Heartbeat));
        let told = Some(Settled::Told(Task::Heartbeat));
        assert_eq!(bench.advance("a", told).await, Next::At(START.plus_seconds(120)));
        bench.close().await;
    }

    #[tokio::test]
    async fn what_is_forgotten_is_not_queued_for() {
        let bench = Bench::new(State::Active).await;
        bench.store().write(|transaction| forget(transaction, &id())).await.unwrap();
        bench.queue(1..=1).await;
        assert_eq!(bench.advance("a", None).await, Next::Nothing);
        let left = bench.store().read(|session| session.records(RecordKind::Notification)).await.unwrap();
        assert!(left.is_empty());
        bench.close().await;
    }

    #[test]
    fn waits_double_up_to_an_hour() {
        let known = registration(1, State::Active);
        let wait = |tries, jitter| {
            let rules = Rules {
                instance: "a",
                id: &id(),
                registration: &known,
                heartbeat_seconds: None,
                retry_ms: 1000,
                tries: 3,
                jitter,
                now: START,
            };
            rules.wait_ms(tries)
        };
        assert_eq!([wait(1, 0), wait(2, 0), wait(12, 0)], [1000, 2000, 2_048_000]);
        assert_eq!([wait(13, 0), wait(64, 0), wait(u32::MAX, 0)], [3_600_000; 3]);
        assert_eq!(wait(1, 128), 1125);
    }
}
