//! The threads that own connections: one writer with group commit, several readers.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use crate::{
    StoreError,
    read::Snapshot,
    vault::Vault,
    write::{Batch, WriteSession},
};

/// A batch is committed when it has so many operations or has taken so long, even if more are waiting.
const BATCH_OPERATIONS_MAX: usize = 256;
const BATCH_TIME_MAX: Duration = Duration::from_millis(50);

/// Tells the caller of a write what became of it.
pub(crate) type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Runs in a savepoint; says whether to keep what it did.
pub(crate) type WriteJob = Box<dyn FnOnce(&mut WriteSession<'_>) -> (bool, Reply) + Send>;
pub(crate) type ReadJob = Box<dyn FnOnce(&mut Snapshot<'_>) + Send>;

enum Message {
    Write(WriteJob),
    Close,
}

/// The writer's end of the queue.
pub(crate) struct Writer {
    queue: Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(crate) fn start(connection: Connection, vault: Arc<Vault>) -> Result<Self, StoreError> {
        let batch = Batch::new(&connection)?;
        let (queue, jobs) = channel();
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || run_writer(connection, &vault, batch, &jobs))
            .map_err(|_| StoreError::Unavailable)?;
        Ok(Self { queue, thread: Mutex::new(Some(thread)) })
    }

    /// Queues a job. After [`Writer::close`] it is dropped, and with it the reply.
    pub(crate) fn submit(&self, job: WriteJob) {
        let _ = self.queue.send(Message::Write(job));
    }

    /// Finishes what is queued, folds the write-ahead log into the file and ends the thread. Blocks.
    pub(crate) fn close(&self) {
        let _ = self.queue.send(Message::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

fn run_writer(connection: Connection, vault: &Vault, mut batch: Batch, jobs: &Receiver<Message>) {
    let mut open = true;
    while open {
        let Ok(Message::Write(first)) = jobs.recv() else { break };
        open = run_batch(&connection, vault, &mut batch, first, jobs);
    }
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

/// Runs `first` and whatever else waits, commits once, then replies. `false` when the queue is to be closed.
fn run_batch(
    connection: &Connection,
    vault: &Vault,
    batch: &mut Batch,
    first: WriteJob,
    jobs: &Receiver<Message>,
) -> bool {
    let started = Instant::now();
    let mut replies = Vec::new();
    let mut open = true;
    let mut outcome = execute(connection, "BEGIN IMMEDIATE");
    let mut next = Some(first);
    while let Some(job) = next.take() {
        match outcome {
            Ok(()) => {
                if let Some(reply) = run_one(connection, vault, batch, job) {
                    replies.push(reply);
                }
                // Some failures (disk full, I/O) end the whole transaction, not only the savepoint.
                if connection.is_autocommit() {
                    outcome = Err(StoreError::Unavailable);
                }
            }
            // Dropping the job without running it tells its caller that nothing was stored.
            Err(_) => drop(job),
        }
        if outcome.is_err() || replies.len() >= BATCH_OPERATIONS_MAX || started.elapsed() >= BATCH_TIME_MAX {
            break;
        }
        match jobs.try_recv() {
            Ok(Message::Write(job)) => next = Some(job),
            Ok(Message::Close) => open = false,
            Err(_) => {}
        }
    }
    let outcome = outcome.and_then(|()| execute(connection, "COMMIT"));
    if outcome.is_err() && !connection.is_autocommit() {
        let _ = execute(connection, "ROLLBACK");
    }
    batch.finish();
    for reply in replies {
        reply(outcome);
    }
    open
}

/// One job in its savepoint. `None` if it panicked: then it leaves nothing behind and its reply is gone.
fn run_one(connection: &Connection, vault: &Vault, batch: &mut Batch, job: WriteJob) -> Option<Reply> {
    if execute(connection, "SAVEPOINT operation").is_err() {
        return None;
    }
    let result = catch_unwind(AssertUnwindSafe(|| job(&mut WriteSession::new(vault, connection, batch))));
    let keep = matches!(&result, Ok((true, _)));
    if !keep {
        let _ = execute(connection, "ROLLBACK TO operation");
    }
    let released = execute(connection, "RELEASE operation");
    match result {
        Ok((true, reply)) if released.is_err() => {
            reply(Err(StoreError::Unavailable));
            None
        }
        Ok((_, reply)) => Some(reply),
        Err(_) => None,
    }
}

fn execute(connection: &Connection, statement: &str) -> Result<(), StoreError> {
    connection.prepare_cached(statement)?.execute([])?;
    Ok(())
}

/// The readers and their common queue.
pub(crate) struct Readers {
    queue: Arc<ReadQueue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct ReadQueue {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<ReadJob>,
    closed: bool,
}

impl Readers {
    pub(crate) fn start(connections: Vec<Connection>, vault: &Arc<Vault>) -> Result<Self, StoreError> {
        let queue = Arc::new(ReadQueue::default());
        let readers = Self { queue: Arc::clone(&queue), threads: Mutex::new(Vec::new()) };
        for connection in connections {
            let (queue, vault) = (Arc::clone(&queue), Arc::clone(vault));
            let thread = std::thread::Builder::new()
                .name("store-reader".to_owned())
                .spawn(move || run_reader(&connection, &vault, &queue))
                .map_err(|_| StoreError::Unavailable)?;
            readers.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(readers)
    }

    /// Queues a job. After [`Readers::close`] it is dropped, and with it the reply.
    pub(crate) fn submit(&self, job: ReadJob) {
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

    fn stop(&self) {
        self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.queue.more.notify_all();
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run_reader(connection: &Connection, vault: &Vault, queue: &ReadQueue) {
    loop {
        let job = {
            let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if let Some(job) = waiting.jobs.pop_front() {
                    break job;
                }
                if waiting.closed {
                    return;
                }
                waiting = queue.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
        };
        // One transaction, so that everything the job reads is of one moment. Without it the job is dropped, and
        // its caller told.
        if execute(connection, "BEGIN").is_err() {
            continue;
        }
        let _ = catch_unwind(AssertUnwindSafe(|| job(&mut Snapshot::new(vault, connection, true))));
        if execute(connection, "COMMIT").is_err() {
            let _ = execute(connection, "ROLLBACK");
        }
    }
}
