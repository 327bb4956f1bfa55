//! Key providers (R7a). So far: the local keystore, for whoever keeps keys themselves.
//!
//! A provider holds the root key and nothing else does; it wraps tenant keys and sees no record. The crate never
//! logs, and writes a root key only sealed.

mod local;
mod root;

pub use local::{KeystoreError, LocalKeystore, write_private};
pub use root::RootKeys;
