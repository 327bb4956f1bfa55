//! Keys: envelope encryption, the key hierarchy and blind tokens (R4b, R7, N1, N4).
//!
//! ```text
//! root key (in the KMS provider, never here)
//!   └─ wraps the tenant key-encryption key        one a tenant, held in a [`KeyRing`]
//!        ├─ wraps data keys                       one a patient, one a shared partition: [`DataKey`]
//!        │    └─ seal resource bodies             AES-256-GCM, random 96-bit nonce, associated data
//!        └─ derives purpose keys                  HKDF-SHA256: blind tokens, audit seals, cursors, the database
//! ```
//!
//! **Schemes.** All from AWS-LC. A data key seals with AES-256-GCM under a random nonce; it belongs to one patient
//! and is far below the 2^32 messages that NIST SP 800-38D allows. Whatever a tenant-wide key seals
//! ([`seal_small`]) is sealed under a key derived for that message alone (HKDF-SHA256, 128-bit random salt), so that
//! no number of messages wears the tenant key out. Blind tokens are HMAC-SHA256, truncated ([`Tokenizer`]).
//!
//! **Limits.** Equal values give equal tokens: whoever holds the database sees how often each occurs. Sealed sizes
//! show plaintext sizes, up to padding by the caller. Unwrapped keys lie in this process's memory while they are
//! cached.
//!
//! **Measured against.** Compiled with `--cfg ward_plaintext`, bodies and records are not sealed, tokens are not keyed,
//! and the store's file has no key: the same program without what hides. It answers `ward bench` only, and nothing but
//! that flag of the compiler makes it.
//!
//! The crate does no I/O, logs nothing, and never serialises a key in the clear.

mod cache;
mod context;
mod envelope;
mod kms;
mod ring;
mod token;

pub use cache::{CacheLimits, DataKeyCache};
pub use context::EncryptionContext;
pub use envelope::{DataKey, KeyId, OpenError, open_small, seal_small};
pub use kms::{
    KeyDescription, KeyVersion, Kms, KmsError, PassphraseError, PlainKey, WrappedKey, check_passphrase,
};
pub use ring::{KeyRing, KeyScope};
pub use token::Tokenizer;
