//! `ward`: the HIPAA-eligible healthcare application stack in one binary.
//!
//! This crate is the shell around the others: it reads the configuration, supervises the tiers, and talks to
//! people. It decides nothing about records: every command that touches one goes through the public listener.

mod audit;
mod bench;
mod client;
mod config;
mod custody;
mod doctor;
mod export;
mod hardening;
mod import;
mod index;
mod operator;
mod output;
mod passphrase;
mod population;
mod tier;
mod up;
mod user;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::custody::Custody;
use crate::operator::{Operator, OperatorKey};
use crate::output::Format;
use crate::passphrase::PassphraseSource;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The healthcare application stack: encrypted end to end, from one command.
///
/// Start with `ward up --demo` and open the link that it prints.
#[derive(Parser)]
#[command(name = "ward", version, max_term_width = 100, arg_required_else_help = true)]
struct Arguments {
    /// Configuration file; `ward.toml` is read if it is there.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Data directory, in place of `data.directory`.
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    /// Public listener, in place of `listener.address`.
    #[arg(long, value_name = "ADDRESS", global = true)]
    listen: Option<SocketAddr>,
    /// Results as JSON, one object a line, for scripts.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    passphrase: PassphraseSource,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(up::Up),
    Import(import::Import),
    Export(export::Export),
    #[command(subcommand)]
    User(user::User),
    #[command(subcommand)]
    Audit(audit::Audit),
    #[command(subcommand)]
    Index(index::Index),
    /// Check this host and say what to do.
    Doctor,
    Bench(bench::Bench),
    /// Print every setting with its default, as a configuration file.
    Config,
    /// Print made-up patients as NDJSON; the same seed gives the same people.
    Population {
        /// How many patients.
        #[arg(long, default_value_t = 10)]
        patients: u64,
        /// Which population.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// One process of one tier; started by `ward up`.
    #[command(subcommand, hide = true)]
    Tier(tier::TierCommand),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let format = if arguments.json { Format::Json } else { Format::Text };
    if let Command::Tier(command) = arguments.command {
        return command.run();
    }
    match run(arguments, format) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match format {
                Format::Json => output::json(&serde_json::json!({"error": format!("{error:#}")})),
                Format::Text => output::note(format!("ward: {error:#}")),
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments, format: Format) -> anyhow::Result<()> {
    hardening::harden()?;
    let runtime = tokio::runtime::Runtime::new()?;
    // Looked at only where it is used: a broken file does not stand in the way of what helps to mend it.
    let config = configuration(&arguments);
    let source = arguments.passphrase;
    match arguments.command {
        Command::Up(up) => runtime.block_on(up.run(config?, &source, format)),
        Command::Import(import) => runtime.block_on(async {
            let mut operator = sign_in(&config?, &source).await?;
            import.run(&mut operator, format).await
        }),
        Command::Export(export) => runtime.block_on(async {
            let mut operator = sign_in(&config?, &source).await?;
            export.run(&mut operator, format).await
        }),
        Command::User(user) => runtime.block_on(async {
            let mut operator = sign_in(&config?, &source).await?;
            user.run(&mut operator, format).await
        }),
        Command::Index(index) => runtime.block_on(async {
            let mut operator = sign_in(&config?, &source).await?;
            index.run(&mut operator, format).await
        }),
        Command::Audit(audit) => runtime.block_on(audit.run(&config?, &source, format)),
        Command::Doctor => doctor::run(&config?, format),
        Command::Bench(bench) => runtime.block_on(bench.run(format)),
        Command::Config => {
            output::raw(&config::example());
            Ok(())
        }
        Command::Population { patients, seed } => {
            for resource in population::people(seed, patients) {
                output::json(&resource);
            }
            Ok(())
        }
        Command::Tier(_) => Ok(()),
    }
}

fn configuration(arguments: &Arguments) -> anyhow::Result<Config> {
    let standard = Path::new("ward.toml");
    let path = arguments.config.as_deref().or_else(|| standard.exists().then_some(standard));
    Ok(Config::load(path)?.with_command_line(arguments.data.as_deref(), arguments.listen))
}

/// Signs the operator in at the stack that runs on `config`'s data directory.
async fn sign_in(config: &Config, source: &PassphraseSource) -> anyhow::Result<Operator> {
    let data = config.data_directory();
    let (endpoint, _) = up::running(&data)?;
    let custody = Custody::open(&data, source)?;
    Operator::sign_in(&endpoint, OperatorKey::open_or_create(&custody)?).await
}
