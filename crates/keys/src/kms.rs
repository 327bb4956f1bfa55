use ward_base::Secret;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::EncryptionContext;

/// A 256-bit key in the clear. Overwritten when dropped; cannot be printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PlainKey(pub(crate) [u8; 32]);

impl PlainKey {
    /// Takes over key material; the caller keeps no copy.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Lends the bytes to a cryptographic operation.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for PlainKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("PlainKey(..)")
    }
}

/// A key sealed under another. Safe to store; useless without the other.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct WrappedKey(pub Vec<u8>);

/// Counted from 1; a rotation adds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct KeyVersion(pub u32);

/// What a provider says of its root key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDescription {
    /// The kind of provider, such as `local`.
    pub provider: &'static str,
    /// The version that wraps now.
    pub current: KeyVersion,
}

/// Why a key provider did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KmsError {
    /// The wrapped key was altered, belongs to another root key, or the context differs.
    #[error("the wrapped key does not belong to this key provider or this use")]
    Refused,
    /// The provider cannot be reached or written; trying again may help.
    #[error("the key provider is not available")]
    Unavailable,
    /// This provider does not do that; the text says who does.
    #[error("{0}")]
    NotSupported(&'static str),
}

/// A key provider: the only holder of the root key (R7a). Calls may block.
pub trait Kms: Send + Sync {
    /// Which provider this is and which key version wraps now.
    fn describe(&self) -> KeyDescription;

    /// A new random key, in the clear and wrapped for `context`.
    fn generate(&self, context: &EncryptionContext) -> Result<(PlainKey, WrappedKey), KmsError>;

    /// Wraps `key`; it can be unwrapped with an equal `context` only.
    fn wrap(&self, key: &PlainKey, context: &EncryptionContext) -> Result<WrappedKey, KmsError>;

    /// Unwraps what [`Kms::wrap`] gave, under any version of the root key.
    fn unwrap(&self, wrapped: &WrappedKey, context: &EncryptionContext) -> Result<PlainKey, KmsError>;

    /// Wraps the same key again under the current version.
    fn rewrap(&self, wrapped: &WrappedKey, context: &EncryptionContext) -> Result<WrappedKey, KmsError>;

    /// Makes a new version of the root key, which wraps from now on. Old ones still unwrap.
    fn rotate(&self) -> Result<KeyVersion, KmsError>;
}

/// The passphrase is too weak to guard a root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a passphrase needs at least 12 characters, not all of them the same")]
pub struct PassphraseError;

/// Refuses a passphrase that is too weak for a new keystore.
pub fn check_passphrase(passphrase: &Secret) -> Result<(), PassphraseError> {
    let bytes = passphrase.expose();
    let characters = std::str::from_utf8(bytes).map_or(bytes.len(), |text| text.chars().count());
    if characters < 12 || bytes.windows(2).all(|pair| pair.first() == pair.last()) {
        return Err(PassphraseError);
    }
    Ok(())
}
