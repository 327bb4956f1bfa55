//! Many resources at once, as lines of JSON that leave page by page, each page after the log says whose records are in
//! it.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use ward_audit::{Entry, Outcome};
use ward_base::{Phi, ResourceId};
use ward_transport::{Body, BodyError};

use crate::app::App;
use crate::call::Call;
use crate::problem::Problem;
use crate::reply::Reply;

/// A resource on its way out.
pub(crate) struct Line {
    pub(crate) text: Phi<Vec<u8>>,
    pub(crate) patients: Vec<ResourceId>,
}

/// Where the resources come from.
pub(crate) trait Pages: Send + 'static {
    /// The next page, perhaps an empty one; `None` at the end.
    fn next(&mut self, app: &App) -> impl Future<Output = Result<Option<Vec<Line>>, Problem>> + Send;
}

/// The answer that gives out all `pages` while it is read.
pub(crate) fn reply(call: &Call, content_type: &'static str, mut pages: impl Pages) -> Reply {
    if call.head {
        return Reply::ndjson(content_type, Body::empty());
    }
    let (mut sender, body) = Channel::<Bytes, BodyError>::new(4);
    let (app, entry) = (Arc::clone(&call.app), call.entry.clone());
    call.app.tasks.spawn(async move {
        if send(&app, &entry, &mut pages, &mut sender).await.is_err() {
            // The client sees an answer that was cut off, not a short one.
            sender.abort(BodyError::Broken);
        }
    });
    Reply::ndjson(content_type, Body::new(body))
}

async fn send(
    app: &App,
    entry: &Entry,
    pages: &mut impl Pages,
    sender: &mut Sender<Bytes, BodyError>,
) -> Result<(), Problem> {
    while let Some(page) = pages.next(app).await? {
        if page.is_empty() {
            continue;
        }
        let mut entry = entry.clone();
        entry.time = app.clock.now();
        entry.outcome = Outcome::Success;
        entry.rows = u32::try_from(page.len()).unwrap_or(u32::MAX);
        entry.patients = page.iter().flat_map(|line| line.patients.iter().cloned()).collect();
        entry.patients.sort_unstable();
        entry.patients.dedup();
        app.trail.append(vec![entry]).await.map_err(|_| Problem::audit_unavailable())?;
        let mut text = Vec::new();
        for line in &page {
            text.extend_from_slice(line.text.expose());
            text.push(b'\n');
        }
        if sender.send_data(Bytes::from(text)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
