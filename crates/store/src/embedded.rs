//! The SQLCipher file: key, settings, migrations.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig, params};
use ward_base::{Clock, Secret};
use zeroize::Zeroizing;

use crate::{StoreError, sql};

/// Every connection keeps its statements prepared: there are fewer than this.
const STATEMENTS_MAX: usize = 64;
/// The write-ahead log is folded into the file at about 16 MiB.
const CHECKPOINT_PAGES: u32 = 4000;

/// What a connection is for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Write,
    Read,
}

/// Holds the file for this process alone: ids are made in memory, so two writers would collide. Gone when the
/// process is, however it ends.
pub(crate) fn lock(path: &Path) -> Result<File, StoreError> {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    let file = private(Path::new(&lock))?;
    file.try_lock().map_err(|_| StoreError::Unavailable)?;
    Ok(file)
}

fn private(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|_| StoreError::Unavailable)
}

/// Opens the file with its raw key.
///
/// Pages stay at 4 KiB: those of 8 KiB cost a third more for each write, those of 2 KiB change nothing that can be told
/// from noise. They are authenticated by HMAC-SHA256 instead of SQLCipher's usual SHA-512, since processors have
/// instructions for it: that takes an eighth off what the whole store costs (`examples/measure.rs`, in pairs).
///
/// `cipher_memory_security` stays off: it zeroes and locks every page buffer at a third of the speed, while pages
/// hold only ciphertext and tokens, and the process is neither dumpable nor swapped.
pub(crate) fn connect(
    path: &Path,
    key: &Secret,
    purpose: Purpose,
    cache_bytes: u64,
) -> Result<Connection, StoreError> {
    // SQLite would make the file readable for others.
    drop(private(path)?);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.busy_timeout(Duration::from_secs(5))?;
    // Else a statement is prepared anew whenever the value of its limit changes.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // It would write to standard error past our own log.
    connection.execute_batch("PRAGMA cipher_log_level = NONE")?;
    if !cfg!(ward_plaintext) {
        connection.execute_batch(&key_pragma(key))?;
        connection.execute_batch("PRAGMA cipher_hmac_algorithm = HMAC_SHA256")?;
    }
    connection.execute_batch(&format!(
        "PRAGMA cipher_memory_security = OFF;
         PRAGMA temp_store = MEMORY;
         PRAGMA trusted_schema = OFF;
         PRAGMA cache_size = -{};
         PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};",
        cache_bytes / 1024
    ))?;
    // Reads the first page, so a wrong key shows here.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    if let Purpose::Read = purpose {
        connection.execute_batch("PRAGMA query_only = ON")?;
    }
    Ok(connection)
}

fn key_pragma(key: &Secret) -> Zeroizing<String> {
    use std::fmt::Write as _;
    // Reserved in full, so that no copy stays behind in a smaller buffer.
    let mut pragma = Zeroizing::new(String::with_capacity(2 * key.expose().len() + 32));
    pragma.push_str("PRAGMA key = \"x'");
    for byte in key.expose() {
        let _ = write!(pragma, "{byte:02x}");
    }
    pragma.push_str("'\"");
    pragma
}

/// Brings the schema up to date, one transaction for each step.
pub(crate) fn migrate(connection: &mut Connection, clock: &dyn Clock) -> Result<(), StoreError> {
    connection.execute_batch(sql::MIGRATION_TABLE.shared)?;
    loop {
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let done: usize =
            transaction.query_row(sql::MIGRATION_VERSION, [], |row| row.get::<_, u32>(0))? as usize;
        if done > sql::MIGRATIONS.len() {
            return Err(StoreError::NewerSchema);
        }
        let Some(next) = sql::MIGRATIONS.get(done) else {
            return Ok(());
        };
        transaction.execute_batch(next.shared)?;
        transaction.execute(sql::MIGRATION_DONE, params![done as i64 + 1, clock.now().micros()])?;
        transaction.commit()?;
    }
}
