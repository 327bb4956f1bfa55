//! Which search parameters may stand in a URL (R3a): URLs end up in histories, logs and referrers.

use super::parameters::{ParameterKind, parameter};
use crate::ResourceType;

/// Parameters that shape a result: their values are few, or say nothing of anybody.
fn shapes(name: &str, value: &str) -> bool {
    let is_plain =
        |more: &[u8]| value.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte));
    match name {
        "_count" | "_total" | "_summary" | "_pretty" => is_short(value) && is_plain(b""),
        "_format" => is_short(value) && is_plain(b"/+; =.-"),
        // A link of ours, sealed.
        "_cursor" => is_plain(b"-_"),
        // Names of elements, parameters and types. What is none of them is refused where it is read.
        "_elements" | "_sort" => value.split(',').all(|part| is_short(part) && is_plain(b",.-_")),
        "_type" => value.split(',').all(|part| ResourceType::parse(part.trim()).is_some()),
        "_include" | "_include:iterate" | "_revinclude" | "_revinclude:iterate" => {
            value.split(':').all(is_short) && is_plain(b":-_*")
        }
        "_lastUpdated" => is_short(value) && is_plain(b":.-+, "),
        _ => false,
    }
}

fn is_short(text: &str) -> bool {
    text.len() <= 40
}

/// Whether `name=value` may stand in a URL: it shapes the result only, or refers to a resource by an id that this
/// server made (a UUID), which tells nothing.
pub fn allowed_in_url(name: &str, value: &str, kind: ResourceType) -> bool {
    if shapes(name, value) {
        return true;
    }
    if name == "_id" {
        return value.split(',').all(is_uuid);
    }
    // `subject:identifier` asks by a number of somebody else's, whatever it looks like.
    let (code, of) = name.split_once(':').map_or((name, None), |(code, of)| (code, Some(of)));
    if of.is_some_and(|of| !matches!(of, "above" | "below") && ResourceType::parse(of).is_none()) {
        return false;
    }
    parameter(kind, code).is_some_and(|parameter| parameter.kind == ParameterKind::Reference)
        && value.split(',').all(|reference| {
            let (of, id) = reference.rsplit_once('/').unwrap_or(("", reference));
            (of.is_empty() || ResourceType::parse(of).is_some()) && is_uuid(id)
        })
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(position, byte)| match position {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_opaque_parameters_may_stand_in_urls() {
        let kind = ResourceType::parse("Observation").unwrap();
        let id = "0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0";
        for (name, value) in [
            ("_count", "5"),
            ("patient", id),
            ("subject:Patient", id),
            ("subject", &format!("Patient/{id}")),
            ("_sort", "-date"),
            ("encounter:below", id),
        ] {
            assert!(allowed_in_url(name, value, kind), "{name}");
        }
        for (name, value) in [
            ("patient", "ada-lovelace"),
            ("code", "8867-4"),
            ("date", "2026"),
            ("patient.name", "x"),
            ("colour", "x"),
            ("subject:identifier", id),
            ("subject:Patient.identifier", id),
            ("subject:missing", id),
            ("code:below", id),
            ("encounter:below", "http://ada.test"),
            ("subject", &format!("Ada/{id}")),
            ("_pretty", "Ada Lovelace"),
            ("_filter", &format!("patient re {id}")),
            ("_type", "Ada"),
            ("_count", "Ada-Lovelace"),
        ] {
            assert!(!allowed_in_url(name, value, kind), "{name}");
        }
    }
}
