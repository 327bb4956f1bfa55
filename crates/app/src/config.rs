use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ward_transport::IdentityMaterial;
use zeroize::Zeroizing;

/// What the app tier is told at its start, besides who it is.
#[derive(Clone, Serialize, Deserialize)]
pub struct AppConfig {
    /// Where the database, the wrapped tenant key and the audit log are. Made if missing.
    pub directory: PathBuf,
    /// The PostgreSQL server that holds the database instead.
    pub database: Option<DatabaseConfig>,
    /// The name of the organisation's key space.
    pub tenant: String,
    /// All versions of the root key in hexadecimal, 64 digits each, oldest first. Overwritten when dropped.
    pub root_key: Zeroizing<String>,
    /// `https://host[:port]` under which the outside knows the stack.
    pub public_origin: String,
    /// The public keys of the host's own commands, as a JWK set.
    pub operator_jwks: Value,
    /// The name of the audit log in its signed checkpoints.
    pub audit_origin: String,
    /// Whether clients may make ids (update as create).
    pub accept_client_ids: bool,
    /// Whether a search by GET may carry what identifies people.
    pub allow_phi_in_urls: bool,
    /// Unwrapped data keys held at most.
    pub cached_data_keys: usize,
    /// A person's session ends after so many seconds without a request.
    pub idle_seconds: u32,
    /// A person's session ends after so many seconds in any case.
    pub absolute_seconds: u32,
    /// Bounds of what is asked for.
    pub limits: AppLimits,
    /// Who may be notified.
    pub subscriptions: SubscriptionsConfig,
    /// Where files are imported from.
    pub imports: SourcesConfig,
}

/// Hosts whose files are fetched.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct SourcesConfig {
    /// `https://host[:port]`, in lower case and without the usual port. Nothing is fetched from any other.
    pub sources: Vec<String>,
    /// Certificates of the authorities that are trusted to know these hosts, PEM.
    pub authorities_pem: String,
}

/// Where Subscriptions may send to, and how hard is tried.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct SubscriptionsConfig {
    /// `https://host[:port]`, in lower case and without the usual port. Nothing is sent to any other.
    pub endpoints: Vec<String>,
    /// Certificates of the authorities that are trusted to know these hosts, PEM.
    pub authorities_pem: String,
    /// The wait before the second try, in milliseconds. It doubles with each, up to an hour.
    pub retry_ms: u64,
    /// So often a notification is tried.
    pub tries: u32,
}

/// A PostgreSQL server and how to be known to it.
#[derive(Clone, Serialize, Deserialize)]
pub struct DatabaseConfig {
    /// Host names with ports, in the order in which they are tried until one accepts writes.
    pub hosts: Vec<(String, u16)>,
    /// The name of the database.
    pub name: String,
    /// The user.
    pub user: String,
    /// The user's password, if it has one. Overwritten when dropped.
    pub password: Option<Zeroizing<String>>,
    /// Certificates of the authorities that are trusted to know the server, PEM.
    pub authorities_pem: String,
    /// The certificate to show to the server.
    pub certificate: Option<IdentityMaterial>,
    /// Connections for reading, and as many for writing.
    pub connections: usize,
}

/// Bounds of requests and answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AppLimits {
    /// Bytes of a request's body.
    pub body_bytes: u64,
    /// Depth of JSON.
    pub json_depth: usize,
    /// Entries of one transaction or batch.
    pub bundle_entries: usize,
    /// Entries of one page.
    pub page_size: u32,
}

impl std::fmt::Debug for AppConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("AppConfig(..)")
    }
}
