//! A transaction that queues what it writes for whoever wants to hear of it, and notes which Subscriptions it writes.

use serde_json::Value;
use ward_base::{ResourceId, Timestamp};
use ward_fhir::ResourceType;
use ward_fhir::search::{Query, extract_for};
use ward_identity::Holder;
use ward_store::{
    Expected, ExportPage, HistoryPage, HistoryScope, Page, Position, Prepared, RecordKind, ResourceKey,
    SearchPage, Session, StoreError, Stored, Transaction, WriteOutcome, Written,
};

use super::ledger::{self, Change, Notification, Registration, State};
use super::{Roster, Subscribed};
use crate::fhir::subscription::{self, Wish};

/// On whose behalf resources are written.
#[derive(Clone)]
pub(crate) enum Writer {
    /// Of a caller: a Subscription acts with its rights.
    Caller(Holder),
    /// Of nobody who could be held to it: Subscriptions are kept, and not acted on.
    Import,
    /// Of the tier itself, which knows where its Subscriptions stand.
    Tier,
}

/// The transaction underneath, watched.
pub(super) struct Watched<'a> {
    inner: &'a mut dyn Transaction,
    by: &'a Writer,
    roster: &'a Roster,
    base: &'a str,
    /// For whom something was queued.
    queued: Vec<ResourceId>,
    /// Which Subscriptions were written.
    changed: Vec<ResourceId>,
}

impl<'a> Watched<'a> {
    pub(super) fn new(
        inner: &'a mut dyn Transaction,
        by: &'a Writer,
        roster: &'a Roster,
        base: &'a str,
    ) -> Self {
        Self { inner, by, roster, base, queued: Vec::new(), changed: Vec::new() }
    }

    /// For whom something was queued, and which Subscriptions were written.
    pub(super) fn finish(self) -> (Vec<ResourceId>, Vec<ResourceId>) {
        (self.queued, self.changed)
    }

    fn watching(&self, kind: ResourceType) -> &'a [std::sync::Arc<Subscribed>] {
        self.roster.by_kind.get(&kind).map_or(&[], Vec::as_slice)
    }

    fn queue(
        &mut self,
        watching: &Subscribed,
        key: &ResourceKey,
        version: u64,
        change: Change,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let notification = Notification {
            kind: key.resource_type.name().to_owned(),
            id: key.id.as_str().to_owned(),
            version,
            change,
            at,
        };
        ledger::queue(self.inner, &watching.id, &notification)?;
        self.queued.push(watching.id.clone());
        Ok(())
    }

    /// A Subscription was written.
    fn register(&mut self, prepared: &Prepared, written: &Written) -> Result<(), StoreError> {
        let id = &prepared.key().id;
        match self.by {
            Writer::Tier => {}
            Writer::Import => ledger::forget(self.inner, id)?,
            Writer::Caller(holder) => {
                let resource = parsed(prepared.served(written)?.expose())?;
                // What is not a wish was refused before.
                let state = match subscription::wish(&resource) {
                    Ok(Wish::Active) => State::Pending,
                    Ok(Wish::Off) | Err(_) => State::Stopped,
                };
                let registration = Registration { holder: holder.clone(), version: written.version, state };
                ledger::register(self.inner, id, &registration, written.updated)?;
            }
        }
        self.changed.push(id.clone());
        Ok(())
    }
}

/// Whether the resource meets the criteria by itself, which is all that criteria ask.
fn meets(query: &Query, resource: &Value, id: &ResourceId, updated: Timestamp, base: &str) -> bool {
    query.matches(&extract_for(query, resource, base), id.as_str(), updated) == Some(true)
}

fn parsed(text: &[u8]) -> Result<Value, StoreError> {
    serde_json::from_slice(text).map_err(|_| StoreError::Corrupt)
}

impl Transaction for Watched<'_> {
    fn put(&mut self, prepared: &Prepared, expected: Expected) -> Result<Written, StoreError> {
        let key = prepared.key();
        let written = self.inner.put(prepared, expected)?;
        if subscription::is_one(key.resource_type) {
            self.register(prepared, &written)?;
        }
        let watching = self.watching(key.resource_type);
        if watching.is_empty() {
            return Ok(written);
        }
        let resource = parsed(prepared.served(&written)?.expose())?;
        let change = match written.outcome {
            WriteOutcome::Created => Change::Create,
            WriteOutcome::Updated => Change::Update,
        };
        for one in watching {
            let Some(definition) = &one.definition else { continue };
            let has_ended = definition.end.is_some_and(|end| end <= written.updated);
            if !has_ended && meets(&definition.query, &resource, &key.id, written.updated, self.base) {
                self.queue(one, key, written.version, change, written.updated)?;
            }
        }
        Ok(written)
    }

    fn delete(&mut self, key: &ResourceKey, expected: Expected) -> Result<Option<u64>, StoreError> {
        let watching = self.watching(key.resource_type);
        // A deletion is told to those who would have been told of the version before.
        let before = match watching.iter().any(|one| one.hears_deletions()) {
            true => self.inner.current(key)?.filter(|stored| !stored.deleted),
            false => None,
        };
        let version = self.inner.delete(key, expected)?;
        if let Some(deleted) = version
            && let Some(before) = before
        {
            let resource = parsed(before.body.expose())?;
            let at = self.inner.version(key, deleted)?.map_or(before.updated, |stored| stored.updated);
            for one in watching.iter().filter(|one| one.hears_deletions()) {
                let Some(definition) = &one.definition else { continue };
                let has_ended = definition.end.is_some_and(|end| end <= at);
                if !has_ended && meets(&definition.query, &resource, &key.id, before.updated, self.base) {
                    self.queue(one, key, deleted, Change::Delete, at)?;
                }
            }
        }
        if version.is_some() && subscription::is_one(key.resource_type) {
            ledger::forget(self.inner, &key.id)?;
            self.changed.push(key.id.clone());
        }
        Ok(version)
    }

    fn put_record(
        &mut self,
        kind: RecordKind,
        key: &str,
        value: &[u8],
        expires: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.inner.put_record(kind, key, value, expires)
    }

    fn insert_record(
        &mut self,
        kind: RecordKind,
        key: &str,
        value: &[u8],
        expires: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        self.inner.insert_record(kind, key, value, expires)
    }

    fn delete_record(&mut self, kind: RecordKind, key: &str) -> Result<bool, StoreError> {
        self.inner.delete_record(kind, key)
    }

    fn purge_expired(&mut self) -> Result<u64, StoreError> {
        self.inner.purge_expired()
    }

    fn set_audit_checkpoint(&mut self, size: u64, root: [u8; 32]) -> Result<(), StoreError> {
        self.inner.set_audit_checkpoint(size, root)
    }
}

impl Session for Watched<'_> {
    fn current(&mut self, key: &ResourceKey) -> Result<Option<Stored>, StoreError> {
        self.inner.current(key)
    }

    fn version(&mut self, key: &ResourceKey, version: u64) -> Result<Option<Stored>, StoreError> {
        self.inner.version(key, version)
    }

    fn history(&mut self, scope: &HistoryScope, page: &Page) -> Result<HistoryPage, StoreError> {
        self.inner.history(scope, page)
    }

    fn search(&mut self, queries: &[Query], page: &Page) -> Result<SearchPage, StoreError> {
        self.inner.search(queries, page)
    }

    fn parts(&mut self, resource_type: ResourceType, every: u32) -> Result<Vec<Position>, StoreError> {
        self.inner.parts(resource_type, every)
    }

    fn export(
        &mut self,
        resource_type: Option<ResourceType>,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<ExportPage, StoreError> {
        self.inner.export(resource_type, after, limit)
    }

    fn original_equals(&mut self, key: &ResourceKey, resource: &Value) -> Result<bool, StoreError> {
        self.inner.original_equals(key, resource)
    }

    fn record(&mut self, kind: RecordKind, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.record(kind, key)
    }

    fn records(&mut self, kind: RecordKind) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.inner.records(kind)
    }

    fn audit_checkpoint(&mut self) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        self.inner.audit_checkpoint()
    }
}
