//! Ward kms.
