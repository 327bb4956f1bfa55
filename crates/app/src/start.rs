//! Bringing the tier up: keys, database and audit log, each checked against the others before anything is answered.

use std::os::unix::fs::DirBuilderExt as _;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use ward_audit::{AuditError, AuditKeys};
use ward_base::{Clock, Secret, SystemRandom, Timestamp};
use ward_identity::{ClientKeys, ClientRecord, Role, Scopes};
use ward_keys::{KeyRing, KmsError, Tokenizer, WrappedKey};
use ward_kms::{RootKeys, write_private};
use ward_store::{CacheLimits, ClientIdentity, Database, ServerOptions, Store, StoreError, StoreOptions};

use crate::app::{App, Settings};
use crate::authenticate::{OPERATOR, Sessions};
use crate::config::{AppConfig, DatabaseConfig};
use crate::cursor::Cursors;
use crate::fhir::Imports;
use crate::subscriptions::Subscriptions;
use crate::trail::{self, Trail};

/// The file of the wrapped tenant key.
const TENANT_KEY: &str = "tenant-key";
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
    /// Nobody could be told whether an endpoint is the one that it should be.
    #[error(
        "the file of `subscriptions.authorities` holds no certificates of authorities, or something else as well"
    )]
    SubscriptionAuthorities,
    /// Nobody could tell whether a host is the one that files are to be fetched from.
    #[error(
        "the file of `import.authorities` holds no certificates of authorities, or something else as well"
    )]
    ImportAuthorities,
    /// Listening failed.
    #[error(transparent)]
    Node(#[from] ward_transport::NodeError),
}

/// Opens everything. Blocks.
pub(crate) fn open(config: &AppConfig, clock: Arc<dyn Clock>) -> Result<App, StartError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.directory)?;
    let random = Arc::new(SystemRandom);
    let (ring, is_new) = tenant_keys(config)?;
    let ring = Arc::new(ring);
    let base = format!("{}/fhir/R4", config.public_origin);
    let mut options = StoreOptions {
        data_keys: CacheLimits { count: config.cached_data_keys, ..CacheLimits::default() },
        ..StoreOptions::new(config.directory.join("ward.db"), &base)
    };
    if let Some(database) = &config.database {
        options.readers = database.connections;
        options.database = Database::Server(server(database));
        // Others have logs of their own.
        options.audit_log = Some(config.audit_origin.clone());
    }
    let store = Store::open(options, Arc::clone(&ring), clock.clone(), random.clone());
    if is_new && matches!(store, Err(StoreError::WrongKey)) {
        // Somebody else made the database, with the key that is missing here.
        std::fs::remove_file(config.directory.join(TENANT_KEY))?;
        return Err(StartError::TenantKeyMissing);
    }
    let store = store?;
    let audit_directory = config.directory.join("audit");
    let audit_keys = Arc::new(AuditKeys::derive(&ring, &config.audit_origin));
    let log = trail::open(&audit_directory, &audit_keys)?;
    let started = clock.now();
    let subscriptions = Subscriptions::new(&config.subscriptions, &config.audit_origin)
        .map_err(|_| StartError::SubscriptionAuthorities)?;
    let imports =
        Imports::new(&config.imports, &config.audit_origin).map_err(|_| StartError::ImportAuthorities)?;
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
        subscriptions,
        imports,
        settings: Settings {
            origin: config.public_origin.clone(),
            base,
            accept_client_ids: config.accept_client_ids,
            allow_phi_in_urls: config.allow_phi_in_urls,
            idle_seconds: config.idle_seconds,
            absolute_seconds: config.absolute_seconds,
            limits: config.limits.clone(),
            started,
            endpoints: config.subscriptions.endpoints.clone(),
        },
        capability_statement: Mutex::default(),
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

fn server(database: &DatabaseConfig) -> ServerOptions {
    let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
    ServerOptions {
        hosts: database.hosts.clone(),
        database: database.name.clone(),
        user: database.user.clone(),
        password: database.password.as_deref().map(|password| secret(password)),
        authorities_pem: database.authorities_pem.clone(),
        client: database.certificate.as_ref().map(|identity| ClientIdentity {
            certificate_pem: identity.certificate_pem.clone(),
            private_key_pem: secret(&identity.private_key_pem),
        }),
        writers: database.connections,
    }
}

/// The tenant's keys, and whether they are new: they are made at the first start. The wrapped key lies beside the
/// database, whose own key comes from it; who shares a server's database has a copy of the same.
fn tenant_keys(config: &AppConfig) -> Result<(KeyRing, bool), StartError> {
    let root = hex::decode(config.root_key.as_bytes()).map_err(|_| StartError::Settings)?;
    let root = RootKeys::from_secret(&Secret::new(root))?;
    let path = config.directory.join(TENANT_KEY);
    match std::fs::read(&path) {
        Ok(wrapped) => Ok((KeyRing::open(&root, &config.tenant, &WrappedKey(wrapped))?, false)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if config.directory.join("ward.db").exists() {
                return Err(StartError::TenantKeyMissing);
            }
            let (ring, wrapped) = KeyRing::create(&root, &config.tenant)?;
            write_private(&path, &wrapped.0)?;
            Ok((ring, true))
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
            database: None,
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
            subscriptions: crate::SubscriptionsConfig::default(),
            imports: crate::SourcesConfig::default(),
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
    async fn instances_share_a_server_and_the_key_to_it() {
        let server = ward_testkit::Postgres::shared();
        let database = DatabaseConfig {
            hosts: vec![("localhost".to_owned(), server.port())],
            name: server.new_database(),
            user: server.user().to_owned(),
            password: Some(server.password().to_owned().into()),
            authorities_pem: server.authority_pem().to_owned(),
            certificate: None,
            connections: 2,
        };
        let directory = tempfile::tempdir().unwrap();
        let instance = |number: u8| AppConfig {
            directory: directory.path().join(format!("app-{number}")),
            audit_origin: format!("ward.test/audit/app-{number}"),
            database: Some(database.clone()),
            ..config(directory.path())
        };
        let first = open(&instance(1), clock()).unwrap();
        assert!(!instance(1).directory.join("ward.db").exists());
        for _ in 0..2 {
            assert!(matches!(open(&instance(2), clock()), Err(StartError::TenantKeyMissing)));
        }
        let key = instance(1).directory.join(TENANT_KEY);
        std::fs::copy(key, instance(2).directory.join(TENANT_KEY)).unwrap();
        let second = open(&instance(2), clock()).unwrap();
        // Each has an audit log of its own, and the database knows both.
        for app in [&first, &second] {
            crate::jobs::remember_audit_log(app, 1).await.unwrap();
        }
        for app in [first, second] {
            check_audit_log(&app).await.unwrap();
            close(app).await;
        }
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
