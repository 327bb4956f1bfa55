//! `ward bench`: how fast the stack answers, what each tier costs, and the same through the app tier alone.

mod load;
mod measure;
mod workload;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::signal::unix::{SignalKind, signal};
use ward_transport::control::Bootstrap;
use ward_transport::{Authority, Identity, Peers};

use crate::client::Endpoint;
use crate::custody::Custody;
use crate::operator::{Operator, OperatorKey};
use crate::output::{self, Format};
use crate::passphrase::PassphraseSource;

use measure::{Figure, Processes};
use workload::{Step, Workload};

/// Measure a fresh stack on this host: create, read, search and transactions over the public listener.
///
/// It starts a stack of its own in a temporary directory with every protection on, loads it with made-up patients
/// over TLS, and prints requests/s, median and 99th percentile, CPU per request by tier and resident memory. Every
/// figure is taken while driver and stack share this host's processors: compare ratios, not absolutes.
#[derive(clap::Args, Debug)]
pub(crate) struct Bench {
    /// Connections at once; each is tried in turn.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 32])]
    connections: Vec<usize>,
    /// Patients that are created; five Observations each follow.
    #[arg(long, default_value_t = 1_000)]
    patients: usize,
    /// Requests of each reading step.
    #[arg(long, default_value_t = 8_000)]
    requests: usize,
    /// Fill the stack up to so many resources first; several sizes are measured one after the other. At the end,
    /// everything is exported, and the most memory that each tier ever held is told.
    #[arg(long, value_name = "RESOURCES", value_delimiter = ',', conflicts_with = "server")]
    load: Vec<usize>,
    /// Leave out the second run, past the edges and the web tier.
    #[arg(long)]
    no_app_tier: bool,
    /// Measure a FHIR server that runs already, at this address; it needs --trust, and takes --token-file.
    #[arg(long, value_name = "HOST:PORT", requires = "trust")]
    server: Option<String>,
    /// Path of the FHIR base on that server.
    #[arg(long, value_name = "PATH", default_value = "/fhir/R4")]
    base: String,
    /// PEM file with the certificates to trust there.
    #[arg(long, value_name = "FILE")]
    trust: Option<std::path::PathBuf>,
    /// File that holds the bearer token to send.
    #[arg(long, value_name = "FILE")]
    token_file: Option<std::path::PathBuf>,
}

/// The identity that `ward up --bench` leaves for a direct connection to the app tier.
pub(crate) const IDENTITY_FILE: &str = "bench-identity.json";

impl Bench {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<()> {
        if self.server.is_some() {
            return self.outside(format).await;
        }
        let directory = std::env::temp_dir().join(format!("ward-bench-{}", std::process::id()));
        // Never one that is there already: somebody else may have made it.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("cannot make the directory `{}`", directory.display()))?;
        let result = self.inside(&directory, format).await;
        std::fs::remove_dir_all(&directory)?;
        result
    }

    async fn inside(&self, directory: &Path, format: Format) -> anyhow::Result<()> {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut stack = tokio::process::Command::new(std::env::current_exe()?)
            .args(["--json", "--data"])
            .arg(directory)
            .args(["--listen", &format!("127.0.0.1:{port}"), "up", "--demo", "--demo-patients", "0"])
            .args((!self.no_app_tier).then_some("--bench"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut lines = BufReader::new(stack.stdout.take().context("no output")?).lines();
        let ready = tokio::time::timeout(Duration::from_secs(60), async {
            while let Some(line) = lines.next_line().await? {
                let event: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
                if event.get("event").and_then(Value::as_str) == Some("ready") {
                    return Ok(());
                }
                if let Some(error) = event.get("error").and_then(Value::as_str) {
                    anyhow::bail!("{error}");
                }
            }
            anyhow::bail!("it ended")
        });
        let (mut interrupted, mut terminated) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let measured = async {
            ready
                .await
                .context("not in a minute")
                .flatten()
                .context("the stack did not come up; its directory is deleted again")?;
            self.measure(directory, format).await
        };
        // However it ends, the stack ends with it.
        let result = tokio::select! {
            result = measured => result,
            _ = interrupted.recv() => Err(anyhow::anyhow!("interrupted")),
            _ = terminated.recv() => Err(anyhow::anyhow!("terminated")),
        };
        if let Some(process) = stack.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::INT);
        }
        let _ = tokio::time::timeout(Duration::from_secs(60), stack.wait()).await;
        result
    }

    async fn measure(&self, directory: &Path, format: Format) -> anyhow::Result<()> {
        let custody = Custody::open(directory, &PassphraseSource::default())?;
        let (public, status) = crate::up::running(directory)?;
        let processes = Processes::from_status(&status)?;
        let app = (!self.no_app_tier).then(|| app_endpoint(directory, &status, &public.host)).transpose()?;
        let mut operator = Operator::sign_in(&public, OperatorKey::open_or_create(&custody)?).await?;
        let mut loaded = 0;
        let sizes = if self.load.is_empty() { &[0][..] } else { &self.load };
        for size in sizes {
            if *size > loaded {
                let rate = load::fill(&mut operator, loaded, *size, format).await?;
                load::report("imported", *size - loaded, rate, &processes, format)?;
                loaded = *size;
            }
            for connections in &self.connections {
                self.pass("public listener", &public, &custody, &public, &processes, *connections, format)
                    .await?;
            }
            if let Some(app) = &app {
                for connections in &self.connections {
                    self.pass("app tier alone", app, &custody, &public, &processes, *connections, format)
                        .await?;
                }
            }
        }
        if loaded > 0 {
            let (count, rate) = load::take_out(&mut operator).await?;
            load::report("exported", count, rate, &processes, format)?;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one call, from one place")]
    async fn pass(
        &self,
        name: &str,
        target: &Endpoint,
        custody: &Custody,
        public: &Endpoint,
        processes: &Processes,
        connections: usize,
        format: Format,
    ) -> anyhow::Result<()> {
        let mut operator = Operator::sign_in(public, OperatorKey::open_or_create(custody)?).await?;
        let authorization = operator.authorization().await?;
        let mut workload = Workload::new("/fhir/R4", &authorization, self.patients, self.requests);
        let mut figures = Vec::new();
        for step in Step::ALL {
            let before = processes.usage()?;
            let mut figure = workload.run(step, target, connections).await?;
            figure.cpu = processes.usage()?.since(&before, figure.requests);
            figures.push(figure);
        }
        report(name, connections, &figures, &processes.memory()?, format);
        Ok(())
    }

    /// The same work against any FHIR server.
    async fn outside(&self, format: Format) -> anyhow::Result<()> {
        let server = self.server.as_deref().context("no server")?;
        let trust = self.trust.as_deref().context("no certificates to trust")?;
        let (host, _) = server.rsplit_once(':').context("--server is HOST:PORT")?;
        let address = tokio::net::lookup_host(server).await?.next().context("the host is not known")?;
        let endpoint = Endpoint::new(address, host.trim_matches(['[', ']']), trust)?;
        let authorization = match &self.token_file {
            Some(path) => format!("Bearer {}", std::fs::read_to_string(path)?.trim()),
            None => String::new(),
        };
        for connections in &self.connections {
            let mut workload = Workload::new(&self.base, &authorization, self.patients, self.requests);
            let mut figures = Vec::new();
            for step in Step::ALL {
                figures.push(workload.run(step, &endpoint, *connections).await?);
            }
            report(server, *connections, &figures, &[], format);
        }
        Ok(())
    }
}

/// A connection straight to the app instance, under the identity that it accepts in a bench only. The file with
/// that identity is gone afterwards.
fn app_endpoint(directory: &Path, status: &Value, host: &str) -> anyhow::Result<Endpoint> {
    let file = directory.join(IDENTITY_FILE);
    let text = zeroize::Zeroizing::new(std::fs::read(&file)?);
    std::fs::remove_file(file)?;
    let bootstrap: Bootstrap<Value> = serde_json::from_slice(&text)?;
    let app = status
        .get("instances")
        .and_then(Value::as_array)
        .and_then(|all| all.iter().find(|one| one.get("tier").and_then(Value::as_str) == Some("app")))
        .and_then(|app| app.get("address"))
        .and_then(Value::as_str)
        .context("no app instance")?;
    let identity = Identity::new(&bootstrap.identity)?;
    let authority = Authority::from_pem(&bootstrap.authority_pem)?;
    let tls = ward_transport::mutual_client_config(&identity, &authority, &Peers::new(bootstrap.clients))?;
    Ok(Endpoint::with_tls(app.parse()?, host, tls))
}

fn report(name: &str, connections: usize, figures: &[Figure], memory: &[(String, u64)], format: Format) {
    if format == Format::Json {
        let steps: Vec<Value> = figures.iter().map(Figure::json).collect();
        let memory: std::collections::BTreeMap<_, _> = memory.iter().cloned().collect();
        output::json(&json!({
            "through": name, "connections": connections, "steps": steps, "resident_mebibytes": memory,
        }));
        return;
    }
    output::line(format!("\n{name}, {connections} connections"));
    let tiers: Vec<String> =
        figures.first().map(|figure| figure.cpu.keys().cloned().collect()).unwrap_or_default();
    let mut header = vec!["STEP", "REQUESTS/S", "P50 MS", "P99 MS"];
    let headings: Vec<String> = tiers.iter().map(|tier| format!("{} µS", tier.to_uppercase())).collect();
    header.extend(headings.iter().map(String::as_str));
    let rows: Vec<Vec<String>> = figures.iter().map(|figure| figure.row(&tiers)).collect();
    output::raw(&output::table(&header, &rows));
    let memory: Vec<String> = memory.iter().map(|(tier, size)| format!("{tier} {size} MiB")).collect();
    if !memory.is_empty() {
        output::line(format!("resident: {}", memory.join(", ")));
    }
}
