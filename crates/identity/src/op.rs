use serde::{Deserialize, Serialize};
use ward_base::{RequestId, Timestamp};

use crate::{ClientRecord, Holder, Role, Scopes, SessionRecord, UserRecord};

/// How strongly a caller has proven who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mfa {
    /// A password alone. Nothing is allowed with it.
    Password,
    /// A password and a one-time code.
    Totp,
    /// A private key that never leaves its holder.
    Key,
}

impl Mfa {
    /// The name in the audit log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Totp => "totp",
            Self::Key => "key",
        }
    }
}

/// Why somebody uses protected health information (45 CFR 164.501, 164.506, 164.512), by the words that the
/// header `x-ward-purpose-of-use` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
pub enum Purpose {
    /// Care of the patient.
    Treatment,
    /// Payment for care.
    Payment,
    /// Running the place: quality, training, audits.
    Operations,
    /// Care in an emergency.
    Emergency,
    /// The patient asked.
    PatientRequest,
    /// Public health reporting.
    PublicHealth,
    /// Research under an authorisation or waiver.
    Research,
    /// Machines keeping the system going.
    System,
}

impl Purpose {
    const ALL: [Self; 8] = [
        Self::Treatment,
        Self::Payment,
        Self::Operations,
        Self::Emergency,
        Self::PatientRequest,
        Self::PublicHealth,
        Self::Research,
        Self::System,
    ];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Treatment => "TREATMENT",
            Self::Payment => "PAYMENT",
            Self::Operations => "OPERATIONS",
            Self::Emergency => "EMERGENCY",
            Self::PatientRequest => "PATIENT-REQUEST",
            Self::PublicHealth => "PUBLIC-HEALTH",
            Self::Research => "RESEARCH",
            Self::System => "SYSTEM",
        }
    }

    /// Reads the word, exactly.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == text)
    }
}

/// What an [`Op`] needs to know of the request besides who makes it.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The id that follows the request through the tiers.
    pub id: RequestId,
    /// When it came.
    pub now: Timestamp,
    /// What for; `None` takes the default: treatment for people, system for clients.
    pub purpose: Option<Purpose>,
}

/// One authenticated operation: who, why, and under which request.
///
/// Only this crate makes one, out of a live session of an enabled account; whoever holds one need not ask
/// whether the caller is authenticated, only [`crate::decide`] whether they may.
#[derive(Clone)]
pub struct Op {
    pub(crate) who: Who,
    purpose: Purpose,
    request: RequestId,
    started: Timestamp,
}

#[derive(Clone)]
pub(crate) enum Who {
    User { id: String, roles: Vec<Role>, mfa: Mfa },
    Client { id: String, roles: Vec<Role>, scopes: Scopes },
}

/// Why a token does not authenticate. All of them are answered alike, with 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// Too long unused, or too old.
    #[error("the session has ended")]
    Ended,
    /// The account was disabled.
    #[error("the account is disabled")]
    Disabled,
    /// The records do not belong together: a fault of the calling code.
    #[error("the session belongs to another account")]
    Mismatch,
}

impl Op {
    /// An operation of a person.
    pub fn for_session(
        session: &SessionRecord,
        user: &UserRecord,
        request: Request,
    ) -> Result<Self, OpError> {
        let Holder::User { id, mfa } = &session.holder else { return Err(OpError::Mismatch) };
        if *id != user.id {
            return Err(OpError::Mismatch);
        }
        let who = Who::User { id: id.clone(), roles: user.roles.clone(), mfa: *mfa };
        Self::checked(session, user.disabled, who, request, Purpose::Treatment)
    }

    /// An operation of a client.
    ///
    /// What the client may do is what the token was granted *and* what the client is still registered for, so
    /// that taking a scope away takes effect at once.
    pub fn for_client(
        session: &SessionRecord,
        client: &ClientRecord,
        request: Request,
    ) -> Result<Self, OpError> {
        let Holder::Client { id, scopes } = &session.holder else { return Err(OpError::Mismatch) };
        if *id != client.id {
            return Err(OpError::Mismatch);
        }
        let scopes = client.scopes.narrowed_to(scopes).unwrap_or_default();
        let who = Who::Client { id: id.clone(), roles: client.roles.clone(), scopes };
        Self::checked(session, client.disabled, who, request, Purpose::System)
    }

    fn checked(
        session: &SessionRecord,
        disabled: bool,
        who: Who,
        request: Request,
        default: Purpose,
    ) -> Result<Self, OpError> {
        if disabled {
            return Err(OpError::Disabled);
        }
        if !session.is_live(request.now) {
            return Err(OpError::Ended);
        }
        let purpose = request.purpose.unwrap_or(default);
        Ok(Self { who, purpose, request: request.id, started: request.now })
    }

    /// The person's opaque id.
    pub fn user(&self) -> Option<&str> {
        match &self.who {
            Who::User { id, .. } => Some(id),
            Who::Client { .. } => None,
        }
    }

    /// The client's id.
    pub fn client(&self) -> Option<&str> {
        match &self.who {
            Who::User { .. } => None,
            Who::Client { id, .. } => Some(id),
        }
    }

    /// The caller's roles.
    pub fn roles(&self) -> &[Role] {
        match &self.who {
            Who::User { roles, .. } | Who::Client { roles, .. } => roles,
        }
    }

    /// How the caller proved who they are.
    pub fn mfa(&self) -> Mfa {
        match &self.who {
            Who::User { mfa, .. } => *mfa,
            Who::Client { .. } => Mfa::Key,
        }
    }

    /// Why.
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Under which request.
    pub const fn request(&self) -> RequestId {
        self.request
    }

    /// When the request came.
    pub const fn started(&self) -> Timestamp {
        self.started
    }
}

impl std::fmt::Debug for Op {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Op").field("request", &self.request).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClientKeys, Permission, Username, decide};
    use ward_base::{ResourceId, SystemClock, SystemRandom};

    fn request(now: Timestamp) -> Request {
        Request { id: RequestId::new(&SystemClock, &SystemRandom), now, purpose: None }
    }

    fn user() -> UserRecord {
        let username = Username::parse("ada").unwrap();
        let id = ResourceId::random(&SystemRandom);
        UserRecord::invited(&id, username, "Ada".to_owned(), vec![Role::Clinician], Timestamp(0))
    }

    #[test]
    fn only_a_live_session_of_an_enabled_account_makes_an_op() {
        let mut user = user();
        let holder = Holder::User { id: user.id.clone(), mfa: Mfa::Totp };
        let session = SessionRecord::start(holder, Timestamp(0), 900, 3600);
        let op = Op::for_session(&session, &user, request(Timestamp(1))).unwrap();
        assert_eq!(
            (op.user(), op.client(), op.purpose()),
            (Some(user.id.as_str()), None, Purpose::Treatment)
        );
        let late = request(Timestamp(0).plus_seconds(900));
        assert_eq!(Op::for_session(&session, &user, late).unwrap_err(), OpError::Ended);
        assert_eq!(
            Op::for_session(&session, &self::user(), request(Timestamp(1))).unwrap_err(),
            OpError::Mismatch
        );
        user.disabled = true;
        assert_eq!(Op::for_session(&session, &user, request(Timestamp(1))).unwrap_err(), OpError::Disabled);
    }

    #[test]
    fn a_scope_taken_from_a_client_is_gone_from_its_tokens() {
        let mut client = ClientRecord {
            id: "c".to_owned(),
            name: "c".to_owned(),
            scopes: Scopes::parse("system/*.rs").unwrap(),
            keys: ClientKeys::default(),
            roles: vec![],
            created: Timestamp(0),
            disabled: false,
        };
        let holder = Holder::Client { id: "c".to_owned(), scopes: Scopes::parse("system/*.rs").unwrap() };
        let session = SessionRecord::start(holder, Timestamp(0), 0, 300);
        let may_read = |client: &ClientRecord| {
            let op = Op::for_client(&session, client, request(Timestamp(1))).unwrap();
            decide(&op, Permission::Read, Some("Observation")).is_allowed()
        };
        assert!(may_read(&client));
        client.scopes = Scopes::parse("system/Patient.rs").unwrap();
        assert!(!may_read(&client));
    }

    #[test]
    fn purposes_are_read_exactly() {
        for purpose in Purpose::ALL {
            assert_eq!(Purpose::parse(purpose.name()), Some(purpose));
        }
        assert_eq!(Purpose::parse("treatment"), None);
    }
}
