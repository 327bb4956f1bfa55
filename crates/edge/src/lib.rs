//! Ward edge.
