use ward_base::Random;

use crate::envelope::derive;
use crate::{
    DataKey, EncryptionContext, KeyId, Kms, KmsError, OpenError, PlainKey, Tokenizer, WrappedKey, open_small,
    seal_small,
};

/// Whose data key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyScope {
    /// One patient's compartment, by its keyed token.
    Patient([u8; 16]),
    /// A partition of resources that belong to no patient, by a name fixed in the source.
    Shared(&'static str),
}

/// One tenant's keys, unwrapped: its key-encryption key and what is derived from it.
pub struct KeyRing {
    tenant: String,
    key: PlainKey,
    tokenizer: Tokenizer,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("KeyRing(..)")
    }
}

impl KeyRing {
    /// Makes a tenant's key-encryption key, and gives it wrapped by the root key, to be stored.
    pub fn create(kms: &dyn Kms, tenant: &str) -> Result<(Self, WrappedKey), KmsError> {
        let (key, wrapped) = kms.generate(&context(tenant))?;
        Ok((Self::new(tenant, key)?, wrapped))
    }

    /// Opens a tenant's stored key-encryption key.
    pub fn open(kms: &dyn Kms, tenant: &str, wrapped: &WrappedKey) -> Result<Self, KmsError> {
        let key = kms.unwrap(wrapped, &context(tenant))?;
        Self::new(tenant, key)
    }

    fn new(tenant: &str, key: PlainKey) -> Result<Self, KmsError> {
        let index = derive(&key, tenant.as_bytes(), &index_label(1)).map_err(|_| KmsError::Refused)?;
        Ok(Self { tenant: tenant.to_owned(), tokenizer: Tokenizer::new(&index), key })
    }

    /// The tenant's name, which is bound into every ciphertext.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The key for one purpose, such as `database` or `audit-seal/2026-11`. Equal labels give equal keys.
    #[expect(clippy::expect_used, reason = "HKDF fails only for more than 255 blocks of output; this is one")]
    pub fn derive(&self, label: &str) -> PlainKey {
        derive(&self.key, self.tenant.as_bytes(), format!("ward/v1/purpose/{label}").as_bytes())
            .expect("one block of output")
    }

    /// Makes the blind tokens that stand for names: of rows, of patients, of records.
    pub const fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Makes the blind tokens of the search index in an epoch, counted from 1. The first shares its key with
    /// [`KeyRing::tokenizer`].
    #[expect(clippy::expect_used, reason = "HKDF fails only for more than 255 blocks of output; this is one")]
    pub fn tokenizer_of(&self, epoch: u32) -> Tokenizer {
        let key = derive(&self.key, self.tenant.as_bytes(), &index_label(epoch));
        Tokenizer::new(&key.expect("one block of output"))
    }

    /// A new data key for `scope`, and the same wrapped under the tenant's key, to be stored.
    #[expect(clippy::expect_used, reason = "the key has the length that the cipher takes")]
    pub fn new_data_key(&self, scope: &KeyScope, random: &dyn Random) -> (DataKey, WrappedKey) {
        let id = KeyId(random.bytes());
        let key = PlainKey(random.bytes());
        let mut wrapped = id.0.to_vec();
        wrapped.extend(seal_small(&self.key, &self.binding(scope, id), &key.0, random));
        (DataKey::new(id, &key).expect("a key of the right length"), WrappedKey(wrapped))
    }

    /// Opens a stored data key. It opens for its own `scope` and tenant only.
    pub fn unwrap_data_key(&self, wrapped: &WrappedKey, scope: &KeyScope) -> Result<DataKey, OpenError> {
        let (id, sealed) = wrapped.0.split_at_checked(16).ok_or(OpenError)?;
        let id = KeyId(id.try_into().map_err(|_| OpenError)?);
        let bytes = zeroize::Zeroizing::new(open_small(&self.key, &self.binding(scope, id), sealed)?);
        let key = PlainKey(bytes.as_slice().try_into().map_err(|_| OpenError)?);
        DataKey::new(id, &key)
    }

    fn binding(&self, scope: &KeyScope, id: KeyId) -> Vec<u8> {
        let (kind, name): (&[u8], &[u8]) = match scope {
            KeyScope::Patient(token) => (b"patient", token),
            KeyScope::Shared(name) => (b"shared", name.as_bytes()),
        };
        let mut bytes = Vec::new();
        for part in [b"ward/v1/data-key".as_slice(), self.tenant.as_bytes(), kind, name, &id.0] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }
}

fn index_label(epoch: u32) -> Vec<u8> {
    format!("ward/v1/index/epoch-{epoch}").into_bytes()
}

fn context(tenant: &str) -> EncryptionContext {
    EncryptionContext::new(&[("purpose", "tenant-key"), ("tenant", tenant)])
}
