//! Writing: new versions, deletions, records. Runs on the writer's thread, inside a savepoint.

use rusqlite::{Connection, OptionalExtension as _, ToSql, params};
use serde_json::Value;
use ward_base::Timestamp;
use ward_fhir::{ResourceType, search::Query};

use crate::{
    Expected, HistoryPage, HistoryScope, Page, Position, Prepared, RecordKind, ResourceKey, SearchPage,
    Session, StoreError, Stored, Transaction, WriteOutcome, Written,
    body::Frame,
    read::{AUDIT_CHECKPOINT, Snapshot, join},
    sql,
    vault::{FreshKeys, Place, Vault, type_number},
};

/// What the writer remembers between operations.
pub(crate) struct Batch {
    last_rid: i64,
    fresh: FreshKeys,
}

impl Batch {
    pub(crate) fn new(connection: &Connection) -> Result<Self, StoreError> {
        let last_rid = connection.query_row(sql::LAST_RID, [], |row| row.get(0))?;
        Ok(Self { last_rid, fresh: FreshKeys::new() })
    }

    /// The batch was committed or rolled back.
    pub(crate) fn finish(&mut self) {
        self.fresh.clear();
    }

    /// A new row id: microseconds and ten more bits, so that ids grow with time. Enough until the year 2255.
    fn next_rid(&mut self, now: Timestamp) -> i64 {
        self.last_rid = (self.last_rid + 1).max(now.micros().clamp(0, i64::MAX >> 10) << 10);
        self.last_rid
    }
}

/// A write operation's view: its own writes and those before it in the batch.
pub(crate) struct WriteSession<'a> {
    snapshot: Snapshot<'a>,
    batch: &'a mut Batch,
}

/// What a write needs of the version before.
struct Head {
    rid: i64,
    version: u64,
    updated: Timestamp,
    deleted: bool,
    tokens: Vec<i64>,
}

/// A new version, up to its number and time.
struct Next<'a> {
    key: &'a ResourceKey,
    id_token: [u8; 16],
    frame: &'a [u8],
    deleted: bool,
    /// Sorted and distinct.
    tokens: &'a [i64],
    scope: ward_keys::KeyScope,
}

impl<'a> WriteSession<'a> {
    pub(crate) fn new(vault: &'a Vault, connection: &'a Connection, batch: &'a mut Batch) -> Self {
        Self { snapshot: Snapshot::new(vault, connection, false), batch }
    }

    fn vault(&self) -> &'a Vault {
        self.snapshot.vault
    }

    fn connection(&self) -> &'a Connection {
        self.snapshot.connection
    }

    fn head(&self, id_token: &[u8; 16]) -> Result<Option<Head>, StoreError> {
        let head = self
            .connection()
            .prepare_cached(sql::HEAD)?
            .query_row(params![sql::SHARD, id_token], |row| {
                Ok(Head {
                    rid: row.get(0)?,
                    version: row.get::<_, i64>(1)?.unsigned_abs(),
                    updated: Timestamp(row.get(2)?),
                    deleted: row.get(3)?,
                    tokens: unpack(row.get_ref(4)?.as_blob()?),
                })
            })
            .optional()?;
        Ok(head)
    }

    /// Stores a version after `head`, and brings the blind index up to date.
    fn write(&mut self, next: &Next<'_>, head: Option<&Head>) -> Result<Written, StoreError> {
        let now = self.vault().clock.now();
        // Versions of one resource have different times, even if the clock stands still or goes back.
        let updated =
            head.map_or(now, |head| Timestamp(now.micros().max(head.updated.micros().saturating_add(1))));
        let version = head.map_or(1, |head| head.version.saturating_add(1));
        let key = self.vault().sealing_key(self.connection(), next.scope, &mut self.batch.fresh)?;
        let place = Place {
            resource_type: next.key.resource_type,
            id_token: next.id_token,
            version,
            updated,
            deleted: next.deleted,
        };
        let body = self.vault().seal(&key, &place, next.frame);
        let (key_id, tokens) = (key.id().0, pack(next.tokens));
        let version_number = i64::try_from(version).map_err(|_| StoreError::Unavailable)?;
        match head {
            None => {
                let rid = self.batch.next_rid(now);
                self.connection().prepare_cached(sql::INSERT_RESOURCE)?.execute(params![
                    rid,
                    sql::SHARD,
                    type_number(next.key.resource_type),
                    version_number,
                    updated.micros(),
                    next.deleted,
                    next.id_token,
                    key_id,
                    body,
                    tokens
                ])?;
                self.index(rid, &[], next.tokens)?;
            }
            Some(head) => {
                self.connection().prepare_cached(sql::KEEP_AS_HISTORY)?.execute([head.rid])?;
                self.connection().prepare_cached(sql::UPDATE_RESOURCE)?.execute(params![
                    head.rid,
                    version_number,
                    updated.micros(),
                    next.deleted,
                    key_id,
                    body,
                    tokens
                ])?;
                self.index(head.rid, &head.tokens, next.tokens)?;
            }
        }
        let outcome = match head {
            Some(head) if !head.deleted => WriteOutcome::Updated,
            _ => WriteOutcome::Created,
        };
        Ok(Written { version, updated, outcome })
    }

    /// Changes the index entries of a resource from `old` to `new`, both sorted. What stays is not touched.
    fn index(&self, rid: i64, old: &[i64], new: &[i64]) -> Result<(), StoreError> {
        let mut delete = self.connection().prepare_cached(sql::DELETE_TOKEN)?;
        for token in old.iter().filter(|token| new.binary_search(token).is_err()) {
            delete.execute(params![sql::SHARD, rid, token])?;
        }
        let added: Vec<i64> = new.iter().filter(|token| old.binary_search(token).is_err()).copied().collect();
        let (groups, rest) = added.as_chunks::<{ sql::TOKENS_AT_ONCE }>();
        let mut insert = self.connection().prepare_cached(sql::INSERT_TOKENS)?;
        for group in groups {
            let mut parameters: Vec<&dyn ToSql> = vec![&sql::SHARD, &rid];
            parameters.extend(group.iter().map(|token| token as &dyn ToSql));
            insert.execute(&*parameters)?;
        }
        let mut insert = self.connection().prepare_cached(sql::INSERT_TOKEN)?;
        for token in rest {
            insert.execute(params![sql::SHARD, rid, token])?;
        }
        Ok(())
    }

    fn write_record(
        &mut self,
        kind: RecordKind,
        key: &str,
        value: &[u8],
        expires: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let token = self.vault().record_token(kind, key);
        let expires = expires.map(Timestamp::micros);
        let sealed = self.vault().seal_record(kind, &token, expires, &join(key, value));
        let parameters = params![sql::SHARD, kind as u8, token, expires, sealed];
        self.connection().prepare_cached(sql::PUT_RECORD)?.execute(parameters)?;
        Ok(())
    }
}

fn check(expected: Expected, head: Option<&Head>) -> Result<(), StoreError> {
    let current = head.filter(|head| !head.deleted).map(|head| head.version);
    let holds = match expected {
        Expected::Any => true,
        Expected::Absent => current.is_none(),
        Expected::Known => head.is_some(),
        Expected::Current => current.is_some(),
        Expected::Version(version) => current == Some(version),
    };
    if holds { Ok(()) } else { Err(StoreError::Conflict) }
}

fn pack(tokens: &[i64]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_be_bytes()).collect()
}

fn unpack(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks::<8>().0.iter().map(|token| i64::from_be_bytes(*token)).collect()
}

impl Transaction for WriteSession<'_> {
    fn put(&mut self, prepared: &Prepared, expected: Expected) -> Result<Written, StoreError> {
        let head = self.head(&prepared.id_token)?;
        check(expected, head.as_ref())?;
        let next = Next {
            key: &prepared.key,
            id_token: prepared.id_token,
            frame: prepared.frame.expose(),
            deleted: false,
            tokens: &prepared.tokens,
            scope: prepared.scope,
        };
        self.write(&next, head.as_ref())
    }

    fn delete(&mut self, key: &ResourceKey, expected: Expected) -> Result<Option<u64>, StoreError> {
        let id_token = self.vault().id_token(key);
        let head = self.head(&id_token)?;
        check(expected, head.as_ref())?;
        let Some(head) = head.filter(|head| !head.deleted) else { return Ok(None) };
        let patients = self.snapshot.by_rid(head.rid)?.frame.patients;
        let scope = self.vault().scope(key.resource_type, patients.first());
        let frame = Frame::deletion(key.id.clone(), patients).encode()?;
        let next = Next { key, id_token, frame: &frame, deleted: true, tokens: &[], scope };
        Ok(Some(self.write(&next, Some(&head))?.version))
    }

    fn put_record(
        &mut self,
        kind: RecordKind,
        key: &str,
        value: &[u8],
        expires: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.write_record(kind, key, value, expires)
    }

    fn insert_record(
        &mut self,
        kind: RecordKind,
        key: &str,
        value: &[u8],
        expires: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        if self.snapshot.record(kind, key)?.is_some() {
            return Ok(false);
        }
        self.write_record(kind, key, value, expires)?;
        Ok(true)
    }

    fn delete_record(&mut self, kind: RecordKind, key: &str) -> Result<bool, StoreError> {
        let token = self.vault().record_token(kind, key);
        let parameters = params![sql::SHARD, kind as u8, token, self.vault().clock.now().micros()];
        Ok(self.connection().prepare_cached(sql::DELETE_RECORD)?.execute(parameters)? > 0)
    }

    fn purge_expired(&mut self) -> Result<u64, StoreError> {
        let now = self.vault().clock.now().micros();
        let purged =
            self.connection().prepare_cached(sql::PURGE_RECORDS)?.execute(params![sql::SHARD, now])?;
        Ok(purged as u64)
    }

    fn set_audit_checkpoint(&mut self, size: u64, root: [u8; 32]) -> Result<(), StoreError> {
        let plain = [size.to_be_bytes().as_slice(), &root].concat();
        let sealed = self.vault().seal_meta(AUDIT_CHECKPOINT, &plain);
        self.connection().prepare_cached(sql::PUT_META)?.execute(params![AUDIT_CHECKPOINT, sealed])?;
        Ok(())
    }
}

impl Session for WriteSession<'_> {
    fn current(&mut self, key: &ResourceKey) -> Result<Option<Stored>, StoreError> {
        self.snapshot.current(key)
    }

    fn version(&mut self, key: &ResourceKey, version: u64) -> Result<Option<Stored>, StoreError> {
        self.snapshot.version(key, version)
    }

    fn history(&mut self, scope: &HistoryScope, page: &Page) -> Result<HistoryPage, StoreError> {
        self.snapshot.history(scope, page)
    }

    fn search(&mut self, queries: &[Query], page: &Page) -> Result<SearchPage, StoreError> {
        self.snapshot.search(queries, page)
    }

    fn export(
        &mut self,
        resource_type: Option<ResourceType>,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<crate::ExportPage, StoreError> {
        self.snapshot.export(resource_type, after, limit)
    }

    fn original_equals(&mut self, key: &ResourceKey, resource: &Value) -> Result<bool, StoreError> {
        self.snapshot.original_equals(key, resource)
    }

    fn record(&mut self, kind: RecordKind, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.snapshot.record(kind, key)
    }

    fn records(&mut self, kind: RecordKind) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.snapshot.records(kind)
    }

    fn audit_checkpoint(&mut self) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        self.snapshot.audit_checkpoint()
    }
}
