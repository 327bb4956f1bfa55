//! SMART scopes, version 2 (`system/Observation.rs`) and the version 1 words (`.read`, `.write`, `.*`).
//! <https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html>
//!
//! Scopes narrowed by a query (`?category=…`) and the contexts `patient/` and `user/` are refused rather than
//! read as something wider.

use std::fmt::Write as _;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Permission;

const SCOPES_MAX: usize = 200;
const LETTERS: [char; 5] = ['c', 'r', 'u', 'd', 's'];

/// One scope: interactions on one resource type, or on all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    /// `None` stands for `*`.
    resource_type: Option<Box<str>>,
    /// In the order of `cruds`.
    interactions: [bool; 5],
}

/// Why a scope is not understood. Holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// Neither version 2 nor version 1.
    #[error("a scope reads `system/Type.cruds` with one or more of `c`, `r`, `u`, `d`, `s` in this order")]
    Malformed,
    /// Only `system/` is offered.
    #[error("only scopes that begin with `system/` are offered")]
    Context,
    /// A query follows.
    #[error("scopes narrowed by a query are not offered")]
    Query,
    /// Very many.
    #[error("more than 200 scopes")]
    TooMany,
    /// The list is empty.
    #[error("no scope")]
    Empty,
}

/// A list of scopes, none of them empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scopes(Vec<Scope>);

impl Scope {
    /// Reads one scope.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        if text.contains('?') {
            return Err(ScopeError::Query);
        }
        let (context, rest) = text.split_once('/').ok_or(ScopeError::Malformed)?;
        match context {
            "system" => {}
            "patient" | "user" => return Err(ScopeError::Context),
            _ => return Err(ScopeError::Malformed),
        }
        let (name, letters) = rest.split_once('.').ok_or(ScopeError::Malformed)?;
        let resource_type = match name {
            "*" => None,
            _ if is_type_name(name) => Some(name.into()),
            _ => return Err(ScopeError::Malformed),
        };
        let letters = match letters {
            "read" => "rs",
            "write" => "cud",
            "*" => "cruds",
            _ => letters,
        };
        let mut interactions = [false; 5];
        let mut rest = letters;
        for (letter, granted) in LETTERS.into_iter().zip(&mut interactions) {
            if let Some(after) = rest.strip_prefix(letter) {
                (rest, *granted) = (after, true);
            }
        }
        if letters.is_empty() || !rest.is_empty() {
            return Err(ScopeError::Malformed);
        }
        Ok(Self { resource_type, interactions })
    }

    fn allows(&self, interaction: usize, resource_type: Option<&str>) -> bool {
        let covered = match (&self.resource_type, resource_type) {
            (None, _) => true,
            (Some(own), Some(asked)) => **own == *asked,
            (Some(_), None) => false,
        };
        covered && self.interactions.get(interaction) == Some(&true)
    }

    fn common(&self, other: &Self) -> Option<Self> {
        let resource_type = match (&self.resource_type, &other.resource_type) {
            (None, only) | (only, None) => only.clone(),
            (Some(own), Some(others)) if own == others => Some(own.clone()),
            _ => return None,
        };
        let mut interactions = self.interactions;
        for (own, others) in interactions.iter_mut().zip(other.interactions) {
            *own &= others;
        }
        interactions.contains(&true).then_some(Self { resource_type, interactions })
    }
}

fn is_type_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_alphabetic())
}

impl Scopes {
    /// Reads scopes separated by spaces; at least one.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        let mut scopes = Vec::new();
        for word in text.split_ascii_whitespace() {
            if scopes.len() == SCOPES_MAX {
                return Err(ScopeError::TooMany);
            }
            scopes.push(Scope::parse(word)?);
        }
        if scopes.is_empty() { Err(ScopeError::Empty) } else { Ok(Self(scopes)) }
    }

    /// What is both in these scopes and in `asked`: what a token request is granted. `None` if nothing is.
    pub fn narrowed_to(&self, asked: &Self) -> Option<Self> {
        let mut granted: Vec<Scope> = Vec::new();
        for asked in &asked.0 {
            for own in &self.0 {
                if let Some(common) = asked.common(own)
                    && !granted.contains(&common)
                {
                    granted.push(common);
                }
            }
        }
        granted.truncate(SCOPES_MAX);
        (!granted.is_empty()).then_some(Self(granted))
    }

    /// Whether `permission` on `resource_type` (`None`: on all types at once) is covered. Permissions that are
    /// not about resources never are.
    pub fn allow(&self, permission: Permission, resource_type: Option<&str>) -> bool {
        let letters = match permission {
            Permission::Create => "c",
            Permission::Read | Permission::History => "r",
            Permission::Update => "u",
            Permission::Patch => "ru",
            Permission::Delete => "d",
            Permission::Search | Permission::TypeHistory => "s",
            Permission::BulkExport => "rs",
            Permission::BulkImport => "cu",
            Permission::Import
            | Permission::Export
            | Permission::ReadAccesses
            | Permission::ReadAudit
            | Permission::ManageUsers
            | Permission::ManageClients
            | Permission::ManageIndex => return false,
        };
        letters.chars().all(|letter| {
            let interaction = LETTERS.iter().position(|own| *own == letter).unwrap_or(LETTERS.len());
            self.0.iter().any(|scope| scope.allows(interaction, resource_type))
        })
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "system/{}.", self.resource_type.as_deref().unwrap_or("*"))?;
        LETTERS
            .iter()
            .zip(self.interactions)
            .filter(|(_, granted)| *granted)
            .try_for_each(|(letter, _)| formatter.write_char(*letter))
    }
}

impl std::fmt::Display for Scopes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (position, scope) in self.0.iter().enumerate() {
            write!(formatter, "{}{scope}", if position == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(text: &str) -> Scopes {
        Scopes::parse(text).unwrap()
    }

    #[test]
    fn both_versions_are_read_and_written_as_the_second() {
        for (text, expected) in [
            ("system/Patient.cruds", Ok("system/Patient.cruds")),
            ("system/*.rs", Ok("system/*.rs")),
            ("system/Observation.read", Ok("system/Observation.rs")),
            ("system/*.write", Ok("system/*.cud")),
            (" system/*.*  system/Patient.r ", Ok("system/*.cruds system/Patient.r")),
            ("system/Patient.sr", Err(ScopeError::Malformed)),
            ("system/Patient.rr", Err(ScopeError::Malformed)),
            ("system/Patient.", Err(ScopeError::Malformed)),
            ("system/patient.r", Err(ScopeError::Malformed)),
            ("system/Pat*.r", Err(ScopeError::Malformed)),
            ("openid", Err(ScopeError::Malformed)),
            ("user/Patient.r", Err(ScopeError::Context)),
            ("system/Observation.rs?category=laboratory", Err(ScopeError::Query)),
            ("", Err(ScopeError::Empty)),
        ] {
            assert_eq!(
                Scopes::parse(text).map(|scopes| scopes.to_string()),
                expected.map(str::to_owned),
                "{text}"
            );
        }
        assert_eq!(Scopes::parse(&"system/*.r ".repeat(201)), Err(ScopeError::TooMany));
    }

    #[test]
    fn a_request_gets_what_is_registered_and_no_more() {
        let registered = scopes("system/Patient.rs system/Observation.cruds");
        let granted = |asked: &str| registered.narrowed_to(&scopes(asked)).map(|scopes| scopes.to_string());
        assert_eq!(granted("system/*.cruds").as_deref(), Some("system/Patient.rs system/Observation.cruds"));
        assert_eq!(granted("system/Patient.crud").as_deref(), Some("system/Patient.r"));
        assert_eq!(granted("system/Encounter.r"), None);
        assert_eq!(granted("system/Patient.d"), None);
        assert_eq!(
            scopes("system/*.r").narrowed_to(&scopes("system/Patient.rs")).unwrap().to_string(),
            "system/Patient.r"
        );
    }

    #[test]
    fn one_type_does_not_cover_all_types() {
        let scopes = scopes("system/Patient.rs");
        assert!(scopes.allow(Permission::History, Some("Patient")));
        assert!(scopes.allow(Permission::Search, Some("Patient")));
        assert!(!scopes.allow(Permission::Search, None));
        assert!(!scopes.allow(Permission::Update, Some("Patient")));
        assert!(!scopes.allow(Permission::ManageUsers, None));
    }
}
