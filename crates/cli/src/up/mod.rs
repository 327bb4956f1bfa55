//! `ward up`: starts every tier as a process of its own, keeps them running, and shows how they are.

mod instance;
mod plan;
mod supervisor;
mod table;

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use crate::client::Endpoint;
use crate::config::Config;
use crate::custody::{self, Custody};
use crate::operator::{Operator, OperatorKey};
use crate::output::{self, Format};
use crate::passphrase::{self, PassphraseSource};

/// Brings the whole stack up on this host.
///
/// One process per tier instance, each with a certificate and secrets of its own; Ctrl-C stops them cleanly.
#[derive(clap::Args, Debug)]
pub(crate) struct Up {
    /// Make a passphrase file and load made-up patients. Not for real patients.
    #[arg(long)]
    demo: bool,
    /// How many made-up patients `--demo` loads at the first start.
    #[arg(long, value_name = "N", default_value_t = 100, requires = "demo")]
    demo_patients: u64,
    /// Let `ward bench` call the app tier directly. For made-up patients only.
    #[arg(long, hide = true, requires = "demo")]
    bench: bool,
}

const DEMO_WARNING: &str = "\
┌──────────────────────────────────────────────────────────────────────────────┐
│ DEMO: the keystore's passphrase lies in a file beside the data.              │
│ Every protection is on, but whoever copies this directory can open it.       │
│ DO NOT PUT REAL PATIENTS IN IT.                                              │
└──────────────────────────────────────────────────────────────────────────────┘";

impl Up {
    pub(crate) async fn run(
        self,
        config: Config,
        source: &PassphraseSource,
        format: Format,
    ) -> anyhow::Result<()> {
        // With protections left out at compile time, there is one thing that it is good for.
        anyhow::ensure!(
            self.bench || !cfg!(ward_plaintext),
            "this build encrypts nothing and answers `ward bench` only"
        );
        let data = config.data_directory();
        custody::make_private_directory(&data)?;
        let data = data.canonicalize()?;
        let _lock = lock(&data)?;
        if self.demo {
            passphrase::make_demo_file(&data, source)?;
        }
        if passphrase::demo_file(&data).exists() {
            output::note(DEMO_WARNING);
        }
        let custody = Custody::open_or_create(&data, source)?;
        let operator = OperatorKey::open_or_create(&custody)?;
        let mut plan = plan::Plan::new(&config, &data, &custody, operator.jwks())?;
        if self.bench {
            plan.open_for_bench()?;
        }
        let endpoint = Endpoint::new(plan.address(), plan.host(), plan.trust())?;
        let demo_patients = Some(self.demo_patients).filter(|count| self.demo && *count > 0);
        let welcome = async move {
            let mut operator = Operator::sign_in(&endpoint, operator).await?;
            let answer =
                operator.call("GET", "/ward/users", &Value::Null).await.context("cannot list users")?;
            let users = answer.get("users").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            // Before the first user is made, so that a load that broke off is done again, and nothing that people
            // have changed since is.
            if users.is_empty()
                && let Some(count) = demo_patients
            {
                load_demo(&mut operator, count, format).await?;
            }
            let link = first_administrator(&mut operator, users, &endpoint.origin()).await?;
            Ok::<_, anyhow::Error>((endpoint.origin(), link))
        };
        supervisor::run(plan, welcome, format).await
    }
}

/// One supervisor a data directory.
fn lock(data: &Path) -> anyhow::Result<File> {
    let file = File::options().create(true).write(true).truncate(false).open(data.join("lock"))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| anyhow::anyhow!("another `ward up` runs on `{}`; stop it first", data.display()))?;
    Ok(file)
}

/// Whether a `ward up` runs on `data`.
pub(crate) fn runs(data: &Path) -> bool {
    File::open(data.join("lock"))
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

/// Makes the first administrator if there is no user yet, and gives the one-time link while they have not enrolled.
async fn first_administrator(
    operator: &mut Operator,
    users: &[Value],
    origin: &str,
) -> anyhow::Result<Option<String>> {
    let enrolled = |user: &Value| user.get("enrolled").and_then(Value::as_bool) == Some(true);
    if users.iter().any(enrolled) {
        return Ok(None);
    }
    let request = json!({
        "username": "admin", "display_name": "First administrator", "roles": ["administrator", "clinician"],
    });
    let answer =
        operator.call("POST", "/ward/users", &request).await.context("cannot make the administrator")?;
    let token = answer.get("enrolment_token").and_then(Value::as_str).context("no enrolment token given")?;
    Ok(Some(format!("{origin}/enrol/{token}")))
}

/// Loads made-up patients into an empty store.
async fn load_demo(operator: &mut Operator, count: u64, format: Format) -> anyhow::Result<()> {
    let resources: Vec<Value> = crate::population::people(20_261, count).collect();
    let bar = crate::import::progress_bar(resources.len() as u64, format);
    bar.set_message("demo patients");
    let mut sender = crate::import::Sender::new(operator, false);
    for resource in &resources {
        sender.push("demo".to_owned(), resource.to_string()).await?;
        bar.inc(1);
    }
    sender.flush().await?;
    bar.finish_and_clear();
    let rejections = sender.summary.rejections;
    anyhow::ensure!(rejections.is_empty(), "the demo patients were refused: {:?}", rejections.first());
    Ok(())
}

/// Where the running stack's state stands for other commands.
fn status_file(data: &Path) -> PathBuf {
    data.join("status.json")
}

/// The public listener of the stack that runs on `data`, and the stack's state.
pub(crate) fn running(data: &Path) -> anyhow::Result<(Endpoint, Value)> {
    let status: Value = std::fs::read(status_file(data))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .with_context(|| format!("no stack runs on `{}`; start it with `ward up`", data.display()))?;
    let text = |name: &str| status.get(name).and_then(Value::as_str).context("the status file is damaged");
    let endpoint = Endpoint::new(text("address")?.parse()?, text("host")?, Path::new(text("trust")?))?;
    Ok((endpoint, status))
}
