//! Figures: latencies, and what each tier's processes used meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

/// What one step gave.
pub(super) struct Figure {
    pub(super) step: &'static str,
    pub(super) requests: usize,
    took: Duration,
    median: Duration,
    slow: Duration,
    /// Microseconds of processor time a request, by tier.
    pub(super) cpu: BTreeMap<String, f64>,
}

impl Figure {
    /// From every request's latency and the time that all of them took together.
    pub(super) fn new(step: &'static str, took: Duration, mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        let at = |percent: usize| {
            latencies.get((latencies.len() * percent / 100).min(latencies.len().saturating_sub(1))).copied()
        };
        Self {
            step,
            requests: latencies.len(),
            took,
            median: at(50).unwrap_or_default(),
            slow: at(99).unwrap_or_default(),
            cpu: BTreeMap::new(),
        }
    }

    fn rate(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64().max(1e-9)
    }

    pub(super) fn row(&self, tiers: &[String]) -> Vec<String> {
        let milliseconds = |duration: Duration| format!("{:.2}", duration.as_secs_f64() * 1e3);
        let mut row = vec![
            self.step.to_owned(),
            format!("{:.0}", self.rate()),
            milliseconds(self.median),
            milliseconds(self.slow),
        ];
        row.extend(
            tiers.iter().map(|tier| format!("{:.0}", self.cpu.get(tier).copied().unwrap_or_default())),
        );
        row
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "step": self.step, "requests": self.requests, "requests_per_second": self.rate(),
            "p50_ms": self.median.as_secs_f64() * 1e3, "p99_ms": self.slow.as_secs_f64() * 1e3,
            "cpu_microseconds_per_request": self.cpu,
        })
    }
}

/// The processes whose use is counted, by tier; the driver is this process.
pub(super) struct Processes(Vec<(String, u64)>);

/// Processor time used so far by each tier, in microseconds.
pub(super) struct Usage(BTreeMap<String, f64>);

impl Processes {
    /// Those of a running stack.
    pub(super) fn from_status(status: &Value) -> anyhow::Result<Self> {
        let instances = status.get("instances").and_then(Value::as_array).context("no instances")?;
        let mut processes = vec![("driver".to_owned(), u64::from(std::process::id()))];
        for instance in instances {
            let tier = instance.get("tier").and_then(Value::as_str).context("no tier")?;
            let process = instance.get("process").and_then(Value::as_u64).context("an instance is down")?;
            processes.push((tier.to_owned(), process));
        }
        Ok(Self(processes))
    }

    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        let mut usage = BTreeMap::new();
        for (tier, process) in &self.0 {
            *usage.entry(tier.clone()).or_default() += processor_time(*process)?;
        }
        Ok(Usage(usage))
    }

    /// The most memory that was ever resident, by tier, in MiB.
    pub(super) fn most_memory(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let mut memory: BTreeMap<String, u64> = BTreeMap::new();
        for (tier, process) in &self.0 {
            let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
            let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
            *memory.entry(tier.clone()).or_default() += kibibytes >> 10;
        }
        Ok(memory.into_iter().collect())
    }

    /// Resident memory by tier, in MiB.
    pub(super) fn memory(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let mut memory: BTreeMap<String, u64> = BTreeMap::new();
        for (tier, process) in &self.0 {
            let text = std::fs::read_to_string(format!("/proc/{process}/statm"))?;
            let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
            *memory.entry(tier.clone()).or_default() += (pages * rustix::param::page_size() as u64) >> 20;
        }
        Ok(memory.into_iter().collect())
    }
}

impl Usage {
    /// Microseconds a request, by tier.
    pub(super) fn since(&self, before: &Self, requests: usize) -> BTreeMap<String, f64> {
        let used = |tier: &String, now: &f64| now - before.0.get(tier).copied().unwrap_or_default();
        self.0.iter().map(|(tier, now)| (tier.clone(), used(tier, now) / requests.max(1) as f64)).collect()
    }
}

/// User and system time of a process, in microseconds (proc(5), fields 14 and 15 of stat).
fn processor_time(process: u64) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).context("a process is gone")?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) * 1e6 / rustix::param::clock_ticks_per_second() as f64)
}
