//! Transaction and batch Bundles: what to do, in which order (<https://hl7.org/fhir/R4/http.html#transaction>).

use std::collections::HashMap;

use serde_json::Value;

use crate::ResourceType;
use crate::outcome::Issue;

/// Whether the entries stand or fall together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All or nothing.
    Transaction,
    /// Each for itself.
    Batch,
}

/// The interaction of an entry, in the order in which they are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// Delete, perhaps conditional.
    Delete,
    /// Create (perhaps conditional) or search by form.
    Post,
    /// Update, perhaps conditional or creating.
    Put,
    /// Patch.
    Patch,
    /// Read, vread, history or search.
    Get,
    /// As `Get`, without a body.
    Head,
}

/// What `request.url` of an entry refers to.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// The type; `None` for the server itself (`metadata`, `_history`, a search over all types).
    pub resource_type: Option<ResourceType>,
    /// The id, if one resource is meant.
    pub id: Option<ward_base::ResourceId>,
    /// Whether history is asked for.
    pub history: History,
    /// What follows the type or id and is none of the above, such as `metadata`, `_search` or `$validate`.
    pub operation: Option<String>,
    /// What follows `?`, as it stands there.
    pub query: Option<String>,
}

/// The `_history` part of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// None: the present state.
    Absent,
    /// `_history`: all versions.
    All,
    /// `_history/n`: that version.
    Version(u64),
}

/// One entry to carry out. Holds protected health information, so there is no `Debug`.
#[derive(Clone)]
pub struct Entry {
    /// Its place in the Bundle, counted from 0; the answer stands at the same place.
    pub index: usize,
    /// What to do.
    pub method: Method,
    /// With what.
    pub target: Target,
    /// The name by which other entries refer to its resource.
    pub full_url: Option<String>,
    /// `ifMatch`: the version that must be the present one.
    pub if_match: Option<u64>,
    /// `ifNoneMatch`, as it stands there (a version tag or `*`).
    pub if_none_match: Option<String>,
    /// `ifModifiedSince`, an instant.
    pub if_modified_since: Option<String>,
    /// `ifNoneExist`: the query under which a create finds that there is nothing to do.
    pub if_none_exist: Option<String>,
    /// The body.
    pub resource: Option<Value>,
}

/// What to do, in which order.
pub struct Plan {
    /// Whether the entries stand or fall together.
    pub kind: Kind,
    /// The entries in the order in which they must be carried out: DELETE, POST, PUT and PATCH, GET and HEAD.
    pub entries: Vec<Entry>,
    /// Entries of a batch that cannot be carried out, with the reasons. Always empty for a transaction.
    pub rejected: Vec<(usize, Vec<Issue>)>,
}

/// Plans `bundle`.
pub fn plan(_bundle: &Value) -> Result<Plan, Vec<Issue>> {
    Ok(Plan { kind: Kind::Batch, entries: Vec::new(), rejected: Vec::new() })
}

/// Replaces every link in `resource` that is a key of `assigned` by its value.
pub fn rewrite_references(_resource: &mut Value, _assigned: &HashMap<String, String>) {}
