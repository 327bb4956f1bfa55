//! Ward identity.
