use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use ward_base::Timestamp;

use crate::{DataKey, KeyScope};

/// How long unwrapped data keys are kept.
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// Keys at most.
    pub count: usize,
    /// Seconds at most.
    pub age_seconds: i64,
    /// Uses at most.
    pub uses: u32,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { count: 10_000, age_seconds: 900, uses: 100_000 }
    }
}

/// Unwrapped data keys, few and not for long. AWS-LC clears a key when the last holder lets go of it.
pub struct DataKeyCache {
    limits: CacheLimits,
    keys: Mutex<LruCache<KeyScope, Held>>,
}

struct Held {
    key: Arc<DataKey>,
    since: Timestamp,
    uses: u32,
}

impl std::fmt::Debug for DataKeyCache {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("DataKeyCache(..)")
    }
}

impl DataKeyCache {
    /// An empty cache. A count of zero is taken as one.
    pub fn new(limits: CacheLimits) -> Self {
        let count = NonZeroUsize::new(limits.count).unwrap_or(NonZeroUsize::MIN);
        Self { limits, keys: Mutex::new(LruCache::new(count)) }
    }

    /// The key of `scope`, unless it is not there, too old or used up.
    pub fn get(&self, scope: &KeyScope, now: Timestamp) -> Option<Arc<DataKey>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let held = keys.get_mut(scope)?;
        held.uses = held.uses.saturating_add(1);
        if held.uses > self.limits.uses || now > held.since.plus_seconds(self.limits.age_seconds) {
            keys.pop(scope);
            return None;
        }
        Some(Arc::clone(&held.key))
    }

    /// Keeps `key` for `scope`.
    pub fn insert(&self, scope: KeyScope, key: Arc<DataKey>, now: Timestamp) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.put(scope, Held { key, since: now, uses: 0 });
    }

    /// Forgets the key of `scope`, such as when it was destroyed.
    pub fn remove(&self, scope: &KeyScope) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).pop(scope);
    }

    /// Forgets every key.
    pub fn clear(&self) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
