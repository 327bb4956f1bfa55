//! The audit writer: one thread that owns the log and writes in groups, so that many requests share one flush.
//!
//! Nothing is answered before its entry is durable. A log that could not be written is opened again at the next
//! request; until that works, nothing is answered at all.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use ward_audit::{Access, AuditError, AuditKeys, Entry, Log};
use ward_base::ResourceId;
use ward_monitor::event;

/// Entries written at once, even if more are waiting.
const BATCH_ENTRIES_MAX: usize = 1024;

/// The audit log as the rest of the tier sees it. Clones share it.
#[derive(Clone)]
pub(crate) struct Trail(Arc<Inner>);

struct Inner {
    queue: Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Why the trail did not do it: the log cannot be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrailError;

type Answer<T> = oneshot::Sender<Result<T, TrailError>>;

enum Message {
    Append(Vec<Entry>, Answer<()>),
    Accesses(ResourceId, usize, Answer<Vec<Access>>),
    State(Answer<(u64, [u8; 32])>),
    RootAt(u64, Answer<[u8; 32]>),
    Close,
}

impl Trail {
    /// Starts the writer on an open log.
    pub(crate) fn start(log: Log, directory: PathBuf, keys: Arc<AuditKeys>) -> std::io::Result<Self> {
        let (queue, messages) = channel();
        let mut writer = Writer { log: Some(log), directory, keys };
        let thread = std::thread::Builder::new()
            .name("audit-writer".to_owned())
            .spawn(move || writer.run(&messages))?;
        Ok(Self(Arc::new(Inner { queue, thread: Mutex::new(Some(thread)) })))
    }

    /// Writes entries; resolves when they are durable.
    pub(crate) async fn append(&self, entries: Vec<Entry>) -> Result<(), TrailError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.ask(|answer| Message::Append(entries, answer)).await
    }

    /// The last accesses to a patient's record, at most `count`, newest first.
    pub(crate) async fn accesses(
        &self,
        patient: ResourceId,
        count: usize,
    ) -> Result<Vec<Access>, TrailError> {
        self.ask(|answer| Message::Accesses(patient, count, answer)).await
    }

    /// Size and root hash. An error if the log cannot be written.
    pub(crate) async fn state(&self) -> Result<(u64, [u8; 32]), TrailError> {
        self.ask(Message::State).await
    }

    /// The root hash that the log had at `size`; an error if it never had that size.
    pub(crate) async fn root_at(&self, size: u64) -> Result<[u8; 32], TrailError> {
        self.ask(|answer| Message::RootAt(size, answer)).await
    }

    async fn ask<T>(&self, message: impl FnOnce(Answer<T>) -> Message) -> Result<T, TrailError> {
        let (answer, answered) = oneshot::channel();
        self.0.queue.send(message(answer)).map_err(|_| TrailError)?;
        answered.await.unwrap_or(Err(TrailError))
    }

    /// Writes what is waiting and closes the log. Blocks.
    pub(crate) fn close(&self) {
        let _ = self.0.queue.send(Message::Close);
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

struct Writer {
    log: Option<Log>,
    directory: PathBuf,
    keys: Arc<AuditKeys>,
}

impl Writer {
    fn run(&mut self, messages: &Receiver<Message>) {
        let mut next = messages.recv().ok();
        while let Some(message) = next.take() {
            match message {
                Message::Append(entries, answer) => {
                    let mut batch = entries;
                    let mut waiting = vec![answer];
                    while batch.len() < BATCH_ENTRIES_MAX {
                        match messages.try_recv() {
                            Ok(Message::Append(entries, answer)) => {
                                batch.extend(entries);
                                waiting.push(answer);
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    let written = self.use_log(|log| log.append(&batch).map(drop));
                    for answer in waiting {
                        let _ = answer.send(written);
                    }
                }
                Message::Accesses(patient, count, answer) => {
                    let _ = answer.send(self.use_log(|log| {
                        let mut found = log.patient_entries(&patient)?;
                        found.reverse();
                        found.truncate(count);
                        Ok(found)
                    }));
                }
                Message::State(answer) => {
                    let _ = answer.send(self.use_log(|log| Ok((log.size(), log.root()))));
                }
                Message::RootAt(size, answer) => {
                    let _ = answer.send(self.use_log(|log| log.root_at(size)));
                }
                Message::Close => return,
            }
            if next.is_none() {
                next = messages.recv().ok();
            }
        }
    }

    /// Runs `operation` on the log. After a failure the log is let go and opened again the next time, which drops
    /// whatever a torn write left behind.
    fn use_log<T>(
        &mut self,
        operation: impl FnOnce(&mut Log) -> Result<T, AuditError>,
    ) -> Result<T, TrailError> {
        let log = match self.log.take() {
            Some(log) => Ok(log),
            None => Log::open(&self.directory, Arc::clone(&self.keys)),
        };
        let result = log.and_then(|mut log| {
            let value = operation(&mut log)?;
            self.log = Some(log);
            Ok(value)
        });
        result.map_err(|_| {
            event!(Error, "audit.log_failed");
            TrailError
        })
    }
}
