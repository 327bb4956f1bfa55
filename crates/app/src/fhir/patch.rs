//! PATCH (<https://hl7.org/fhir/R4/http.html#patch>): JSON Patch (RFC 6902) and FHIRPath Patch, applied to what is
//! there now.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header;
use json_patch::PatchOperation;
use serde_json::Value;
use ward_fhir::json::Limits;
use ward_fhir::outcome::{Issue, IssueCode};
use ward_fhir::patch::fhirpath_patch;
use ward_store::{ResourceKey, Stored};

use super::media::FHIR_JSON;
use crate::problem::Problem;

/// The media type of a JSON Patch. A FHIRPath Patch is FHIR JSON.
const JSON_PATCH: &str = "application/json-patch+json";
/// The media types that a patch is read as.
pub(crate) const MEDIA_TYPES: [&str; 4] = [JSON_PATCH, FHIR_JSON[0], FHIR_JSON[1], FHIR_JSON[2]];
/// For the words of a refusal.
pub(crate) const MEDIA_TYPE_NAMES: &str = "application/json-patch+json or application/fhir+json";

/// Whether a body of this media type is a JSON Patch.
pub(crate) fn is_json_patch(content_type: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(JSON_PATCH)
}

const OPERATIONS_MAX: usize = 1_000;
/// Copies can double a document with each operation: what all of them add together.
const COPIED_BYTES_MAX: usize = 16 << 20;
const DEPTH_MAX: usize = 200;

/// A change to a resource.
pub(crate) enum Patch {
    Json(Vec<PatchOperation>),
    /// A `Parameters` resource.
    FhirPath(Value),
}

impl Patch {
    /// Understands the body of a JSON Patch.
    pub(crate) fn json(body: Value) -> Result<Self, Problem> {
        let words = "the body must be a JSON Patch (RFC 6902): an array of operations with `op` and `path`";
        let operations: Vec<PatchOperation> =
            serde_json::from_value(body).map_err(|_| Problem::malformed(IssueCode::Structure, words))?;
        if operations.len() > OPERATIONS_MAX {
            let words = format!("a patch has {OPERATIONS_MAX} operations at most");
            return Err(Problem::malformed(IssueCode::TooCostly, words));
        }
        Ok(Self::Json(operations))
    }

    /// Understands the body of a patch that was sent as this media type.
    pub(crate) fn read(body: Value, is_json_patch: bool) -> Result<Self, Problem> {
        if is_json_patch { Self::json(body) } else { Ok(Self::FhirPath(body)) }
    }

    /// Understands the patch in an entry of a Bundle: `Parameters`, or a Binary that holds a JSON Patch.
    pub(crate) fn in_bundle(resource: Option<&Value>) -> Result<Self, Problem> {
        let text = |name: &str| resource.and_then(|resource| resource.get(name)).and_then(Value::as_str);
        if let (Some("Parameters"), Some(parameters)) = (text("resourceType"), resource) {
            return Ok(Self::FhirPath(parameters.clone()));
        }
        let words = "a patch in a Bundle is a Parameters resource (FHIRPath Patch), or a Binary with the contentType \
                     application/json-patch+json";
        let wrong = || Problem::malformed(IssueCode::Structure, words);
        if text("resourceType") != Some("Binary") || text("contentType") != Some(JSON_PATCH) {
            return Err(wrong());
        }
        let bytes = STANDARD.decode(text("data").ok_or_else(wrong)?).map_err(|_| wrong())?;
        let limits = Limits { bytes: bytes.len(), depth: DEPTH_MAX / 2 };
        Self::json(ward_fhir::json::parse(&bytes, &limits)?)
    }

    /// What `stored` becomes. It has the same type and id.
    pub(crate) fn apply(&self, stored: &Stored) -> Result<Value, Problem> {
        let mut resource: Value =
            serde_json::from_slice(stored.body.expose()).map_err(|_| Problem::internal())?;
        match self {
            Self::Json(operations) => apply_json(&mut resource, operations)?,
            Self::FhirPath(parameters) => {
                resource = fhirpath_patch(&resource, parameters).map_err(Problem::invalid)?;
            }
        }
        keep_identity(&resource, &stored.key)?;
        drop_server_meta(&mut resource);
        Ok(resource)
    }
}

fn apply_json(resource: &mut Value, operations: &[PatchOperation]) -> Result<(), Problem> {
    // No deeper than this, whatever is put into what.
    let mut depth = depth_of(resource);
    let mut copied = 0_usize;
    for (position, operation) in operations.iter().enumerate() {
        depth = depth.max(depth_after(operation, depth));
        if depth > DEPTH_MAX {
            return Err(Problem::malformed(IssueCode::TooCostly, "the patch nests deeper than is accepted"));
        }
        // A patch's own values are no longer than its body. Copies are.
        if let PatchOperation::Copy(copy) = operation {
            copied = copied.saturating_add(resource.pointer(copy.from.as_str()).map_or(0, size_of));
            if copied > COPIED_BYTES_MAX {
                return Err(Problem::too_large("the patch makes the resource larger than is accepted"));
            }
        }
        json_patch::patch(resource, std::slice::from_ref(operation)).map_err(|_| {
            let words = format!(
                "operation {} of the patch cannot be applied: its path does not lead to anything, or its test does not \
                 hold; nothing was changed",
                position + 1
            );
            Problem::invalid(vec![Issue::error(IssueCode::Processing, words)])
        })?;
    }
    Ok(())
}

/// How deep what the operation puts somewhere may reach, in a document of this depth.
fn depth_after(operation: &PatchOperation, depth: usize) -> usize {
    match operation {
        PatchOperation::Add(add) => add.path.count() + depth_of(&add.value),
        PatchOperation::Replace(replace) => replace.path.count() + depth_of(&replace.value),
        PatchOperation::Move(moved) => (moved.path.count() + depth).saturating_sub(moved.from.count()),
        PatchOperation::Copy(copy) => (copy.path.count() + depth).saturating_sub(copy.from.count()),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => 0,
    }
}

fn depth_of(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth_of).max().unwrap_or(0),
        _ => 0,
    }
}

/// About how long a value is as text.
fn size_of(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| size_of(item) + 1).sum::<usize>() + 2,
        Value::Object(members) => {
            members.iter().map(|(name, value)| name.len() + 4 + size_of(value)).sum::<usize>() + 2
        }
        _ => 8,
    }
}

fn keep_identity(resource: &Value, key: &ResourceKey) -> Result<(), Problem> {
    let named = |name: &str| resource.get(name).and_then(Value::as_str);
    if named("resourceType") == Some(key.resource_type.name()) && named("id") == Some(key.id.as_str()) {
        return Ok(());
    }
    let words = "a patch cannot change the type or the id of a resource";
    Err(Problem::malformed(IssueCode::Invalid, words))
}

/// Version and time are the server's own; they were there for the patch to test.
fn drop_server_meta(resource: &mut Value) {
    let Some(members) = resource.as_object_mut() else { return };
    if let Some(meta) = members.get_mut("meta").and_then(Value::as_object_mut) {
        meta.shift_remove("versionId");
        meta.shift_remove("lastUpdated");
        if meta.is_empty() {
            members.shift_remove("meta");
        }
    }
}

/// The version that `If-Match` names, if it is sent.
pub(crate) fn version_wanted(call: &crate::call::Call) -> Result<Option<u64>, Problem> {
    if !call.headers.contains_key(header::IF_MATCH) {
        return Ok(None);
    }
    let version = call.header(header::IF_MATCH).and_then(ward_fhir::bundle::version_tag);
    let words = "`If-Match` must be a version such as W/\"3\"";
    version.map(Some).ok_or_else(|| Problem::malformed(IssueCode::Value, words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn apply(resource: &mut Value, operations: Value) -> Result<(), Problem> {
        match Patch::json(operations)? {
            Patch::Json(operations) => apply_json(resource, &operations),
            Patch::FhirPath(_) => panic!("another kind"),
        }
    }

    #[test]
    fn patches_neither_nest_nor_grow_without_end() {
        let deeper: Vec<Value> =
            (0..300).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/a"})).collect();
        assert!(apply(&mut json!({"a": {}}), deeper.into()).is_err());
        let path = "/a".repeat(300);
        assert!(apply(&mut json!({}), json!([{"op": "add", "path": path, "value": 1}])).is_err());
        let twice: Vec<Value> = (0..40)
            .flat_map(|_| {
                [
                    json!({"op": "copy", "from": "/a", "path": "/a/-"}),
                    json!({"op": "copy", "from": "/a/0", "path": "/a/-"}),
                ]
            })
            .collect();
        assert!(apply(&mut json!({"a": ["x".repeat(100)]}), twice.into()).is_err());
        let mut fine = json!({"a": [1, 2], "b": {"c": "d"}});
        let operations = json!([{"op": "move", "from": "/b", "path": "/e"}, {"op": "remove", "path": "/a/0"},
            {"op": "test", "path": "/a/0", "value": 2}, {"op": "add", "path": "/a/-", "value": 3}]);
        apply(&mut fine, operations).map_err(|_| ()).unwrap();
        assert_eq!(fine, json!({"a": [2, 3], "e": {"c": "d"}}));
        assert!(apply(&mut fine, json!([{"op": "test", "path": "/a/0", "value": 9}])).is_err());
        for wrong in [json!({}), json!([{"op": "zap", "path": "/a"}]), json!([{"op": "add"}]), json!("x")] {
            assert!(Patch::json(wrong).is_err());
        }
    }
}
