use ward_base::{Random, Secret, SystemRandom};
use ward_keys::{
    EncryptionContext, KeyDescription, KeyVersion, Kms, KmsError, PlainKey, WrappedKey, open_small,
    seal_small,
};

/// Root keys in memory, all versions: what the app tier gets from the process that opened the keystore.
///
/// A wrapped key is `version of the root key (4 bytes) | sealed` ([`seal_small`], so each under a key of its own).
pub struct RootKeys {
    /// Oldest first; never empty.
    versions: Vec<PlainKey>,
}

impl RootKeys {
    /// A first version.
    pub(crate) fn create(random: &dyn Random) -> Self {
        Self { versions: vec![PlainKey::new(random.bytes())] }
    }

    /// Adds a version, which wraps from now on.
    pub(crate) fn add(&mut self, random: &dyn Random) -> KeyVersion {
        self.versions.push(PlainKey::new(random.bytes()));
        self.current()
    }

    pub(crate) fn current(&self) -> KeyVersion {
        KeyVersion(u32::try_from(self.versions.len()).unwrap_or(u32::MAX))
    }

    /// The keys in the clear, 32 bytes each, oldest first: for a process that may use them, over a private pipe.
    pub fn to_secret(&self) -> Secret {
        Secret::new(self.versions.iter().flat_map(|key| *key.expose()).collect())
    }

    /// Takes what [`RootKeys::to_secret`] gave.
    pub fn from_secret(secret: &Secret) -> Result<Self, KmsError> {
        let (keys, rest) = secret.expose().as_chunks::<32>();
        if keys.is_empty() || !rest.is_empty() {
            return Err(KmsError::Refused);
        }
        Ok(Self { versions: keys.iter().map(|key| PlainKey::new(*key)).collect() })
    }
}

impl std::fmt::Debug for RootKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("RootKeys(..)")
    }
}

impl Kms for RootKeys {
    fn describe(&self) -> KeyDescription {
        KeyDescription { provider: "local", current: self.current() }
    }

    fn generate(&self, context: &EncryptionContext) -> Result<(PlainKey, WrappedKey), KmsError> {
        let key = PlainKey::new(SystemRandom::bytes());
        let wrapped = self.wrap(&key, context)?;
        Ok((key, wrapped))
    }

    fn wrap(&self, key: &PlainKey, context: &EncryptionContext) -> Result<WrappedKey, KmsError> {
        let root = self.versions.last().ok_or(KmsError::Unavailable)?;
        let mut wrapped = self.current().0.to_be_bytes().to_vec();
        wrapped.extend(seal_small(root, &context.canonical(), key.expose(), &SystemRandom));
        Ok(WrappedKey(wrapped))
    }

    fn unwrap(&self, wrapped: &WrappedKey, context: &EncryptionContext) -> Result<PlainKey, KmsError> {
        let (version, sealed) = wrapped.0.split_first_chunk::<4>().ok_or(KmsError::Refused)?;
        let index =
            usize::try_from(u32::from_be_bytes(*version)).ok().and_then(|version| version.checked_sub(1));
        let root = index.and_then(|index| self.versions.get(index)).ok_or(KmsError::Refused)?;
        let bytes = open_small(root, &context.canonical(), sealed).map_err(|_| KmsError::Refused)?;
        let bytes = zeroize::Zeroizing::new(bytes);
        Ok(PlainKey::new(bytes.as_slice().try_into().map_err(|_| KmsError::Refused)?))
    }

    fn rewrap(&self, wrapped: &WrappedKey, context: &EncryptionContext) -> Result<WrappedKey, KmsError> {
        self.wrap(&self.unwrap(wrapped, context)?, context)
    }

    fn rotate(&self) -> Result<KeyVersion, KmsError> {
        Err(KmsError::NotSupported("the root key is rotated where the keystore is opened"))
    }
}
