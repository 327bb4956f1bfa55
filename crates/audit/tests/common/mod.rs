//! What the tests share.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::sync::{Arc, OnceLock};

use ward_audit::{Actor, AuditKeys, Class, Entry, Outcome};
use ward_base::{FixedClock, Phi, Random, RequestId, ResourceId, SystemRandom, Timestamp};
use ward_keys::{
    EncryptionContext, KeyDescription, KeyRing, KeyVersion, Kms, KmsError, PlainKey, WrappedKey, open_small,
    seal_small,
};

pub(crate) const ORIGIN: &str = "ward.example/audit/app-1";

/// A root key in memory, and a generator that gives the same key every time.
struct Root;

impl Kms for Root {
    fn describe(&self) -> KeyDescription {
        KeyDescription { provider: "memory", current: KeyVersion(1) }
    }
    fn generate(&self, context: &EncryptionContext) -> Result<(PlainKey, WrappedKey), KmsError> {
        let key = PlainKey::new([9; 32]);
        Ok((key.clone(), self.wrap(&key, context)?))
    }
    fn wrap(&self, key: &PlainKey, context: &EncryptionContext) -> Result<WrappedKey, KmsError> {
        Ok(WrappedKey(seal_small(&PlainKey::new([7; 32]), &context.canonical(), key.expose(), &SystemRandom)))
    }
    fn unwrap(&self, wrapped: &WrappedKey, context: &EncryptionContext) -> Result<PlainKey, KmsError> {
        let bytes = open_small(&PlainKey::new([7; 32]), &context.canonical(), &wrapped.0);
        Ok(PlainKey::new(bytes.map_err(|_| KmsError::Refused)?.try_into().map_err(|_| KmsError::Refused)?))
    }
    fn rewrap(&self, wrapped: &WrappedKey, context: &EncryptionContext) -> Result<WrappedKey, KmsError> {
        self.wrap(&self.unwrap(wrapped, context)?, context)
    }
    fn rotate(&self) -> Result<KeyVersion, KmsError> {
        Err(KmsError::NotSupported("not here"))
    }
}

pub(crate) fn ring(tenant: &str) -> KeyRing {
    KeyRing::create(&Root, tenant).unwrap().0
}

/// The same keys in every process.
pub(crate) fn keys() -> Arc<AuditKeys> {
    static KEYS: OnceLock<Arc<AuditKeys>> = OnceLock::new();
    Arc::clone(KEYS.get_or_init(|| Arc::new(AuditKeys::derive(&ring("main"), ORIGIN))))
}

pub(crate) fn moment(second: i64) -> Timestamp {
    Timestamp(1_767_322_245_678_901).plus_seconds(second)
}

pub(crate) fn id(text: &str) -> ResourceId {
    ResourceId::parse(text).unwrap()
}

pub(crate) fn request() -> RequestId {
    RequestId::new(&FixedClock::new(moment(0)), &SystemRandom as &dyn Random)
}

/// Someone read an observation of `patient`.
pub(crate) fn read(second: i64, patient: &str) -> Entry {
    let mut entry = Entry::new(moment(second), request(), Class::Rest, "read", Outcome::Success);
    entry.actor = Actor::User("u-1".to_owned());
    entry.roles = vec!["clinician"];
    entry.mfa = Some("totp");
    entry.purpose = Some("TREAT");
    entry.policy_version = 4;
    entry.resource_type = Some("Observation");
    entry.rows = 1;
    entry.status = Some(200);
    entry.patients = vec![id(patient)];
    entry.resource = Some(("Observation", id("o-1"), Some(3)));
    entry.address = Some(Phi::new("192.0.2.17".parse().unwrap()));
    entry.session = Some("session-key-1".to_owned());
    entry.user_agent = Some(Phi::new("Chart/1.0".to_owned()));
    entry.query = Some(Phi::new("code=1234-5&value-quantity=gt7".to_owned()));
    entry
}

/// Reads by the number, of a few patients.
pub(crate) fn reads(from: u64, count: u64) -> Vec<Entry> {
    (from..from + count).map(|number| read(number.cast_signed(), &format!("p-{}", number % 7))).collect()
}

/// Copies a log as it lies on the disk, open or not.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), target).unwrap();
        }
    }
}

/// Every file, sorted.
pub(crate) fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for item in std::fs::read_dir(directory).unwrap() {
            let item = item.unwrap();
            if item.file_type().unwrap().is_dir() { open.push(item.path()) } else { found.push(item.path()) }
        }
    }
    found.sort();
    found
}

/// What was written to a file, without the room of a journal after it.
pub(crate) fn written(file: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(file).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(end);
    bytes
}
