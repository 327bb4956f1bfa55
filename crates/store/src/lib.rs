//! The encrypted store: FHIR resources, their history and small records in one SQLCipher file, searchable without
//! the file showing what is in it (R4b, N1, N4).
//!
//! - **Bodies** are sealed one by one under the data key of the patient who owns them ([`mod@body`] has the form,
//!   [`mod@vault`] the keys and what a ciphertext is bound to). Ids are in the file as keyed tokens only.
//! - **Search** goes through the blind index ([`mod@token`] says which tokens there are and what they leak), and every
//!   candidate is decrypted and checked again ([`mod@search`]). A token that collides costs a read, never an answer.
//! - **Writes** are committed in groups by one thread ([`mod@worker`]); a write is acknowledged after its commit is
//!   on disk (write-ahead log, `synchronous = FULL`). Reads run on several threads in snapshots of their own.
//!
//! **What the file shows** to whoever holds it and its database key, but not the tenant's: how many resources of each
//! type there are and when they were written (type, version and time stand in the clear), their sizes in
//! buckets, which of them share a patient (the id of the data key), how often each token occurs and which resources
//! share it. It shows no value, name, code, date or id. Without the database key the file is noise.
//!
//! The crate refuses to give out a row that fails its integrity check, to store a body without encryption, and to put
//! an id, a value or SQL text into an error. It decides nothing about who may see what: that is the caller's.

mod body;
mod database;
mod error;
mod plan;
mod position;
mod postings;
mod prepare;
mod radix;
mod read;
mod search;
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
};

use tokio::sync::oneshot;
use ward_base::{Clock, Random};
use ward_keys::KeyRing;

pub use error::StoreError;
pub use prepare::Prepared;
pub use session::{
    Expected, ExportPage, HistoryPage, HistoryScope, Original, Page, Position, RecordKind, ResourceKey,
    SearchPage, Session, Stored, Transaction, WriteOutcome, Written,
};
pub use ward_keys::CacheLimits;

use crate::{
    database::Purpose,
    vault::Vault,
    worker::{Readers, Writer},
};

/// Where the store is and how much it may use.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The database file. Made if missing; its directory must exist.
    pub path: PathBuf,
    /// The server's own FHIR base URL, so that absolute references to itself are understood as local.
    pub base_url: String,
    /// How many reads run at once.
    pub readers: usize,
    /// The page cache of each connection, in bytes.
    pub cache_bytes: u64,
    /// How many unwrapped data keys are held, for how long and for how many uses.
    pub data_keys: CacheLimits,
}

impl StoreOptions {
    /// The usual limits: two readers, 64 MiB of pages for each connection.
    pub fn new(path: impl Into<PathBuf>, base_url: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            base_url: base_url.into(),
            readers: 2,
            cache_bytes: 64 << 20,
            data_keys: CacheLimits::default(),
        }
    }
}

/// The open store. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    vault: Arc<Vault>,
    writer: Writer,
    readers: Readers,
    /// Held while the store is open.
    lock: Mutex<Option<File>>,
}

impl Store {
    /// Opens the file, makes it if missing, and brings its schema up to date. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the file cannot be opened or another process has it open,
    /// [`StoreError::WrongKey`] if it was made with another key, [`StoreError::NewerSchema`] if by a newer version.
    pub fn open(
        options: StoreOptions,
        keys: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, StoreError> {
        let lock = database::lock(&options.path)?;
        let vault = Arc::new(Vault::new(keys, clock, random, options.base_url, options.data_keys));
        let key = vault.database_key();
        let connect = |purpose| database::connect(&options.path, &key, purpose, options.cache_bytes);
        let mut connection = connect(Purpose::Write)?;
        database::migrate(&mut connection, &*vault.clock)?;
        let readers =
            (0..options.readers.max(1)).map(|_| connect(Purpose::Read)).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Inner {
            readers: Readers::start(readers, &vault)?,
            writer: Writer::start(connection, Arc::clone(&vault))?,
            vault,
            lock: Mutex::new(Some(lock)),
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
        let (sender, receiver) = oneshot::channel();
        self.0.readers.submit(Box::new(move |snapshot| {
            let _ = sender.send(op(snapshot));
        }));
        receiver.await.unwrap_or_else(|_| Err(StoreError::Unavailable.into()))
    }

    /// Runs `op` on the writer's thread: all of what it writes is stored, or nothing if it fails or panics. Resolves
    /// after the commit is durable. Operations may share a commit; each sees those before it.
    ///
    /// `op` may run several times, where another writer came in between; what the last run gave is what counts, and
    /// nothing of the others is stored. So it must do nothing that cannot be done again.
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
        let (sender, receiver) = oneshot::channel();
        self.0.writer.submit(Box::new(move |session| {
            let result = op(session);
            let keep = result.is_ok();
            let reply = move |committed: Result<(), StoreError>| {
                let _ = sender.send(result.and_then(|value| committed.map(|()| value).map_err(E::from)));
            };
            (keep, Box::new(reply))
        }));
        receiver.await.unwrap_or_else(|_| Err(StoreError::Unavailable.into()))
    }

    /// Finishes what was begun, folds the write-ahead log into the file and lets it go. Later calls fail.
    pub async fn close(&self) {
        let store = self.clone();
        let (done, closed) = oneshot::channel::<()>();
        // Joining threads blocks, so it gets one of its own.
        let waiter = std::thread::Builder::new().name("store-close".to_owned()).spawn(move || {
            store.0.readers.close();
            store.0.writer.close();
            store.0.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(done);
        });
        if waiter.is_ok() {
            let _ = closed.await;
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Store(..)")
    }
}
