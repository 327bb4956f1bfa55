//! Which search parameters may stand in a URL (R3a): URLs end up in histories, logs and referrers.

use super::parameters::{ParameterKind, parameter};
use crate::ResourceType;

/// Parameters that shape a result, or name nothing but versions and times of this server.
const HARMLESS: [&str; 14] = [
    "_count",
    "_cursor",
    "_elements",
    "_format",
    "_include",
    "_include:iterate",
    "_lastUpdated",
    "_pretty",
    "_revinclude",
    "_revinclude:iterate",
    "_sort",
    "_summary",
    "_total",
    "_type",
];

/// Whether `name=value` may stand in a URL: it shapes the result only, or refers to a resource by an id that this
/// server made (a UUID), which tells nothing.
pub fn allowed_in_url(name: &str, value: &str, kind: ResourceType) -> bool {
    if HARMLESS.contains(&name) {
        return true;
    }
    if name == "_id" {
        return value.split(',').all(is_uuid);
    }
    let code = name.split(':').next().unwrap_or_default();
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
        for (name, value) in
            [("_count", "5"), ("patient", id), ("subject", &format!("Patient/{id}")), ("_sort", "-date")]
        {
            assert!(allowed_in_url(name, value, kind), "{name}");
        }
        for (name, value) in [
            ("patient", "ada-lovelace"),
            ("code", "8867-4"),
            ("date", "2026"),
            ("patient.name", "x"),
            ("colour", "x"),
            ("subject", &format!("Ada/{id}")),
        ] {
            assert!(!allowed_in_url(name, value, kind), "{name}");
        }
    }
}
