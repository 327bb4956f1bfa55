//! Development tasks: `cargo xtask <task>`.
//!
//! Tasks write into the source tree and `target`, and are run by hand or by CI; nothing of the product depends on
//! this crate.
#![allow(clippy::print_stderr, reason = "a task tells whoever runs it what it does")]

mod arrows;
mod definitions;
mod invariants;
mod search_parameters;
mod terminology;
mod test;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", about = "Development tasks of Ward")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tests need, then check formatting and lints, run every test, check dependencies
    ///
    /// What CI runs, on a fresh Debian 12 as on a laptop. Missing Debian packages are installed with apt-get (as root
    /// or through sudo); npm packages, Python packages, cargo-nextest, cargo-deny and the specification's examples go
    /// below target/ and are fetched once. Stops at the first step that fails and says which.
    Test,
    /// Install what the tests need, and nothing else
    ///
    /// The first part of `test`, for running single tests by hand with `cargo nextest run`.
    Tools,
    /// Check that no crate depends on a crate of Ward that it must not know
    ///
    /// The table of what may depend on what is in crates/xtask/src/arrows.rs and ARCHITECTURE.md tells why. Tests of a
    /// crate may use what they like. Part of `test` too.
    Arrows,
    /// Reduce the definitions of FHIR R4 to the tables in crates/fhir/definitions
    ///
    /// Writes types.txt, codes.txt, invariants.txt, summary.txt, search_parameters.txt and compartments.txt. They are
    /// committed: after a run,
    /// `git diff --exit-code crates/fhir/definitions` tells whether they are what the package says.
    Definitions {
        /// The unpacked npm package hl7.fhir.r4.examples@4.0.1; fetched with `npm pack` into target/ if left out
        package: Option<PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    let task = Arguments::parse().task;
    let root = root()?;
    match task {
        Task::Test => test::run(&root),
        Task::Tools => test::install(&root).map(drop),
        Task::Arrows => arrows::check(),
        Task::Definitions { package } => definitions::run(&root, package.as_deref()),
    }
}

/// The top of the source tree.
fn root() -> anyhow::Result<PathBuf> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the crate has been moved")?;
    Ok(root.to_owned())
}
