//! One child process: started, spoken to over its standard input, heard on its standard output.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;
use ward_base::{InstanceId, Tier};
use ward_transport::control::{Report, Update};
use zeroize::Zeroizing;

/// Something a child did.
pub(super) enum Event {
    /// It said something on its standard output.
    Said(InstanceId, Report),
    /// It ended, with its exit code; none if a signal ended it.
    Ended(InstanceId, Option<i32>),
}

/// Where the events of `instance` are kept.
pub(super) fn log_file(logs: &Path, instance: InstanceId) -> PathBuf {
    logs.join(format!("{instance}.jsonl"))
}

/// The supervisor's hold on a running child. Dropped, it closes the child's standard input, which drains it.
pub(super) struct Child {
    pub(super) process: u32,
    input: mpsc::UnboundedSender<Zeroizing<String>>,
}

impl Child {
    /// Starts this very program as `ward tier <tier>` and hands it `bootstrap` on its standard input, the only
    /// place where its secrets ever stand.
    pub(super) fn start(
        instance: InstanceId,
        bootstrap: Zeroizing<String>,
        logs: &Path,
        events: mpsc::UnboundedSender<Event>,
    ) -> anyhow::Result<Self> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log_file(logs, instance))?;
        let program = match instance.tier {
            Tier::PublicEdge | Tier::InternalEdge => "edge",
            Tier::Web => "web",
            Tier::App => "app",
            Tier::Supervisor => anyhow::bail!("the supervisor does not start itself"),
        };
        let mut child = tokio::process::Command::new(std::env::current_exe()?)
            .args(["tier", program])
            .env_clear()
            .current_dir(logs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log))
            // A Ctrl-C at the terminal is for the supervisor, which then drains its children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {instance}"))?;
        let process = child.id().context("the child has no process id")?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (input, mut lines) = mpsc::unbounded_channel::<Zeroizing<String>>();
        tokio::spawn(async move {
            let mut next = Some(bootstrap);
            while let Some(line) = next {
                // A child that is gone is reported by its exit, not here.
                let written = async {
                    stdin.write_all(line.as_bytes()).await?;
                    stdin.write_all(b"\n").await?;
                    stdin.flush().await
                };
                if written.await.is_err() {
                    return;
                }
                next = lines.recv().await;
            }
        });
        tokio::spawn(async move {
            let mut reports = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = reports.next_line().await {
                if let Ok(report) = serde_json::from_str::<Report>(&line) {
                    let _ = events.send(Event::Said(instance, report));
                }
            }
            let ended = child.wait().await.ok().and_then(|status| status.code());
            let _ = events.send(Event::Ended(instance, ended));
        });
        Ok(Self { process, input })
    }

    /// Sends an update; a child that is gone ignores it.
    pub(super) fn send(&self, update: &Update) {
        if let Ok(line) = serde_json::to_string(update) {
            let _ = self.input.send(line.into());
        }
    }
}
