//! The local keystore: it opens with its passphrase alone, survives rotation, and notices tampering.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use ward_base::{Secret, SystemRandom};
use ward_keys::{EncryptionContext, KeyVersion, Kms, KmsError};
use ward_kms::{KeystoreError, LocalKeystore, RootKeys};

fn passphrase(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

#[test]
fn a_keystore_opens_with_its_passphrase_and_keeps_old_versions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keystore.json");
    let good = passphrase("correct horse battery");
    assert!(matches!(
        LocalKeystore::create(&path, &passphrase("short"), &SystemRandom),
        Err(KeystoreError::WeakPassphrase(_))
    ));
    let keystore = LocalKeystore::create(&path, &good, &SystemRandom).unwrap();
    let context = EncryptionContext::new(&[("purpose", "test")]);
    let (key, wrapped) = keystore.generate(&context).unwrap();
    assert_eq!(keystore.rotate().unwrap(), KeyVersion(2));
    let rewrapped = keystore.rewrap(&wrapped, &context).unwrap();
    assert_ne!(rewrapped, wrapped);

    let again = LocalKeystore::open(&path, &good).unwrap();
    assert_eq!(again.describe().current, KeyVersion(2));
    let handed_over = RootKeys::from_secret(&again.export_root()).unwrap();
    for provider in [&again as &dyn Kms, &handed_over] {
        for wrapped in [&wrapped, &rewrapped] {
            assert_eq!(provider.unwrap(wrapped, &context).unwrap().expose(), key.expose());
        }
        let other = EncryptionContext::new(&[("purpose", "other")]);
        assert_eq!(provider.unwrap(&wrapped, &other).err(), Some(KmsError::Refused));
    }
    assert!(matches!(
        LocalKeystore::open(&path, &passphrase("wrong horse battery")),
        Err(KeystoreError::WrongPassphrase)
    ));
    assert!(matches!(LocalKeystore::create(&path, &good, &SystemRandom), Err(KeystoreError::Exists)));
}

#[test]
fn an_altered_or_exposed_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keystore.json");
    let good = passphrase("correct horse battery");
    LocalKeystore::create(&path, &good, &SystemRandom).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in
        [("\"passes\": 3", "\"passes\": 1"), ("\"memory_kibibytes\": 65536", "\"memory_kibibytes\": 8192")]
    {
        assert!(text.contains(from));
        std::fs::write(&path, text.replace(from, to)).unwrap();
        assert!(matches!(LocalKeystore::open(&path, &good), Err(KeystoreError::WrongPassphrase)), "{to}");
    }
    std::fs::write(&path, text.replace("65536", "4294967295")).unwrap();
    assert!(matches!(LocalKeystore::open(&path, &good), Err(KeystoreError::NotAKeystore)));
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert!(matches!(LocalKeystore::open(&path, &good), Err(KeystoreError::NotAKeystore)));
    std::fs::write(&path, &text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    assert!(matches!(LocalKeystore::open(&path, &good), Err(KeystoreError::Exposed)));
}
