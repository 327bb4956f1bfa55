//! What the tests of the whole stack share: a real `ward up` in a temporary directory, an HTTPS client that can
//! also misbehave, a service account, one-time codes, and a real PostgreSQL server.
//!
//! For tests only, so it panics where a test should fail.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod account;
mod https;
mod postgres;
mod stack;

pub use account::{ServiceAccount, one_time_code};
pub use https::{Answer, Https};
pub use postgres::Postgres;
pub use stack::{Stack, StackOptions, repository, tools};
