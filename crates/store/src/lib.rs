//! The encrypted store: FHIR resources, their history and small records in one SQLCipher file or a PostgreSQL server,
//! searchable without either showing what is in it (R4b, N1, N4).
//!
//! - **Bodies** are sealed one by one under the data key of the patient who owns them ([`mod@body`] has the form,
//!   [`mod@vault`] the keys and what a ciphertext is bound to). Ids are in the file as keyed tokens only.
//! - **Search** goes through the blind index ([`mod@token`] says which tokens there are and what they leak), and every
//!   candidate is decrypted and checked again ([`mod@search`]). A token that collides costs a read, never an answer.
//! - **Writes** to the file are committed in groups by one thread ([`mod@worker`]); a write is acknowledged after its
//!   commit is on disk (write-ahead log, `synchronous = FULL`). Writes to a server are transactions of their own, from
//!   any number of processes, and run again after a race ([`mod@server`]). Reads run on several threads in snapshots.
//!
//! **What the file shows** to whoever holds it and its database key, but not the tenant's: how many resources of each
//! type there are and when they were written (type, version, time and whether it is a deletion stand in the clear),
//! their sizes in buckets, which of them share a patient (the id of the data key), how often each token occurs and which
//! resources share it; how many records of each kind there are, how large they are and when they expire; the names of
//! audit logs. It shows no value, name, code, date or id of a resource, and no name of a record. Without the database
//! key the file is noise. A server shows as much as the file and its key, and when what is asked for.
//!
//! The crate refuses to give out a row that fails its integrity check, to store a body without encryption, and to put
//! an id, a value or SQL text into an error. It decides nothing about who may see what: that is the caller's.

mod body;
mod connection;
mod embedded;
mod error;
mod includes;
mod index;
mod links;
mod plan;
mod position;
mod postings;
mod prepare;
mod radix;
mod read;
mod search;
mod server;
mod session;
mod sorting;
mod sql;
mod token;
mod vault;
mod worker;
mod write;

use std::{
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use ward_base::{Clock, Random};
use ward_keys::KeyRing;

pub use error::StoreError;
pub use index::IndexStatus;
pub use prepare::Prepared;
pub use read::PAGE_BYTES_MAX;
pub use server::{ClientIdentity, ServerOptions};
pub use session::{
    Expected, ExportPage, HistoryPage, HistoryScope, Original, Page, Position, RecordKind, ResourceKey,
    SearchPage, Session, Stored, Transaction, WriteOutcome, Written,
};
pub use ward_keys::CacheLimits;

use crate::{
    connection::Connection,
    embedded::Purpose,
    read::Snapshot,
    server::{Fault, Mode, Server},
    vault::Vault,
    worker::{RETRY_TIME_MAX, Readers, WriteJob, Writers, pause},
    write::{Batch, Rids, WriteSession},
};

/// How long a change of the index waits for others. A server's instances know it within ten seconds, and what they
/// began before is committed, or was lost, within another minute ([`mod@worker`]).
const INDEX_GRACE_SERVER: Duration = Duration::from_secs(90);
/// A file's only writer knows of a change at once, and readers have begun their snapshots soon.
const INDEX_GRACE_FILE: Duration = Duration::from_secs(2);

/// Which database holds the store. Either gets ciphertext and tokens only.
#[derive(Clone, Debug)]
pub enum Database {
    /// This SQLCipher file, made if missing; its directory must exist. One process at a time has it.
    Embedded(PathBuf),
    /// A PostgreSQL server, for any number of processes at a time.
    Server(ServerOptions),
}

/// Where the store is and how much it may use.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The database.
    pub database: Database,
    /// The server's own FHIR base URL, so that absolute references to itself are understood as local.
    pub base_url: String,
    /// How many reads run at once.
    pub readers: usize,
    /// The page cache of each connection to a file, in bytes.
    pub cache_bytes: u64,
    /// How many unwrapped data keys are held, for how long and for how many uses.
    pub data_keys: CacheLimits,
    /// How long a change of the index waits for those who do not know of it, if not as long as is safe. Less is for tests
    /// that know that nobody does not.
    pub index_grace: Option<Duration>,
    /// The name of the audit log whose checkpoint is kept, where several processes have one each.
    pub audit_log: Option<String>,
}

impl StoreOptions {
    /// A file with the usual limits: two readers, 64 MiB of pages for each connection.
    pub fn new(path: impl Into<PathBuf>, base_url: impl Into<String>) -> Self {
        Self {
            database: Database::Embedded(path.into()),
            base_url: base_url.into(),
            readers: 2,
            cache_bytes: 64 << 20,
            data_keys: CacheLimits::default(),
            index_grace: None,
            audit_log: None,
        }
    }
}

impl StoreOptions {
    fn index_grace(&self) -> Duration {
        self.index_grace.unwrap_or(match self.database {
            Database::Embedded(_) => INDEX_GRACE_FILE,
            Database::Server(_) => INDEX_GRACE_SERVER,
        })
    }
}

/// The open store. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    vault: Arc<Vault>,
    writers: Writers,
    readers: Readers,
    /// Held while the store is open.
    lock: Mutex<Option<File>>,
}

impl Store {
    /// Opens the database, makes the file if missing, and brings the schema up to date. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the database cannot be reached or another process has the file open,
    /// [`StoreError::WrongKey`] if it was made with another key, [`StoreError::NewerSchema`] if by a newer version.
    /// Of a server also [`StoreError::Settings`], [`StoreError::Untrusted`] and [`StoreError::Refused`].
    pub fn open(
        options: StoreOptions,
        keys: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, StoreError> {
        let vault = Arc::new(Vault::new(keys, clock, random, &options));
        let readers = options.readers.max(1);
        let (writers, readers, lock) = match &options.database {
            Database::Embedded(path) => {
                let lock = embedded::lock(path)?;
                let key = vault.database_key();
                let connect = |purpose| embedded::connect(path, &key, purpose, options.cache_bytes);
                let mut file = connect(Purpose::Write)?;
                embedded::migrate(&mut file, &*vault.clock)?;
                let file = Connection::Embedded(file);
                index::load(&mut Snapshot::new(&vault, &file, true))?;
                let batch = Batch::new(Arc::new(Rids::new(last_rid(&file)?, false)));
                let readers = (0..readers).map(|_| connect(Purpose::Read).map(Connection::Embedded));
                (vec![(file, batch)], readers.collect::<Result<_, _>>()?, Some(lock))
            }
            Database::Server(server) => {
                let count = server.writers.max(1);
                let server = Arc::new(server.clone());
                let connect =
                    || Server::new(Arc::clone(&server)).map(|one| Connection::Server(Box::new(one)));
                let first = connect()?;
                // It blocks on I/O, which the caller's thread may not be allowed to.
                let prepared = std::thread::scope(|scope| {
                    scope
                        .spawn(|| prepare_server(first, &vault))
                        .join()
                        .unwrap_or(Err(StoreError::Unavailable))
                });
                let rids = Arc::new(Rids::new(prepared?, true));
                let writers = (0..count).map(|_| Ok((connect()?, Batch::new(Arc::clone(&rids)))));
                let writers = writers.collect::<Result<_, StoreError>>()?;
                (writers, (0..readers).map(|_| connect()).collect::<Result<_, _>>()?, None)
            }
        };
        Ok(Self(Arc::new(Inner {
            readers: Readers::start(readers, &vault)?,
            writers: Writers::start(writers, &vault)?,
            vault,
            lock: Mutex::new(lock),
        })))
    }

    /// Runs `op` on a reader's thread, in one consistent snapshot.
    ///
    /// # Errors
    /// What `op` gives, or [`StoreError::Unavailable`] if the store is closed or `op` panicked.
    pub async fn read<T, E>(
        &self,
        op: impl FnOnce(&mut dyn Session) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.read_with(|snapshot| op(snapshot)).await
    }

    async fn read_with<T, E>(
        &self,
        op: impl FnOnce(&mut Snapshot<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.0.readers.submit(Box::new(move |snapshot| {
            let _ = sender.send(op(snapshot));
        }));
        receiver.await.unwrap_or_else(|_| Err(StoreError::Unavailable.into()))
    }

    /// Runs `op` on the writer's thread: all of what it writes is stored, or nothing if it fails or panics. Resolves
    /// after the commit is durable. Operations may share a commit; each sees those before it.
    ///
    /// `op` may run several times, where another writer came in between or one beside it failed; what the last run gave is
    /// what counts, and nothing of the others is stored. So it must do nothing that cannot be done again.
    ///
    /// # Errors
    /// What `op` gives, or [`StoreError::Unavailable`] if the store is closed, `op` panicked or the commit failed.
    pub async fn write<T, E>(
        &self,
        mut op: impl FnMut(&mut dyn Transaction) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.write_with(move |session| op(session)).await
    }

    async fn write_with<T, E>(
        &self,
        op: impl FnMut(&mut WriteSession<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.0.writers.submit(Box::new(Operation { op, result: None, sender }));
        receiver.await.unwrap_or_else(|_| Err(StoreError::Unavailable.into()))
    }

    /// Finishes what was begun, folds the write-ahead log into the file and lets the database go. Later calls fail.
    pub async fn close(&self) {
        let store = self.clone();
        let (done, closed) = oneshot::channel::<()>();
        // Joining threads blocks, so it gets one of its own.
        let waiter = std::thread::Builder::new().name("store-close".to_owned()).spawn(move || {
            store.0.readers.close();
            store.0.writers.close();
            store.0.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(done);
        });
        if waiter.is_ok() {
            let _ = closed.await;
        }
    }
}

/// Brings a server's schema up to date and checks that its contents belong to the keys; gives the newest row id.
fn prepare_server(connection: Connection, vault: &Vault) -> Result<i64, StoreError> {
    let Connection::Server(server) = &connection else { return Err(StoreError::Unavailable) };
    server::migrate(server, &*vault.clock)?;
    let started = Instant::now();
    loop {
        server.begin(Mode::Write);
        let last = check_keys(&connection, vault)
            .and_then(|()| index::load(&mut Snapshot::new(vault, &connection, true)))
            .and_then(|()| last_rid(&connection));
        match (last, server.commit()) {
            (_, Err(Fault::Again)) if started.elapsed() < RETRY_TIME_MAX => pause(vault, 8),
            (_, Err(Fault::Again)) => return Err(StoreError::Unavailable),
            (Ok(_), Err(Fault::Failed)) => return Err(StoreError::Unavailable),
            (last, _) => return last,
        }
    }
}

/// A file opens with its own key only; in a server, a sealed row stands for that.
fn check_keys(connection: &Connection, vault: &Vault) -> Result<(), StoreError> {
    const NAME: &str = "keys";
    let opened = connection.one(sql::META, &[NAME.into()], |row| {
        vault.open_meta(NAME, row.bytes(0)?).map_err(|_| StoreError::WrongKey)
    })?;
    if opened.is_none() {
        let sealed = vault.seal_meta(NAME, &[]);
        connection.execute(sql::ADD_META, &[NAME.into(), sealed.as_slice().into()])?;
    }
    Ok(())
}

fn last_rid(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection.one(sql::LAST_RID, &[sql::SHARD.into()], |row| row.integer(0))?.unwrap_or_default())
}

/// A write with its caller.
struct Operation<F, T, E> {
    op: F,
    result: Option<Result<T, E>>,
    sender: oneshot::Sender<Result<T, E>>,
}

impl<F, T, E> WriteJob for Operation<F, T, E>
where
    F: FnMut(&mut WriteSession<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<StoreError> + Send,
{
    fn run(&mut self, session: &mut WriteSession<'_>) -> bool {
        let result = (self.op)(session);
        let keep = result.is_ok();
        self.result = Some(result);
        keep
    }

    fn reply(self: Box<Self>, committed: Result<(), StoreError>) {
        let result = self.result.unwrap_or_else(|| Err(StoreError::Unavailable.into()));
        let _ = self.sender.send(result.and_then(|value| committed.map(|()| value).map_err(E::from)));
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Store(..)")
    }
}
