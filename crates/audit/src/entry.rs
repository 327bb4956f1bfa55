//! What happened, and how it is put into the log.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use ward_base::{Phi, Random, RequestId, ResourceId, Timestamp};
use ward_keys::seal_small;

use crate::format::{Encoded, Line, Sealed, Token, VERSION, address_token, binding, patient_token};
use crate::{AuditError, AuditKeys};

/// Patients in one entry; an event with more becomes several entries.
const PATIENTS_MAX: usize = 256;
/// Bytes of a query and of a user agent, as JSON. What is longer is cut, and ends with `…`.
const QUERY_MAX: usize = 8192;
const USER_AGENT_MAX: usize = 1024;
/// An entry of a bundle has a length of two bytes.
const ENTRY_MAX: usize = 65_535;
/// Sealed parts are padded to a multiple of this, so that their sizes say little.
const PADDING: usize = 64;

/// What kind of event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A call of the FHIR API.
    Rest,
    /// Someone signed in or out, or failed to.
    Authentication,
    /// Rights were given, taken or used beyond the ordinary, such as break-glass.
    Privilege,
    /// Settings were changed.
    Configuration,
    /// The audit log itself: started, stopped, recovered, read, verified.
    AuditStatus,
    /// A backup was made, restored or tried.
    Backup,
    /// A key was made, used, rotated or destroyed.
    Key,
    /// Information left: an export, a report, an answer to a third party.
    Disclosure,
    /// Who connected to what.
    Flow,
}

impl Class {
    /// The name in an entry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Authentication => "authentication",
            Self::Privilege => "privilege",
            Self::Configuration => "configuration",
            Self::AuditStatus => "audit-status",
            Self::Backup => "backup",
            Self::Key => "key",
            Self::Disclosure => "disclosure",
            Self::Flow => "flow",
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is about to be tried. An intent without an outcome after it may have happened or not.
    Intent,
    /// It was done.
    Success,
    /// It was not allowed.
    Refused,
    /// It was allowed, and something went wrong.
    Failed,
}

impl Outcome {
    /// The name in an entry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Who it was. The ids are opaque: they stand in the log in the clear, so they must not be names or addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A person with an account.
    User(String),
    /// A program with credentials of its own.
    Client(String),
    /// Nobody known.
    Anonymous,
}

/// One event, before it is encoded. Holds PHI: it cannot be printed or serialised.
///
/// What is `&'static str` comes from the source code and stands in the log in the clear; so do the actor, the
/// numbers and the request id. `patients`, `resource`, `address` and `session` become keyed tokens, and but for
/// the session are sealed beside them, as are `user_agent` and `query`.
#[derive(Clone)]
pub struct Entry {
    /// When it happened.
    pub time: Timestamp,
    /// The request that it belongs to.
    pub request: RequestId,
    /// What kind of event it is.
    pub class: Class,
    /// What was done, such as `read`.
    pub action: &'static str,
    /// What became of it.
    pub outcome: Outcome,
    /// Who did it.
    pub actor: Actor,
    /// The roles that the actor acted in.
    pub roles: Vec<&'static str>,
    /// The second factor, if one was given.
    pub mfa: Option<&'static str>,
    /// The purpose of use, such as `TREAT`.
    pub purpose: Option<&'static str>,
    /// The version of the policy that allowed or refused it.
    pub policy_version: u32,
    /// The FHIR type that was asked for.
    pub resource_type: Option<&'static str>,
    /// Rows returned or changed.
    pub rows: u32,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// Each patient whose data was touched.
    pub patients: Vec<ResourceId>,
    /// The resource that was named: type, id, version.
    pub resource: Option<(&'static str, ResourceId, Option<u64>)>,
    /// Where the request came from.
    pub address: Option<Phi<IpAddr>>,
    /// The session's storage key.
    pub session: Option<String>,
    /// What the client calls itself; beyond 1 KiB it is cut and ends with `…`.
    pub user_agent: Option<Phi<String>>,
    /// The query; beyond 8 KiB it is cut and ends with `…`.
    pub query: Option<Phi<String>>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Entry(..)")
    }
}

impl Entry {
    /// An event of nobody known, about no patient; the fields say the rest.
    pub fn new(
        time: Timestamp,
        request: RequestId,
        class: Class,
        action: &'static str,
        outcome: Outcome,
    ) -> Self {
        Self {
            time,
            request,
            class,
            action,
            outcome,
            actor: Actor::Anonymous,
            roles: Vec::new(),
            mfa: None,
            purpose: None,
            policy_version: 0,
            resource_type: None,
            rows: 0,
            status: None,
            patients: Vec::new(),
            resource: None,
            address: None,
            session: None,
            user_agent: None,
            query: None,
        }
    }

    /// Adds this event to `lines`: one entry, or several if it touched more patients than one entry holds.
    pub(crate) fn encode(
        &self,
        keys: &AuditKeys,
        random: &dyn Random,
        lines: &mut Vec<Line>,
    ) -> Result<(), AuditError> {
        let mut seen = HashSet::new();
        let patients: Vec<&ResourceId> =
            self.patients.iter().filter(|patient| seen.insert(*patient)).collect();
        if patients.len() <= PATIENTS_MAX {
            lines.push(self.encode_part(keys, random, &patients, None)?);
            return Ok(());
        }
        let parts = u32::try_from(patients.len().div_ceil(PATIENTS_MAX)).map_err(|_| AuditError::TooLarge)?;
        for (number, patients) in (1..).zip(patients.chunks(PATIENTS_MAX)) {
            lines.push(self.encode_part(keys, random, patients, Some((number, parts)))?);
        }
        Ok(())
    }

    fn encode_part(
        &self,
        keys: &AuditKeys,
        random: &dyn Random,
        patients: &[&ResourceId],
        part: Option<(u32, u32)>,
    ) -> Result<Line, AuditError> {
        let milliseconds = u64::try_from(self.time.micros().div_euclid(1000)).unwrap_or(0);
        let id = ulid::Ulid::from_parts(milliseconds, u128::from_be_bytes(random.bytes()));
        let (user, client) = match &self.actor {
            Actor::User(id) => (Some(id.as_str()), None),
            Actor::Client(id) => (None, Some(id.as_str())),
            Actor::Anonymous => (None, None),
        };
        let tokens: Vec<Token> = patients.iter().map(|patient| patient_token(keys, patient)).collect();
        let encoded = Encoded {
            v: VERSION,
            id: id.to_string().into(),
            time: self.time.micros(),
            class: self.class,
            action: self.action.into(),
            outcome: self.outcome,
            user: user.map(Into::into),
            client: client.map(Into::into),
            roles: self.roles.iter().map(|role| (*role).into()).collect(),
            mfa: self.mfa.map(Into::into),
            purpose: self.purpose.map(Into::into),
            policy: self.policy_version,
            request: self.request.to_string().into(),
            resource_type: self.resource_type.map(Into::into),
            rows: self.rows,
            status: self.status,
            part,
            patients: tokens.clone(),
            resource: self.resource.as_ref().map(|(kind, id, _)| {
                Token(keys.token("audit/resource", &[kind.as_bytes(), id.as_str().as_bytes()]))
            }),
            address: self.address.as_ref().map(|address| address_token(keys, *address.expose())),
            session: self
                .session
                .as_ref()
                .map(|session| Token(keys.token("audit/session", &[session.as_bytes()]))),
            sealed: self.seal(keys, random, id, patients)?.map(Into::into),
        };
        let bytes = serde_json::to_vec(&encoded).map_err(|_| AuditError::TooLarge)?;
        if bytes.len() > ENTRY_MAX {
            return Err(AuditError::TooLarge);
        }
        Ok(Line { bytes, patients: tokens })
    }

    fn seal(
        &self,
        keys: &AuditKeys,
        random: &dyn Random,
        id: ulid::Ulid,
        patients: &[&ResourceId],
    ) -> Result<Option<String>, AuditError> {
        let sealed = Sealed {
            address: self.address.as_ref().map(|address| *address.expose()),
            agent: self.user_agent.as_ref().map(|agent| cut(agent.expose(), USER_AGENT_MAX)),
            resource: self
                .resource
                .as_ref()
                .map(|(kind, id, version)| ((*kind).into(), id.as_str().into(), *version)),
            patients: patients.iter().map(|patient| patient.as_str().into()).collect(),
            query: self.query.as_ref().map(|query| cut(query.expose(), QUERY_MAX)),
        };
        let mut plain = serde_json::to_vec(&sealed).map_err(|_| AuditError::TooLarge)?;
        if plain == b"{}" {
            return Ok(None);
        }
        // Blanks after a JSON value mean nothing.
        plain.resize(plain.len().next_multiple_of(PADDING), b' ');
        let key = keys.sealing(self.time);
        Ok(Some(URL_SAFE_NO_PAD.encode(seal_small(&key, &binding(id, self.time), &plain, random))))
    }
}

/// As much of `text` as takes `max` bytes in JSON; what is cut ends with `…`.
fn cut(text: &str, max: usize) -> Cow<'_, str> {
    // Two quotation marks, and the mark of a cut.
    let mut used = 2 + '…'.len_utf8();
    for (position, letter) in text.char_indices() {
        used += match letter {
            '"' | '\\' => 2,
            letter if letter < ' ' => 6,
            letter => letter.len_utf8(),
        };
        if used > max {
            return format!("{}…", text.get(..position).unwrap_or_default()).into();
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Access;
    use crate::format::Outline;
    use proptest::prelude::*;
    use ward_base::{Secret, SystemRandom};
    use ward_keys::{
        EncryptionContext, KeyDescription, KeyRing, KeyVersion, Kms, KmsError, PlainKey, WrappedKey,
    };

    /// A provider that hands the same key out in the clear.
    struct Root;

    impl Kms for Root {
        fn describe(&self) -> KeyDescription {
            KeyDescription { provider: "memory", current: KeyVersion(1) }
        }
        fn generate(&self, context: &EncryptionContext) -> Result<(PlainKey, WrappedKey), KmsError> {
            let key = PlainKey::new([3; 32]);
            Ok((key.clone(), self.wrap(&key, context)?))
        }
        fn wrap(&self, key: &PlainKey, _: &EncryptionContext) -> Result<WrappedKey, KmsError> {
            Ok(WrappedKey(key.expose().to_vec()))
        }
        fn unwrap(&self, wrapped: &WrappedKey, _: &EncryptionContext) -> Result<PlainKey, KmsError> {
            Ok(PlainKey::new(wrapped.0.clone().try_into().map_err(|_| KmsError::Refused)?))
        }
        fn rewrap(&self, wrapped: &WrappedKey, _: &EncryptionContext) -> Result<WrappedKey, KmsError> {
            Ok(wrapped.clone())
        }
        fn rotate(&self) -> Result<KeyVersion, KmsError> {
            Err(KmsError::NotSupported("not here"))
        }
    }

    fn keys() -> AuditKeys {
        AuditKeys::derive(&KeyRing::create(&Root, "main").unwrap().0, "ward.example/audit/app-1")
    }

    fn entry() -> Entry {
        let request = RequestId::parse("01KDYXB0HDTCS3MJ3Q9J5V5XKZ").unwrap();
        let mut entry = Entry::new(Timestamp(5), request, Class::Rest, "read", Outcome::Success);
        entry.query = Some(Phi::new("q".to_owned()));
        entry.address = Some(Phi::new("::ffff:192.0.2.1".parse().unwrap()));
        entry.patients = vec![ResourceId::parse("p").unwrap()];
        entry
    }

    fn encoded(entry: &Entry, keys: &AuditKeys) -> Vec<u8> {
        let mut lines = Vec::new();
        entry.encode(keys, &SystemRandom, &mut lines).unwrap();
        lines.remove(0).bytes
    }

    #[test]
    fn a_seal_opens_in_its_own_entry_only() {
        let keys = keys();
        let [one, other] = [encoded(&entry(), &keys), encoded(&entry(), &keys)];
        assert!(Access::open(&keys, 0, &one).is_ok());
        let sealed = |entry: &[u8]| {
            let entry: serde_json::Value = serde_json::from_slice(entry).unwrap();
            entry["sealed"].as_str().unwrap().to_owned()
        };
        let moved = String::from_utf8(one.clone()).unwrap().replace(&sealed(&one), &sealed(&other));
        assert!(matches!(Access::open(&keys, 7, moved.as_bytes()), Err(AuditError::Sealed { index: 7 })));
        let later = String::from_utf8(one).unwrap().replace("\"time\":5", "\"time\":6");
        assert!(matches!(Access::open(&keys, 7, later.as_bytes()), Err(AuditError::Sealed { index: 7 })));
    }

    #[test]
    fn an_address_has_one_token_and_comes_back_as_it_was() {
        let keys = keys();
        let mut plain = entry();
        plain.address = Some(Phi::new("192.0.2.1".parse().unwrap()));
        let token = |entry: &Entry| {
            let entry: serde_json::Value = serde_json::from_slice(&encoded(entry, &keys)).unwrap();
            entry["address"].as_str().unwrap().to_owned()
        };
        assert_eq!(token(&plain), token(&entry()));
        let opened = Access::open(&keys, 0, &encoded(&entry(), &keys)).unwrap();
        assert!(opened.address == entry().address);
    }

    #[test]
    fn sizes_of_sealed_parts_say_little() {
        let keys = keys();
        let lengths: HashSet<usize> = (1..30)
            .map(|length| {
                let mut entry = entry();
                entry.query = Some(Phi::new("q".repeat(length)));
                encoded(&entry, &keys).len()
            })
            .collect();
        assert!(lengths.len() <= 2, "{lengths:?}");
    }

    #[test]
    fn months_have_keys_of_their_own() {
        let keys = keys();
        let key =
            |day: i64| Secret::new(keys.sealing(Timestamp(0).plus_seconds(day * 86_400)).expose().to_vec());
        assert_eq!(key(0).expose(), key(30).expose());
        assert_ne!(key(30).expose(), key(31).expose());
        assert_ne!(key(0).expose(), key(365).expose());
    }

    #[test]
    fn every_name_is_the_one_in_the_entry() {
        let (classes, outcomes) = (
            [
                Class::Rest,
                Class::Authentication,
                Class::Privilege,
                Class::Configuration,
                Class::AuditStatus,
                Class::Backup,
                Class::Key,
                Class::Disclosure,
                Class::Flow,
            ],
            [Outcome::Intent, Outcome::Success, Outcome::Refused, Outcome::Failed],
        );
        for class in classes {
            assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{}\"", class.name()));
        }
        for outcome in outcomes {
            assert_eq!(serde_json::to_string(&outcome).unwrap(), format!("\"{}\"", outcome.name()));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let keys = keys();
            prop_assert!(Access::open(&keys, 0, &bytes).is_err());
            prop_assert!(Outline::read(&bytes).is_none());
            let mut altered = encoded(&entry(), &keys);
            let at = at.index(altered.len());
            altered[at] = with;
            let _ = (Access::open(&keys, 0, &altered), Outline::read(&altered));
        }

        #[test]
        fn texts_are_cut_to_their_bound_between_letters(text in any::<String>(), max in 10_usize..60) {
            let cut = cut(&text, max);
            let length = serde_json::to_string(&cut).unwrap().len();
            prop_assert!(length <= max);
            prop_assert!(cut == text || text.starts_with(cut.strip_suffix('…').unwrap()));
            prop_assert!(cut == text || length + 9 >= max);
        }
    }
}
