//! From FHIR JSON to what stands on a page: plain structs of text, for the templates to lay out.
//!
//! Resources come from many systems, so nothing is taken for granted: what is missing is left out, what is
//! unknown is shown as written. Nothing here has a `Debug`: every value is PHI.

pub(crate) mod graph;
pub(crate) mod lists;
pub(crate) mod notes;
pub(crate) mod patient;
pub(crate) mod text;
pub(crate) mod vitals;

use serde_json::Value;

/// The matching resources of a search answer, in the order they came.
pub(crate) fn resources(bundle: &Value) -> impl Iterator<Item = &Value> {
    text::items(bundle, "entry")
        .iter()
        .filter(|entry| text::at(entry, "/search/mode").is_none_or(|mode| mode == "match"))
        .filter_map(|entry| entry.get("resource"))
}

/// Whether the answer has a further page.
pub(crate) fn has_more(bundle: &Value) -> bool {
    text::items(bundle, "link").iter().any(|link| text::at(link, "/relation") == Some("next"))
}
