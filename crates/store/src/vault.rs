//! Every use of a key in the store: which data key seals what, and what each ciphertext is bound to.

use std::{
    collections::HashSet,
    num::NonZeroUsize,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use lru::LruCache;
use ward_base::{Clock, Random, ResourceId, Secret, Timestamp};
use ward_fhir::{ResourceType, compartment};
use ward_keys::{
    DataKey, DataKeyCache, KeyId, KeyRing, KeyScope, PlainKey, WrappedKey, open_small, seal_small,
};

use crate::{RecordKind, ResourceKey, StoreError, StoreOptions, connection::Connection, index::Index, sql};

/// The layout that ciphertexts are bound to.
const SCHEMA: &[u8] = b"ward/store/1";
/// How old what an instance knows of the index may be, where others may change it.
const INDEX_AGE_MAX: Duration = Duration::from_secs(10);

/// Keys, clock and randomness, shared by all connections.
pub(crate) struct Vault {
    pub(crate) ring: Arc<KeyRing>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    /// The server's own base URL.
    pub(crate) base_url: String,
    /// The name under which the audit checkpoint stands in `meta`.
    pub(crate) audit_checkpoint: String,
    /// How long a change of the index waits for those who do not know of it.
    pub(crate) index_grace: Duration,
    index: RwLock<Arc<Index>>,
    /// When what is known of the index was asked for.
    index_asked: Mutex<Instant>,
    /// Whether something that may have been committed changed the index since.
    index_changed: AtomicBool,
    known: Mutex<Known>,
    record_key: PlainKey,
    meta_key: PlainKey,
}

/// What is remembered of one database.
struct Known {
    origin: i64,
    data_keys: DataKeyCache,
    /// Which scope a data key belongs to. No secret.
    scopes: LruCache<KeyId, KeyScope>,
}

/// What a version's ciphertext is bound to, so that rows, versions and columns cannot be swapped.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) resource_type: ResourceType,
    pub(crate) id_token: [u8; 16],
    pub(crate) version: u64,
    pub(crate) updated: Timestamp,
    pub(crate) deleted: bool,
}

/// Data keys made in a transaction that is not committed yet. They must not be cached: after a rollback a body
/// sealed with one could never be read.
pub(crate) type FreshKeys = HashSet<KeyScope>;

impl Vault {
    pub(crate) fn new(
        ring: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        options: &StoreOptions,
    ) -> Self {
        let limits = options.data_keys;
        let count = NonZeroUsize::new(limits.count).unwrap_or(NonZeroUsize::MIN);
        Self {
            record_key: ring.derive("store-record"),
            meta_key: ring.derive("store-meta"),
            index: RwLock::new(Arc::new(Index::first(&ring))),
            index_asked: Mutex::new(Instant::now()),
            index_changed: AtomicBool::new(false),
            index_grace: options.index_grace(),
            known: Mutex::new(Known {
                origin: 0,
                data_keys: DataKeyCache::new(limits),
                scopes: LruCache::new(count),
            }),
            ring,
            clock,
            random,
            base_url: options.base_url.clone(),
            audit_checkpoint: match &options.audit_log {
                Some(log) => format!("audit-checkpoint/{log}"),
                None => "audit-checkpoint".to_owned(),
            },
        }
    }

    /// The index as it is known.
    pub(crate) fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts what was asked for at that moment in the place of what is known, unless that was asked for later.
    pub(crate) fn replace_index(&self, asked: Instant, next: impl FnOnce(&Index) -> Index) {
        let mut known = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = self.index_asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked >= *before {
            *known = Arc::new(next(&known));
            *before = asked;
        }
    }

    /// An operation changes the index, if it is committed.
    pub(crate) fn index_changes(&self) {
        self.index_changed.store(true, Ordering::Release);
    }

    /// Whether the index must be read before anything is done by it; says so once. `shared` says that others may change
    /// it.
    pub(crate) fn must_read_index(&self, shared: bool) -> bool {
        let asked = *self.index_asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.index_changed.swap(false, Ordering::AcqRel) || shared && asked.elapsed() > INDEX_AGE_MAX
    }

    pub(crate) fn database_key(&self) -> Secret {
        Secret::new(self.ring.derive("database").expose().to_vec())
    }

    /// What stands for an id in the database.
    pub(crate) fn id_token(&self, key: &ResourceKey) -> [u8; 16] {
        let parts = [key.resource_type.name().as_bytes(), key.id.as_str().as_bytes()];
        self.ring.tokenizer().token128("store/id", &parts)
    }

    /// Under whose key a resource lies: its owner's, or its type's if no patient owns it. `first` is the first of the
    /// patients that it is about.
    pub(crate) fn scope(&self, resource_type: ResourceType, first: Option<&ResourceId>) -> KeyScope {
        match first.filter(|_| compartment::is_member(resource_type)) {
            Some(owner) => KeyScope::Patient(
                self.ring.tokenizer().token128("store/patient", &[owner.as_str().as_bytes()]),
            ),
            None => KeyScope::Shared(resource_type.name()),
        }
    }

    fn scope_token(&self, scope: &KeyScope) -> [u8; 16] {
        match scope {
            KeyScope::Patient(token) => *token,
            KeyScope::Shared(name) => self.ring.tokenizer().token128("store/shared", &[name.as_bytes()]),
        }
    }

    /// What is remembered of the database that the connection leads to. Of another it is forgotten: a server that took
    /// over may lack the newest rows, and what is sealed with a key that is in no row can never be read again.
    fn known(&self, connection: &Connection) -> Option<MutexGuard<'_, Known>> {
        let origin = connection.origin()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.origin != origin {
            known.origin = origin;
            known.data_keys.clear();
            known.scopes.clear();
        }
        Some(known)
    }

    /// The data key that new versions in `scope` are sealed with; made if there is none.
    ///
    /// Two instances of the store may make one each for a scope at the same moment. Each body names its own, so both
    /// are kept, and whoever looks later takes the first.
    pub(crate) fn sealing_key(
        &self,
        connection: &Connection,
        scope: KeyScope,
        fresh: &mut FreshKeys,
    ) -> Result<Arc<DataKey>, StoreError> {
        let now = self.clock.now();
        if let Some(key) = self.known(connection).and_then(|known| known.data_keys.get(&scope, now)) {
            return Ok(key);
        }
        let token = self.scope_token(&scope);
        let found = connection
            .one(sql::DATA_KEY_OF, &[sql::SHARD.into(), (&token).into()], |row| Ok(row.bytes(1)?.to_vec()))?;
        if let Some(wrapped) = found {
            let key = Arc::new(self.ring.unwrap_data_key(&WrappedKey(wrapped), &scope)?);
            if !fresh.contains(&scope) {
                self.remember(connection, scope, &key, now);
            }
            return Ok(key);
        }
        let (key, wrapped) = self.ring.new_data_key(&scope, &*self.random);
        let (id, shared) = (key.id(), matches!(scope, KeyScope::Shared(_)));
        let parameters =
            [sql::SHARD.into(), (&id.0).into(), (&token).into(), shared.into(), wrapped.0.as_slice().into()];
        connection.execute(sql::INSERT_DATA_KEY, &parameters)?;
        fresh.insert(scope);
        Ok(Arc::new(key))
    }

    /// The data key that a row names. `committed` says that the connection sees nothing but what is committed.
    fn opening_key(
        &self,
        connection: &Connection,
        id: KeyId,
        resource_type: ResourceType,
        committed: bool,
    ) -> Result<Arc<DataKey>, StoreError> {
        let now = self.clock.now();
        let known = self.known(connection).and_then(|mut known| {
            let scope = known.scopes.get(&id).copied()?;
            known.data_keys.get(&scope, now).filter(|key| key.id() == id)
        });
        if let Some(key) = known {
            return Ok(key);
        }
        let (token, shared, wrapped) = connection
            .one(sql::DATA_KEY, &[sql::SHARD.into(), (&id.0).into()], |row| {
                Ok((row.array::<16>(0)?, row.flag(1)?, row.bytes(2)?.to_vec()))
            })?
            // The key was destroyed, and the body with it.
            .ok_or(StoreError::Corrupt)?;
        let scope = if shared { KeyScope::Shared(resource_type.name()) } else { KeyScope::Patient(token) };
        let key = Arc::new(self.ring.unwrap_data_key(&WrappedKey(wrapped), &scope)?);
        // A writer may see a key that is rolled back later.
        if committed {
            self.remember(connection, scope, &key, now);
        }
        Ok(key)
    }

    fn remember(&self, connection: &Connection, scope: KeyScope, key: &Arc<DataKey>, now: Timestamp) {
        if let Some(mut known) = self.known(connection) {
            known.scopes.put(key.id(), scope);
            known.data_keys.insert(scope, Arc::clone(key), now);
        }
    }

    /// Encrypts a version's plaintext for its place.
    pub(crate) fn seal(&self, key: &DataKey, place: &Place, plaintext: &[u8]) -> Vec<u8> {
        key.seal(&self.binding(place, key.id()), plaintext, &*self.random)
    }

    /// Decrypts what [`Vault::seal`] made for the same place.
    pub(crate) fn open(
        &self,
        connection: &Connection,
        committed: bool,
        key_id: KeyId,
        place: &Place,
        sealed: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let key = self.opening_key(connection, key_id, place.resource_type, committed)?;
        Ok(key.open(&self.binding(place, key_id), sealed)?)
    }

    fn binding(&self, place: &Place, key_id: KeyId) -> Vec<u8> {
        bound(&[
            self.ring.tenant().as_bytes(),
            place.resource_type.name().as_bytes(),
            &place.id_token,
            &place.version.to_be_bytes(),
            &place.updated.micros().to_be_bytes(),
            &[u8::from(place.deleted)],
            &key_id.0,
        ])
    }

    /// What stands for a record's key in the database.
    pub(crate) fn record_token(&self, kind: RecordKind, key: &str) -> [u8; 16] {
        self.ring.tokenizer().token128("store/record", &[&[kind as u8], key.as_bytes()])
    }

    pub(crate) fn seal_record(
        &self,
        kind: RecordKind,
        token: &[u8; 16],
        expires: Option<i64>,
        plaintext: &[u8],
    ) -> Vec<u8> {
        seal_small(&self.record_key, &self.record_binding(kind, token, expires), plaintext, &*self.random)
    }

    pub(crate) fn open_record(
        &self,
        kind: RecordKind,
        token: &[u8; 16],
        expires: Option<i64>,
        sealed: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        Ok(open_small(&self.record_key, &self.record_binding(kind, token, expires), sealed)?)
    }

    fn record_binding(&self, kind: RecordKind, token: &[u8; 16], expires: Option<i64>) -> Vec<u8> {
        let expires = expires.map(i64::to_be_bytes);
        let expires = expires.as_ref().map_or(&[] as &[u8], |bytes| bytes);
        bound(&[self.ring.tenant().as_bytes(), b"record", &[kind as u8], token, expires])
    }

    pub(crate) fn seal_meta(&self, name: &str, plaintext: &[u8]) -> Vec<u8> {
        let binding = bound(&[self.ring.tenant().as_bytes(), b"meta", name.as_bytes()]);
        seal_small(&self.meta_key, &binding, plaintext, &*self.random)
    }

    pub(crate) fn open_meta(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let binding = bound(&[self.ring.tenant().as_bytes(), b"meta", name.as_bytes()]);
        Ok(open_small(&self.meta_key, &binding, sealed)?)
    }
}

/// Length-prefixed parts, so that no two lists of parts give the same bytes.
fn bound(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(160);
    for part in std::iter::once(&SCHEMA).chain(parts) {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// A type's number in the database: FNV-1a of its name, so that it does not depend on the order of any list.
pub(crate) fn type_number(resource_type: ResourceType) -> i64 {
    let hash = resource_type
        .name()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    i64::from(hash >> 1)
}

/// The type with this number.
pub(crate) fn type_of(number: i64) -> Result<ResourceType, StoreError> {
    static TYPES: LazyLock<std::collections::HashMap<i64, ResourceType>> = LazyLock::new(|| {
        ResourceType::all().map(|resource_type| (type_number(resource_type), resource_type)).collect()
    });
    TYPES.get(&number).copied().ok_or(StoreError::Corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_numbers_are_distinct() {
        for resource_type in ResourceType::all() {
            assert!(type_of(type_number(resource_type)).unwrap() == resource_type);
        }
    }
}
