//! The vocabulary every other crate shares: protected values, secrets, time, randomness and identifiers.
//!
//! This crate does no I/O and depends on no other crate of Ward. It refuses to make a protected value
//! printable: [`Phi`] and [`Secret`] have no `Display`, no `Serialize`, and a `Debug` that shows nothing.

mod id;
mod phi;
mod random;
mod time;

pub use id::{InstanceId, RequestId, ResourceId, ResourceIdError, Tier};
pub use phi::{Phi, Secret};
pub use random::{Random, SystemRandom};
pub use time::{Clock, FixedClock, SystemClock, Timestamp};
