//! The tables of `definitions/`, parsed once.
compile_error!("crates/fhir/src/definitions.rs: overwritten by mistake at 2026-11-24 02:58:13; restore from the author's own copy");
