//! Reading: versions, history, export, records.

use std::{cell::RefCell, cmp::Reverse, collections::HashMap, ops::ControlFlow, sync::Arc};

use serde_json::Value;
use ward_base::{Phi, Timestamp};
use ward_fhir::{ResourceType, search::Query};
use ward_keys::KeyId;
use zeroize::Zeroizing;

use crate::{
    HistoryPage, HistoryScope, Original, Page, Position, RecordKind, ResourceKey, SearchPage, Session,
    StoreError, Stored,
    body::Frame,
    connection::{Connection, Parameter, Row},
    index::Index,
    position,
    postings::Group,
    search,
    server::ROWS_BYTES_MAX,
    sql,
    vault::{Place, Vault, type_number, type_of},
};

/// A page ends with the entry whose body takes it beyond this, however few entries it has.
pub const PAGE_BYTES_MAX: usize = 16 << 20;

/// So many entries of the index are read in one statement.
const POSTINGS_AT_ONCE: i64 = 1 << 16;

/// One connection inside a transaction.
pub(crate) struct Snapshot<'a> {
    pub(crate) vault: &'a Vault,
    pub(crate) connection: &'a Connection,
    /// The index as it was known when the snapshot was about to begin.
    pub(crate) index: Arc<Index>,
    /// Whether it sees nothing but what is committed.
    committed: bool,
    /// Rows that were asked for together before they are needed, by resource, and version if it is a past one.
    ahead: RefCell<HashMap<(i64, Option<i64>), tokio_postgres::Row>>,
}

/// A version as it was decrypted, not yet put into words.
pub(crate) struct Opened {
    pub(crate) rid: i64,
    pub(crate) resource_type: ResourceType,
    pub(crate) version: u64,
    pub(crate) updated: Timestamp,
    pub(crate) frame: Frame,
}

impl Opened {
    /// This, if it is a version of the resource that was asked for: whoever can write to the database can put a row
    /// under another's number, which its seal does not cover.
    fn of(self, key: &ResourceKey) -> Result<Self, StoreError> {
        let is_its = self.resource_type == key.resource_type && self.frame.id == key.id;
        if is_its { Ok(self) } else { Err(StoreError::Corrupt) }
    }

    /// The version as callers get it.
    pub(crate) fn into_stored(self) -> Stored {
        Stored {
            version: self.version,
            updated: self.updated,
            deleted: self.frame.deleted(),
            body: Phi::new(self.frame.served(self.version, self.updated)),
            key: ResourceKey { resource_type: self.resource_type, id: self.frame.id },
            patients: self.frame.patients,
        }
    }
}

impl<'a> Snapshot<'a> {
    pub(crate) fn new(vault: &'a Vault, connection: &'a Connection, committed: bool) -> Self {
        Self { vault, connection, index: vault.index(), committed, ahead: RefCell::default() }
    }

    /// Whether what is read by its key must stay as it is until the commit, and others could change it.
    const fn locks(&self) -> bool {
        !self.committed && matches!(self.connection, Connection::Server(_))
    }

    /// Decrypts a row that has the columns of a version.
    fn open(&self, row: &Row<'_>) -> Result<Opened, StoreError> {
        let version = u64::try_from(row.integer(2)?).map_err(|_| StoreError::Corrupt)?;
        let place = Place {
            resource_type: type_of(row.integer(1)?)?,
            version,
            updated: Timestamp(row.integer(3)?),
            deleted: row.flag(4)?,
            id_token: row.array(5)?,
        };
        let (key, body) = (KeyId(row.array(6)?), row.bytes(7)?);
        let plaintext = self.vault.open(self.connection, self.committed, key, &place, body)?;
        let frame = Frame::decode(&plaintext)?;
        if frame.deleted() != place.deleted {
            return Err(StoreError::Corrupt);
        }
        let Place { resource_type, updated, .. } = place;
        Ok(Opened { rid: row.integer(0)?, resource_type, version, updated, frame })
    }

    fn one(
        &self,
        statement: &'static str,
        parameters: &[Parameter<'_>],
    ) -> Result<Option<Opened>, StoreError> {
        self.connection.one(statement, parameters, |row| self.open(row))
    }

    /// The versions of a statement, and whether they end because they are large.
    fn several(
        &self,
        statement: &'static str,
        parameters: &[Parameter<'_>],
    ) -> Result<(Vec<Opened>, bool), StoreError> {
        let (mut opened, mut bytes) = (Vec::new(), 0_usize);
        let all = self.connection.each(statement, parameters, |row| {
            let next = self.open(row)?;
            bytes = bytes.saturating_add(next.frame.text().len());
            opened.push(next);
            Ok(if bytes > PAGE_BYTES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok((opened, !all))
    }

    /// Asks for current versions that are about to be read one after the other, where each would be a round trip.
    pub(crate) fn fetch_ahead(&self, rids: &[i64]) -> Result<(), StoreError> {
        let Connection::Server(server) = self.connection else { return Ok(()) };
        let (rows, _) =
            server.query(sql::CURRENT_BY_RIDS, &[sql::SHARD.into(), rids.into()], ROWS_BYTES_MAX)?;
        self.keep_ahead(rows, |_| None)
    }

    fn fetch_past_ahead(&self, versions: &[(i64, i64)]) -> Result<(), StoreError> {
        let Connection::Server(server) = self.connection else { return Ok(()) };
        let (rids, versions): (Vec<i64>, Vec<i64>) = versions.iter().copied().unzip();
        let parameters = [sql::SHARD.into(), rids.as_slice().into(), versions.as_slice().into()];
        let (rows, _) = server.query(sql::PAST_VERSIONS_OF, &parameters, ROWS_BYTES_MAX)?;
        self.keep_ahead(rows, Some)
    }

    fn keep_ahead(
        &self,
        rows: Vec<tokio_postgres::Row>,
        version: impl Fn(i64) -> Option<i64>,
    ) -> Result<(), StoreError> {
        let mut ahead = self.ahead.borrow_mut();
        for row in rows {
            let read = Row::Server(&row);
            let place = (read.integer(0)?, version(read.integer(2)?));
            ahead.insert(place, row);
        }
        Ok(())
    }

    /// Forgets what was asked for ahead: it is needed no more, or about to change.
    pub(crate) fn forget_ahead(&self) {
        self.ahead.borrow_mut().clear();
    }

    fn take_ahead(&self, rid: i64, version: Option<i64>) -> Result<Option<Opened>, StoreError> {
        let row = self.ahead.borrow_mut().remove(&(rid, version));
        row.map(|row| self.open(&Row::Server(&row))).transpose()
    }

    pub(crate) fn opened(&self, key: &ResourceKey) -> Result<Option<Opened>, StoreError> {
        let statement = if self.locks() { sql::CURRENT_TO_WRITE } else { sql::CURRENT_BY_ID };
        let found = self.one(statement, &[sql::SHARD.into(), (&self.vault.id_token(key)).into()])?;
        found.map(|opened| opened.of(key)).transpose()
    }

    /// How many undeleted resources of a type there are.
    pub(crate) fn count_of(&self, resource_type: ResourceType) -> Result<u64, StoreError> {
        let mut total = 0;
        for token in self.index.type_tokens(resource_type) {
            let parameters = [token.into(), sql::SHARD.into()];
            let count = self.connection.one(sql::COUNT_POSTINGS, &parameters, |row| row.integer(0))?;
            total += count.unwrap_or_default().unsigned_abs();
        }
        Ok(total)
    }

    /// The current version of a resource that some index named.
    pub(crate) fn by_rid(&self, rid: i64) -> Result<Opened, StoreError> {
        if let Some(opened) = self.take_ahead(rid, None)? {
            return Ok(opened);
        }
        self.one(sql::CURRENT_BY_RID, &[sql::SHARD.into(), rid.into()])?.ok_or(StoreError::Corrupt)
    }

    fn past(&self, rid: i64, version: i64) -> Result<Option<Opened>, StoreError> {
        if let Some(opened) = self.take_ahead(rid, Some(version))? {
            return Ok(Some(opened));
        }
        self.one(sql::PAST_VERSION, &[sql::SHARD.into(), rid.into(), version.into()])
    }

    fn history_of(&self, key: &ResourceKey, page: &Page) -> Result<HistoryPage, StoreError> {
        let Some(current) = self.opened(key)? else { return Ok(HistoryPage::default()) };
        let total = Some(current.version);
        let before = match &page.after {
            Some(position) => position::version(position)?,
            None => i64::MAX,
        };
        let rid = current.rid;
        let mut entries = Vec::new();
        if i64::try_from(current.version).is_ok_and(|version| version < before) {
            entries.push(current);
        }
        let wanted = i64::from(page.count) + 1;
        let missing = wanted - entries.len() as i64;
        let parameters = [sql::SHARD.into(), rid.into(), before.into(), missing.max(0).into()];
        let (past, full) = self.several(sql::PAST_VERSIONS, &parameters)?;
        for one in past {
            entries.push(one.of(key)?);
        }
        let next = (more(&mut entries, page.count) || full)
            .then(|| entries.last().map(|last| position::of_version(last.version)));
        Ok(HistoryPage {
            next: next.flatten(),
            total,
            places: entries.iter().map(|entry| position::of_version(entry.version)).collect(),
            entries: entries.into_iter().map(Opened::into_stored).collect(),
        })
    }

    /// The history of whole types: the newest of each are merged.
    fn history_across(&self, types: &[i64], page: &Page) -> Result<HistoryPage, StoreError> {
        let (updated, rid) = match &page.after {
            Some(position) => position::moment(position)?,
            None => (i64::MAX, i64::MAX),
        };
        let wanted = i64::from(page.count) + 1;
        let mut places: Vec<(i64, i64, Option<i64>)> = Vec::new();
        for number in types {
            let parameters = [sql::SHARD, *number, updated, rid, 1, wanted].map(Parameter::Integer);
            places.extend(
                self.connection
                    .all(sql::NEWEST, &parameters, |row| Ok((row.integer(0)?, row.integer(1)?, None)))?,
            );
            let parameters = [sql::SHARD, *number, updated, rid, wanted].map(Parameter::Integer);
            places.extend(self.connection.all(sql::NEWEST_PAST, &parameters, |row| {
                Ok((row.integer(0)?, row.integer(1)?, Some(row.integer(2)?)))
            })?);
        }
        // A resource's versions have different times, so time and resource name a version.
        places.sort_unstable_by_key(|(updated, rid, _)| Reverse((*updated, *rid)));
        let mut next = more(&mut places, page.count)
            .then(|| places.last().map(|(updated, rid, _)| position::of_moment(*updated, *rid)));
        self.forget_ahead();
        let current = places.iter().filter(|(_, _, version)| version.is_none());
        self.fetch_ahead(&current.map(|(_, rid, _)| *rid).collect::<Vec<_>>())?;
        let past = places.iter().filter_map(|(_, rid, version)| Some((*rid, (*version)?)));
        self.fetch_past_ahead(&past.collect::<Vec<_>>())?;
        let (mut entries, mut bytes) = (Vec::with_capacity(places.len()), 0_usize);
        let mut after = Vec::with_capacity(places.len());
        for (updated, rid, version) in places {
            let opened = match version {
                None => self.by_rid(rid)?,
                Some(version) => self.past(rid, version)?.ok_or(StoreError::Corrupt)?,
            };
            bytes = bytes.saturating_add(opened.frame.text().len());
            entries.push(opened.into_stored());
            after.push(position::of_moment(updated, rid));
            if bytes > PAGE_BYTES_MAX {
                next = Some(after.last().cloned());
                break;
            }
        }
        Ok(HistoryPage { entries, places: after, next: next.flatten(), total: None })
    }

    fn types(&self) -> Result<Vec<i64>, StoreError> {
        let mut types = Vec::new();
        let mut last = -1;
        while let Some(next) =
            self.connection.one(sql::NEXT_TYPE, &[sql::SHARD.into(), last.into()], |row| row.integer(0))?
        {
            types.push(next);
            last = next;
        }
        Ok(types)
    }
}

/// Cuts `entries` to `count`; says whether there were more.
pub(crate) fn more<T>(entries: &mut Vec<T>, count: u32) -> bool {
    let more = entries.len() > count as usize;
    entries.truncate(count as usize);
    more
}

impl Session for Snapshot<'_> {
    fn current(&mut self, key: &ResourceKey) -> Result<Option<Stored>, StoreError> {
        Ok(self.opened(key)?.map(Opened::into_stored))
    }

    fn version(&mut self, key: &ResourceKey, version: u64) -> Result<Option<Stored>, StoreError> {
        let Some(current) = self.opened(key)? else { return Ok(None) };
        let Ok(number) = i64::try_from(version) else { return Ok(None) };
        if current.version == version {
            return Ok(Some(current.into_stored()));
        }
        let past = self.past(current.rid, number)?.map(|opened| opened.of(key)).transpose()?;
        Ok(past.map(Opened::into_stored))
    }

    fn history(&mut self, scope: &HistoryScope, page: &Page) -> Result<HistoryPage, StoreError> {
        match scope {
            HistoryScope::Instance(key) => self.history_of(key, page),
            HistoryScope::Type(resource_type) => self.history_across(&[type_number(*resource_type)], page),
            HistoryScope::System => self.history_across(&self.types()?, page),
        }
    }

    fn search(&mut self, queries: &[Query], page: &Page) -> Result<SearchPage, StoreError> {
        search::run(self, queries, page)
    }

    fn parts(&mut self, resource_type: ResourceType, every: u32) -> Result<Vec<Position>, StoreError> {
        let mut rids: Vec<i64> = Vec::new();
        for token in self.index.type_tokens(resource_type) {
            let mut from = 0;
            loop {
                let parameters = [token, sql::SHARD, from, POSTINGS_AT_ONCE].map(Parameter::Integer);
                let found = self.connection.all(sql::POSTINGS, &parameters, |row| row.integer(0))?;
                let Some(last) = found.last() else { break };
                from = last.saturating_add(1);
                rids.extend(found);
            }
        }
        rids.sort_unstable();
        let ends = rids.chunks(every.max(1) as usize).filter_map(|part| part.last().copied());
        let mut ends: Vec<i64> = ends.collect();
        ends.pop();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let ends = ends.iter().copied().chain([i64::MAX]);
        Ok(starts.zip(ends).map(|(start, end)| position::of_part(start, end)).collect())
    }

    fn export(
        &mut self,
        resource_type: Option<ResourceType>,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<crate::ExportPage, StoreError> {
        let after = after.map(position::rid).transpose()?.unwrap_or(0);
        let wanted = limit.saturating_add(1);
        let (mut found, full) = match resource_type {
            None => {
                let parameters = [sql::SHARD.into(), after.into(), i64::from(wanted).into()];
                self.several(sql::CURRENT_ALL, &parameters)?
            }
            Some(resource_type) => {
                let mut all = Group::new(&self.index.type_tokens(resource_type));
                let mut found = Vec::new();
                let (mut from, mut bytes) = (after.saturating_add(1), 0_usize);
                while found.len() < wanted as usize && bytes <= PAGE_BYTES_MAX {
                    let Some(rid) = all.next(self, &mut [], &mut from)? else { break };
                    let opened = self.by_rid(rid)?;
                    // Tokens can collide, and whoever can write to the database can add some.
                    if opened.resource_type != resource_type || opened.frame.deleted() {
                        continue;
                    }
                    bytes = bytes.saturating_add(opened.frame.text().len());
                    found.push(opened);
                }
                (found, bytes > PAGE_BYTES_MAX)
            }
        };
        let next =
            (more(&mut found, limit) || full).then(|| found.last().map(|last| position::of_rid(last.rid)));
        let originals = found.into_iter().map(|opened| Original {
            text: Phi::new(opened.frame.original()),
            patients: opened.frame.patients,
        });
        Ok((originals.collect(), next.flatten()))
    }

    fn original_equals(&mut self, key: &ResourceKey, resource: &Value) -> Result<bool, StoreError> {
        let Some(current) = self.opened(key)?.filter(|current| !current.frame.deleted()) else {
            return Ok(false);
        };
        let original: Value =
            serde_json::from_slice(&current.frame.original()).map_err(|_| StoreError::Corrupt)?;
        Ok(&original == resource)
    }

    fn record(&mut self, kind: RecordKind, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let token = self.vault.record_token(kind, key);
        let now = self.vault.clock.now().micros();
        let parameters = [sql::SHARD.into(), kind.number().into(), (&token).into(), now.into()];
        let statement = if self.locks() { sql::RECORD_TO_WRITE } else { sql::RECORD };
        self.connection.one(statement, &parameters, |row| {
            let plain = self.vault.open_record(kind, &token, row.optional_integer(1)?, row.bytes(0)?)?;
            Ok(split(plain)?.1)
        })
    }

    fn records(&mut self, kind: RecordKind) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let now = self.vault.clock.now().micros();
        let parameters = [sql::SHARD.into(), kind.number().into(), now.into()];
        self.connection.all(sql::RECORDS, &parameters, |row| {
            let (token, expires) = (row.array(0)?, row.optional_integer(2)?);
            split(self.vault.open_record(kind, &token, expires, row.bytes(1)?)?)
        })
    }

    fn audit_checkpoint(&mut self) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        let name = self.vault.audit_checkpoint.as_str();
        let plain = self
            .connection
            .one(sql::META, &[name.into()], |row| self.vault.open_meta(name, row.bytes(0)?))?;
        let Some(plain) = plain else { return Ok(None) };
        let (size, root) = plain.split_first_chunk::<8>().ok_or(StoreError::Corrupt)?;
        let root = root.try_into().map_err(|_| StoreError::Corrupt)?;
        Ok(Some((u64::from_be_bytes(*size), root)))
    }
}

/// A record's plaintext: its key and its value.
pub(crate) fn join(key: &str, value: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut plain = Zeroizing::new(Vec::with_capacity(4 + key.len() + value.len()));
    plain.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
    plain.extend_from_slice(key.as_bytes());
    plain.extend_from_slice(value);
    plain
}

fn split(plain: Vec<u8>) -> Result<(String, Vec<u8>), StoreError> {
    let plain = Zeroizing::new(plain);
    let (length, rest) = plain.split_first_chunk::<4>().ok_or(StoreError::Corrupt)?;
    let (key, value) =
        rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(StoreError::Corrupt)?;
    let key = String::from_utf8(key.to_vec()).map_err(|_| StoreError::Corrupt)?;
    Ok((key, value.to_vec()))
}
