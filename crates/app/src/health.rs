//! Whether this instance can answer: its audit log can be written and its database read.

use http::StatusCode;
use serde_json::json;
use ward_store::RecordKind;

use crate::app::App;
use crate::problem::Problem;
use crate::reply::Reply;

/// `GET /healthz`, for the balancer. It touches no record, so it is not audited.
pub(crate) async fn healthz(app: &App) -> Reply {
    let log = app.trail.state().await.is_ok();
    let store = app
        .store
        .read(|session| Ok::<_, Problem>(session.record(RecordKind::Setting, "health")?))
        .await
        .is_ok();
    let status = if log && store { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Reply::json(status, &json!({"audit_log": log, "database": store}))
}
