//! Ward store.
