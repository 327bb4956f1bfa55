//! What the tier does by itself, every few seconds.

use std::sync::Arc;
use std::time::Duration;

use ward_monitor::event;

use crate::app::App;
use crate::problem::Problem;

/// How often the database is told where the audit log stands. What was logged since is proven by the log alone.
const CHECKPOINT: Duration = Duration::from_secs(10);
/// How often what has expired is removed, in checkpoints.
const PURGE_EVERY: u32 = 30;

/// How often it is looked whether there is something to do about the index.
const INDEX: Duration = Duration::from_secs(2);

/// Brings the index to what it is to be; runs until dropped.
pub(crate) async fn keep_index(app: Arc<App>) {
    loop {
        let started = tokio::time::Instant::now();
        match app.store.advance_index().await {
            // Requests get at least as much of the writer as this does.
            Ok(true) => tokio::time::sleep(started.elapsed()).await,
            Ok(false) => tokio::time::sleep(INDEX).await,
            Err(_) => {
                event!(Error, "index.not_advanced");
                tokio::time::sleep(INDEX).await;
            }
        }
    }
}

/// Runs until dropped.
pub(crate) async fn run(app: Arc<App>) {
    let mut ticks = tokio::time::interval(CHECKPOINT);
    let mut count = 0_u32;
    let mut remembered = 0;
    loop {
        ticks.tick().await;
        match remember_audit_log(&app, remembered).await {
            Ok(size) => remembered = size,
            Err(_) => event!(Error, "audit.checkpoint_not_remembered"),
        }
        if count.is_multiple_of(PURGE_EVERY)
            && app.store.write(|transaction| Ok::<_, Problem>(transaction.purge_expired()?)).await.is_err()
        {
            event!(Error, "store.not_purged");
        }
        count = count.wrapping_add(1);
    }
}

/// Publishes the audit log's checkpoint and tells the database where the log stands, unless it knows; gives the size.
pub(crate) async fn remember_audit_log(app: &App, known: u64) -> Result<u64, Problem> {
    let (size, root) = app.trail.publish().await.map_err(|_| Problem::audit_unavailable())?;
    if size != known {
        app.store
            .write(move |transaction| Ok::<_, Problem>(transaction.set_audit_checkpoint(size, root)?))
            .await?;
    }
    Ok(size)
}
