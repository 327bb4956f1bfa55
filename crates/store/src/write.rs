//! Writing: new versions, deletions, records. Runs on a writer's thread, inside a savepoint or transaction.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use serde_json::Value;
use ward_base::Timestamp;
use ward_fhir::{ResourceType, search::Query};

use crate::{
    Expected, HistoryPage, HistoryScope, Page, Position, Prepared, RecordKind, ResourceKey, SearchPage,
    Session, StoreError, Stored, Transaction, WriteOutcome, Written,
    body::Frame,
    connection::{Connection, Parameter},
    index::Index,
    read::{Snapshot, join},
    sql,
    vault::{FreshKeys, Place, Vault, type_number},
};

/// What a writer remembers between operations.
pub(crate) struct Batch {
    rids: Arc<Rids>,
    fresh: FreshKeys,
}

impl Batch {
    pub(crate) fn new(rids: Arc<Rids>) -> Self {
        Self { rids, fresh: FreshKeys::new() }
    }

    /// The batch was committed or rolled back.
    pub(crate) fn finish(&mut self) {
        self.fresh.clear();
    }
}

/// Makes row ids: microseconds and ten more bits, so that ids grow with time. Enough until the year 2255.
pub(crate) struct Rids {
    last: AtomicI64,
    /// Whether other programs make ids for the same database.
    shared: bool,
}

impl Rids {
    /// `last` is the newest id there is.
    pub(crate) const fn new(last: i64, shared: bool) -> Self {
        Self { last: AtomicI64::new(last), shared }
    }

    /// A new id, after all that this program made. Where others make ids too, the last bits are random; should two
    /// make the same in the same microsecond, the database refuses the second, and it makes another.
    fn next(&self, vault: &Vault) -> i64 {
        let step = if self.shared {
            let mut random = [0; 2];
            vault.random.fill(&mut random);
            i64::from(u16::from_be_bytes(random) >> 6)
        } else {
            0
        };
        let moment = vault.clock.now().micros().clamp(0, (i64::MAX >> 10) - 1) << 10;
        let after = |last: i64| last.saturating_add(1).max(moment).saturating_add(step);
        let (Ok(last) | Err(last)) =
            self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)));
        after(last)
    }
}

/// A write operation's view: its own writes and those before it in the batch.
pub(crate) struct WriteSession<'a> {
    snapshot: Snapshot<'a>,
    batch: &'a mut Batch,
    /// Whether the operation changes what the index is made of.
    pub(crate) changes_index: bool,
}

/// The index entries of a resource that a row has.
struct Indexed {
    version: u64,
    tokens: Vec<i64>,
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

/// A new version as its row has it.
struct Version {
    place: Place,
    key: [u8; 16],
    body: Vec<u8>,
    tokens: Vec<u8>,
}

impl Version {
    fn version(&self) -> Result<Parameter<'static>, StoreError> {
        i64::try_from(self.place.version).map(Parameter::Integer).map_err(|_| StoreError::Unavailable)
    }
}

impl<'a> WriteSession<'a> {
    pub(crate) fn new(vault: &'a Vault, connection: &'a Connection, batch: &'a mut Batch) -> Self {
        Self { snapshot: Snapshot::new(vault, connection, false), batch, changes_index: false }
    }

    pub(crate) fn vault(&self) -> &'a Vault {
        self.snapshot.vault
    }

    fn connection(&self) -> &'a Connection {
        self.snapshot.connection
    }

    /// The index that the operation goes by.
    pub(crate) fn index(&self) -> &Index {
        &self.snapshot.index
    }

    /// The tokens of what was made ready, as they are to be now.
    fn tokens<'p>(&self, prepared: &'p Prepared) -> Result<Cow<'p, [i64]>, StoreError> {
        if prepared.generation == self.index().generation() {
            return Ok(Cow::Borrowed(&prepared.tokens));
        }
        let frame = Frame::decode(prepared.frame.expose())?;
        let resource: Value = serde_json::from_slice(frame.text()).map_err(|_| StoreError::Corrupt)?;
        let base = &self.vault().base_url;
        Ok(Cow::Owned(self.index().tokens(prepared.key.resource_type, &resource, base)))
    }

    /// Puts these in the place of a resource's index entries, if it is still of this version.
    pub(crate) fn refill(&mut self, rid: i64, version: u64, tokens: &[i64]) -> Result<(), StoreError> {
        let (connection, place) = (self.connection(), [sql::SHARD.into(), rid.into()]);
        let statement = match connection {
            Connection::Embedded(_) => sql::TOKENS,
            Connection::Server(_) => sql::TOKENS_TO_WRITE,
        };
        let found = connection.one(statement, &place, |row| {
            Ok(Indexed { version: row.integer(0)?.unsigned_abs(), tokens: unpack(row.bytes(1)?) })
        })?;
        let Some(before) = found.filter(|found| found.version == version && found.tokens != tokens) else {
            return Ok(());
        };
        let packed = pack(tokens);
        let mut parameters = vec![sql::SHARD.into(), rid.into(), packed.as_slice().into()];
        match connection {
            Connection::Embedded(_) => {
                connection.execute(sql::SET_TOKENS, &parameters)?;
                self.index_entries(rid, &before.tokens, tokens)
            }
            Connection::Server(_) => {
                let (removed, added) = (without(&before.tokens, tokens), without(tokens, &before.tokens));
                parameters.extend([removed.as_slice(), added.as_slice()].map(Parameter::Integers));
                connection.execute(sql::REFILL, &parameters)?;
                Ok(())
            }
        }
    }

    /// Before anything is read that the operation does not name.
    fn isolate(&self) -> Result<(), StoreError> {
        match self.connection() {
            Connection::Embedded(_) => Ok(()),
            Connection::Server(server) => server.isolate(),
        }
    }

    fn head(&self, id_token: &[u8; 16]) -> Result<Option<Head>, StoreError> {
        let statement = match self.connection() {
            Connection::Embedded(_) => sql::HEAD,
            Connection::Server(_) => sql::HEAD_TO_WRITE,
        };
        self.connection().one(statement, &[sql::SHARD.into(), id_token.into()], |row| {
            Ok(Head {
                rid: row.integer(0)?,
                version: row.integer(1)?.unsigned_abs(),
                updated: Timestamp(row.integer(2)?),
                deleted: row.flag(3)?,
                tokens: unpack(row.bytes(4)?),
            })
        })
    }

    /// Stores a version after `head`, and brings the blind index up to date.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if there is no `head` but the id is taken, which only a server may say.
    fn write(&mut self, next: &Next<'_>, head: Option<&Head>) -> Result<Written, StoreError> {
        self.snapshot.forget_ahead();
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
        let row = Version { place, key: key.id().0, body, tokens: pack(next.tokens) };
        match head {
            None => self.create(self.batch.rids.next(self.vault()), &row, next.tokens)?,
            Some(head) => self.replace(head, &row, next.tokens)?,
        }
        let outcome = match head {
            Some(head) if !head.deleted => WriteOutcome::Updated,
            _ => WriteOutcome::Created,
        };
        Ok(Written { version, updated, outcome })
    }

    fn create(&self, rid: i64, row: &Version, tokens: &[i64]) -> Result<(), StoreError> {
        let mut parameters = vec![
            sql::SHARD.into(),
            rid.into(),
            type_number(row.place.resource_type).into(),
            row.version()?,
            row.place.updated.micros().into(),
            row.place.deleted.into(),
            (&row.place.id_token).into(),
            (&row.key).into(),
            row.body.as_slice().into(),
            row.tokens.as_slice().into(),
        ];
        match self.connection() {
            Connection::Embedded(_) => {
                self.connection().execute(sql::INSERT_RESOURCE, &parameters)?;
                self.index_entries(rid, &[], tokens)
            }
            Connection::Server(_) => {
                parameters.push(tokens.into());
                let indexed = self.connection().execute(sql::CREATE, &parameters)?;
                if indexed == tokens.len() as u64 { Ok(()) } else { Err(StoreError::Conflict) }
            }
        }
    }

    fn replace(&self, head: &Head, row: &Version, tokens: &[i64]) -> Result<(), StoreError> {
        let mut parameters = vec![
            sql::SHARD.into(),
            head.rid.into(),
            row.version()?,
            row.place.updated.micros().into(),
            row.place.deleted.into(),
            (&row.key).into(),
            row.body.as_slice().into(),
            row.tokens.as_slice().into(),
        ];
        match self.connection() {
            Connection::Embedded(_) => {
                self.connection().execute(sql::KEEP_AS_HISTORY, &[sql::SHARD.into(), head.rid.into()])?;
                self.connection().execute(sql::UPDATE_RESOURCE, &parameters)?;
                self.index_entries(head.rid, &head.tokens, tokens)
            }
            Connection::Server(_) => {
                let (removed, added) = (without(&head.tokens, tokens), without(tokens, &head.tokens));
                parameters.extend([removed.as_slice(), added.as_slice()].map(Parameter::Integers));
                self.connection().execute(sql::REPLACE, &parameters)?;
                Ok(())
            }
        }
    }

    /// Changes the index entries of a resource from `old` to `new`, both sorted. What stays is not touched.
    fn index_entries(&self, rid: i64, old: &[i64], new: &[i64]) -> Result<(), StoreError> {
        for token in without(old, new) {
            self.connection()
                .execute(sql::DELETE_TOKEN, &[sql::SHARD, rid, token].map(Parameter::Integer))?;
        }
        let added = without(new, old);
        let (groups, rest) = added.as_chunks::<{ sql::TOKENS_AT_ONCE }>();
        for group in groups {
            let mut parameters = [Parameter::Integer(sql::SHARD); sql::TOKENS_AT_ONCE + 2];
            let values = std::iter::once(&rid).chain(group);
            for (parameter, value) in parameters.iter_mut().skip(1).zip(values) {
                *parameter = Parameter::Integer(*value);
            }
            self.connection().execute(sql::INSERT_TOKENS, &parameters)?;
        }
        for token in rest {
            self.connection()
                .execute(sql::INSERT_TOKEN, &[sql::SHARD, rid, *token].map(Parameter::Integer))?;
        }
        Ok(())
    }

    pub(crate) fn write_record(
        &mut self,
        kind: RecordKind,
        key: &str,
        value: &[u8],
        expires: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let token = self.vault().record_token(kind, key);
        let expires = expires.map(Timestamp::micros);
        let sealed = self.vault().seal_record(kind, &token, expires, &join(key, value));
        let parameters = [
            sql::SHARD.into(),
            kind.number().into(),
            (&token).into(),
            expires.into(),
            sealed.as_slice().into(),
        ];
        self.connection().execute(sql::PUT_RECORD, &parameters)?;
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

/// What of `tokens` is not in `others`; both sorted.
fn without(tokens: &[i64], others: &[i64]) -> Vec<i64> {
    tokens.iter().filter(|token| others.binary_search(token).is_err()).copied().collect()
}

fn pack(tokens: &[i64]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_be_bytes()).collect()
}

fn unpack(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks::<8>().0.iter().map(|token| i64::from_be_bytes(*token)).collect()
}

impl Transaction for WriteSession<'_> {
    fn put(&mut self, prepared: &Prepared, expected: Expected) -> Result<Written, StoreError> {
        if let Some(added) = &prepared.adds {
            self.search_parameter(prepared.key.id.as_str(), added.as_ref())?;
        }
        let tokens = self.tokens(prepared)?;
        let next = Next {
            key: &prepared.key,
            id_token: prepared.id_token,
            frame: prepared.frame.expose(),
            deleted: false,
            tokens: &tokens,
            scope: prepared.scope,
        };
        // What is most likely new is not looked for first: that would be a round trip.
        if let (Connection::Server(_), Expected::Absent) = (self.connection(), expected) {
            match self.write(&next, None) {
                Err(StoreError::Conflict) => {}
                written => return written,
            }
        }
        let head = self.head(&prepared.id_token)?;
        check(expected, head.as_ref())?;
        self.write(&next, head.as_ref())
    }

    fn delete(&mut self, key: &ResourceKey, expected: Expected) -> Result<Option<u64>, StoreError> {
        let id_token = self.vault().id_token(key);
        let head = self.head(&id_token)?;
        check(expected, head.as_ref())?;
        let Some(head) = head.filter(|head| !head.deleted) else { return Ok(None) };
        if key.resource_type.name() == "SearchParameter" {
            self.search_parameter(key.id.as_str(), None)?;
        }
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
        let now = self.vault().clock.now().micros();
        let parameters = [sql::SHARD.into(), kind.number().into(), (&token).into(), now.into()];
        Ok(self.connection().execute(sql::DELETE_RECORD, &parameters)? > 0)
    }

    fn purge_expired(&mut self) -> Result<u64, StoreError> {
        let now = self.vault().clock.now().micros();
        self.connection().execute(sql::PURGE_RECORDS, &[sql::SHARD.into(), now.into()])
    }

    fn set_audit_checkpoint(&mut self, size: u64, root: [u8; 32]) -> Result<(), StoreError> {
        let plain = [size.to_be_bytes().as_slice(), &root].concat();
        let name = self.vault().audit_checkpoint.as_str();
        let sealed = self.vault().seal_meta(name, &plain);
        self.connection().execute(sql::PUT_META, &[name.into(), sealed.as_slice().into()])?;
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
        self.isolate()?;
        self.snapshot.history(scope, page)
    }

    fn search(&mut self, queries: &[Query], page: &Page) -> Result<SearchPage, StoreError> {
        self.isolate()?;
        self.snapshot.search(queries, page)
    }

    fn parts(&mut self, resource_type: ResourceType, every: u32) -> Result<Vec<Position>, StoreError> {
        self.isolate()?;
        self.snapshot.parts(resource_type, every)
    }

    fn export(
        &mut self,
        resource_type: Option<ResourceType>,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<crate::ExportPage, StoreError> {
        self.isolate()?;
        self.snapshot.export(resource_type, after, limit)
    }

    fn original_equals(&mut self, key: &ResourceKey, resource: &Value) -> Result<bool, StoreError> {
        self.snapshot.original_equals(key, resource)
    }

    fn record(&mut self, kind: RecordKind, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.snapshot.record(kind, key)
    }

    fn records(&mut self, kind: RecordKind) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.isolate()?;
        self.snapshot.records(kind)
    }

    fn audit_checkpoint(&mut self) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        self.snapshot.audit_checkpoint()
    }
}
