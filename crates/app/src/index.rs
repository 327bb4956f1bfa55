//! `/ward/index`: how the search index is doing, and a new key for it.

use http::StatusCode;
use serde_json::json;
use ward_audit::Class;
use ward_identity::Permission;
use ward_store::StoreError;

use crate::call::Call;
use crate::problem::Problem;
use crate::reply::Reply;

/// `GET /ward/index`: the epoch of its key, the search parameters that were added, and how far it is filled up.
pub(crate) async fn status(call: &mut Call) -> Result<Reply, Problem> {
    call.doing(Class::Configuration, "index-status", None);
    call.authenticate().await?;
    call.permit(Permission::ManageIndex, None)?;
    let status = call.app.store.index_status().await?;
    let filling = status.progress.map(|(done, total)| json!({"done": done, "total": total}));
    let answer = json!({
        "key_epoch": status.epoch, "key_is_being_replaced": status.replacing, "parameters": status.parameters,
        "parameters_ready": status.parameters_ready, "filling": filling,
    });
    Ok(Reply::json(StatusCode::OK, &answer))
}

/// `POST /ward/index/key`: begins to replace the index's key.
pub(crate) async fn replace_key(call: &mut Call) -> Result<Reply, Problem> {
    call.doing(Class::Key, "replace-index-key", None);
    call.authenticate().await?;
    call.permit(Permission::ManageIndex, None)?;
    call.intend().await?;
    call.app.store.replace_index_key().await.map_err(|error| match error {
        StoreError::Conflict => {
            Problem::duplicate("the index's key is being replaced already; wait until it is")
        }
        other => other.into(),
    })?;
    Ok(Reply::json(StatusCode::ACCEPTED, &json!({})))
}
