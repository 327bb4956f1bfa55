//! The load balancers: the public one that faces the outside, and the internal one between web and app.
//!
//! A balancer knows no user, no record and no key but its own: it checks that a request means one thing only and stays
//! within its bounds, says who sent it, and passes it to a healthy member of its target group. It refuses to speak to a
//! back end whose key is not on the group's list, to believe what a client says about where it comes from, and to end
//! a half answer as if it were whole. Of a request it logs its id and nothing else.

mod check;
mod config;
mod edge;
mod forward;
mod group;
mod health;
mod sticky;

use std::sync::Arc;

pub use config::{EdgeConfig, EdgeLimits, HealthCheck, TargetGroup};
use tokio::sync::mpsc;
pub use ward_transport::NodeError as EdgeError;
use ward_transport::control::{Bootstrap, Update};
use ward_transport::{AuthorityError, Node};

use crate::edge::Edge;
use crate::group::Group;

/// Serves until told to drain.
///
/// Listens once every target has been asked for its health, or has had the time to answer.
pub async fn run(bootstrap: Bootstrap<EdgeConfig>, updates: mpsc::Receiver<Update>) -> Result<(), EdgeError> {
    let node = Node::new(&bootstrap)?;
    let config = bootstrap.config;
    let group = Arc::new(Group::new(node.identity(), node.authority(), &config)?);
    let members = group.clone();
    node.on_targets(&config.group.name, move |targets| members.set_targets(targets));
    group.first_results().await;
    let limits = config.limits.server(config.public);
    let edge = Edge::new(group, &config);
    if config.public {
        let listener = config.listener_certificate.as_ref().ok_or(AuthorityError::Unreadable)?;
        node.serve_public(listener, updates, limits, edge).await
    } else {
        node.serve(updates, limits, edge).await
    }
}
