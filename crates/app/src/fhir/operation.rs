//! What operations share (<https://hl7.org/fhir/R4/operations.html>): their parameters.

use serde_json::Value;
use ward_fhir::outcome::IssueCode;
use ward_transport::RequestBody;

use super::media::{FHIR_JSON, FHIR_JSON_NAME};
use crate::call::Call;
use crate::problem::Problem;

const PARAMETERS_MAX: usize = 256;
const BYTES_MAX: usize = 256 << 10;

/// Names and plain values of a `Parameters` resource; an empty body has none.
pub(crate) async fn parameters(call: &Call, body: RequestBody) -> Result<Vec<(String, String)>, Problem> {
    if call.header(http::header::CONTENT_LENGTH) == Some("0") {
        return Ok(Vec::new());
    }
    let bytes = call.body(body, &FHIR_JSON, FHIR_JSON_NAME, BYTES_MAX).await?;
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let resource = ward_fhir::json::parse(&bytes, &call.json_limits())?;
    let wrong = || {
        let words = "the body must be a Parameters resource with plain values";
        Problem::malformed(IssueCode::Structure, words)
    };
    if resource.get("resourceType").and_then(Value::as_str) != Some("Parameters") {
        return Err(wrong());
    }
    let list = resource.get("parameter").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if list.len() > PARAMETERS_MAX {
        return Err(wrong());
    }
    list.iter().map(|one| plain(one).ok_or_else(wrong)).collect()
}

fn plain(parameter: &Value) -> Option<(String, String)> {
    let members = parameter.as_object()?;
    let name = members.get("name")?.as_str()?.to_owned();
    let (_, value) = members.iter().find(|(key, _)| key.starts_with("value"))?;
    let value = match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Some((name, value))
}
