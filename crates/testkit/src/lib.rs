//! What the tests of the whole stack share: a real `ward up` in a temporary directory, an HTTPS client that can
//! also misbehave, a service account, one-time codes, a real PostgreSQL server, and search in the plainest way.
//!
//! For tests only, so it panics where a test should fail.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod account;
mod https;
mod postgres;
mod search_oracle;
mod stack;

pub use account::{ServiceAccount, one_time_code};
pub use https::{Answer, Https};
pub use postgres::Postgres;
pub use search_oracle::SearchOracle;
pub use stack::{Stack, StackOptions, repository, tools};
