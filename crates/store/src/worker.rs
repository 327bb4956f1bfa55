//! The threads that own connections: writers and readers, each kind with one queue.
//!
//! What an operation writes into the index is what the index is to hold as its thread knows it. The file's writer reads
//! that again after a change and before its next operation. A server's threads read it again after so long (10 s), and
//! an operation that took long asks, at its end, whether it still is so, and else runs again: so nothing is committed by
//! what was known a minute and a half before (10 s, 20 s without a question, 40 s for the commit).
//!
//! The file has one writer, which commits what waits together. A server has several, each with one operation at a
//! time: the server commits together what comes at once, and an operation that must run again takes no other along.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    StoreError,
    connection::Connection,
    index,
    read::Snapshot,
    server::{Fault, Mode, Server},
    vault::Vault,
    write::{Batch, WriteSession},
};

/// A batch is committed when it has so many operations or has taken so long, even if more are waiting.
const BATCH_OPERATIONS_MAX: usize = 256;
const BATCH_TIME_MAX: Duration = Duration::from_millis(50);
/// An operation that others keep coming before is given up after so long.
pub(crate) const RETRY_TIME_MAX: Duration = Duration::from_secs(20);
/// The longest pause before an operation runs again.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// An operation that took longer asks whether the index is still as it knew it.
const UNASKED_MAX: Duration = Duration::from_secs(20);

/// A write that waits for its turn.
pub(crate) trait WriteJob: Send {
    /// Runs the operation, in place of any run before; says whether to keep what it did.
    fn run(&mut self, session: &mut WriteSession<'_>) -> bool;

    /// Tells the caller what became of it. Dropped instead, it tells that nothing was stored.
    fn reply(self: Box<Self>, committed: Result<(), StoreError>);
}

pub(crate) type ReadJob = Box<dyn FnOnce(&mut Snapshot<'_>) + Send>;

/// Threads with a common queue.
pub(crate) struct Workers<J> {
    queue: Arc<Queue<J>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Queue<J> {
    waiting: Mutex<Waiting<J>>,
    more: Condvar,
}

struct Waiting<J> {
    jobs: VecDeque<J>,
    closed: bool,
}

impl<J: Send + 'static> Workers<J> {
    fn new() -> Self {
        let waiting = Mutex::new(Waiting { jobs: VecDeque::new(), closed: false });
        Self { queue: Arc::new(Queue { waiting, more: Condvar::new() }), threads: Mutex::default() }
    }

    fn spawn(&self, name: &str, run: impl FnOnce(&Queue<J>) + Send + 'static) -> Result<(), StoreError> {
        let queue = Arc::clone(&self.queue);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&queue))
            .map_err(|_| StoreError::Unavailable)?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Queues a job. After [`Workers::close`] it is dropped, and with it the reply.
    pub(crate) fn submit(&self, job: J) {
        let mut waiting = self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.closed {
            waiting.jobs.push_back(job);
            drop(waiting);
            self.queue.more.notify_one();
        }
    }

    /// Finishes what is queued and ends the threads. Blocks.
    pub(crate) fn close(&self) {
        self.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl<J> Workers<J> {
    fn stop(&self) {
        self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.queue.more.notify_all();
    }
}

impl<J> Drop for Workers<J> {
    /// Waits for the threads: one that still uses the database's library while the process ends, and with it what that
    /// library has set up, crashes.
    fn drop(&mut self) {
        self.stop();
        let own = std::thread::current().id();
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // The last to let go may be one of them.
            if thread.thread().id() != own {
                let _ = thread.join();
            }
        }
    }
}

impl<J> Queue<J> {
    /// The next job, waited for. `None` when the queue is closed and empty.
    fn next(&self) -> Option<J> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            if waiting.closed {
                return None;
            }
            waiting = self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next job if there is one now.
    fn next_now(&self) -> Option<J> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).jobs.pop_front()
    }
}

pub(crate) type Writers = Workers<Box<dyn WriteJob>>;
pub(crate) type Readers = Workers<ReadJob>;

impl Writers {
    /// A thread for each connection.
    pub(crate) fn start(
        connections: Vec<(Connection, Batch)>,
        vault: &Arc<Vault>,
    ) -> Result<Self, StoreError> {
        let writers = Self::new();
        for (connection, batch) in connections {
            let vault = Arc::clone(vault);
            writers.spawn("store-writer", move |queue| match &connection {
                Connection::Embedded(file) => write_in_batches(file, &connection, &vault, batch, queue),
                Connection::Server(server) => write_one_by_one(server, &connection, &vault, batch, queue),
            })?;
        }
        Ok(writers)
    }
}

fn write_in_batches(
    file: &rusqlite::Connection,
    connection: &Connection,
    vault: &Vault,
    mut batch: Batch,
    queue: &Queue<Box<dyn WriteJob>>,
) {
    while let Some(first) = queue.next() {
        run_batch(file, connection, vault, &mut batch, first, queue);
    }
    let _ = file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

/// Runs `first` and whatever else waits, commits once, then replies.
///
/// A savepoint for each job costs a copy of every page that it changes, and few jobs fail after they wrote something.
/// So they run without, until one does: then the batch starts again, each job in a savepoint of its own.
fn run_batch(
    file: &rusqlite::Connection,
    connection: &Connection,
    vault: &Vault,
    batch: &mut Batch,
    first: Box<dyn WriteJob>,
    queue: &Queue<Box<dyn WriteJob>>,
) {
    let started = Instant::now();
    let mut done: Vec<Box<dyn WriteJob>> = Vec::new();
    let mut guarded = false;
    let mut outcome = connection.execute("BEGIN IMMEDIATE", &[]).map(|_| ());
    let mut next = Some(first);
    while let Some(job) = next.take() {
        if outcome.is_ok() {
            let changes = file.total_changes();
            let ran = if guarded {
                run_in_savepoint(file, connection, vault, batch, job)
            } else {
                run(connection, vault, batch, job)
            };
            let failed = !matches!(ran, Ran::Kept(_));
            done.extend(ran.job());
            if failed && !guarded && file.total_changes() != changes {
                guarded = true;
                outcome = begin_again(connection, batch);
                if outcome.is_ok() {
                    let again = std::mem::take(&mut done).into_iter();
                    let again = again.map(|job| run_in_savepoint(file, connection, vault, batch, job));
                    done = again.filter_map(Ran::job).collect();
                }
            }
            // Some failures (disk full, I/O) end the whole transaction, not only the savepoint.
            if file.is_autocommit() {
                outcome = Err(StoreError::Unavailable);
            }
        }
        // Dropping a job without running it tells its caller that nothing was stored.
        if outcome.is_err() || done.len() >= BATCH_OPERATIONS_MAX || started.elapsed() >= BATCH_TIME_MAX {
            break;
        }
        next = queue.next_now();
    }
    let outcome = outcome.and_then(|()| connection.execute("COMMIT", &[]).map(|_| ()));
    if outcome.is_err() && !file.is_autocommit() {
        let _ = connection.execute("ROLLBACK", &[]);
    }
    batch.finish();
    if vault.must_read_index(false) && index::load(&mut Snapshot::new(vault, connection, true)).is_err() {
        vault.index_changes();
    }
    for job in done {
        job.reply(outcome);
    }
}

/// Undoes what the batch wrote so far.
fn begin_again(connection: &Connection, batch: &mut Batch) -> Result<(), StoreError> {
    batch.finish();
    connection.execute("ROLLBACK", &[])?;
    connection.execute("BEGIN IMMEDIATE", &[]).map(|_| ())
}

/// What became of a job's run.
enum Ran {
    /// What it wrote is to be kept.
    Kept(Box<dyn WriteJob>),
    /// What it wrote is not to be kept.
    Failed(Box<dyn WriteJob>),
    /// It panicked, or could not begin or end: it is gone, and its caller told.
    Gone,
}

impl Ran {
    fn job(self) -> Option<Box<dyn WriteJob>> {
        match self {
            Self::Kept(job) | Self::Failed(job) => Some(job),
            Self::Gone => None,
        }
    }
}

fn run(connection: &Connection, vault: &Vault, batch: &mut Batch, mut job: Box<dyn WriteJob>) -> Ran {
    match catch_unwind(AssertUnwindSafe(|| job.run(&mut WriteSession::new(vault, connection, batch)))) {
        Ok(true) => Ran::Kept(job),
        Ok(false) => Ran::Failed(job),
        Err(_) => Ran::Gone,
    }
}

/// One job in its savepoint. Unless it is to be kept, it leaves nothing behind. If the transaction has ended, it does not
/// run: its savepoint would be a transaction of its own.
fn run_in_savepoint(
    file: &rusqlite::Connection,
    connection: &Connection,
    vault: &Vault,
    batch: &mut Batch,
    job: Box<dyn WriteJob>,
) -> Ran {
    if file.is_autocommit() || connection.execute("SAVEPOINT operation", &[]).is_err() {
        job.reply(Err(StoreError::Unavailable));
        return Ran::Gone;
    }
    let ran = run(connection, vault, batch, job);
    if !matches!(ran, Ran::Kept(_)) {
        let _ = connection.execute("ROLLBACK TO operation", &[]);
    }
    match (connection.execute("RELEASE operation", &[]), ran) {
        (Err(_), Ran::Kept(job)) => {
            job.reply(Err(StoreError::Unavailable));
            Ran::Gone
        }
        (_, ran) => ran,
    }
}

fn write_one_by_one(
    server: &Server,
    connection: &Connection,
    vault: &Vault,
    mut batch: Batch,
    queue: &Queue<Box<dyn WriteJob>>,
) {
    while let Some(mut job) = queue.next() {
        // Without it the job is dropped, and its caller told.
        if !read_index(server, connection, vault) {
            continue;
        }
        let started = Instant::now();
        let (mut runs, mut mode) = (0, Mode::Write);
        let outcome = loop {
            let outcome = run_in_transaction(server, mode, connection, vault, &mut batch, &mut *job);
            batch.finish();
            runs += 1;
            match outcome {
                Some(Ended::Lost(Fault::Alone)) if mode == Mode::Write => mode = Mode::WriteAlone,
                Some(Ended::Lost(Fault::Again)) if started.elapsed() < RETRY_TIME_MAX => pause(vault, runs),
                Some(Ended::Lost(_)) => break Some(Err(StoreError::Unavailable)),
                Some(Ended::Uncertain) => break Some(Err(StoreError::Uncertain)),
                Some(Ended::Settled) => break Some(Ok(())),
                None => break None,
            }
        };
        read_index(server, connection, vault);
        // A job that panicked is dropped, which tells its caller.
        if let Some(outcome) = outcome {
            job.reply(outcome);
        }
    }
}

/// How a transaction ended.
enum Ended {
    /// Committed, or rolled back because the operation failed.
    Settled,
    /// Nothing of it was stored.
    Lost(Fault),
    /// The server went away while it was committing.
    Uncertain,
}

/// One job in a transaction of its own. `None` if it panicked.
fn run_in_transaction(
    server: &Server,
    mode: Mode,
    connection: &Connection,
    vault: &Vault,
    batch: &mut Batch,
    job: &mut dyn WriteJob,
) -> Option<Ended> {
    let started = Instant::now();
    server.begin(mode);
    let mut session = WriteSession::new(vault, connection, batch);
    let keep = catch_unwind(AssertUnwindSafe(|| job.run(&mut session)));
    if let Ok(true) = keep
        && started.elapsed() > UNASKED_MAX
        && !matches!(session.index_is_current(), Ok(true))
        && server.fault().is_none()
    {
        server.roll_back();
        return Some(Ended::Lost(Fault::Again));
    }
    match (keep, server.fault()) {
        // Whatever it makes of a failed statement, the transaction is lost.
        (Ok(_), Some(fault)) => {
            server.roll_back();
            Some(Ended::Lost(fault))
        }
        (Ok(true), None) => Some(match server.commit() {
            Ok(()) => Ended::Settled,
            Err(Fault::Failed) => Ended::Uncertain,
            Err(fault) => Ended::Lost(fault),
        }),
        (Ok(false), None) => {
            server.roll_back();
            Some(Ended::Settled)
        }
        (Err(_), _) => {
            server.roll_back();
            None
        }
    }
}

/// Sees to it that what is known of the index is new enough; says whether it is.
fn read_index(server: &Server, connection: &Connection, vault: &Vault) -> bool {
    if !vault.must_read_index(true) {
        return true;
    }
    server.begin(Mode::Read);
    let loaded = index::load(&mut Snapshot::new(vault, connection, true));
    let known = server.commit().is_ok() && loaded.is_ok();
    if !known {
        vault.index_changes();
    }
    known
}

/// Longer each time, and at random, so that two who met do not meet again.
pub(crate) fn pause(vault: &Vault, runs: u32) {
    let most = Duration::from_millis(1).saturating_mul(1 << runs.min(8)).min(PAUSE_MAX);
    let [random] = vault.random.bytes::<1>();
    std::thread::sleep(most.mul_f64(f64::from(random) / 255.0));
}

impl Readers {
    /// A thread for each connection.
    pub(crate) fn start(connections: Vec<Connection>, vault: &Arc<Vault>) -> Result<Self, StoreError> {
        let readers = Self::new();
        for connection in connections {
            let vault = Arc::clone(vault);
            readers.spawn("store-reader", move |queue| {
                while let Some(job) = queue.next() {
                    run_read(&connection, &vault, job);
                }
            })?;
        }
        Ok(readers)
    }
}

/// Runs a job in one transaction, so that everything it reads is of one moment. Without it the job is dropped, and its
/// caller told.
fn run_read(connection: &Connection, vault: &Vault, job: ReadJob) {
    match connection {
        Connection::Embedded(_) if connection.execute("BEGIN", &[]).is_err() => return,
        Connection::Embedded(_) => {}
        Connection::Server(server) if !read_index(server, connection, vault) => return,
        Connection::Server(server) => server.begin(Mode::Read),
    }
    let _ = catch_unwind(AssertUnwindSafe(|| job(&mut Snapshot::new(vault, connection, true))));
    match connection {
        Connection::Embedded(_) => {
            if connection.execute("COMMIT", &[]).is_err() {
                let _ = connection.execute("ROLLBACK", &[]);
            }
        }
        Connection::Server(server) => {
            let _ = server.commit();
        }
    }
}
