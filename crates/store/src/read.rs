//! Reading: versions, history, export, records.

use std::cmp::Reverse;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde_json::Value;
use ward_base::{Phi, Timestamp};
use ward_fhir::{ResourceType, search::Query};
use ward_keys::KeyId;

use crate::{
    HistoryPage, HistoryScope, Original, Page, Position, RecordKind, ResourceKey, SearchPage, Session,
    StoreError, Stored,
    body::Frame,
    position,
    postings::Cursor,
    search, sql,
    token::type_token,
    vault::{Place, Vault, type_number, type_of},
};

/// A page ends with the entry whose body takes it beyond this, however few entries it has.
pub(crate) const PAGE_BYTES_MAX: usize = 16 << 20;

/// The name under which the audit checkpoint stands in `meta`.
pub(crate) const AUDIT_CHECKPOINT: &str = "audit-checkpoint";

/// One connection inside a transaction.
pub(crate) struct Snapshot<'a> {
    pub(crate) vault: &'a Vault,
    pub(crate) connection: &'a Connection,
    /// Whether it sees nothing but what is committed.
    committed: bool,
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
    pub(crate) const fn new(vault: &'a Vault, connection: &'a Connection, committed: bool) -> Self {
        Self { vault, connection, committed }
    }

    /// Decrypts a row that has the columns of a version.
    fn open(&self, row: &Row<'_>) -> Result<Opened, StoreError> {
        let version = u64::try_from(row.get::<_, i64>(2)?).map_err(|_| StoreError::Corrupt)?;
        let place = Place {
            resource_type: type_of(row.get(1)?)?,
            version,
            updated: Timestamp(row.get(3)?),
            deleted: row.get(4)?,
            id_token: row.get(5)?,
        };
        let body = row.get_ref(7)?.as_blob().map_err(|_| StoreError::Corrupt)?;
        let plaintext = self.vault.open(self.connection, self.committed, KeyId(row.get(6)?), &place, body)?;
        let frame = Frame::decode(&plaintext)?;
        if frame.deleted() != place.deleted {
            return Err(StoreError::Corrupt);
        }
        let Place { resource_type, updated, .. } = place;
        Ok(Opened { rid: row.get(0)?, resource_type, version, updated, frame })
    }

    fn one(&self, statement: &str, parameters: impl rusqlite::Params) -> Result<Option<Opened>, StoreError> {
        let mut statement = self.connection.prepare_cached(statement)?;
        let mut rows = statement.query(parameters)?;
        rows.next()?.map(|row| self.open(row)).transpose()
    }

    /// The versions of a statement, and whether they end because they are large.
    fn several(
        &self,
        statement: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<(Vec<Opened>, bool), StoreError> {
        let mut statement = self.connection.prepare_cached(statement)?;
        let mut rows = statement.query(parameters)?;
        let (mut opened, mut bytes) = (Vec::new(), 0_usize);
        while let Some(row) = rows.next()? {
            let next = self.open(row)?;
            bytes = bytes.saturating_add(next.frame.text().len());
            opened.push(next);
            if bytes > PAGE_BYTES_MAX {
                return Ok((opened, true));
            }
        }
        Ok((opened, false))
    }

    pub(crate) fn opened(&self, key: &ResourceKey) -> Result<Option<Opened>, StoreError> {
        self.one(sql::CURRENT_BY_ID, params![sql::SHARD, self.vault.id_token(key)])
    }

    /// The current version of a resource that some index named.
    pub(crate) fn by_rid(&self, rid: i64) -> Result<Opened, StoreError> {
        self.one(sql::CURRENT_BY_RID, [rid])?.ok_or(StoreError::Corrupt)
    }

    fn past(&self, rid: i64, version: u64) -> Result<Option<Opened>, StoreError> {
        let Ok(version) = i64::try_from(version) else { return Ok(None) };
        self.one(sql::PAST_VERSION, params![sql::SHARD, rid, version])
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
        let (past, full) =
            self.several(sql::PAST_VERSIONS, params![sql::SHARD, rid, before, missing.max(0)])?;
        entries.extend(past);
        let next = (more(&mut entries, page.count) || full)
            .then(|| entries.last().map(|last| position::of_version(last.version)));
        Ok(HistoryPage {
            next: next.flatten(),
            total,
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
        let mut places: Vec<(i64, i64, Option<u64>)> = Vec::new();
        for number in types {
            let mut current = self.connection.prepare_cached(sql::NEWEST)?;
            let rows = current.query_map(params![sql::SHARD, number, updated, rid, true, wanted], |row| {
                Ok((row.get(0)?, row.get(1)?, None))
            })?;
            places.extend(rows.collect::<Result<Vec<_>, _>>()?);
            let mut past = self.connection.prepare_cached(sql::NEWEST_PAST)?;
            let rows = past.query_map(params![sql::SHARD, number, updated, rid, wanted], |row| {
                Ok((row.get(0)?, row.get(1)?, Some(row.get::<_, i64>(2)?.unsigned_abs())))
            })?;
            places.extend(rows.collect::<Result<Vec<_>, _>>()?);
        }
        // A resource's versions have different times, so time and resource name a version.
        places.sort_unstable_by_key(|(updated, rid, _)| Reverse((*updated, *rid)));
        let mut next = more(&mut places, page.count)
            .then(|| places.last().map(|(updated, rid, _)| position::of_moment(*updated, *rid)));
        let (mut entries, mut bytes) = (Vec::with_capacity(places.len()), 0_usize);
        for (updated, rid, version) in places {
            let opened = match version {
                None => self.by_rid(rid)?,
                Some(version) => self.past(rid, version)?.ok_or(StoreError::Corrupt)?,
            };
            bytes = bytes.saturating_add(opened.frame.text().len());
            entries.push(opened.into_stored());
            if bytes > PAGE_BYTES_MAX {
                next = Some(Some(position::of_moment(updated, rid)));
                break;
            }
        }
        Ok(HistoryPage { entries, next: next.flatten(), total: None })
    }

    fn types(&self) -> Result<Vec<i64>, StoreError> {
        let mut types = Vec::new();
        let mut statement = self.connection.prepare_cached(sql::NEXT_TYPE)?;
        let mut last = -1;
        while let Some(next) =
            statement.query_row(params![sql::SHARD, last], |row| row.get::<_, i64>(0)).optional()?
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
        let found = if current.version == version { Some(current) } else { self.past(current.rid, version)? };
        Ok(found.map(Opened::into_stored))
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

    fn export(
        &mut self,
        resource_type: Option<ResourceType>,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<crate::ExportPage, StoreError> {
        let after = after.map(position::rid).transpose()?.unwrap_or(0);
        let wanted = limit.saturating_add(1);
        let (mut found, full) = match resource_type {
            None => self.several(sql::CURRENT_ALL, params![after, wanted])?,
            Some(resource_type) => {
                let mut all = Cursor::new(type_token(self.vault.ring.tokenizer(), resource_type));
                let mut found = Vec::new();
                let (mut from, mut bytes) = (after.saturating_add(1), 0_usize);
                while found.len() < wanted as usize && bytes <= PAGE_BYTES_MAX {
                    let Some(rid) = all.seek(self.connection, from)? else { break };
                    let opened = self.by_rid(rid)?;
                    bytes = bytes.saturating_add(opened.frame.text().len());
                    found.push(opened);
                    from = rid.saturating_add(1);
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
        let mut statement = self.connection.prepare_cached(sql::RECORD)?;
        let mut rows = statement.query(params![sql::SHARD, kind as u8, token, now])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let sealed = row.get_ref(0)?.as_blob().map_err(|_| StoreError::Corrupt)?;
        let (_, value) = split(self.vault.open_record(kind, &token, row.get(1)?, sealed)?)?;
        Ok(Some(value))
    }

    fn records(&mut self, kind: RecordKind) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let now = self.vault.clock.now().micros();
        let mut statement = self.connection.prepare_cached(sql::RECORDS)?;
        let mut rows = statement.query(params![sql::SHARD, kind as u8, now])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            let sealed = row.get_ref(1)?.as_blob().map_err(|_| StoreError::Corrupt)?;
            records.push(split(self.vault.open_record(kind, &row.get(0)?, row.get(2)?, sealed)?)?);
        }
        Ok(records)
    }

    fn audit_checkpoint(&mut self) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        let sealed = self
            .connection
            .prepare_cached(sql::META)?
            .query_row([AUDIT_CHECKPOINT], |row| row.get::<_, Vec<u8>>(0))
            .optional()?;
        let Some(sealed) = sealed else { return Ok(None) };
        let plain = self.vault.open_meta(AUDIT_CHECKPOINT, &sealed)?;
        let (size, root) = plain.split_first_chunk::<8>().ok_or(StoreError::Corrupt)?;
        let root = root.try_into().map_err(|_| StoreError::Corrupt)?;
        Ok(Some((u64::from_be_bytes(*size), root)))
    }
}

/// A record's plaintext: its key and its value.
pub(crate) fn join(key: &str, value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(4 + key.len() + value.len());
    plain.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
    plain.extend_from_slice(key.as_bytes());
    plain.extend_from_slice(value);
    plain
}

fn split(plain: Vec<u8>) -> Result<(String, Vec<u8>), StoreError> {
    let (length, rest) = plain.split_first_chunk::<4>().ok_or(StoreError::Corrupt)?;
    let (key, value) =
        rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(StoreError::Corrupt)?;
    let key = String::from_utf8(key.to_vec()).map_err(|_| StoreError::Corrupt)?;
    Ok((key, value.to_vec()))
}
