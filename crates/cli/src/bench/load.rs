//! Many resources beside those that are measured: in through the import, out through the export.

use std::time::Instant;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::json;

use super::measure::Processes;
use super::workload::{Workload, observation};
use crate::import::{Sender, progress_bar};
use crate::operator::Operator;
use crate::output::{self, Format};

/// Of so many resources, one is a Patient and the others are measurements of them.
const OF_EACH: usize = 6;

/// Loads the resources from one number up to another; gives how many a second.
pub(super) async fn fill(
    operator: &mut Operator,
    from: usize,
    to: usize,
    format: Format,
) -> anyhow::Result<f64> {
    let workload = Workload::new("", "", to.div_ceil(OF_EACH), 0);
    let bar = progress_bar((to - from) as u64, format);
    let mut sender = Sender::new(operator, false);
    let started = Instant::now();
    for number in from..to {
        let (group, place) = (number / OF_EACH, number % OF_EACH);
        let patient = format!("load-{group}");
        let (mut resource, id) = match place {
            0 => (workload.patient(group), patient),
            _ => (observation(&patient, group + place), format!("{patient}-{place}")),
        };
        if let Some(members) = resource.as_object_mut() {
            members.insert("id".to_owned(), id.into());
        }
        sender.push(number.to_string(), resource.to_string()).await?;
        bar.inc(1);
    }
    sender.flush().await?;
    bar.finish_and_clear();
    anyhow::ensure!(sender.summary.rejections.is_empty(), "the stack did not take all that was loaded");
    Ok((to - from) as f64 / started.elapsed().as_secs_f64())
}

/// Takes everything out again; gives how many resources that was, and how many a second.
pub(super) async fn take_out(operator: &mut Operator) -> anyhow::Result<(usize, f64)> {
    let (started, mut count) = (Instant::now(), 0);
    for kind in ["Patient", "Observation"] {
        let path = format!("/ward/export?type={kind}");
        let response = operator.open("GET", &path, "application/x-ndjson", Bytes::new()).await?;
        anyhow::ensure!(response.status().is_success(), "the stack answered {}", response.status());
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame?;
            let data = frame.data_ref().map_or(&[][..], |data| data);
            count += data.iter().filter(|byte| **byte == b'\n').count();
        }
    }
    Ok((count, count as f64 / started.elapsed().as_secs_f64()))
}

/// Tells how many resources went which way, how fast, and the most memory that each tier ever held.
pub(super) fn report(
    what: &str,
    count: usize,
    rate: f64,
    processes: &Processes,
    format: Format,
) -> anyhow::Result<()> {
    let memory = processes.most_memory()?;
    if format == Format::Json {
        let memory: std::collections::BTreeMap<_, _> = memory.into_iter().collect();
        output::json(&json!({
            what: count, "resources_per_second": rate, "most_resident_mebibytes": memory,
        }));
        return Ok(());
    }
    let memory: Vec<String> = memory.iter().map(|(tier, size)| format!("{tier} {size} MiB")).collect();
    output::line(format!("\n{what} {count} resources, {rate:.0}/s; most resident: {}", memory.join(", ")));
    Ok(())
}
