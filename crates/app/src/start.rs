//! Bringing the tier up: keys, database and audit log, each checked against the others before anything is answered.

use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use ward_audit::{AuditError, AuditKeys};
use ward_base::{Clock, Secret, SystemRandom, Timestamp};
use ward_identity::{ClientKeys, ClientRecord, Role, Scopes};
use ward_keys::{KeyRing, KmsError, Tokenizer, WrappedKey};
use ward_kms::{RootKeys, write_private};
use ward_store::{CacheLimits, Store, StoreError, StoreOptions};

use crate::app::{App, Settings};
use crate::authenticate::{OPERATOR, Sessions};
use crate::config::AppConfig;
use crate::cursor::Cursors;
use crate::trail::{self, Trail};

/// Passwords hashed at once.
const HASHING_MAX: usize = 2;

/// The tier cannot start. The operator's to mend; says what, never which key or value.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be made, read or written.
    #[error("the data directory cannot be used")]
    Directory(#[from] std::io::Error),
    /// The root key is not one, or not the one the tenant key was wrapped with.
    #[error("the root key does not open the tenant key")]
    Keys(#[from] KmsError),
    /// There is a database without the tenant key that opens it.
    #[error("there is a database but its tenant key file is missing; put `tenant-key` back from a backup")]
    TenantKeyMissing,
    /// The database does not open.
    #[error("the database cannot be opened")]
    Store(#[from] StoreError),
    /// The audit log does not open.
    #[error("the audit log cannot be opened")]
    Audit(#[from] AuditError),
    /// The audit log is not the one that the database remembers: entries were removed or changed.
    #[error("the audit log was cut off or altered: it does not contain what the database remembers of it")]
    AuditAltered,
    /// What the supervisor handed over makes no sense.
    #[error("the supervisor's settings are not understood")]
    Settings,
    /// Listening failed.
    #[error(transparent)]
    Node(#[from] ward_transport::NodeError),
}

/// Opens everything. Blocks.
pub(crate) fn open(config: &AppConfig, clock: Arc<dyn Clock>) -> Result<App, StartError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.directory)?;
    let random = Arc::new(SystemRandom);
    let ring = Arc::new(tenant_keys(config)?);
    let base = format!("{}/fhir/R4", config.public_origin);
    let audit_directory = config.directory.join("audit");
    let audit_keys = Arc::new(AuditKeys::derive(&ring, &config.audit_origin));
    let log = trail::open(&audit_directory, &audit_keys)?;
    let options = StoreOptions {
        data_keys: CacheLimits { count: config.cached_data_keys, ..CacheLimits::default() },
        ..StoreOptions::new(config.directory.join("ward.db"), &base)
    };
    let store = Store::open(options, Arc::clone(&ring), clock.clone(), random.clone())?;
    let capability_statement =
        ward_fhir::capability::statement(&base, env!("CARGO_PKG_VERSION"), &clock.now().to_instant());
    Ok(App {
        trail: Trail::start(log, audit_directory, audit_keys)?,
        store,
        sessions: Sessions::default(),
        cursors: Cursors::new(ring.derive("cursor")),
        operator: operator(config, clock.now())?,
        tasks: TaskTracker::new(),
        hashing: Semaphore::new(HASHING_MAX),
        import_ids: Tokenizer::new(&ring.derive("import-id")),
        clock,
        random,
        settings: Settings {
            origin: config.public_origin.clone(),
            base,
            accept_client_ids: config.accept_client_ids,
            allow_phi_in_urls: config.allow_phi_in_urls,
            idle_seconds: config.idle_seconds,
            absolute_seconds: config.absolute_seconds,
            limits: config.limits.clone(),
            capability_statement: capability_statement.to_string().into_bytes(),
        },
    })
}

/// Compares the audit log with what the database remembers of it. The two are written apart, so that whoever cuts
/// the log must also know the tenant's keys.
pub(crate) async fn check_audit_log(app: &App) -> Result<(), StartError> {
    let remembered = app.store.read(|session| session.audit_checkpoint()).await?;
    let Some((size, root)) = remembered else { return Ok(()) };
    match app.trail.root_at(size).await {
        Ok(found) if found == root => Ok(()),
        _ => Err(StartError::AuditAltered),
    }
}

fn operator(config: &AppConfig, now: Timestamp) -> Result<ClientRecord, StartError> {
    Ok(ClientRecord {
        id: OPERATOR.to_owned(),
        name: "Operator of this host".to_owned(),
        scopes: Scopes::parse("system/*.cruds").map_err(|_| StartError::Settings)?,
        keys: ClientKeys::from_jwks(&config.operator_jwks).map_err(|_| StartError::Settings)?,
        roles: vec![Role::Operator],
        created: now,
        disabled: false,
    })
}

/// The tenant's keys, made at the first start. The wrapped key lies beside the database, whose own key comes from it.
fn tenant_keys(config: &AppConfig) -> Result<KeyRing, StartError> {
    let root = hex::decode(config.root_key.as_bytes()).map_err(|_| StartError::Settings)?;
    let root = RootKeys::from_secret(&Secret::new(root))?;
    let path = config.directory.join("tenant-key");
    match std::fs::read(&path) {
        Ok(wrapped) => Ok(KeyRing::open(&root, &config.tenant, &WrappedKey(wrapped))?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if config.directory.join("ward.db").exists() {
                return Err(StartError::TenantKeyMissing);
            }
            let (ring, wrapped) = KeyRing::create(&root, &config.tenant)?;
            write_private(&path, &wrapped.0)?;
            Ok(ring)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::AppLimits;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;
    use ward_base::FixedClock;

    pub(crate) fn config(directory: &Path) -> AppConfig {
        let coordinate = URL_SAFE_NO_PAD.encode([7; 48]);
        AppConfig {
            directory: directory.join("app"),
            tenant: "test".to_owned(),
            root_key: "07".repeat(32).into(),
            public_origin: "https://ward.test".to_owned(),
            operator_jwks: json!({"keys": [{"kty": "EC", "crv": "P-384", "x": coordinate, "y": coordinate}]}),
            audit_origin: "ward.test/audit/app-1".to_owned(),
            accept_client_ids: false,
            allow_phi_in_urls: false,
            cached_data_keys: 100,
            idle_seconds: 900,
            absolute_seconds: 43_200,
            limits: AppLimits { body_bytes: 1 << 20, json_depth: 64, bundle_entries: 100, page_size: 100 },
        }
    }

    fn clock() -> Arc<dyn Clock> {
        Arc::new(FixedClock::new(Timestamp(1_790_000_000_000_000)))
    }

    async fn close(app: App) {
        app.store.close().await;
        app.trail.close();
    }

    #[tokio::test]
    async fn an_audit_log_that_is_not_the_one_remembered_stops_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let app = open(&config, clock()).unwrap();
        let entry = || {
            let id = ward_base::RequestId::new(&*app.clock, &*app.random);
            ward_audit::Entry::new(
                app.clock.now(),
                id,
                ward_audit::Class::Rest,
                "read",
                ward_audit::Outcome::Success,
            )
        };
        app.trail.append(vec![entry(), entry(), entry()]).await.unwrap();
        assert_eq!(crate::jobs::remember_audit_log(&app, 0).await.unwrap(), 3);
        check_audit_log(&app).await.unwrap();
        close(app).await;
        // Somebody removes the whole log: a new one is consistent in itself, but not what the database remembers.
        std::fs::remove_dir_all(config.directory.join("audit")).unwrap();
        let app = open(&config, clock()).unwrap();
        assert!(matches!(check_audit_log(&app).await, Err(StartError::AuditAltered)));
        close(app).await;
    }

    #[tokio::test]
    async fn keys_and_database_must_belong_together() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        close(open(&config, clock()).unwrap()).await;
        let other = AppConfig { root_key: "08".repeat(32).into(), ..config.clone() };
        assert!(matches!(open(&other, clock()), Err(StartError::Keys(_))));
        let other = AppConfig { tenant: "another".to_owned(), ..config.clone() };
        assert!(matches!(open(&other, clock()), Err(StartError::Keys(_))));
        std::fs::rename(config.directory.join("tenant-key"), directory.path().join("kept")).unwrap();
        assert!(matches!(open(&config, clock()), Err(StartError::TenantKeyMissing)));
        std::fs::rename(directory.path().join("kept"), config.directory.join("tenant-key")).unwrap();
        close(open(&config, clock()).unwrap()).await;
    }
}
