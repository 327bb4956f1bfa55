//! Ward fhir.
