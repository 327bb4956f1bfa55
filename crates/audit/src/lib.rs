//! Ward audit.
