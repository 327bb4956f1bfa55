//! Ward app.
