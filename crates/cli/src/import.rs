//! `ward import`: Bundles, NDJSON (plain or gzip) and single resources, through the front door.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::operator::{Operator, explanation};
use crate::output::{self, Format};

/// Load FHIR resources into the running stack.
///
/// PATH is a file or a directory: `.json` with one resource or a Bundle, `.ndjson` with one resource a line, either
/// also `.gz`. A Bundle's entries are taken one by one. What is already there is left as it is, so that an
/// interrupted import is simply run again.
#[derive(clap::Args, Debug)]
pub(crate) struct Import {
    /// Files and directories.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Store a Bundle as the resource it is instead of taking its entries.
    #[arg(long)]
    keep_bundles: bool,
    /// Where a resource with the same id is there but different, write a new version of it.
    #[arg(long)]
    overwrite: bool,
}

/// Lines sent at once, and their size at most.
const CHUNK_LINES: usize = 500;
const CHUNK_BYTES: usize = 4 << 20;

/// What became of the resources.
#[derive(Default)]
pub(crate) struct Summary {
    counts: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Place and reason of each resource that was not taken.
    pub(crate) rejections: Vec<(String, String)>,
}

impl Import {
    /// Exit status: an error if anything was rejected, after everything else is in.
    pub(crate) async fn run(self, operator: &mut Operator, format: Format) -> anyhow::Result<()> {
        let mut files = Vec::new();
        for path in &self.paths {
            collect(path, &mut files)?;
        }
        anyhow::ensure!(!files.is_empty(), "no .json, .ndjson or .gz file in what you named");
        let bytes: u64 = files.iter().filter_map(|file| file.metadata().ok()).map(|data| data.len()).sum();
        let bar = progress_bar(bytes, format);
        let mut summary = Summary::default();
        let started = Instant::now();
        for file in &files {
            bar.set_message(file.file_name().unwrap_or_default().to_string_lossy().into_owned());
            self.file(file, operator, &mut summary, &bar).await?;
        }
        bar.finish_and_clear();
        summary.report(started.elapsed(), format);
        anyhow::ensure!(summary.rejections.is_empty(), "{} rejected", summary.rejections.len());
        Ok(())
    }

    async fn file(
        &self,
        path: &Path,
        operator: &mut Operator,
        summary: &mut Summary,
        bar: &ProgressBar,
    ) -> anyhow::Result<()> {
        let place = path.display().to_string();
        let raw = std::fs::File::open(path).with_context(|| format!("cannot open `{place}`"))?;
        let raw = bar.wrap_read(raw);
        let name = place.strip_suffix(".gz").unwrap_or(&place);
        let reader: Box<dyn Read> = if place.ends_with(".gz") {
            Box::new(flate2::read::MultiGzDecoder::new(raw))
        } else {
            Box::new(raw)
        };
        if name.ends_with(".json") {
            let mut text = Vec::new();
            BufReader::new(reader)
                .read_to_end(&mut text)
                .with_context(|| format!("cannot read `{place}`"))?;
            let lines = self.resources(&text);
            for (number, chunk) in chunks(&lines).enumerate() {
                let _ = number;
                let first = chunk.0;
                let where_is = |line: usize| match lines.len() {
                    1 => place.clone(),
                    _ => format!("{place}: entry {}", first + line),
                };
                send(operator, chunk.1, self.overwrite, summary, where_is).await?;
            }
            return Ok(());
        }
        let mut reader = BufReader::with_capacity(1 << 20, reader);
        let (mut line_number, mut chunk, mut numbers, mut size) = (0_usize, Vec::new(), Vec::new(), 0);
        loop {
            let mut line = String::new();
            let read = match reader.read_line(&mut line) {
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    line_number += 1;
                    summary.reject(format!("{place}:{line_number}"), "not UTF-8".to_owned());
                    continue;
                }
                Err(error) => return Err(error).with_context(|| format!("cannot read `{place}`")),
            };
            line_number += 1;
            let text = line.trim();
            if !text.is_empty() {
                size += text.len();
                chunk.push(text.to_owned());
                numbers.push(line_number);
            }
            if read == 0 || chunk.len() == CHUNK_LINES || size > CHUNK_BYTES {
                let place_of = |line: usize| {
                    format!("{place}:{}", numbers.get(line.saturating_sub(1)).copied().unwrap_or_default())
                };
                send(operator, &chunk, self.overwrite, summary, place_of).await?;
                (chunk, numbers, size) = (Vec::new(), Vec::new(), 0);
            }
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// The resources of one JSON file, each on one line. Text that is no JSON goes up as it is: the stack says
    /// what is wrong with it.
    fn resources(&self, text: &[u8]) -> Vec<String> {
        let whole = || vec![String::from_utf8_lossy(text).replace(['\n', '\r'], " ")];
        let limits = ward_fhir::json::Limits { bytes: 1 << 30, depth: 100 };
        let Ok(value) = ward_fhir::json::parse(text, &limits) else { return whole() };
        let is_bundle = value.get("resourceType").and_then(Value::as_str) == Some("Bundle");
        if !is_bundle || self.keep_bundles {
            return vec![value.to_string()];
        }
        let entries = value.get("entry").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        resolve(entries)
    }
}

/// The entries' resources, with references by `fullUrl` turned into references by id.
fn resolve(entries: &[Value]) -> Vec<String> {
    let mut known = std::collections::HashMap::new();
    for entry in entries {
        if let (Some(url), Some(resource)) =
            (entry.get("fullUrl").and_then(Value::as_str), entry.get("resource"))
            && let (Some(kind), Some(id)) = (
                resource.get("resourceType").and_then(Value::as_str),
                resource.get("id").and_then(Value::as_str),
            )
        {
            known.insert(url.to_owned(), format!("{kind}/{id}"));
        }
    }
    entries
        .iter()
        .filter_map(|entry| entry.get("resource"))
        .map(|resource| {
            let mut resource = resource.clone();
            ward_fhir::bundle::rewrite_references(&mut resource, &known);
            resource.to_string()
        })
        .collect()
}

fn chunks(lines: &[String]) -> impl Iterator<Item = (usize, &[String])> {
    lines.chunks(CHUNK_LINES).enumerate().map(|(number, chunk)| (number * CHUNK_LINES, chunk))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let data = std::fs::metadata(path).with_context(|| format!("cannot find `{}`", path.display()))?;
    if data.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut inside: Vec<PathBuf> =
        std::fs::read_dir(path)?.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    inside.sort();
    for path in inside {
        let name = path.to_string_lossy().into_owned();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        if path.is_dir() || name.ends_with(".json") || name.ends_with(".ndjson") {
            collect(&path, files)?;
        }
    }
    Ok(())
}

/// Sends one chunk of lines and adds what became of them to `summary`; `place` tells where the n-th line, counted
/// from 1, came from.
pub(crate) async fn send(
    operator: &mut Operator,
    lines: &[String],
    overwrite: bool,
    summary: &mut Summary,
    place: impl Fn(usize) -> String,
) -> anyhow::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let path = if overwrite { "/ward/import?overwrite=true" } else { "/ward/import" };
    let body = Bytes::from(lines.join("\n"));
    let response = operator.send("POST", path, "application/x-ndjson", body).await?;
    anyhow::ensure!(response.status().is_success(), "{}", explanation(&response));
    for line in response.body().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let result: Value = serde_json::from_slice(line).context("the stack's answer is not understood")?;
        let text = |name: &str| result.get(name).and_then(Value::as_str).unwrap_or_default();
        let number =
            result.get("line").and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok());
        match text("outcome") {
            "created" => summary.count(text("type"), "created"),
            "updated" => summary.count(text("type"), "updated"),
            "unchanged" => summary.count(text("type"), "unchanged"),
            "conflict" => {
                let why = "a different resource with this id is already there (--overwrite replaces it)";
                summary.reject(place(number.unwrap_or(0)), why.to_owned());
            }
            _ => summary.reject(place(number.unwrap_or(0)), text("reason").to_owned()),
        }
    }
    Ok(())
}

/// A bar on standard error; hidden for scripts.
pub(crate) fn progress_bar(total: u64, format: Format) -> ProgressBar {
    if format == Format::Json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {percent:>3}%  {elapsed} elapsed, {eta} left  {msg}");
    let bar = ProgressBar::new(total);
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

impl Summary {
    fn count(&mut self, kind: &str, outcome: &'static str) {
        *self.counts.entry(kind.to_owned()).or_default().entry(outcome).or_default() += 1;
    }

    fn reject(&mut self, place: String, reason: String) {
        self.rejections.push((place, reason));
    }

    fn report(&self, took: std::time::Duration, format: Format) {
        let total: u64 = self.counts.values().flat_map(BTreeMap::values).sum();
        let all = total + self.rejections.len() as u64;
        if format == Format::Json {
            let rejections: Vec<Value> = self
                .rejections
                .iter()
                .map(|(place, reason)| json!({"place": place, "reason": reason}))
                .collect();
            output::json(&json!({
                "types": self.counts, "accepted": total, "rejections": rejections,
                "seconds": took.as_secs_f64(),
            }));
            return;
        }
        let cell = |outcomes: &BTreeMap<&'static str, u64>, name| {
            outcomes.get(name).copied().unwrap_or(0).to_string()
        };
        let rows: Vec<Vec<String>> = self
            .counts
            .iter()
            .map(|(kind, outcomes)| {
                vec![
                    kind.clone(),
                    cell(outcomes, "created"),
                    cell(outcomes, "updated"),
                    cell(outcomes, "unchanged"),
                ]
            })
            .collect();
        output::raw(&output::table(&["TYPE", "CREATED", "UPDATED", "UNCHANGED"], &rows));
        for (place, reason) in &self.rejections {
            output::line(format!("rejected  {place}: {reason}"));
        }
        let seconds = took.as_secs_f64();
        output::line(format!(
            "{total} of {all} resources are in, {} rejected; {seconds:.1} s, {:.0} resources/s",
            self.rejections.len(),
            all as f64 / seconds.max(0.001)
        ));
    }
}
