//! Carries out a plan: starts the children, starts again whoever ends, rotates identities while requests run,
//! and stops everyone in the order in which requests flow.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use ward_base::{InstanceId, Tier};
use ward_monitor::event;
use ward_transport::control::{Report, Update};

use super::instance::{Child, Event, log_file};
use super::plan::Plan;
use super::table::{Row, Table};
use crate::custody;
use crate::output::{self, Format};

/// How long an instance may take to drain before it is ended.
const DRAIN: Duration = Duration::from_secs(15);
/// Between telling everyone a new key and using it, and between using it and forgetting the old one.
const ROTATION_STEP: Duration = Duration::from_secs(3);
const SLOWEST_RESTART: Duration = Duration::from_secs(5);
/// After so many starts that never got ready, an instance will not get ready by another.
const STARTS_MAX: u32 = 5;

struct Supervisor {
    plan: Plan,
    members: BTreeMap<InstanceId, State>,
    events: mpsc::UnboundedSender<Event>,
    logs: PathBuf,
    format: Format,
    table: Table,
}

struct State {
    address: SocketAddr,
    child: Option<Child>,
    ready: bool,
    /// Whether it ever was ready, in this process or one before.
    worked: bool,
    healthy: bool,
    restarts: u32,
    started: Instant,
    /// When a child that ended is started again.
    due: Option<Instant>,
}

/// Runs the stack until Ctrl-C or SIGTERM. `welcome` is polled once everyone is healthy; it gives the address and,
/// if there is one, the first administrator's link.
pub(super) async fn run(
    plan: Plan,
    welcome: impl Future<Output = anyhow::Result<(String, Option<String>)>>,
    format: Format,
) -> anyhow::Result<()> {
    let logs = plan.data().join("log");
    custody::make_private_directory(&logs)?;
    let (sender, mut events) = mpsc::unbounded_channel();
    let members =
        plan.members().into_iter().map(|(instance, address)| (instance, State::new(address))).collect();
    let mut supervisor = Supervisor { plan, members, events: sender, logs, format, table: Table::default() };
    for (instance, _) in supervisor.plan.members() {
        supervisor.start(instance)?;
    }
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut rotation = Rotation::default();
    let mut welcomed = false;
    tokio::pin!(welcome);
    let result = loop {
        let all_healthy = supervisor.members.values().all(|state| state.healthy);
        tokio::select! {
            Some(event) = events.recv() => if let Err(error) = supervisor.heard(event) {
                break Err(error);
            },
            _ = tick.tick() => {
                supervisor.restart_due();
                if welcomed && let Err(error) = rotation.step(&mut supervisor) {
                    break Err(error);
                }
                supervisor.show();
            }
            outcome = &mut welcome, if !welcomed && all_healthy => match outcome {
                Ok((address, link)) => {
                    welcomed = true;
                    supervisor.announce(&address, link.as_deref());
                }
                Err(error) => break Err(error.context("the stack came up but could not be set up")),
            },
            _ = interrupted.recv() => break Ok(()),
            _ = terminated.recv() => break Ok(()),
        }
    };
    supervisor.stop(&mut events).await;
    result
}

impl State {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            child: None,
            ready: false,
            worked: false,
            healthy: false,
            restarts: 0,
            started: Instant::now(),
            due: None,
        }
    }

    const fn label(&self) -> &'static str {
        match (&self.child, self.ready, self.healthy) {
            (None, ..) => "restarting",
            (Some(_), false, _) => "starting",
            (Some(_), true, false) => "checking",
            (Some(_), true, true) => "healthy",
        }
    }
}

impl Supervisor {
    fn start(&mut self, instance: InstanceId) -> anyhow::Result<()> {
        let bootstrap = self.plan.bootstrap(instance)?;
        let child = Child::start(instance, bootstrap, &self.logs, self.events.clone())?;
        if let Some(state) = self.members.get_mut(&instance) {
            state.child = Some(child);
            state.started = Instant::now();
            state.due = None;
        }
        Ok(())
    }

    /// Fails when an instance ended too often without ever having worked.
    fn heard(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Said(instance, Report::Ready { .. }) => {
                if let Some(state) = self.members.get_mut(&instance) {
                    state.ready = true;
                    state.worked = true;
                    // Nobody checks the public edge but the outside.
                    state.healthy = instance.tier == Tier::PublicEdge || instance.tier == Tier::InternalEdge;
                }
                self.write_status();
            }
            Event::Said(_, Report::Health { instance, healthy, .. }) => {
                if let Some(state) = self.members.get_mut(&instance) {
                    state.healthy = healthy && state.ready;
                }
                self.write_status();
            }
            Event::Said(_, Report::Draining) => {}
            Event::Ended(instance, code) => {
                if let Some(state) = self.members.get_mut(&instance) {
                    // One that ran for a while comes back at once; one that keeps dying comes back ever slower.
                    let lasted = state.started.elapsed() > Duration::from_secs(10);
                    state.restarts += 1;
                    let wait = if lasted { 100 } else { 100_u64 << state.restarts.min(6) };
                    state.due = Some(Instant::now() + Duration::from_millis(wait).min(SLOWEST_RESTART));
                    state.child = None;
                    state.ready = false;
                    state.healthy = false;
                    event!(
                        Warning,
                        "instance.ended",
                        instance = instance,
                        code = code,
                        restarts = state.restarts
                    );
                    if !state.worked && state.restarts >= STARTS_MAX {
                        let log = log_file(&self.logs, instance);
                        let event = last_event(&log).unwrap_or_else(|| "none".to_owned());
                        anyhow::bail!(
                            "{instance} ended {STARTS_MAX} times and was never ready; its last event is {event}, in `{}`",
                            log.display()
                        );
                    }
                }
                self.write_status();
            }
        }
        Ok(())
    }

    fn restart_due(&mut self) {
        let now = Instant::now();
        let due: Vec<InstanceId> = self
            .members
            .iter()
            .filter(|(_, state)| state.due.is_some_and(|due| due <= now))
            .map(|(instance, _)| *instance)
            .collect();
        for instance in due {
            if self.start(instance).is_err() {
                event!(Error, "instance.start-failed", instance = instance);
                if let Some(state) = self.members.get_mut(&instance) {
                    state.due = Some(now + SLOWEST_RESTART);
                }
            }
        }
    }

    fn send(&self, instance: InstanceId, update: &Update) {
        if let Some(child) = self.members.get(&instance).and_then(|state| state.child.as_ref()) {
            child.send(update);
        }
    }

    /// Tells everyone who may call whom.
    fn publish_policy(&self) {
        for instance in self.members.keys() {
            for update in self.plan.policy(*instance) {
                self.send(*instance, &update);
            }
        }
    }

    fn announce(&mut self, address: &str, link: Option<&str>) {
        self.write_status();
        if self.format == Format::Json {
            output::json(&json!({"event": "ready", "address": address, "enrolment_link": link}));
            return;
        }
        output::line(format!("\nWard is up at {address}"));
        output::line(format!("FHIR R4 API:  {address}/fhir/R4"));
        output::line(format!("Trust:        {}", self.plan.trust().display()));
        if let Some(link) = link {
            output::line("First administrator, enrol here once, within 24 hours:");
            output::line(format!("  {link}"));
        }
        output::line("Ctrl-C stops everything.\n");
        self.table.detach();
    }

    fn rows(&self) -> Vec<Row> {
        self.members
            .iter()
            .map(|(instance, state)| Row {
                instance: instance.to_string(),
                address: state.address.to_string(),
                process: state
                    .child
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |child| child.process.to_string()),
                state: state.label(),
                restarts: state.restarts,
            })
            .collect()
    }

    fn show(&mut self) {
        if self.format == Format::Text {
            let rows = self.rows();
            self.table.show(rows);
        }
    }

    /// Leaves the state for other commands; nothing secret is in it.
    fn write_status(&self) {
        let instances: Vec<_> = self
            .members
            .iter()
            .map(|(instance, state)| {
                json!({
                    "instance": instance.to_string(), "tier": instance.tier.name(),
                    "address": state.address.to_string(), "process": state.child.as_ref().map(|child| child.process),
                    "state": state.label(), "restarts": state.restarts,
                })
            })
            .collect();
        let status = json!({
            "supervisor": std::process::id(), "address": self.plan.address().to_string(), "host": self.plan.host(),
            "trust": self.plan.trust().display().to_string(), "instances": instances,
        });
        if custody::write_private(&super::status_file(self.plan.data()), status.to_string().as_bytes())
            .is_err()
        {
            event!(Warning, "status.write-failed");
        }
    }

    /// Drains from the outside in, so that requests under way still find those behind.
    async fn stop(&mut self, events: &mut mpsc::UnboundedReceiver<Event>) {
        if self.format == Format::Text {
            output::line("\nStopping…");
        }
        for tier in [Tier::PublicEdge, Tier::Web, Tier::InternalEdge, Tier::App] {
            let mut waiting: Vec<InstanceId> = self
                .members
                .iter()
                .filter(|(instance, state)| instance.tier == tier && state.child.is_some())
                .map(|(instance, _)| *instance)
                .collect();
            for instance in &waiting {
                self.send(*instance, &Update::Drain);
            }
            let deadline = tokio::time::Instant::now() + DRAIN;
            while !waiting.is_empty() {
                match tokio::time::timeout_at(deadline, events.recv()).await {
                    Ok(Some(Event::Ended(ended, _))) => waiting.retain(|instance| *instance != ended),
                    Ok(Some(Event::Said(..))) => {}
                    Ok(None) | Err(_) => {
                        event!(Warning, "drain.overdue", tier = tier);
                        break;
                    }
                }
            }
            // Dropping the hold closes standard input, and ends a child that would not drain.
            for (instance, state) in &mut self.members {
                if instance.tier == tier {
                    state.child = None;
                }
            }
        }
        let _ = std::fs::remove_file(super::status_file(self.plan.data()));
    }
}

/// The name of the last event in a log, and its reason if it gives one.
fn last_event(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let event: Value = serde_json::from_str(text.lines().last()?).ok()?;
    let name = event.get("event")?.as_str()?;
    let reason = event.get("reason").and_then(Value::as_str);
    Some(reason.map_or_else(|| format!("`{name}`"), |reason| format!("`{name}` ({reason})")))
}

/// Where a rotation stands. Each member in turn: everyone learns its new key, then it uses it, then its old key
/// is forgotten.
#[derive(Default)]
struct Rotation {
    last: Duration,
    queue: Vec<InstanceId>,
    step: Option<(Instant, Step)>,
}

enum Step {
    Use(InstanceId, Update),
    Forget(InstanceId),
}

impl Rotation {
    fn step(&mut self, supervisor: &mut Supervisor) -> anyhow::Result<()> {
        if let Some((due, _)) = &self.step
            && *due > Instant::now()
        {
            return Ok(());
        }
        let next = Instant::now() + ROTATION_STEP;
        match self.step.take() {
            Some((_, Step::Use(instance, update))) => {
                supervisor.send(instance, &update);
                self.step = Some((next, Step::Forget(instance)));
            }
            Some((_, Step::Forget(instance))) => {
                supervisor.plan.retire(instance);
                supervisor.publish_policy();
                event!(Information, "identity.rotated", instance = instance);
            }
            None => {}
        }
        if self.step.is_none()
            && let Some(instance) = self.queue.pop()
        {
            let update = supervisor.plan.rotate(instance)?;
            supervisor.publish_policy();
            self.step = Some((next, Step::Use(instance, update)));
        }
        if self.step.is_none() && supervisor.plan.age() - self.last > supervisor.plan.rotation_interval() {
            self.last = supervisor.plan.age();
            self.queue = supervisor.members.keys().copied().collect();
            if let Some(update) = supervisor.plan.rotate_listener()? {
                for instance in &self.queue {
                    if instance.tier == Tier::PublicEdge {
                        supervisor.send(*instance, &update);
                    }
                }
            }
        }
        Ok(())
    }
}
