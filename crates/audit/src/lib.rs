//! The audit log: append-only, provably complete and unaltered, to be verified by an outsider offline without any
//! secret (R8a, R8b, N3).
//!
//! A log is a directory in the standard layout of transparency logs, so that tools of others read it:
//!
//! ```text
//! checkpoint              the signed head: origin, size, Merkle root      c2sp.org/tlog-checkpoint, signed-note
//! key.txt                 the public key of that signature                as in Go's sumdb/note
//! tile/entries/<N>        256 entries each; the last as <N>.p/<count>     c2sp.org/tlog-tiles
//! tile/<level>/<N>        256 hashes each; likewise                       RFC 6962
//! journal                 while the log is open, or after a crash: what came after the full tiles
//! index/                  which entries name which patient; made anew if it is lost, believed by nobody
//! temporary/              files on their way, while the log is open or after a crash
//! ```
//!
//! **What is the truth.** A closed log is `checkpoint` and `tile/`. An open one is the full tiles up to the journal's
//! base, and the journal: each batch is one record, appended by one write and one `fdatasync` before it is
//! acknowledged, with its own signed checkpoint. Everything else follows: full tiles are written as soon as 256 entries
//! are there, each durable before its name is; the file `checkpoint` and the partial tiles every 16,384 entries, on
//! [`Log::publish`] and when the log is closed. The journal is begun anew, in a new file, only when all it stood for is
//! durable in tiles. Deleting the journal of an open log is cutting the log short.
//!
//! **After a crash** the last record may be torn. It was not acknowledged, and its signature cannot be read without
//! every entry it covers, so it is dropped, and no signature that ever was readable is contradicted ([`Log::open`]
//! refuses to go on where it would). [`verify`] proves the same directory before anyone opens it for writing.
//!
//! **What an outsider proves** with [`verify`], or with Go's `sumdb/note` and `tlog` (`tests/outside`): no entry was
//! altered, removed, added or moved since the checkpoint was signed. What no directory can prove by itself is that the
//! newest entries were not cut off with every trace of them, or the whole log written anew by whoever has its keys: a
//! checkpoint kept elsewhere does ([`Log::checkpoint`], [`Log::root_at`]).
//!
//! **What leaks**, to whoever holds the directory and no key: of each entry the time, class, action, outcome, opaque id
//! of the actor, roles, second factor, purpose, policy version, request id, FHIR type, row count and status; so who was
//! active when, and how much. Keyed tokens (HMAC-SHA256, 128 bits) name each patient, the resource, the address and the
//! session: equal values have equal tokens in all logs of a tenant, so it shows that two entries are about one patient,
//! how often each occurs and together with which, but not who it is. The sealed part (AES-256-GCM under a key for
//! this message, derived from the month's) holds address, user agent, ids and query; its size shows in steps of 64
//! bytes. A `&'static str` and an actor's id are not protected: they must not hold PHI.
//!
//! **Limits.** The sealing and token keys are derived from the tenant's: who has that opens all. Whoever may write the
//! directory may destroy it; copies elsewhere are the remedy. One writer at a time, by a lock on the directory.
//!
//! The crate does file I/O and no other, logs nothing, and puts nothing of an entry into an error.

mod access;
mod entry;
mod error;
mod files;
mod format;
mod index;
mod journal;
mod keys;
mod layout;
mod log;
mod merkle;
mod note;
mod verify;

pub use access::Access;
pub use entry::{Actor, Class, Entry, Outcome};
pub use error::{AuditError, VerifyError};
pub use keys::AuditKeys;
pub use log::{Appended, Log};
pub use verify::{Verified, verify};
