//! Who is asking, how that is proven, and what they may do.
//!
//! Pure: the present moment, randomness and stored records come in, decisions and records to store go out. The
//! crate holds passwords (argon2id), second factors (TOTP, RFC 6238), bearer tokens, service accounts' signed
//! assertions (RFC 7523), SMART scopes, sessions, lock-out, and [`decide`], the one place where access is
//! granted.
//!
//! It refuses to make an [`Op`] out of anything but a live session of an enabled account, so that holding one
//! proves authentication; to allow what no rule allows; and to keep a credential in a form that can be read
//! back (except the TOTP secret, which the algorithm needs and the store seals).

pub mod client_assertion;
pub mod lockout;
mod op;
pub mod password;
mod policy;
mod record;
mod scope;
pub mod token;
pub mod totp;

pub use client_assertion::{ClientKeys, ClientKeysError};
pub use op::{Mfa, Op, OpError, Purpose, Request};
pub use policy::{Decision, POLICY_VERSION, Permission, decide};
pub use record::{
    ChallengeRecord, ClientRecord, Credentials, EnrolmentRecord, FIRST_ADMINISTRATOR_ROLES, Holder, Role,
    SessionRecord, UserRecord, Username, UsernameError,
};
pub use scope::{Scope, ScopeError, Scopes};
