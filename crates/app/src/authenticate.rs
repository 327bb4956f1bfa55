//! From a bearer token to an [`Op`].
//!
//! Sessions and their holders are looked up in the store and kept in memory for a few seconds. Whatever ends or
//! changes one here forgets it at once; another instance would notice within [`KEPT_SECONDS`].

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use ward_base::Timestamp;
use ward_identity::{ClientRecord, Holder, Op, Request, SessionRecord, UserRecord, token};
use ward_store::{RecordKind, Session, StoreError, Transaction};

use crate::app::App;
use crate::problem::Problem;

/// The client id of the host's own service account.
pub(crate) const OPERATOR: &str = "operator";

/// How long what was read is believed.
const KEPT_SECONDS: i64 = 5;
const KEPT_MAX: usize = 10_000;

/// Whose a session is, with what is known of them.
#[derive(Clone)]
pub(crate) enum Account {
    User(UserRecord),
    Client(ClientRecord),
}

/// A session that was found.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) session: SessionRecord,
    pub(crate) account: Account,
    read: Timestamp,
}

/// The sessions in use. Credentials are not kept with them.
pub(crate) struct Sessions(Mutex<Kept>);

struct Kept {
    found: LruCache<String, Found>,
    /// Counts what was forgotten, so that what was read before is not put back.
    generation: u64,
}

impl Default for Sessions {
    fn default() -> Self {
        let most = NonZeroUsize::new(KEPT_MAX).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(Kept { found: LruCache::new(most), generation: 0 }))
    }
}

impl Sessions {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a session, if anything, and the generation to put it back with.
    fn get(&self, key: &str, now: Timestamp) -> (Option<Found>, u64) {
        let mut kept = self.kept();
        let found = kept.found.get(key).filter(|found| now < found.read.plus_seconds(KEPT_SECONDS)).cloned();
        (found, kept.generation)
    }

    /// Keeps what was read, unless anything was forgotten since.
    fn put(&self, key: String, found: Found, generation: u64) {
        let mut kept = self.kept();
        if kept.generation == generation {
            kept.found.put(key, found);
        }
    }

    /// Forgets one session.
    pub(crate) fn forget(&self, key: &str) {
        let mut kept = self.kept();
        kept.found.pop(key);
        kept.generation += 1;
    }

    /// Forgets all, since somebody's account was changed.
    pub(crate) fn forget_all(&self) {
        let mut kept = self.kept();
        kept.found.clear();
        kept.generation += 1;
    }
}

/// The caller behind `authorization`, and the storage key of the token. `passive` does not count as being there.
pub(crate) async fn authenticate(
    app: &Arc<App>,
    authorization: Option<&str>,
    request: Request,
    passive: bool,
) -> Result<(Op, Found, String), Problem> {
    let key = authorization
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .and_then(|(_, presented)| token::storage_key(presented.trim()))
        .ok_or_else(Problem::unauthenticated)?;
    let (kept, generation) = app.sessions.get(&key, request.now);
    let mut found = match kept {
        Some(found) => found,
        None => read(app, &key, request.now).await?.ok_or_else(Problem::unauthenticated)?,
    };
    let op = match &found.account {
        Account::User(user) => Op::for_session(&found.session, user, request),
        Account::Client(client) => Op::for_client(&found.session, client, request),
    }
    .map_err(|_| Problem::unauthenticated())?;
    let is_person = matches!(found.account, Account::User(_));
    if is_person && !passive && found.session.renew(request.now) {
        store_session(app, &key, &found.session).await?;
    }
    app.sessions.put(key.clone(), found.clone(), generation);
    Ok((op, found, key))
}

async fn read(app: &Arc<App>, key: &str, now: Timestamp) -> Result<Option<Found>, Problem> {
    let (key, operator) = (key.to_owned(), app.operator.clone());
    app.store
        .read(move |session| {
            let Some(record) = session.record(RecordKind::Session, &key)? else { return Ok(None) };
            let record: SessionRecord = decode(&record)?;
            let account = match &record.holder {
                Holder::User { id, .. } => {
                    user(session, id)?.map(|user| Account::User(UserRecord { credentials: None, ..user }))
                }
                Holder::Client { id, .. } if id == OPERATOR => Some(Account::Client(operator)),
                Holder::Client { id, .. } => client(session, id)?.map(Account::Client),
            };
            Ok(account.map(|account| Found { session: record, account, read: now }))
        })
        .await
}

/// Keeps a session whose time was renewed, unless it was ended meanwhile.
async fn store_session(app: &Arc<App>, key: &str, record: &SessionRecord) -> Result<(), Problem> {
    let (key, record) = (key.to_owned(), record.clone());
    app.store
        .write(move |transaction| {
            if transaction.record(RecordKind::Session, &key)?.is_some() {
                put_session(transaction, &key, &record)?;
            }
            Ok(())
        })
        .await
}

/// Writes a session's record.
pub(crate) fn put_session(
    transaction: &mut dyn Transaction,
    key: &str,
    record: &SessionRecord,
) -> Result<(), Problem> {
    Ok(transaction.put_record(RecordKind::Session, key, &encode(record)?, Some(record.expires))?)
}

/// A person's record.
pub(crate) fn user(session: &mut (impl Session + ?Sized), id: &str) -> Result<Option<UserRecord>, Problem> {
    session.record(RecordKind::User, id)?.map(|record| decode(&record)).transpose()
}

/// A client's record; the operator has none.
pub(crate) fn client(
    session: &mut (impl Session + ?Sized),
    id: &str,
) -> Result<Option<ClientRecord>, Problem> {
    session.record(RecordKind::Client, id)?.map(|record| decode(&record)).transpose()
}

/// A record as it is stored.
pub(crate) fn encode(record: &impl serde::Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(record).map_err(|_| Problem::internal())
}

/// Reads [`encode`]. What fails its form is treated as what fails its seal.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(record: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(record).map_err(|_| StoreError::Corrupt.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ward_base::{Clock as _, FixedClock, RequestId, SystemRandom};
    use ward_identity::Scopes;

    #[tokio::test]
    async fn a_token_is_good_until_its_time_and_no_longer_than_its_account() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(FixedClock::new(Timestamp(1_790_000_000_000_000)));
        let app = Arc::new(
            crate::start::open(&crate::start::tests::config(directory.path()), clock.clone()).unwrap(),
        );
        let (token, key) = token::new_token(&SystemRandom);
        let scopes = Scopes::parse("system/*.rs").unwrap();
        let client = ClientRecord {
            id: "c".to_owned(),
            scopes: scopes.clone(),
            roles: vec![],
            ..app.operator.clone()
        };
        let holder = Holder::Client { id: "c".to_owned(), scopes };
        let record = SessionRecord::start(holder, clock.now(), 0, 300);
        let disabled = ClientRecord { disabled: true, ..client.clone() };
        let put = |client: ClientRecord| {
            let (app, key, record) = (app.clone(), key.clone(), record.clone());
            async move {
                let stored = app.store.write(move |transaction| {
                    put_session(transaction, &key, &record)?;
                    Ok::<_, Problem>(transaction.put_record(
                        RecordKind::Client,
                        "c",
                        &encode(&client)?,
                        None,
                    )?)
                });
                stored.await.unwrap();
            }
        };
        put(client).await;
        let bearer = format!("Bearer {}", std::str::from_utf8(token.expose()).unwrap());
        let ask = |authorization: String| {
            let (app, now) = (app.clone(), clock.now());
            async move {
                let request =
                    Request { id: RequestId::new(&FixedClock::new(now), &SystemRandom), now, purpose: None };
                authenticate(&app, Some(&authorization), request, false)
                    .await
                    .map(|_| ())
                    .map_err(|problem| problem.status().as_u16())
            }
        };
        assert_eq!(ask(bearer.clone()).await, Ok(()));
        assert_eq!(ask(bearer.replace("Bearer", "Basic")).await, Err(401));
        assert_eq!(ask(format!("{bearer}x")).await, Err(401));
        clock.advance_seconds(299);
        assert_eq!(ask(bearer.clone()).await, Ok(()));
        put(disabled).await;
        app.sessions.forget_all();
        assert_eq!(ask(bearer.clone()).await, Err(401), "a disabled account");
        clock.advance_seconds(1);
        assert_eq!(ask(bearer).await, Err(401), "an expired token");
        app.store.close().await;
    }
}
