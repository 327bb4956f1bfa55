//! How an entry stands in the log: its fields in the clear, its tokens, and what is sealed within it.

use std::borrow::Cow;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use ward_base::{ResourceId, Timestamp};

use crate::AuditKeys;
use crate::entry::{Class, Outcome};

/// The version of the format, in every entry.
pub(crate) const VERSION: u8 = 1;

/// 128 bits that name a value to whoever has the key; base64url in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token(pub(crate) [u8; 16]);

/// An entry as it stands in the log, in this order.
#[derive(Serialize, Deserialize)]
pub(crate) struct Encoded<'a> {
    pub(crate) v: u8,
    pub(crate) id: Cow<'a, str>,
    pub(crate) time: i64,
    pub(crate) class: Class,
    pub(crate) action: Cow<'a, str>,
    pub(crate) outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) roles: Vec<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mfa: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) purpose: Option<Cow<'a, str>>,
    pub(crate) policy: u32,
    pub(crate) request: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    pub(crate) resource_type: Option<Cow<'a, str>>,
    pub(crate) rows: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) part: Option<(u32, u32)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) patients: Vec<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resource: Option<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sealed: Option<Cow<'a, str>>,
}

/// What is sealed within an entry.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Sealed<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resource: Option<(Cow<'a, str>, Cow<'a, str>, Option<u64>)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) patients: Vec<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) query: Option<Cow<'a, str>>,
}

/// What anyone can read of an entry without keys, and all that verification and the index need.
#[derive(Deserialize)]
pub(crate) struct Outline {
    v: u8,
    pub(crate) time: i64,
    #[serde(default)]
    pub(crate) patients: Vec<Token>,
}

impl Outline {
    /// Reads it; `None` if these bytes are not an entry of a version known here.
    pub(crate) fn read(entry: &[u8]) -> Option<Self> {
        serde_json::from_slice(entry).ok().filter(|outline: &Self| outline.v == VERSION)
    }
}

/// An encoded entry with the tokens of its patients, for the index.
pub(crate) struct Line {
    pub(crate) bytes: Vec<u8>,
    pub(crate) patients: Vec<Token>,
}

/// The token of a patient.
pub(crate) fn patient_token(keys: &AuditKeys, patient: &ResourceId) -> Token {
    Token(keys.token("audit/patient", &[patient.as_str().as_bytes()]))
}

/// An IPv4 address has one token, however it is written.
pub(crate) fn address_token(keys: &AuditKeys, address: IpAddr) -> Token {
    match address.to_canonical() {
        IpAddr::V4(address) => Token(keys.token("audit/address", &[&address.octets()])),
        IpAddr::V6(address) => Token(keys.token("audit/address", &[&address.octets()])),
    }
}

/// What a sealed part is bound to, so that it opens in its own entry only.
pub(crate) fn binding(id: ulid::Ulid, time: Timestamp) -> Vec<u8> {
    let mut bytes = b"ward/v1/audit-entry".to_vec();
    bytes.extend_from_slice(&id.0.to_be_bytes());
    bytes.extend_from_slice(&time.micros().to_be_bytes());
    bytes
}

impl Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text.as_bytes()).ok();
        let token = bytes.and_then(|bytes| bytes.try_into().ok());
        token.map(Self).ok_or_else(|| serde::de::Error::custom("not a token"))
    }
}
