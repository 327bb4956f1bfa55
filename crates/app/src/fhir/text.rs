//! Answers put together from texts that are JSON already, without parsing them again.

use http::StatusCode;
use serde_json::Value;
use ward_base::Phi;
use ward_fhir::outcome::{Issue, operation_outcome};
use ward_fhir::search::Summary;
use ward_fhir::subset::{is_partial, subset};
use ward_store::Stored;

use crate::problem::Problem;

/// A Bundle in the making.
pub(crate) struct BundleText {
    text: Vec<u8>,
    entries: usize,
}

impl BundleText {
    /// A Bundle of this type with what stands before its entries.
    pub(crate) fn new(kind: &str, total: Option<u64>, links: &[(&str, String)]) -> Self {
        let mut text = format!("{{\"resourceType\":\"Bundle\",\"type\":\"{kind}\"");
        if let Some(total) = total {
            text.push_str(&format!(",\"total\":{total}"));
        }
        for (position, (relation, url)) in links.iter().enumerate() {
            text.push_str(if position == 0 { ",\"link\":[" } else { "," });
            text.push_str(&format!("{{\"relation\":\"{relation}\",\"url\":{}}}", quoted(url)));
        }
        if !links.is_empty() {
            text.push(']');
        }
        Self { text: text.into_bytes(), entries: 0 }
    }

    /// A Bundle of type history that says which profile it follows.
    pub(crate) fn history_of(profile: &str) -> Self {
        let text = format!(
            "{{\"resourceType\":\"Bundle\",\"meta\":{{\"profile\":[{}]}},\"type\":\"history\"",
            quoted(profile)
        );
        Self { text: text.into_bytes(), entries: 0 }
    }

    /// Makes room for entries of so many bytes together.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.text.reserve(bytes);
    }

    /// Adds an entry: `members` in JSON, without the braces around.
    pub(crate) fn entry(&mut self, members: &[&[u8]]) {
        self.text.extend_from_slice(if self.entries == 0 { b",\"entry\":[{" } else { b",{" });
        for part in members {
            self.text.extend_from_slice(part);
        }
        self.text.push(b'}');
        self.entries += 1;
    }

    /// The whole text.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.text.extend_from_slice(if self.entries == 0 { b"}" } else { b"]}" });
        self.text
    }
}

/// `"fullUrl":"…"` of a stored resource.
pub(crate) fn full_url(base: &str, stored: &Stored) -> String {
    // Neither a type nor an id, nor the base, has a letter that JSON would escape.
    ["\"fullUrl\":\"", base, "/", stored.key.resource_type.name(), "/", stored.key.id.as_str(), "\""].concat()
}

/// Text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// `"response":{…}` of an entry.
pub(crate) fn response(
    status: StatusCode,
    location: Option<&str>,
    version: Option<(u64, ward_base::Timestamp)>,
    issues: &[Issue],
) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut text = format!("\"response\":{{\"status\":\"{} {reason}\"", status.as_u16());
    if let Some(location) = location {
        text.push_str(&format!(",\"location\":{}", quoted(location)));
    }
    if let Some((version, updated)) = version {
        text.push_str(&format!(
            ",\"etag\":\"W/\\\"{version}\\\"\",\"lastModified\":\"{}\"",
            updated.to_instant()
        ));
    }
    if !issues.is_empty() {
        text.push_str(&format!(",\"outcome\":{}", operation_outcome(issues)));
    }
    text.push('}');
    text
}

/// A resource's text, cut to the part that is asked for.
pub(crate) fn partial(
    body: Phi<Vec<u8>>,
    summary: Summary,
    elements: &[String],
) -> Result<Phi<Vec<u8>>, Problem> {
    if !is_partial(summary, elements) {
        return Ok(body);
    }
    let resource: Value = serde_json::from_slice(body.expose()).map_err(|_| Problem::internal())?;
    Ok(Phi::new(subset(resource, summary, elements).to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_json() {
        let mut bundle = BundleText::new("searchset", Some(2), &[("self", "https://h/\"x\"".to_owned())]);
        bundle.entry(&[b"\"fullUrl\":\"a\",\"resource\":", br#"{"resourceType":"Basic"}"#]);
        bundle.entry(&[response(
            StatusCode::CREATED,
            Some("Basic/1"),
            Some((3, ward_base::Timestamp(0))),
            &[],
        )
        .as_bytes()]);
        let text = bundle.finish();
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["entry"][1]["response"]["etag"], "W/\"3\"");
        assert_eq!(value["link"][0]["url"], "https://h/\"x\"");
        let empty: Value = serde_json::from_slice(&BundleText::new("searchset", None, &[]).finish()).unwrap();
        assert_eq!(empty, serde_json::json!({"resourceType": "Bundle", "type": "searchset"}));
    }
}
