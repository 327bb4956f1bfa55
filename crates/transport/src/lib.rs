//! Ward transport.
