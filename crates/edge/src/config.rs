use std::time::Duration;

use serde::{Deserialize, Serialize};
use ward_transport::control::Target;
use ward_transport::{IdentityMaterial, ServerLimits, UpstreamLimits};
use zeroize::Zeroize as _;

/// What a balancer is told at its start, besides who it is.
#[derive(Clone, Serialize, Deserialize)]
pub struct EdgeConfig {
    /// Whether it faces the outside: then it proves `listener_certificate` to anyone, and believes no forwarding
    /// header. Otherwise it is reached by mutual TLS and passes those headers on.
    pub public: bool,
    /// The public listener's certificate; needed exactly if `public`.
    pub listener_certificate: Option<IdentityMaterial>,
    /// Where every request goes.
    pub group: TargetGroup,
    /// Key of the sticky cookie, at least 32 hexadecimal digits; without it nobody is kept at one target. Public
    /// balancers only. Overwritten when dropped.
    pub sticky: Option<String>,
    /// Bounds of requests and answers.
    pub limits: EdgeLimits,
    /// The `Host` values that are answered, such as `ward.example` and `localhost:8443`; others get 421. Empty on an
    /// internal balancer, which its callers reach under any.
    pub public_hosts: Vec<String>,
}

/// Back ends of which any may answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetGroup {
    /// Its name in updates and reports.
    pub name: String,
    /// Its members.
    pub targets: Vec<Target>,
    /// How they are watched.
    pub health: HealthCheck,
}

/// How a balancer finds out which targets can answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// Asked with GET; 200 is healthy.
    pub path: String,
    /// Milliseconds between two checks of a target.
    pub interval_ms: u64,
    /// Milliseconds that an answer may take.
    pub timeout_ms: u64,
    /// Good answers in a row after which a target gets requests again.
    pub healthy_after: u32,
    /// Failures in a row after which it gets none.
    pub unhealthy_after: u32,
}

/// Bounds of a balancer. Times are milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeLimits {
    /// Bytes of a request's body; 413 beyond.
    pub request_bytes: u64,
    /// Bytes of path and query; 414 beyond.
    pub uri_bytes: usize,
    /// Bytes of a request's head; 431 beyond.
    pub header_bytes: usize,
    /// Headers of a request, those that a public balancer adds included; 431 beyond.
    pub headers: usize,
    /// Connections at once; 503 beyond.
    pub connections: usize,
    /// For the TLS handshake.
    pub handshake_timeout_ms: u64,
    /// For a request's head, and for keeping an idle connection.
    pub header_read_timeout_ms: u64,
    /// For waiting on a client's body or on a client that does not read; each byte renews a little of it. 408.
    pub body_read_timeout_ms: u64,
    /// For connecting to a target.
    pub connect_timeout_ms: u64,
    /// For the head of a target's answer; 504 beyond.
    pub response_timeout_ms: u64,
    /// For finishing what is being answered when told to stop.
    pub drain_timeout_ms: u64,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: "/healthz".to_owned(),
            interval_ms: 1_000,
            timeout_ms: 1_000,
            healthy_after: 1,
            unhealthy_after: 2,
        }
    }
}

impl Default for EdgeLimits {
    fn default() -> Self {
        Self {
            request_bytes: 32 << 20,
            uri_bytes: 8 << 10,
            header_bytes: 32 << 10,
            headers: 100,
            connections: 1_024,
            handshake_timeout_ms: 10_000,
            header_read_timeout_ms: 20_000,
            body_read_timeout_ms: 30_000,
            connect_timeout_ms: 2_000,
            response_timeout_ms: 60_000,
            drain_timeout_ms: 10_000,
        }
    }
}

impl std::fmt::Debug for EdgeConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("EdgeConfig")
            .field("public", &self.public)
            .field("group", &self.group)
            .field("limits", &self.limits)
            .field("public_hosts", &self.public_hosts)
            .finish_non_exhaustive()
    }
}

impl Drop for EdgeConfig {
    fn drop(&mut self) {
        self.sticky.zeroize();
    }
}

impl EdgeLimits {
    pub(crate) fn server(&self, public: bool) -> ServerLimits {
        let internal = ServerLimits::default();
        ServerLimits {
            connections_max: if public { self.connections } else { internal.connections_max },
            // A quarter is kept for others, whoever comes.
            connections_per_network_max: if public {
                self.connections - self.connections / 4
            } else {
                usize::MAX
            },
            handshake_timeout: Duration::from_millis(self.handshake_timeout_ms),
            // Between tiers, idle connections are the caller's to close.
            header_read_timeout: if public {
                Duration::from_millis(self.header_read_timeout_ms)
            } else {
                internal.header_read_timeout
            },
            // Above our own bound, so that a head beyond that still gets an answer with words.
            header_bytes_max: self.header_bytes.saturating_mul(4),
            headers_max: self.headers,
            body_bytes_max: self.request_bytes,
            body_read_timeout: Duration::from_millis(self.body_read_timeout_ms),
            write_timeout: Duration::from_millis(self.body_read_timeout_ms),
            drain_timeout: Duration::from_millis(self.drain_timeout_ms),
            strict_framing: true,
        }
    }

    pub(crate) fn upstream(&self) -> UpstreamLimits {
        UpstreamLimits {
            connect_timeout: Duration::from_millis(self.connect_timeout_ms),
            response_timeout: Duration::from_millis(self.response_timeout_ms),
            ..UpstreamLimits::default()
        }
    }
}
