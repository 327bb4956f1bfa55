//! Ward testkit.
