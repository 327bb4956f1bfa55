//! FHIR R4 (4.0.1) as data: parsing, validation, FHIRPath and patches in it, search semantics, terminology, Bundles and the
//! capability statement.
//!
//! Everything follows the specification's own definitions, which `cargo xtask definitions` reduces to the text
//! tables in `definitions/`; there are no generated Rust types. Resources stay `serde_json` values, so that what a
//! client sends comes back as it was: unknown-to-us order, `1.00` and all.
//!
//! This crate does no I/O, holds no state but what it compiled once (tables, and search parameters that were added: see
//! [`search::Added`]), and knows no keys. It refuses to put anything of a resource into an error:
//! neither values nor property names it does not know, because both may hold protected health information.

pub mod bundle;
pub mod capability;
pub mod compartment;
mod definitions;
mod element;
pub mod fhirpath;
mod invariant;
pub mod json;
mod narrative;
pub mod outcome;
pub mod patch;
mod primitive;
pub mod profile;
mod resource_type;
pub mod search;
pub mod subset;
pub mod terminology;
pub mod validate;

pub use primitive::Moment;
pub use resource_type::ResourceType;
