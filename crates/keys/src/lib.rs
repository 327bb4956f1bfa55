//! Ward keys.
