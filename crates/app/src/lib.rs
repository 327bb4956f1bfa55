//! The app tier: the FHIR R4 API, authorization, the audit writer, and the only process that holds data keys.
//!
//! A request passes four gates, in this order: who asks ([`mod@authenticate`]), whether they may (`ward_identity::decide`),
//! what it touches ([`mod@call`] notes it for the log), and whether the log has it ([`mod@route`]). Every answer waits
//! for its entry to be durable, and every write for its intent.
//!
//! The tier refuses to start on an audit log that is not the one its database remembers, to answer while the log
//! cannot be written, to repeat anything of a request in an error, and to put anything that tells of a person into an
//! address.

mod accesses;
mod accounts;
mod app;
mod authenticate;
mod behalf;
mod bulk;
mod call;
mod config;
mod cursor;
mod fhir;
mod form;
mod health;
mod index;
mod jobs;
mod oauth;
mod outflow;
mod problem;
mod reply;
mod route;
mod session;
mod start;
mod subscriptions;
mod trail;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use ward_base::SystemClock;
use ward_monitor::event;
use ward_transport::control::{Bootstrap, Update};
use ward_transport::{Node, ServerLimits};

pub use config::{AppConfig, AppLimits, DatabaseConfig, SourcesConfig, SubscriptionsConfig};
pub use start::StartError;

/// How long what was begun may take after the listener has stopped.
const FINISH: Duration = Duration::from_secs(3);

/// Opens keys, database and audit log, and serves until told to drain.
///
/// # Errors
/// [`StartError`] if any of them cannot be opened, or do not belong together.
pub async fn run(bootstrap: Bootstrap<AppConfig>, updates: mpsc::Receiver<Update>) -> Result<(), StartError> {
    let node = Node::new(&bootstrap)?;
    let config = bootstrap.config;
    let limits = ServerLimits { body_bytes_max: config.limits.body_bytes, ..ServerLimits::default() };
    let opened = tokio::task::spawn_blocking(move || start::open(&config, Arc::new(SystemClock))).await;
    let app = Arc::new(opened.map_err(|_| StartError::Settings)??);
    start::check_audit_log(&app).await?;
    // Whoever subscribed hears of the first write that is answered.
    subscriptions::refresh(&app).await.map_err(|_| ward_store::StoreError::Unavailable)?;
    let jobs = tokio::spawn(jobs::run(Arc::clone(&app)));
    let index = tokio::spawn(jobs::keep_index(Arc::clone(&app)));
    let imports = tokio::spawn(fhir::run_imports(Arc::clone(&app)));
    let deliveries = tokio::spawn(subscriptions::run(Arc::clone(&app)));
    node.serve(updates, limits, route::Router(Arc::clone(&app))).await?;
    // Whatever was begun is finished, with its entry in the log, before the log and the database are closed.
    app.tasks.close();
    if tokio::time::timeout(FINISH, app.tasks.wait()).await.is_err() {
        event!(Warning, "app.tasks_cut_off", tasks = app.tasks.len());
    }
    jobs.abort();
    index.abort();
    // What is under way goes on where it was.
    imports.abort();
    // What is being delivered has its intent in the log, and is delivered again.
    deliveries.abort();
    if jobs::remember_audit_log(&app, 0).await.is_err() {
        event!(Error, "audit.checkpoint_not_remembered");
    }
    app.store.close().await;
    let trail = app.trail.clone();
    let _ = tokio::task::spawn_blocking(move || trail.close()).await;
    Ok(())
}
