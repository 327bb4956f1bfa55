//! The web tier: pages for people, and the gateway that API requests go through.
//!
//! Pages are rendered here and usable without script; what they show comes from the app tier, asked over HTTPS
//! through the internal balancer in the name of the person's session. It refuses to hold anything: no database,
//! no data key, no session (the browser holds the token, the app tier the record). No name, id or clinical value
//! stands in an address or a title; nothing of a request or an answer is logged.

mod app;
mod assets;
mod config;
mod cookie;
mod form;
mod gateway;
mod handle;
mod headers;
mod observation;
mod pages;
mod site;
mod trouble;
mod view;
mod visit;

use std::sync::Arc;

use axum::Router;
pub use config::WebConfig;
use http::{Request, Response};
use tokio::sync::mpsc;
use tower_http::csrf::CsrfLayer;
use ward_base::{SystemClock, SystemRandom};
use ward_monitor::event;
use ward_transport::control::{Bootstrap, Update};
use ward_transport::{
    Body, Caller, Node, NodeError, RequestBody, Serve, ServerLimits, TowerService, Upstream, UpstreamLimits,
};

use crate::app::App;
use crate::site::{Site, routes};

/// Serves until told to drain.
pub async fn run(bootstrap: Bootstrap<WebConfig>, updates: mpsc::Receiver<Update>) -> Result<(), NodeError> {
    let node = Node::new(&bootstrap)?;
    let config = bootstrap.config;
    let upstream = node.upstream("internal-edge", config.upstream.clone(), UpstreamLimits::default())?;
    // Without an origin of its own, the host that was asked alone decides where a form may come from.
    let csrf = CsrfLayer::new().add_trusted_origin(&config.public_origin).unwrap_or_else(|_| {
        event!(Warning, "web.public_origin_unusable");
        CsrfLayer::new()
    });
    let site = Site {
        app: App::new(upstream.clone(), u32::try_from(config.idle_seconds).unwrap_or(u32::MAX)),
        handle_key: config.handle_key(),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    drop(config);
    let pages = TowerService(routes(Arc::new(site), csrf));
    node.serve(updates, ServerLimits::default(), Tier { pages, upstream }).await
}

/// API requests past the pages, everything else to them.
struct Tier {
    pages: TowerService<Router>,
    upstream: Upstream,
}

impl Serve for Tier {
    type Body = Body;

    async fn serve(&self, caller: &Caller, request: Request<RequestBody>) -> Response<Body> {
        if gateway::is_api(request.uri().path()) {
            gateway::pass(&self.upstream, request).await
        } else {
            self.pages.serve(caller, request).await.map(Body::new)
        }
    }
}
