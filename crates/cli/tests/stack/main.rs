//! The whole stack, through its public doors: real processes, real TLS, real clients.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod api;
mod audit_log;
mod browser;
mod bulk_data;
mod bulk_import;
mod canary;
mod clients;
mod command_line;
mod conditional;
mod crash;
mod examples;
mod isolation;
mod profiles;
mod search;
mod search_parameters;
mod server;
mod subscription;
mod terminology;
mod us_core;

use ward_testkit::{Stack, StackOptions};

/// A stack with nothing in it.
fn empty_stack() -> Stack {
    stack(StackOptions::default())
}

fn stack(options: StackOptions) -> Stack {
    Stack::start(env!("CARGO_BIN_EXE_ward"), options)
}
