//! Secrets of the supervisor at rest: each file is sealed under a key that the keystore's root key wraps.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use ward_base::{Secret, SystemRandom};
use ward_keys::{EncryptionContext, Kms, WrappedKey};
use ward_kms::LocalKeystore;

use crate::passphrase::PassphraseSource;

/// The opened keystore and the sealed files beside it.
pub(crate) struct Custody {
    data: PathBuf,
    keystore: LocalKeystore,
}

#[derive(Serialize, Deserialize)]
struct SealedFile {
    version: u8,
    wrapped_key: String,
    sealed: String,
}

impl Custody {
    /// Opens the keystore of `data`, or makes one at the first start.
    pub(crate) fn open_or_create(data: &Path, source: &PassphraseSource) -> anyhow::Result<Self> {
        make_private_directory(data)?;
        let path = data.join("keystore.json");
        let new = !path.exists();
        anyhow::ensure!(
            !new || !data.join("app").exists(),
            "`{}` holds encrypted data but its keystore is missing; put `keystore.json` back from your copy. \
             Nothing was changed",
            data.display()
        );
        let passphrase = source.read(data, new)?;
        let keystore = if new {
            LocalKeystore::create(&path, &passphrase, &SystemRandom)?
        } else {
            LocalKeystore::open(&path, &passphrase)?
        };
        Ok(Self { data: data.to_owned(), keystore })
    }

    /// Opens the keystore of a stack that was started before.
    pub(crate) fn open(data: &Path, source: &PassphraseSource) -> anyhow::Result<Self> {
        anyhow::ensure!(
            data.join("keystore.json").exists(),
            "no keystore in `{}`; start the stack with `ward up` first, or name its directory with --data",
            data.display()
        );
        Self::open_or_create(data, source)
    }

    /// The root key, for the app tier alone.
    pub(crate) fn root(&self) -> Secret {
        self.keystore.export_root()
    }

    /// Reads a sealed file; `None` if it is not there.
    pub(crate) fn load(&self, name: &str) -> anyhow::Result<Option<Secret>> {
        let path = self.data.join(name);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        let damaged = || format!("`{}` is damaged or belongs to another keystore", path.display());
        let file: SealedFile = serde_json::from_slice(&text).with_context(damaged)?;
        let wrapped = WrappedKey(STANDARD.decode(&file.wrapped_key).with_context(damaged)?);
        let context = context(name);
        let key = self.keystore.unwrap(&wrapped, &context).with_context(damaged)?;
        let sealed = STANDARD.decode(&file.sealed).with_context(damaged)?;
        let plain = ward_keys::open_small(&key, name.as_bytes(), &sealed).with_context(damaged)?;
        Ok(Some(Secret::new(plain)))
    }

    /// Writes a sealed file, whole or not at all.
    pub(crate) fn save(&self, name: &str, secret: &Secret) -> anyhow::Result<()> {
        let (key, wrapped) = self.keystore.generate(&context(name))?;
        let sealed = ward_keys::seal_small(&key, name.as_bytes(), secret.expose(), &SystemRandom);
        let file = SealedFile {
            version: 1,
            wrapped_key: STANDARD.encode(&wrapped.0),
            sealed: STANDARD.encode(&sealed),
        };
        write_private(&self.data.join(name), &serde_json::to_vec_pretty(&file)?)
    }
}

fn context(name: &str) -> EncryptionContext {
    EncryptionContext::new(&[("purpose", "supervisor-secret"), ("name", name)])
}

/// Makes a directory that only its owner can enter.
pub(crate) fn make_private_directory(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory `{}`", path.display()))
}

/// Refuses a file that others than its owner can read.
pub(crate) fn check_private(file: &std::fs::File, path: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        file.metadata()?.permissions().mode() & 0o077 == 0,
        "others can read `{}`; run `chmod 600` on it",
        path.display()
    );
    Ok(())
}

/// Makes or empties a file that only its owner can read.
pub(crate) fn create_private(path: &Path) -> std::io::Result<std::fs::File> {
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Writes a file that only its owner can read, durably, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = create_private(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("cannot write `{}`", path.display()))
}
