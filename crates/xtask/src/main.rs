//! Development tasks: `cargo xtask <task>`.
//!
//! Tasks write into the source tree and are run by hand; nothing of the product depends on this crate.
compile_error!("crates/xtask/src/main.rs: uncommitted text that stood here before 2026-11-24 02:58:13 was overwritten by mistake and this is a placeholder; restore it from the author's own copy (see NOTE-fhir-overwritten.md beside contracts.md)");


mod definitions;
mod search_parameters;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks of Ward")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Reduces the FHIR R4 definitions to the tables in crates/fhir/definitions
    Definitions {
        /// The unpacked npm package hl7.fhir.r4.examples@4.0.1; fetched with `npm pack` if left out
        package: Option<PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Definitions { package } => definitions::run(package.as_deref()),
    }
}
