use crate::{Clock, Random};

/// A FHIR logical id: 1 to 64 of `A-Z a-z 0-9 - .` (<https://hl7.org/fhir/R4/datatypes.html#id>).
///
/// Ids made by Ward are UUIDs. Ids made by a client may carry anything, so an id has no `Display`, is never
/// logged, and reaches the database only as a keyed token.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId(Box<str>);

/// The text is not a FHIR id. Holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceIdError;

impl ResourceId {
    /// Checks that `text` is a FHIR id.
    pub fn parse(text: &str) -> Result<Self, ResourceIdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
            return Err(ResourceIdError);
        }
        Ok(Self(text.into()))
    }

    /// A new random (version 4) UUID.
    pub fn random(random: &dyn Random) -> Self {
        let mut bytes = random.bytes::<16>();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(hyphenated(&bytes).into())
    }

    /// The id as the client sees it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn hyphenated(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (position, byte) in bytes.iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for nibble in [byte >> 4, byte & 0x0f] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    text
}

impl std::fmt::Debug for ResourceId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ResourceId(..)")
    }
}

impl std::fmt::Display for ResourceIdError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an id has 1 to 64 characters out of A-Z, a-z, 0-9, `-` and `.`")
    }
}

impl std::error::Error for ResourceIdError {}

/// One request, followed through every tier: a ULID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(ulid::Ulid);

impl RequestId {
    /// A new id, ordered by time.
    pub fn new(clock: &dyn Clock, random: &dyn Random) -> Self {
        let milliseconds = u64::try_from(clock.now().micros() / 1000).unwrap_or(0);
        Self(ulid::Ulid::from_parts(milliseconds, u128::from_be_bytes(random.bytes())))
    }

    /// Reads an id that another tier of ours made.
    pub fn parse(text: &str) -> Option<Self> {
        ulid::Ulid::from_string(text).ok().map(Self)
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, formatter)
    }
}

/// A tier of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// The internet-facing load balancer.
    PublicEdge,
    /// Pages and the API gateway.
    Web,
    /// The load balancer between web and app.
    InternalEdge,
    /// FHIR API, authorization, audit, encryption.
    App,
    /// The process that starts and watches the others.
    Supervisor,
}

impl Tier {
    /// The name used in identities, tables and file names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PublicEdge => "public-edge",
            Self::Web => "web",
            Self::InternalEdge => "internal-edge",
            Self::App => "app",
            Self::Supervisor => "supervisor",
        }
    }
}

/// One process of one tier, such as `web-2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct InstanceId {
    /// The tier it belongs to.
    pub tier: Tier,
    /// Counted from 1 within the tier.
    pub number: u16,
}

impl InstanceId {
    /// The URI subject alternative name in its certificate, `spiffe://ward/<tier>/<number>`.
    pub fn uri(self) -> String {
        format!("spiffe://ward/{}/{}", self.tier.name(), self.number)
    }
}

impl std::fmt::Display for InstanceId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}-{}", self.tier.name(), self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRandom;

    #[test]
    fn ids_are_checked() {
        assert!(ResourceId::parse("a-1.B").is_ok());
        for bad in ["", "a b", "a/b", "é", &"x".repeat(65)] {
            assert_eq!(ResourceId::parse(bad), Err(ResourceIdError));
        }
        let id = ResourceId::random(&SystemRandom);
        assert_eq!(id.as_str().len(), 36);
        assert_eq!(&id.as_str()[14..15], "4");
    }
}
