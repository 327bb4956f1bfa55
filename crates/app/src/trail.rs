//! The audit writer: one thread that owns the log and writes in groups, so that many requests share one flush.
//!
//! Nothing is answered before its entry is durable. A log that could not be written is opened again at the next
//! request; until that works, nothing is answered at all.

use std::path::{Path, PathBuf};
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
    Publish(Answer<(u64, [u8; 32])>),
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

    /// Brings the published tiles and the checkpoint up to date; gives size and root hash.
    pub(crate) async fn publish(&self) -> Result<(u64, [u8; 32]), TrailError> {
        self.ask(Message::Publish).await
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

/// Opens the log of a directory. What a torn write left behind is dropped, and that it was is worth an alarm: only a
/// checkpoint kept elsewhere tells it from what was cut off on purpose.
pub(crate) fn open(directory: &Path, keys: &Arc<AuditKeys>) -> Result<Log, AuditError> {
    let log = Log::open(directory, Arc::clone(keys))?;
    if log.dropped_bytes() > 0 {
        event!(Warning, "audit.torn_end_dropped", bytes = log.dropped_bytes());
    }
    Ok(log)
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
                    let mut count = entries.len();
                    let mut groups = vec![(entries, answer)];
                    while count < BATCH_ENTRIES_MAX {
                        match messages.try_recv() {
                            Ok(Message::Append(entries, answer)) => {
                                count += entries.len();
                                groups.push((entries, answer));
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.append(groups);
                }
                Message::Accesses(patient, count, answer) => {
                    let _ = answer.send(self.use_log(|log| {
                        let mut found = log.patient_entries(&patient, count)?;
                        found.reverse();
                        Ok(found)
                    }));
                }
                Message::State(answer) => {
                    let _ = answer.send(self.use_log(|log| Ok((log.size(), log.root()))));
                }
                Message::Publish(answer) => {
                    let _ = answer.send(self.use_log(|log| {
                        log.publish()?;
                        Ok((log.size(), log.root()))
                    }));
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

    /// Writes groups of entries with one flush. If one of them cannot be written for what it is, the others are
    /// written without it.
    fn append(&mut self, groups: Vec<(Vec<Entry>, Answer<()>)>) {
        let (mut together, mut ends, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for (entries, answer) in groups {
            together.extend(entries);
            ends.push(together.len());
            answers.push(answer);
        }
        let written = self.use_log(|log| match log.append(&together) {
            Err(AuditError::TooLarge) => {
                let mut rest = together.as_slice();
                let mut start = 0;
                let one = |end: &usize| {
                    let (group, after) = rest.split_at(end - start);
                    (rest, start) = (after, *end);
                    match log.append(group) {
                        Err(AuditError::TooLarge) => Ok(Err(TrailError)),
                        other => other.map(|_| Ok(())),
                    }
                };
                ends.iter().map(one).collect()
            }
            other => other.map(|_| vec![Ok(()); ends.len()]),
        });
        let results = written.unwrap_or_else(|error| vec![Err(error); answers.len()]);
        for (answer, result) in answers.into_iter().zip(results) {
            let _ = answer.send(result);
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
            None => open(&self.directory, &self.keys),
        };
        let result = log.and_then(|mut log| {
            let value = operation(&mut log);
            // Asking for what is not there leaves the log as it was.
            if matches!(value, Ok(_) | Err(AuditError::Beyond | AuditError::TooLarge)) {
                self.log = Some(log);
            }
            value
        });
        result.map_err(|_| {
            event!(Error, "audit.log_failed");
            TrailError
        })
    }
}
