//! `ward tier …`: one process of one tier, started by the supervisor, which hands it its identity and its peers
//! on standard input.

use std::io::ErrorKind;
use std::process::ExitCode;

use ward_app::StartError;
use ward_audit::AuditError;
use ward_monitor::event;
use ward_store::StoreError;
use ward_transport::NodeError;
use ward_transport::control::{self, ControlError};

/// Which tier this process is.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum TierCommand {
    /// A load balancer: the public or the internal one.
    Edge,
    /// Pages and the API gateway.
    Web,
    /// FHIR API, authorization, audit and encryption.
    App,
}

/// Why a tier cannot serve. Standard error is its log of events, and an error's own text may hold what must not
/// stand there, so a reason is words fixed in the source.
struct Failure {
    reason: &'static str,
    kind: Option<ErrorKind>,
}

impl TierCommand {
    /// Serves until told to drain, or until standard input ends.
    pub(crate) fn run(self) -> ExitCode {
        match self.serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure { reason, kind }) => {
                event!(Error, "tier.failed", reason = reason, kind = kind);
                ExitCode::FAILURE
            }
        }
    }

    fn serve(self) -> Result<(), Failure> {
        crate::hardening::harden().map_err(|_| Failure::new("the process cannot be hardened"))?;
        // A tier is one of several processes on the host: more threads would only take turns.
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(4);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .map_err(|error| Failure::io("no threads", &error))?;
        runtime.block_on(async {
            match self {
                Self::Edge => {
                    let (bootstrap, updates) = control::receive().await?;
                    ward_edge::run(bootstrap, updates).await?;
                }
                Self::Web => {
                    let (bootstrap, updates) = control::receive().await?;
                    ward_web::run(bootstrap, updates).await?;
                }
                Self::App => {
                    let (bootstrap, updates) = control::receive().await?;
                    ward_app::run(bootstrap, updates).await?;
                }
            }
            Ok(())
        })
    }
}

impl Failure {
    const fn new(reason: &'static str) -> Self {
        Self { reason, kind: None }
    }

    fn io(reason: &'static str, error: &std::io::Error) -> Self {
        Self { reason, kind: Some(error.kind()) }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::new(match error {
            ControlError::Missing => "no first line; a tier is started by `ward up`",
            ControlError::Malformed { .. } => "first line not understood",
        })
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Identity(_) => Self::new("certificate or private key unusable"),
            NodeError::Tls(_) => Self::new("TLS refuses the certificate or private key"),
            NodeError::Listen(error) => Self::io("cannot listen", &error),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Directory(error) => Self::io("data directory", &error),
            StartError::Keys(_) => Self::new("root key does not open the tenant key"),
            StartError::TenantKeyMissing => Self::new("app/tenant-key missing"),
            StartError::Store(StoreError::WrongKey) => Self::new("database of another key"),
            StartError::Store(StoreError::NewerSchema) => Self::new("database of a newer version"),
            StartError::Store(StoreError::Corrupt) => Self::new("database damaged"),
            StartError::Store(_) => Self::new("database not available"),
            StartError::Audit(AuditError::Io { source, .. }) => Self::io("audit log", &source),
            StartError::Audit(AuditError::InUse) => Self::new("audit log open elsewhere"),
            StartError::Audit(AuditError::OtherKey) => Self::new("audit log of another key or origin"),
            StartError::Audit(AuditError::Origin) => Self::new("audit.origin cannot name a log"),
            StartError::Audit(AuditError::Damaged { what, .. }) => Self::new(what),
            StartError::Audit(_) => Self::new("audit log"),
            StartError::AuditAltered => Self::new("audit log cut off or altered"),
            StartError::Settings => Self::new("settings not understood"),
            StartError::ImportAuthorities => Self::new("no authorities in import.authorities"),
            StartError::SubscriptionAuthorities => Self::new("no authorities in subscriptions.authorities"),
            StartError::Node(error) => error.into(),
        }
    }
}
