//! Every SQL text of the store, and its migrations.
//!
//! The dialect is what SQLite and PostgreSQL share; what [`for_server`] and [`schema_for_server`] change is all that
//! differs in the same statement. A few statements are for one of them alone.
//!
//! There are no foreign keys, triggers, sequences, extensions, locks of tables or ordering by text, every statement
//! names its `shard`, which stands in what must be unique together, and the program makes all ids, so that the same
//! shape can be spread over many servers.

/// Everything is in one shard so far. The column is there so that statements keep their form.
pub(crate) const SHARD: i64 = 0;

/// A statement as PostgreSQL takes it. Only SQLite has to be told that rows by their own number need no index.
pub(crate) fn for_server(statement: &str) -> String {
    statement.replace('?', "$").replace(" NOT INDEXED", "")
}

/// A migration as PostgreSQL takes it. There, a row has no number of its own that could be its key.
pub(crate) fn schema_for_server(migration: &Migration) -> String {
    let mut schema = migration.shared.to_owned();
    for (embedded, server) in [
        (" WITHOUT ROWID", ""),
        ("INTEGER NOT NULL PRIMARY KEY", "BIGINT NOT NULL"),
        ("INTEGER", "BIGINT"),
        ("BLOB", "BYTEA"),
    ] {
        schema = schema.replace(embedded, server);
    }
    schema + migration.server
}

/// A step of the schema.
pub(crate) struct Migration {
    /// For both databases, in SQLite's words.
    pub(crate) shared: &'static str,
    /// What PostgreSQL needs besides.
    pub(crate) server: &'static str,
}

/// The migrations, oldest first. Only ever append: a database records how many it has had.
pub(crate) const MIGRATIONS: [Migration; 1] = [Migration { shared: "
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
", server: "
CREATE UNIQUE INDEX resource_rid ON resource (shard, rid);
-- Ciphertext does not compress.
ALTER TABLE resource ALTER body SET STORAGE EXTERNAL;
ALTER TABLE history ALTER body SET STORAGE EXTERNAL;
" }];

pub(crate) const MIGRATION_TABLE: Migration = Migration {
    shared: "
CREATE TABLE IF NOT EXISTS migration (version INTEGER NOT NULL, applied INTEGER NOT NULL, PRIMARY KEY (version));
",
    server: "",
};
pub(crate) const MIGRATION_VERSION: &str = "SELECT coalesce(max(version), 0) FROM migration";
pub(crate) const MIGRATION_DONE: &str = "INSERT INTO migration (version, applied) VALUES (?1, ?2)";

pub(crate) const META: &str = "SELECT value FROM meta WHERE name = ?1";
pub(crate) const PUT_META: &str = "
INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
pub(crate) const ADD_META: &str = "
INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING";

pub(crate) const LAST_RID: &str = "SELECT coalesce(max(rid), 0) FROM resource NOT INDEXED WHERE shard = ?1";

/// The columns of a version, in the order `Row` reads them.
macro_rules! version_columns {
    () => {
        "rid, type, version, updated, deleted, id_token, key_id, body"
    };
}

pub(crate) const CURRENT_BY_ID: &str =
    concat!("SELECT ", version_columns!(), " FROM resource WHERE shard = ?1 AND id_token = ?2");
/// [`CURRENT_BY_ID`], and nobody else changes it before the commit; for the server.
pub(crate) const CURRENT_TO_WRITE: &str =
    concat!("SELECT ", version_columns!(), " FROM resource WHERE shard = ?1 AND id_token = ?2 FOR UPDATE");
pub(crate) const CURRENT_BY_RID: &str =
    concat!("SELECT ", version_columns!(), " FROM resource WHERE shard = ?1 AND rid = ?2");
/// Several at once, in any order; for the server.
pub(crate) const CURRENT_BY_RIDS: &str =
    concat!("SELECT ", version_columns!(), " FROM resource WHERE shard = ?1 AND rid = ANY(?2)");
pub(crate) const PAST_VERSION: &str =
    concat!("SELECT ", version_columns!(), " FROM history WHERE shard = ?1 AND rid = ?2 AND version = ?3");
/// Several at once, in any order; for the server.
pub(crate) const PAST_VERSIONS_OF: &str = concat!(
    "SELECT ",
    version_columns!(),
    " FROM unnest(?2, ?3) AS asked (r, v) CROSS JOIN LATERAL (
    SELECT * FROM history WHERE shard = ?1 AND rid = asked.r AND version = asked.v OFFSET 0
) AS past"
);
pub(crate) const PAST_VERSIONS: &str = concat!(
    "SELECT ",
    version_columns!(),
    " FROM history WHERE shard = ?1 AND rid = ?2 AND version < ?3 ORDER BY version DESC LIMIT ?4"
);
pub(crate) const CURRENT_ALL: &str = concat!(
    "SELECT ",
    version_columns!(),
    " FROM resource NOT INDEXED WHERE shard = ?1 AND rid > ?2 AND deleted = 0 ORDER BY rid LIMIT ?3"
);

/// The types of undeleted resources in the order in which they were first stored.
pub(crate) const CURRENT_TYPES: &str = "
SELECT rid, type FROM resource NOT INDEXED WHERE shard = ?1 AND rid > ?2 AND deleted = 0 ORDER BY rid LIMIT ?3";
/// The index entries of an undeleted resource, and the version that they are of.
pub(crate) const TOKENS: &str = "
SELECT version, tokens FROM resource WHERE shard = ?1 AND rid = ?2 AND deleted = 0";
/// [`TOKENS`], and nobody else changes them before the commit; for the server.
pub(crate) const TOKENS_TO_WRITE: &str = "
SELECT version, tokens FROM resource WHERE shard = ?1 AND rid = ?2 AND deleted = 0 FOR UPDATE";
pub(crate) const SET_TOKENS: &str = "UPDATE resource SET tokens = ?3 WHERE shard = ?1 AND rid = ?2";
/// [`SET_TOKENS`] and the changes of the index entries in one round trip; for the server.
pub(crate) const REFILL: &str = "
WITH removed AS (
    DELETE FROM bix WHERE shard = ?1 AND rid = ?2 AND t = ANY(?4)
), added AS (
    INSERT INTO bix (t, shard, rid) SELECT added.t, ?1, ?2 FROM unnest(?5) AS added (t)
)
UPDATE resource SET tokens = ?3 WHERE shard = ?1 AND rid = ?2";

/// What a write needs to know of the version before.
pub(crate) const HEAD: &str = "
SELECT rid, version, updated, deleted, tokens FROM resource WHERE shard = ?1 AND id_token = ?2";
pub(crate) const INSERT_RESOURCE: &str = "
INSERT INTO resource (rid, shard, type, version, updated, deleted, id_token, key_id, body, tokens)
VALUES (?2, ?1, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
pub(crate) const KEEP_AS_HISTORY: &str = "
INSERT INTO history (shard, rid, version, type, updated, deleted, id_token, key_id, body)
SELECT shard, rid, version, type, updated, deleted, id_token, key_id, body FROM resource WHERE shard = ?1 AND rid = ?2";
pub(crate) const UPDATE_RESOURCE: &str = "
UPDATE resource SET version = ?3, updated = ?4, deleted = ?5, key_id = ?6, body = ?7, tokens = ?8
WHERE shard = ?1 AND rid = ?2";

/// [`HEAD`], and nobody else writes a version after it; for the server. Who waits here has not yet sealed a body.
pub(crate) const HEAD_TO_WRITE: &str = "
SELECT rid, version, updated, deleted, tokens FROM resource WHERE shard = ?1 AND id_token = ?2 FOR UPDATE";
/// Resource and index entries in one round trip, unless the id is taken; for the server. Changes as many rows as
/// there are tokens, or none.
pub(crate) const CREATE: &str = "
WITH made AS (
    INSERT INTO resource (rid, shard, type, version, updated, deleted, id_token, key_id, body, tokens)
    VALUES (?2, ?1, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (shard, id_token) DO NOTHING
    RETURNING shard, rid
)
INSERT INTO bix (t, shard, rid) SELECT added.t, made.shard, made.rid FROM made, unnest(?11) AS added (t)";
/// History, the next version and the changes of its index entries in one round trip; for the server.
pub(crate) const REPLACE: &str = "
WITH kept AS (
    INSERT INTO history (shard, rid, version, type, updated, deleted, id_token, key_id, body)
    SELECT shard, rid, version, type, updated, deleted, id_token, key_id, body
    FROM resource WHERE shard = ?1 AND rid = ?2
), removed AS (
    DELETE FROM bix WHERE shard = ?1 AND rid = ?2 AND t = ANY(?9)
), added AS (
    INSERT INTO bix (t, shard, rid) SELECT added.t, ?1, ?2 FROM unnest(?10) AS added (t)
)
UPDATE resource SET version = ?3, updated = ?4, deleted = ?5, key_id = ?6, body = ?7, tokens = ?8
WHERE shard = ?1 AND rid = ?2";

/// How many index entries one statement adds. An entry that is there already is left: without a row that could fail, the
/// statement needs no journal of its own.
pub(crate) const TOKENS_AT_ONCE: usize = 8;
pub(crate) const INSERT_TOKEN: &str = "INSERT OR IGNORE INTO bix (t, shard, rid) VALUES (?3, ?1, ?2)";
pub(crate) const INSERT_TOKENS: &str = "
INSERT OR IGNORE INTO bix (t, shard, rid) VALUES (?3, ?1, ?2), (?4, ?1, ?2), (?5, ?1, ?2), (?6, ?1, ?2), (?7, ?1, ?2),
(?8, ?1, ?2), (?9, ?1, ?2), (?10, ?1, ?2)";
pub(crate) const DELETE_TOKEN: &str = "DELETE FROM bix WHERE t = ?3 AND shard = ?1 AND rid = ?2";
pub(crate) const POSTINGS: &str = "
SELECT rid FROM bix WHERE t = ?1 AND shard = ?2 AND rid >= ?3 ORDER BY rid LIMIT ?4";
/// How the first entries of each token of each group lie; for the server. `?1` and `?2` are groups and their tokens.
pub(crate) const WEIGH: &str = "
SELECT asked.g, count(*), min(entry.rid), max(entry.rid)
FROM unnest(?1, ?2) AS asked (g, t) CROSS JOIN LATERAL (
    SELECT rid FROM bix WHERE t = asked.t AND shard = ?3 AND rid >= ?4 ORDER BY rid LIMIT ?5
) AS entry
GROUP BY asked.g, asked.t";
/// The first resources from `?3` on that have one of the tokens `?1`, and one of each of the further groups; for the
/// server. `OFFSET` keeps the planner from collecting a group instead of asking it.
macro_rules! intersection {
    ($($group:literal),*) => {
        concat!(
            "SELECT DISTINCT entry.rid FROM unnest(?1) AS asked (t) CROSS JOIN LATERAL (
    SELECT rid FROM bix AS driver WHERE t = asked.t AND shard = ?2 AND rid >= ?3",
            $(
                " AND EXISTS (SELECT FROM bix WHERE t = ANY(", $group, ") AND shard = ?2 AND rid = driver.rid OFFSET 0)",
            )*
            " ORDER BY rid LIMIT ?4
) AS entry
ORDER BY entry.rid LIMIT ?4"
        )
    };
}
/// By the number of further groups.
pub(crate) const INTERSECTIONS: [&str; 4] =
    [intersection!(), intersection!("?5"), intersection!("?5", "?6"), intersection!("?5", "?6", "?7")];
/// How many resources have one of the tokens `?1`, up to `?3`; for the server.
pub(crate) const COUNT_TO: &str = "
SELECT count(*) FROM (
    SELECT DISTINCT entry.rid FROM unnest(?1) AS asked (t) CROSS JOIN LATERAL (
        SELECT rid FROM bix WHERE t = asked.t AND shard = ?2 ORDER BY rid LIMIT ?3
    ) AS entry LIMIT ?3
) AS counted";
pub(crate) const COUNT_POSTINGS: &str = "SELECT count(*) FROM bix WHERE t = ?1 AND shard = ?2";
pub(crate) const RID_BY_ID: &str =
    "SELECT rid FROM resource WHERE shard = ?1 AND id_token = ?2 AND deleted = 0";

/// Types that have any row, found by skipping through the index.
pub(crate) const NEXT_TYPE: &str = "
SELECT type FROM resource WHERE shard = ?1 AND type > ?2 ORDER BY type LIMIT 1";
/// Undeleted resources by time, newest first, strictly before a place; and the other way round.
pub(crate) const NEWEST: &str = "
SELECT updated, rid FROM resource
WHERE shard = ?1 AND type = ?2 AND (updated, rid) < (?3, ?4) AND (deleted = 0 OR ?5 = 1)
ORDER BY updated DESC, rid DESC LIMIT ?6";
pub(crate) const OLDEST: &str = "
SELECT updated, rid FROM resource
WHERE shard = ?1 AND type = ?2 AND (updated, rid) > (?3, ?4) AND (deleted = 0 OR ?5 = 1)
ORDER BY updated, rid LIMIT ?6";
/// Past versions by time, newest first.
pub(crate) const NEWEST_PAST: &str = "
SELECT updated, rid, version FROM history
WHERE shard = ?1 AND type = ?2 AND (updated, rid) < (?3, ?4)
ORDER BY updated DESC, rid DESC LIMIT ?5";

pub(crate) const DATA_KEY: &str = "
SELECT scope, shared, wrapped FROM data_key WHERE shard = ?1 AND key_id = ?2";
pub(crate) const DATA_KEY_OF: &str = "
SELECT key_id, wrapped FROM data_key WHERE shard = ?1 AND scope = ?2 ORDER BY key_id LIMIT 1";
pub(crate) const INSERT_DATA_KEY: &str = "
INSERT INTO data_key (shard, key_id, scope, shared, wrapped) VALUES (?1, ?2, ?3, ?4, ?5)";

pub(crate) const RECORD: &str = "
SELECT sealed, expires FROM record
WHERE shard = ?1 AND kind = ?2 AND key_token = ?3 AND (expires IS NULL OR expires > ?4)";
/// [`RECORD`], and nobody else changes it before the commit; for the server.
pub(crate) const RECORD_TO_WRITE: &str = "
SELECT sealed, expires FROM record
WHERE shard = ?1 AND kind = ?2 AND key_token = ?3 AND (expires IS NULL OR expires > ?4) FOR UPDATE";
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

    /// Each text of this file by the name it has here, but for these tests.
    fn texts() -> Vec<(&'static str, &'static str)> {
        let source = include_str!("sql.rs").split("#[cfg(test)]").next().unwrap();
        let items = source.split("pub(crate) const ").skip(1);
        let named = items.map(|item| item.split_once(':').unwrap());
        named.filter(|(_, text)| text.contains('"')).collect()
    }

    #[test]
    fn nothing_stands_in_the_way_of_many_servers() {
        let texts = texts();
        assert!(texts.len() > 30);
        for (name, text) in &texts {
            let text = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>();
            let upper = text.join("\n").to_uppercase();
            for refused in [
                "REFERENCES",
                "FOREIGN",
                "SERIAL",
                "SEQUENCE",
                "NEXTVAL",
                "GENERATED",
                "IDENTITY",
                "AUTOINCREMENT",
                "TRIGGER",
                "ADVISORY",
                "EXTENSION",
                "LOCK TABLE",
                "SKIP LOCKED",
                "COLLATE",
                "RANDOM()",
                "NOW()",
                "CURRENT_TIMESTAMP",
                "ORDER BY NAME",
                "FUNCTION",
                "NOTIFY",
                "CTID",
                "OID",
            ] {
                let found = upper.match_indices(refused).any(|(place, _)| {
                    let before = upper[..place].chars().next_back();
                    let after = upper[place + refused.len()..].chars().next();
                    ![before, after].iter().flatten().any(|letter| letter.is_alphanumeric() || *letter == '_')
                });
                assert!(!found, "{name} has {refused}");
            }
            let sharded = ["RESOURCE", "HISTORY", "BIX", "DATA_KEY", "RECORD"];
            let uses = |table: &str| {
                ["FROM", "INTO", "UPDATE"].iter().any(|word| upper.contains(&format!("{word} {table} ")))
            };
            if sharded.iter().any(|table| uses(table)) {
                assert!(upper.contains("SHARD"), "{name} does not say in which shard");
            }
        }
        for migration in &MIGRATIONS {
            let schema = schema_for_server(migration);
            // `meta` is small and the same everywhere.
            let sharded = schema.split(';').filter(|part| !part.contains("TABLE meta"));
            for unique in sharded.flat_map(|part| part.split('\n')) {
                if unique.contains("UNIQUE") || unique.contains("PRIMARY KEY") {
                    assert!(unique.contains("(shard,") || unique.contains("(t, shard,"), "{unique}");
                }
            }
            for foreign in ["INTEGER", "BLOB", "ROWID"] {
                assert!(!schema.contains(foreign), "{foreign}");
            }
        }
    }

    /// How PostgreSQL goes about each statement, with the settings of our sessions and no statistics.
    #[test]
    fn a_server_uses_indexes() {
        let server = ward_testkit::Postgres::shared();
        let database = server.new_database();
        MIGRATIONS.iter().for_each(|migration| drop(server.run(&database, &schema_for_server(migration))));
        for (statement, types, sorts) in [
            (META, "text", false),
            (CURRENT_BY_ID, "bigint, bytea", false),
            (CURRENT_BY_RID, "bigint, bigint", false),
            (CURRENT_BY_RIDS, "bigint, bigint[]", false),
            (PAST_VERSION, "bigint, bigint, bigint", false),
            (PAST_VERSIONS, "bigint, bigint, bigint, bigint", false),
            (PAST_VERSIONS_OF, "bigint, bigint[], bigint[]", false),
            (CURRENT_ALL, "bigint, bigint, bigint", false),
            (HEAD_TO_WRITE, "bigint, bytea", false),
            (CURRENT_TYPES, "bigint, bigint, bigint", false),
            (TOKENS_TO_WRITE, "bigint, bigint", false),
            (CURRENT_TO_WRITE, "bigint, bytea", false),
            (RECORD_TO_WRITE, "bigint, bigint, bytea, bigint", false),
            (LAST_RID, "bigint", false),
            (POSTINGS, "bigint, bigint, bigint, bigint", false),
            (COUNT_POSTINGS, "bigint, bigint", false),
            (RID_BY_ID, "bigint, bytea", false),
            (NEXT_TYPE, "bigint, bigint", false),
            (NEWEST, "bigint, bigint, bigint, bigint, bigint, bigint", false),
            (OLDEST, "bigint, bigint, bigint, bigint, bigint, bigint", false),
            (NEWEST_PAST, "bigint, bigint, bigint, bigint, bigint", false),
            (DATA_KEY, "bigint, bytea", false),
            (DATA_KEY_OF, "bigint, bytea", false),
            (RECORD, "bigint, bigint, bytea, bigint", false),
            (RECORDS, "bigint, bigint, bigint", false),
            (DELETE_RECORD, "bigint, bigint, bytea, bigint", false),
            // The few that the tokens gave together are put in order.
            (WEIGH, "bigint[], bigint[], bigint, bigint, bigint", true),
            (COUNT_TO, "bigint[], bigint, bigint", true),
            (INTERSECTIONS[0], "bigint[], bigint, bigint, bigint", true),
            (INTERSECTIONS[3], "bigint[], bigint, bigint, bigint, bigint[], bigint[], bigint[]", true),
        ] {
            let nulls = vec!["NULL"; types.split(',').count()].join(", ");
            let explained = server.run(
                &database,
                &format!(
                    "{}; PREPARE asked ({types}) AS {}; EXPLAIN EXECUTE asked ({nulls})",
                    crate::server::SESSION,
                    for_server(statement)
                ),
            );
            assert!(explained.contains("Index"), "{statement}\n{explained}");
            assert!(
                !explained.contains("Seq Scan") && !explained.contains("Bitmap"),
                "{statement}\n{explained}"
            );
            assert!(!explained.contains("Hash"), "{statement}\n{explained}");
            assert!(sorts || !explained.contains("Sort"), "{statement}\n{explained}");
            // What is asked of a group is asked of its index, not of a copy of the group.
            let whole =
                explained.lines().filter(|line| line.contains("Index Cond") && !line.contains("shard"));
            assert!(statement == META || whole.count() == 0, "{statement}\n{explained}");
        }
    }

    /// How the planner goes about a statement, on a database of which it has no statistics.
    fn steps(statement: &str) -> Vec<String> {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        MIGRATIONS.iter().for_each(|migration| connection.execute_batch(migration.shared).unwrap());
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
            (DATA_KEY_OF, "shard=? AND scope=?"),
            (HEAD, "shard=? AND id_token=?"),
            (CURRENT_TYPES, "rowid>?"),
            (TOKENS, "rowid=?"),
            (SET_TOKENS, "rowid=?"),
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
            (RECORD, "shard=? AND kind=? AND key_token=?"),
            (RECORDS, "shard=? AND kind=?"),
            (DELETE_RECORD, "shard=? AND kind=? AND key_token=?"),
        ] {
            let steps = steps(statement);
            assert!(steps.len() == 1 && steps[0].contains(&format!("({terms})")), "{statement}\n{steps:?}");
        }
    }
}
