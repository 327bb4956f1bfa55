//! What every hop between the tiers is made of: the private authority and its certificates, pinned mutual TLS 1.3,
//! the HTTP/1.1 server loop, the pooled HTTPS client, the lines by which the supervisor speaks to a tier, and the one
//! way to call a host outside.
//!
//! It refuses to listen or to call without TLS 1.3, to accept a certificate of the private authority whose key is not
//! on the list for that hop, to resume sessions between tiers (a resumed session would skip the check of the key), and
//! to let a request through whose framing two implementations could read in two ways.

mod authority;
mod body;
pub mod control;
mod cookies;
mod framing;
mod hop;
mod identity;
mod io;
mod node;
mod outside;
mod pin;
mod pool;
mod refusal;
mod server;
mod tls;
mod upstream;

pub use authority::{AuthorityError, CertificateAuthority, IdentityMaterial, server_name};
pub use body::{Body, BodyError, RequestBody};
pub use cookies::cookies;
pub use hop::without_hop_headers;
pub use identity::{Authority, Identity, Peers};
pub use node::{Node, NodeError};
pub use outside::{Origin, Outside, OutsideBody, OutsideError};
pub use pin::SpkiPin;
pub use pool::{Pool, Repeatable, SendError, UpstreamBody, UpstreamError, UpstreamLimits};
pub use refusal::{Audience, Refusal, is_below};
pub use server::{Caller, Serve, Server, ServerLimits, TowerService};
pub use tls::{mutual_client_config, mutual_server_config, public_server_config};
pub use upstream::Upstream;
