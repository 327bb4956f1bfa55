use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use http::{HeaderValue, header};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use ward_monitor::event;

use crate::control::{self, Bootstrap, Report, Target, Update};
use crate::{
    Authority, AuthorityError, Identity, IdentityMaterial, Peers, Serve, Server, ServerLimits, Upstream,
    UpstreamLimits, mutual_server_config, public_server_config,
};

/// Two years, as the preload lists of browsers demand.
const HTTPS_ONLY: &str = "max-age=63072000; includeSubDomains";

/// What a tier needs of its process: its identity, its listener, the groups it calls, and the supervisor's updates
/// applied to all of them.
pub struct Node {
    identity: Identity,
    authority: Authority,
    clients: Peers,
    listen: SocketAddr,
    listener: Option<Identity>,
    groups: Mutex<Vec<(String, Retarget)>>,
}

/// Makes a target group consist of other members.
type Retarget = Box<dyn Fn(Vec<Target>) -> Result<(), rustls::Error> + Send + Sync>;

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
            identity: Identity::new(&bootstrap.identity)?,
            authority: Authority::from_pem(&bootstrap.authority_pem)?,
            clients: Peers::new(bootstrap.clients.clone()),
            listen: bootstrap.listen,
            listener: None,
            groups: Mutex::default(),
        })
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
        let members = upstream.clone();
        self.on_targets(group, move |targets| members.set_targets(targets));
        Ok(upstream)
    }

    /// Calls `retarget` with the members of the group `group` whenever the supervisor changes them.
    pub fn on_targets(
        &self,
        group: &str,
        retarget: impl Fn(Vec<Target>) -> Result<(), rustls::Error> + Send + Sync + 'static,
    ) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.push((group.to_owned(), Box::new(retarget)));
    }

    /// What this process proves to other tiers.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where every chain between tiers must end.
    pub const fn authority(&self) -> &Authority {
        &self.authority
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
        let server = Server::new(tls, limits).with_clients(&self.clients);
        self.listen(server, updates, service).await
    }

    /// The same for anyone, who is shown `listener` instead of this process's identity. Every answer tells browsers
    /// to come by HTTPS only.
    pub async fn serve_public<S: Serve>(
        mut self,
        listener: &IdentityMaterial,
        updates: mpsc::Receiver<Update>,
        limits: ServerLimits,
        service: S,
    ) -> Result<(), NodeError> {
        let listener = Identity::new(listener)?;
        let server = Server::new(public_server_config(&listener)?, limits)
            .with_header(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HTTPS_ONLY));
        self.listener = Some(listener);
        self.listen(server, updates, service).await
    }

    async fn listen<S: Serve>(
        self,
        server: Server,
        updates: mpsc::Receiver<Update>,
        service: S,
    ) -> Result<(), NodeError> {
        let listener = TcpListener::bind(self.listen).await?;
        control::report(&Report::Ready { address: listener.local_addr()? });
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
                Update::ListenerCertificate(certificate) => match &self.listener {
                    Some(listener) if listener.replace(&certificate).is_ok() => {
                        event!(Information, "listener.certificate_replaced");
                    }
                    Some(_) => event!(Error, "listener.certificate_not_replaced"),
                    None => event!(Error, "control.not_a_public_listener"),
                },
                Update::Clients(pins) => self.clients.replace(pins),
                Update::Targets { group, targets } => self.retarget(&group, &targets),
                Update::Drain => break,
            }
        }
        control::report(&Report::Draining);
    }

    fn retarget(&self, group: &str, targets: &[Target]) {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = false;
        for (_, retarget) in groups.iter().filter(|(name, _)| name == group) {
            known = true;
            if retarget(targets.to_vec()).is_err() {
                event!(Error, "targets.not_replaced");
            }
        }
        if !known {
            event!(Error, "targets.unknown_group");
        }
    }
}
