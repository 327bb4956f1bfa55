use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use ward_base::InstanceId;
use ward_monitor::event;

use crate::control::{self, Bootstrap, Report, Target, Update};
use crate::{
    Authority, AuthorityError, Identity, Peers, Serve, Server, ServerLimits, Upstream, UpstreamLimits,
    mutual_server_config,
};

/// What a tier behind a balancer needs of its process: its identity, its listener, the groups it calls, and the
/// supervisor's updates applied to all of them.
pub struct Node {
    instance: InstanceId,
    identity: Identity,
    authority: Authority,
    clients: Peers,
    listen: SocketAddr,
    upstreams: Mutex<Vec<(&'static str, Upstream)>>,
}

/// A tier cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The supervisor handed it an identity or authority that cannot be used.
    #[error("the identity handed over by the supervisor cannot be used")]
    Identity(#[from] AuthorityError),
    /// TLS cannot be set up with them.
    #[error("tls cannot be set up")]
    Tls(#[from] rustls::Error),
    /// Its address is taken or not its host's.
    #[error("cannot listen on the address")]
    Listen(#[from] std::io::Error),
}

impl Node {
    /// Reads the identities out of `bootstrap`.
    pub fn new<C>(bootstrap: &Bootstrap<C>) -> Result<Self, NodeError> {
        Ok(Self {
            instance: bootstrap.instance,
            identity: Identity::new(&bootstrap.identity)?,
            authority: Authority::from_pem(&bootstrap.authority_pem)?,
            clients: Peers::new(bootstrap.clients.clone()),
            listen: bootstrap.listen,
            upstreams: Mutex::default(),
        })
    }

    /// Which instance this is.
    pub const fn instance(&self) -> InstanceId {
        self.instance
    }

    /// A client of the target group `group`, whose members the supervisor updates under that name: `internal-edge`
    /// for a web instance.
    pub fn upstream(
        &self,
        group: &'static str,
        targets: Vec<Target>,
        limits: UpstreamLimits,
    ) -> Result<Upstream, NodeError> {
        let upstream = Upstream::new(&self.identity, &self.authority, targets, limits)?;
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner).push((group, upstream.clone()));
        Ok(upstream)
    }

    /// Listens, reports that it does, and answers those who may call until the supervisor says to drain or is gone.
    /// Wrap an axum router in [`crate::TowerService`].
    pub async fn serve<S: Serve>(
        self,
        updates: mpsc::Receiver<Update>,
        limits: ServerLimits,
        service: S,
    ) -> Result<(), NodeError> {
        let tls = mutual_server_config(&self.identity, &self.authority, &self.clients)?;
        let listener = TcpListener::bind(self.listen).await?;
        control::report(&Report::Ready { address: listener.local_addr()? });
        let server = Server::new(tls, limits).with_clients(&self.clients);
        server.serve(listener, service, self.follow(updates)).await;
        Ok(())
    }

    /// Applies updates until the one that says to stop.
    async fn follow(&self, mut updates: mpsc::Receiver<Update>) {
        while let Some(update) = updates.recv().await {
            match update {
                Update::Identity(identity) => {
                    if self.identity.replace(&identity).is_err() {
                        event!(Error, "identity.not_replaced");
                    }
                }
                Update::Clients(pins) => self.clients.replace(pins),
                Update::Targets { group, targets } => self.retarget(&group, &targets),
                Update::ListenerCertificate(_) => event!(Error, "control.not_a_public_listener"),
                Update::Drain => break,
            }
        }
        control::report(&Report::Draining);
    }

    fn retarget(&self, group: &str, targets: &[Target]) {
        let upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = false;
        for (_, upstream) in upstreams.iter().filter(|(name, _)| *name == group) {
            known = true;
            if upstream.set_targets(targets.to_vec()).is_err() {
                event!(Error, "targets.not_replaced");
            }
        }
        if !known {
            event!(Error, "targets.unknown_group");
        }
    }
}
