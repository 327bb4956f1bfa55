use serde::{Deserialize, Serialize};
use ward_base::{ResourceId, Timestamp};

use crate::totp::TotpSecret;
use crate::{ClientKeys, Mfa, Scopes};

/// The roles of the administrator made at the first start: they set the place up *and* work with records, until
/// they invite others and separate the two.
pub const FIRST_ADMINISTRATOR_ROLES: [Role; 2] = [Role::Administrator, Role::Clinician];

/// How long an enrolment link is good.
const ENROLMENT_SECONDS: i64 = 24 * 3600;
/// How long a sign-in may pause between password and code.
const CHALLENGE_SECONDS: i64 = 5 * 60;
/// Codes that may be tried after one password.
const CHALLENGE_ATTEMPTS_MAX: u8 = 5;

/// What a person, or a service account of the house, is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Manages accounts, the directory and definitions. Sees no patient's record.
    Administrator,
    /// Works with patients' records.
    Clinician,
    /// Reads the audit log and who has looked at a record; not the record.
    Auditor,
    /// The host's own commands: import, export, accounts.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Administrator, Self::Clinician, Self::Auditor, Self::Operator];

    /// Those that people may have. The operator's is the host's own.
    pub const OF_PEOPLE: [Self; 3] = [Self::Administrator, Self::Clinician, Self::Auditor];

    /// The name in requests, records and the audit log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Clinician => "clinician",
            Self::Auditor => "auditor",
            Self::Operator => "operator",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// A name to sign in with: 1 to 64 letters, digits, `.`, `-`, `_`, `@`, `+`; case does not matter.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Username(Box<str>);

/// The text is not a user name. Holds nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a user name has 1 to 64 letters, digits, `.`, `-`, `_`, `@` or `+`")]
pub struct UsernameError;

impl Username {
    /// Checks `text` and lowers its case.
    pub fn parse(text: &str) -> Result<Self, UsernameError> {
        let lower = text.trim().to_lowercase();
        let allowed = |c: char| c.is_alphanumeric() || ".-_@+".contains(c);
        let count = lower.chars().count();
        if count == 0 || count > 64 || !lower.chars().all(allowed) {
            return Err(UsernameError);
        }
        Ok(Self(lower.into()))
    }

    /// The name as stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Username {
    type Error = UsernameError;

    fn try_from(text: String) -> Result<Self, UsernameError> {
        Self::parse(&text)
    }
}

impl From<Username> for String {
    fn from(username: Username) -> Self {
        username.0.into()
    }
}

/// A person. Store it sealed: it names somebody and holds credentials.
#[derive(Clone, Serialize, Deserialize)]
pub struct UserRecord {
    /// Opaque; the only thing about the person that stands in clear in the audit log.
    pub id: String,
    /// What they sign in with.
    pub username: Username,
    /// What colleagues see.
    pub display_name: String,
    /// What they may do.
    pub roles: Vec<Role>,
    /// When the account was made.
    pub created: Timestamp,
    /// A disabled account cannot sign in, and its sessions end at once.
    pub disabled: bool,
    /// `None` until they have enrolled.
    pub credentials: Option<Credentials>,
}

/// What a person proves themselves with.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// See [`crate::password`].
    pub password_phc: String,
    /// The second factor.
    pub totp_secret: TotpSecret,
    /// The step of the code accepted last; a code counts once.
    pub totp_last_step: Option<u64>,
}

/// A service account.
#[derive(Clone, Serialize, Deserialize)]
pub struct ClientRecord {
    /// Its `client_id`. Opaque.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it may ask for at most.
    pub scopes: Scopes,
    /// The public keys that its assertions are checked with.
    pub keys: ClientKeys,
    /// Roles of the house's own clients; empty for all others, who live by their scopes alone.
    #[serde(default)]
    pub roles: Vec<Role>,
    /// When it was made.
    pub created: Timestamp,
    /// A disabled client gets no token, and the ones it has end at once.
    pub disabled: bool,
}

/// A live bearer token of a person or a client, stored under [`crate::token::storage_key`].
#[derive(Clone, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Whose it is.
    pub holder: Holder,
    /// When it began.
    pub created: Timestamp,
    /// The last request that was not passive.
    pub last_used: Timestamp,
    /// It ends after this long without use; 0 means never for that reason.
    pub idle_seconds: u32,
    /// It ends then whatever happens.
    pub expires: Timestamp,
}

/// Whose a token is.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// A person, signed in.
    User {
        /// [`UserRecord::id`].
        id: String,
        /// How they proved themselves.
        mfa: Mfa,
    },
    /// A client, with what it was granted.
    Client {
        /// [`ClientRecord::id`].
        id: String,
        /// What this token may do, at most.
        scopes: Scopes,
    },
}

impl UserRecord {
    /// A new person who has yet to enrol.
    pub fn invited(
        id: &ResourceId,
        username: Username,
        display_name: String,
        roles: Vec<Role>,
        now: Timestamp,
    ) -> Self {
        let id = id.as_str().to_owned();
        Self { id, username, display_name, roles, created: now, disabled: false, credentials: None }
    }
}

impl SessionRecord {
    /// A session that begins at `now`.
    pub fn start(holder: Holder, now: Timestamp, idle_seconds: u32, absolute_seconds: u32) -> Self {
        Self {
            holder,
            created: now,
            last_used: now,
            idle_seconds,
            expires: now.plus_seconds(absolute_seconds.into()),
        }
    }

    /// Whether it may still be used at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.remaining_seconds(now) > 0
    }

    /// Seconds until it ends if it is not used any more; 0 if it has ended.
    pub fn remaining_seconds(&self, now: Timestamp) -> u32 {
        let mut end = self.expires;
        if self.idle_seconds > 0 {
            end = end.min(self.last_used.plus_seconds(self.idle_seconds.into()));
        }
        let micros = end.micros().saturating_sub(now.micros()).max(0);
        u32::try_from((micros + 999_999) / 1_000_000).unwrap_or(u32::MAX)
    }

    /// Notes a use at `now`. Returns whether the note is worth storing: the caller may keep newer uses in memory
    /// and store one about every twentieth part of the idle time.
    pub fn renew(&mut self, now: Timestamp) -> bool {
        let worth = now >= self.last_used.plus_seconds(i64::from(self.idle_seconds / 20).max(1));
        if worth {
            self.last_used = now;
        }
        worth
    }
}

/// An invitation, stored under the key of the token in its link.
#[derive(Clone, Serialize, Deserialize)]
pub struct EnrolmentRecord {
    /// Who is invited.
    pub user: String,
    /// The second factor they are shown, the same each time the link is opened.
    pub totp_secret: TotpSecret,
    /// When the link ends.
    pub expires: Timestamp,
}

impl EnrolmentRecord {
    /// An invitation good for 24 hours. Delete it when it is used.
    pub fn new(user: String, totp_secret: TotpSecret, now: Timestamp) -> Self {
        Self { user, totp_secret, expires: now.plus_seconds(ENROLMENT_SECONDS) }
    }

    /// Whether it may be used at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.expires
    }
}

/// A sign-in between password and code.
#[derive(Clone, Serialize, Deserialize)]
pub struct ChallengeRecord {
    /// Whose; `None` for a name nobody has or a wrong password, so that the second step looks the same.
    pub user: Option<String>,
    /// The name that was typed: failures are counted under it, whoever stands behind.
    pub username: String,
    /// When it ends.
    pub expires: Timestamp,
    /// Codes tried so far.
    pub attempts: u8,
}

impl ChallengeRecord {
    /// A challenge good for five minutes and five codes. Delete it when it is met.
    pub fn new(user: Option<String>, username: String, now: Timestamp) -> Self {
        Self { user, username, expires: now.plus_seconds(CHALLENGE_SECONDS), attempts: 0 }
    }

    /// Whether another code may be tried at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.expires && self.attempts < CHALLENGE_ATTEMPTS_MAX
    }

    /// The record after one more wrong code.
    #[must_use]
    pub fn after_failure(mut self) -> Self {
        self.attempts = self.attempts.saturating_add(1);
        self
    }
}

macro_rules! silent_debug {
    ($($record:ident),*) => { $(impl std::fmt::Debug for $record {
        fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str(concat!(stringify!($record), "(..)"))
        }
    })* };
}

silent_debug!(
    Username,
    UserRecord,
    Credentials,
    ClientRecord,
    SessionRecord,
    Holder,
    EnrolmentRecord,
    ChallengeRecord
);

#[cfg(test)]
mod tests {
    use super::*;
    use ward_base::SystemRandom;

    fn session() -> SessionRecord {
        let holder = Holder::User { id: "u".to_owned(), mfa: Mfa::Totp };
        SessionRecord::start(holder, Timestamp(0), 900, 43_200)
    }

    #[test]
    fn a_session_ends_when_idle_and_when_old() {
        let mut session = session();
        let at = |seconds| Timestamp(0).plus_seconds(seconds);
        assert_eq!(session.remaining_seconds(at(0)), 900);
        assert!(session.is_live(at(899)));
        assert!(!session.is_live(at(900)));
        assert!(!session.renew(at(44)), "too soon to be worth a write");
        assert!(session.renew(at(800)));
        assert_eq!(session.remaining_seconds(at(1000)), 700);
        for moment in (1000..43_200).step_by(500) {
            session.renew(at(moment));
        }
        assert!(session.is_live(at(43_199)));
        assert!(!session.is_live(at(43_200)), "however busy");
    }

    #[test]
    fn challenges_and_invitations_end() {
        let mut challenge = ChallengeRecord::new(None, "ada".to_owned(), Timestamp(0));
        assert!(challenge.is_live(Timestamp(0).plus_seconds(299)));
        assert!(!challenge.is_live(Timestamp(0).plus_seconds(300)));
        for _ in 0..5 {
            assert!(challenge.is_live(Timestamp(0)));
            challenge = challenge.after_failure();
        }
        assert!(!challenge.is_live(Timestamp(0)));
        let enrolment = EnrolmentRecord::new("u".to_owned(), TotpSecret::new(&SystemRandom), Timestamp(0));
        assert!(enrolment.is_live(Timestamp(0).plus_seconds(86_399)));
        assert!(!enrolment.is_live(Timestamp(0).plus_seconds(86_400)));
    }

    #[test]
    fn user_names_have_one_spelling() {
        assert_eq!(Username::parse(" Ada.Lovelace ").unwrap().as_str(), "ada.lovelace");
        for bad in ["", "a b", "a/b", "<script>", &"x".repeat(65)] {
            assert!(Username::parse(bad).is_err());
        }
    }

    #[test]
    fn records_round_trip_and_say_nothing_in_debug() {
        let id = ResourceId::random(&SystemRandom);
        let username = Username::parse("ada").unwrap();
        let mut user =
            UserRecord::invited(&id, username, "Ada L.".to_owned(), vec![Role::Clinician], Timestamp(5));
        user.credentials = Some(Credentials {
            password_phc: "$argon2id$".to_owned(),
            totp_secret: TotpSecret::new(&SystemRandom),
            totp_last_step: Some(7),
        });
        let json = serde_json::to_string(&user).unwrap();
        let read: UserRecord = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
        assert_eq!(format!("{user:?} {:?}", user.username), "UserRecord(..) Username(..)");
        let session = serde_json::to_string(&session()).unwrap();
        assert_eq!(
            session,
            r#"{"holder":{"user":{"id":"u","mfa":"totp"}},"created":0,"last_used":0,"idle_seconds":900,"expires":43200000000}"#
        );
    }
}
