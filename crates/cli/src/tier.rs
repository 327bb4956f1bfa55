//! `ward tier …`: one process of one tier, started by the supervisor, which hands it its identity and its peers
//! on standard input.

use ward_base::Tier;
use ward_transport::control::{self, Bootstrap};

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

impl TierCommand {
    /// Serves until told to drain, or until standard input ends.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Edge => {
                let (bootstrap, updates) = control::receive().await?;
                let bootstrap: Bootstrap<ward_edge::EdgeConfig> = bootstrap;
                debug_assert!(matches!(bootstrap.instance.tier, Tier::PublicEdge | Tier::InternalEdge));
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
    }
}
