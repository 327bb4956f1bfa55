//! A balancer between real clients and real back ends.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bounds;
mod change;
mod forwarding;
mod support;
mod targets;
mod trust;
