//! Every SQL text of the store, and its migrations.
//!
//! The dialect is what SQLite and PostgreSQL share, apart from the table options that only the embedded database
//! needs. There are no foreign keys, triggers, sequences or ordering by text, `shard` stands first in what must be
//! unique together, and the program makes all ids, so that the same shape can be spread over many servers.

/// The embedded database is one shard. The column is there so that statements keep their form.
pub(crate) const SHARD: i64 = 0;

/// The migrations, oldest first. Only ever append: a database records how many it has had.
pub(crate) const MIGRATIONS: [&str; 1] = ["
CREATE TABLE meta (
    name TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

-- The current version of every resource. `rid` is made by the program and grows with time. `tokens` holds the
-- resource's entries in `bix`, so that they can be taken out again without decrypting the body.
CREATE TABLE resource (
    rid INTEGER NOT NULL PRIMARY KEY,
    shard INTEGER NOT NULL,
    type INTEGER NOT NULL,
    version INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    id_token BLOB NOT NULL,
    key_id BLOB NOT NULL,
    body BLOB NOT NULL,
    tokens BLOB NOT NULL
);
CREATE UNIQUE INDEX resource_id ON resource (shard, id_token);
CREATE INDEX resource_updated ON resource (shard, type, updated, rid);

-- Past versions.
CREATE TABLE history (
    shard INTEGER NOT NULL,
    rid INTEGER NOT NULL,
    version INTEGER NOT NULL,
    type INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    id_token BLOB NOT NULL,
    key_id BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX history_version ON history (shard, rid, version);
CREATE INDEX history_updated ON history (shard, type, updated, rid);

-- The blind index: which resource has which token.
CREATE TABLE bix (
    t INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    rid INTEGER NOT NULL,
    PRIMARY KEY (t, shard, rid)
) WITHOUT ROWID;

-- Wrapped data keys. `shared` tells a partition of a type (1) from a patient (0). Clustered by scope, and the id unique:
-- with less to go by, the planner walks the whole table for either.
CREATE TABLE data_key (
    shard INTEGER NOT NULL,
    key_id BLOB NOT NULL,
    scope BLOB NOT NULL,
    shared INTEGER NOT NULL,
    wrapped BLOB NOT NULL,
    PRIMARY KEY (shard, scope, key_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX data_key_id ON data_key (shard, key_id);

CREATE TABLE record (
    shard INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    key_token BLOB NOT NULL,
    expires INTEGER,
    sealed BLOB NOT NULL,
    PRIMARY KEY (shard, kind, key_token)
) WITHOUT ROWID;
"];

pub(crate) const CREATE_MIGRATION: &str = "
CREATE TABLE IF NOT EXISTS migration (version INTEGER NOT NULL PRIMARY KEY, applied INTEGER NOT NULL)";
pub(crate) const MIGRATION_VERSION: &str = "SELECT coalesce(max(version), 0) FROM migration";
pub(crate) const MIGRATION_DONE: &str = "INSERT INTO migration (version, applied) VALUES (?1, ?2)";

pub(crate) const META: &str = "SELECT value FROM meta WHERE name = ?1";
pub(crate) const PUT_META: &str = "
INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";

pub(crate) const LAST_RID: &str = "SELECT coalesce(max(rid), 0) FROM resource";

/// The columns of a version, in the order `Row` reads them.
macro_rules! version_columns {
    () => {
        "rid, type, version, updated, deleted, id_token, key_id, body"
    };
}

pub(crate) const CURRENT_BY_ID: &str =
    concat!("SELECT ", version_columns!(), " FROM resource WHERE shard = ?1 AND id_token = ?2");
pub(crate) const CURRENT_BY_RID: &str =
    concat!("SELECT ", version_columns!(), " FROM resource WHERE rid = ?1");
pub(crate) const PAST_VERSION: &str =
    concat!("SELECT ", version_columns!(), " FROM history WHERE shard = ?1 AND rid = ?2 AND version = ?3");
pub(crate) const PAST_VERSIONS: &str = concat!(
    "SELECT ",
    version_columns!(),
    " FROM history WHERE shard = ?1 AND rid = ?2 AND version < ?3 ORDER BY version DESC LIMIT ?4"
);
pub(crate) const CURRENT_ALL: &str = concat!(
    "SELECT ",
    version_columns!(),
    " FROM resource WHERE rid > ?1 AND deleted = 0 ORDER BY rid LIMIT ?2"
);

/// What a write needs to know of the version before.
pub(crate) const HEAD: &str = "
SELECT rid, version, updated, deleted, tokens FROM resource WHERE shard = ?1 AND id_token = ?2";
pub(crate) const INSERT_RESOURCE: &str = "
INSERT INTO resource (rid, shard, type, version, updated, deleted, id_token, key_id, body, tokens)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
pub(crate) const KEEP_AS_HISTORY: &str = "
INSERT INTO history (shard, rid, version, type, updated, deleted, id_token, key_id, body)
SELECT shard, rid, version, type, updated, deleted, id_token, key_id, body FROM resource WHERE rid = ?1";
pub(crate) const UPDATE_RESOURCE: &str = "
UPDATE resource SET version = ?2, updated = ?3, deleted = ?4, key_id = ?5, body = ?6, tokens = ?7 WHERE rid = ?1";

/// How many index entries one statement adds.
pub(crate) const TOKENS_AT_ONCE: usize = 8;
pub(crate) const INSERT_TOKEN: &str = "INSERT INTO bix (t, shard, rid) VALUES (?3, ?1, ?2)";
pub(crate) const INSERT_TOKENS: &str = "
INSERT INTO bix (t, shard, rid) VALUES (?3, ?1, ?2), (?4, ?1, ?2), (?5, ?1, ?2), (?6, ?1, ?2), (?7, ?1, ?2),
(?8, ?1, ?2), (?9, ?1, ?2), (?10, ?1, ?2)";
pub(crate) const DELETE_TOKEN: &str = "DELETE FROM bix WHERE t = ?3 AND shard = ?1 AND rid = ?2";
pub(crate) const POSTINGS: &str = "
SELECT rid FROM bix WHERE t = ?1 AND shard = ?2 AND rid >= ?3 ORDER BY rid LIMIT ?4";
pub(crate) const COUNT_POSTINGS: &str = "SELECT count(*) FROM bix WHERE t = ?1 AND shard = ?2";
pub(crate) const RID_BY_ID: &str =
    "SELECT rid FROM resource WHERE shard = ?1 AND id_token = ?2 AND deleted = 0";

/// Types that have any row, found by skipping through the index.
pub(crate) const NEXT_TYPE: &str = "
SELECT type FROM resource WHERE shard = ?1 AND type > ?2 ORDER BY type LIMIT 1";
/// Undeleted resources by time, newest first, strictly before a place; and the other way round.
pub(crate) const NEWEST: &str = "
SELECT updated, rid FROM resource
WHERE shard = ?1 AND type = ?2 AND (updated, rid) < (?3, ?4) AND (deleted = 0 OR ?5)
ORDER BY updated DESC, rid DESC LIMIT ?6";
pub(crate) const OLDEST: &str = "
SELECT updated, rid FROM resource
WHERE shard = ?1 AND type = ?2 AND (updated, rid) > (?3, ?4) AND (deleted = 0 OR ?5)
ORDER BY updated, rid LIMIT ?6";
/// Past versions by time, newest first.
pub(crate) const NEWEST_PAST: &str = "
SELECT updated, rid, version FROM history
WHERE shard = ?1 AND type = ?2 AND (updated, rid) < (?3, ?4)
ORDER BY updated DESC, rid DESC LIMIT ?5";

pub(crate) const DATA_KEY: &str = "
SELECT scope, shared, wrapped FROM data_key WHERE shard = ?1 AND key_id = ?2";
pub(crate) const DATA_KEY_OF: &str = "SELECT key_id, wrapped FROM data_key WHERE shard = ?1 AND scope = ?2";
pub(crate) const INSERT_DATA_KEY: &str = "
INSERT INTO data_key (shard, key_id, scope, shared, wrapped) VALUES (?1, ?2, ?3, ?4, ?5)";

pub(crate) const RECORD: &str = "
SELECT sealed, expires FROM record
WHERE shard = ?1 AND kind = ?2 AND key_token = ?3 AND (expires IS NULL OR expires > ?4)";
pub(crate) const RECORDS: &str = "
SELECT key_token, sealed, expires FROM record
WHERE shard = ?1 AND kind = ?2 AND (expires IS NULL OR expires > ?3)";
pub(crate) const PUT_RECORD: &str = "
INSERT INTO record (shard, kind, key_token, expires, sealed) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (shard, kind, key_token) DO UPDATE SET expires = excluded.expires, sealed = excluded.sealed";
pub(crate) const DELETE_RECORD: &str = "
DELETE FROM record
WHERE shard = ?1 AND kind = ?2 AND key_token = ?3 AND (expires IS NULL OR expires > ?4)";
pub(crate) const PURGE_RECORDS: &str = "DELETE FROM record WHERE shard = ?1 AND expires <= ?2";

#[cfg(test)]
mod tests {
    use super::*;

    /// How the planner goes about a statement, on a database of which it has no statistics.
    fn steps(statement: &str) -> Vec<String> {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        MIGRATIONS.iter().for_each(|migration| connection.execute_batch(migration).unwrap());
        let mut explained = connection.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
        let rows = explained.raw_query();
        rows.mapped(|row| row.get::<_, String>(3)).map(Result::unwrap).collect()
    }

    #[test]
    fn every_lookup_uses_the_whole_of_its_index() {
        for (statement, terms) in [
            (META, "name=?"),
            (CURRENT_BY_ID, "shard=? AND id_token=?"),
            (CURRENT_BY_RID, "rowid=?"),
            (PAST_VERSION, "shard=? AND rid=? AND version=?"),
            (PAST_VERSIONS, "shard=? AND rid=? AND version<?"),
            (CURRENT_ALL, "rowid>?"),
            (HEAD, "shard=? AND id_token=?"),
            (KEEP_AS_HISTORY, "rowid=?"),
            (UPDATE_RESOURCE, "rowid=?"),
            (DELETE_TOKEN, "t=? AND shard=? AND rid=?"),
            (POSTINGS, "t=? AND shard=? AND rid>?"),
            (COUNT_POSTINGS, "t=? AND shard=?"),
            (RID_BY_ID, "shard=? AND id_token=?"),
            (NEXT_TYPE, "shard=? AND type>?"),
            (NEWEST, "shard=? AND type=? AND updated<?"),
            (OLDEST, "shard=? AND type=? AND updated>?"),
            (NEWEST_PAST, "shard=? AND type=? AND (updated,rid)<(?,?)"),
            (DATA_KEY, "shard=? AND key_id=?"),
            (DATA_KEY_OF, "shard=? AND scope=?"),
            (RECORD, "shard=? AND kind=? AND key_token=?"),
            (RECORDS, "shard=? AND kind=?"),
            (DELETE_RECORD, "shard=? AND kind=? AND key_token=?"),
        ] {
            let steps = steps(statement);
            assert!(steps.len() == 1 && steps[0].contains(&format!("({terms})")), "{statement}\n{steps:?}");
        }
    }
}
