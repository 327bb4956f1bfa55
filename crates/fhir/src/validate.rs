//! Validation of resources against the specification's definitions.
compile_error!("crates/fhir/src/validate.rs: uncommitted text that stood here before 2026-11-24 02:58:13 was overwritten by mistake and this is a placeholder; restore it from the author's own copy (see NOTE-fhir-overwritten.md beside contracts.md)");


use serde_json::Value;

use crate::outcome::Issue;

/// Every issue found in `resource`; none means that it is valid.
pub fn resource(_resource: &Value) -> Vec<Issue> {
    Vec::new()
}
