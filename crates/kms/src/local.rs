use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use ward_base::{Random, Secret, SystemRandom};
use ward_keys::{
    EncryptionContext, KeyDescription, KeyVersion, Kms, KmsError, PlainKey, WrappedKey, check_passphrase,
    open_small, seal_small,
};

use crate::RootKeys;

/// Argon2id for new keystores: 64 MiB, 3 passes, 1 lane (RFC 9106, second recommended option).
const MEMORY_KIBIBYTES: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;

/// The root key in a file, sealed under a passphrase: the provider for whoever keeps keys themselves (R7a).
///
/// The file is JSON: format version, Argon2id parameters and salt, and the root keys sealed under the key that
/// Argon2id gives (AES-256-GCM by [`seal_small`], the parameters as associated data). **Limits**: whoever has the
/// file and time may guess the passphrase; whoever runs as the same user while it is open may use the key.
pub struct LocalKeystore {
    path: PathBuf,
    sealing: SealingKey,
    keys: RwLock<RootKeys>,
}

/// What can go wrong with a keystore file.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// The person typed another passphrase, or the file was altered: a seal cannot tell which.
    #[error("the passphrase is wrong, or the keystore was altered")]
    WrongPassphrase,
    /// The new passphrase would not hold.
    #[error(transparent)]
    WeakPassphrase(#[from] ward_keys::PassphraseError),
    /// The file is not a keystore, or of a version that this program does not know.
    #[error("the file is not a keystore that this version can read")]
    NotAKeystore,
    /// Others may read the file.
    #[error("others can read the keystore; run `chmod 600` on it")]
    Exposed,
    /// There is a keystore already: it is never overwritten by a new one.
    #[error("there is a keystore at this place already")]
    Exists,
    /// The operating system refused.
    #[error("the keystore cannot be read or written")]
    Io(#[from] std::io::Error),
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u8,
    argon2id: Argon2id,
    sealed: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct Argon2id {
    memory_kibibytes: u32,
    passes: u32,
    lanes: u32,
    salt: String,
}

struct SealingKey {
    key: PlainKey,
    parameters: Argon2id,
}

impl std::fmt::Debug for LocalKeystore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("LocalKeystore(..)")
    }
}

impl LocalKeystore {
    /// Makes a keystore with a new root key. Fails if there is one, or if the passphrase is weak.
    pub fn create(path: &Path, passphrase: &Secret, random: &dyn Random) -> Result<Self, KeystoreError> {
        check_passphrase(passphrase)?;
        if path.exists() {
            return Err(KeystoreError::Exists);
        }
        let parameters = Argon2id {
            memory_kibibytes: MEMORY_KIBIBYTES,
            passes: PASSES,
            lanes: LANES,
            salt: STANDARD.encode(random.bytes::<16>()),
        };
        let sealing = SealingKey::derive(passphrase, parameters)?;
        let keys = RootKeys::create(random);
        sealing.write(path, &keys)?;
        Ok(Self { path: path.to_owned(), sealing, keys: RwLock::new(keys) })
    }

    /// Opens a keystore.
    pub fn open(path: &Path, passphrase: &Secret) -> Result<Self, KeystoreError> {
        if std::fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
            return Err(KeystoreError::Exposed);
        }
        let file: File =
            serde_json::from_slice(&std::fs::read(path)?).map_err(|_| KeystoreError::NotAKeystore)?;
        if file.version != 1 {
            return Err(KeystoreError::NotAKeystore);
        }
        let sealed = STANDARD.decode(&file.sealed).map_err(|_| KeystoreError::NotAKeystore)?;
        let sealing = SealingKey::derive(passphrase, file.argon2id)?;
        let opened = open_small(&sealing.key, &sealing.parameters.binding(), &sealed)
            .map_err(|_| KeystoreError::WrongPassphrase)?;
        let keys = RootKeys::from_secret(&Secret::new(opened)).map_err(|_| KeystoreError::NotAKeystore)?;
        Ok(Self { path: path.to_owned(), sealing, keys: RwLock::new(keys) })
    }

    /// The root keys in the clear, for the one process that uses them.
    pub fn export_root(&self) -> Secret {
        self.with(RootKeys::to_secret)
    }

    fn with<T>(&self, read: impl FnOnce(&RootKeys) -> T) -> T {
        read(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Argon2id {
    /// The parameters are part of what is authenticated, so that nobody can weaken them.
    fn binding(&self) -> Vec<u8> {
        let Self { memory_kibibytes, passes, lanes, salt } = self;
        format!("ward/v1/keystore/{memory_kibibytes}/{passes}/{lanes}/{salt}").into_bytes()
    }
}

impl SealingKey {
    fn derive(passphrase: &Secret, parameters: Argon2id) -> Result<Self, KeystoreError> {
        // Bounds: an altered file must not make this process take all memory or all time.
        let bounded = (8 * 1024..=1024 * 1024).contains(&parameters.memory_kibibytes)
            && (1..=32).contains(&parameters.passes)
            && (1..=16).contains(&parameters.lanes);
        let salt = STANDARD.decode(&parameters.salt).map_err(|_| KeystoreError::NotAKeystore)?;
        if !bounded {
            return Err(KeystoreError::NotAKeystore);
        }
        let settings =
            Params::new(parameters.memory_kibibytes, parameters.passes, parameters.lanes, Some(32))
                .map_err(|_| KeystoreError::NotAKeystore)?;
        let mut bytes = zeroize::Zeroizing::new([0_u8; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, settings)
            .hash_password_into(passphrase.expose(), &salt, bytes.as_mut_slice())
            .map_err(|_| KeystoreError::NotAKeystore)?;
        Ok(Self { key: PlainKey::new(*bytes), parameters })
    }

    /// Writes the file whole or not at all, durably, for its owner alone.
    fn write(&self, path: &Path, keys: &RootKeys) -> Result<(), KeystoreError> {
        let sealed =
            seal_small(&self.key, &self.parameters.binding(), keys.to_secret().expose(), &SystemRandom);
        let file = File { version: 1, argon2id: self.parameters.clone(), sealed: STANDARD.encode(sealed) };
        let text = serde_json::to_vec_pretty(&file).map_err(|_| KeystoreError::NotAKeystore)?;
        Ok(write_private(path, &text)?)
    }
}

/// Writes the file whole or not at all, durably, for its owner alone.
///
/// # Errors
/// If the file system does not let it.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        Some(directory) => std::fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

impl Kms for LocalKeystore {
    fn describe(&self) -> KeyDescription {
        self.with(Kms::describe)
    }

    fn generate(&self, context: &EncryptionContext) -> Result<(PlainKey, WrappedKey), KmsError> {
        self.with(|keys| keys.generate(context))
    }

    fn wrap(&self, key: &PlainKey, context: &EncryptionContext) -> Result<WrappedKey, KmsError> {
        self.with(|keys| keys.wrap(key, context))
    }

    fn unwrap(&self, wrapped: &WrappedKey, context: &EncryptionContext) -> Result<PlainKey, KmsError> {
        self.with(|keys| keys.unwrap(wrapped, context))
    }

    fn rewrap(&self, wrapped: &WrappedKey, context: &EncryptionContext) -> Result<WrappedKey, KmsError> {
        self.with(|keys| keys.rewrap(wrapped, context))
    }

    fn rotate(&self) -> Result<KeyVersion, KmsError> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = RootKeys::from_secret(&keys.to_secret())?;
        let version = next.add(&SystemRandom);
        // On disk first: a version that wraps and is then lost would take data with it.
        self.sealing.write(&self.path, &next).map_err(|_| KmsError::Unavailable)?;
        *keys = next;
        Ok(version)
    }
}
