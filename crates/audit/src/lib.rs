//! The audit log: append-only, provably complete and unaltered (R8a, R8b, N3).
mod entry;
mod error;
mod files;
mod index;
mod journal;
mod keys;
mod layout;
mod log;
mod merkle;
mod note;
mod verify;

pub use entry::{Access, Actor, Class, Entry, Outcome};
pub use error::{AuditError, VerifyError};
pub use keys::AuditKeys;
pub use log::{Appended, Log};
pub use verify::{Verified, verify};
