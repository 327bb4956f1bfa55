//! Ward web.
