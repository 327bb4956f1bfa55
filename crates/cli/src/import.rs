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
        let mut sender = Sender::new(operator, self.overwrite);
        let started = Instant::now();
        let result = self.files(&files, &mut sender, &bar).await;
        let result = result.and(sender.flush().await);
        bar.finish_and_clear();
        // Also when it broke off: so much is in.
        let summary = sender.summary;
        summary.report(started.elapsed(), format);
        result.context("the import broke off; run it again, what is in stays as it is")?;
        anyhow::ensure!(summary.rejections.is_empty(), "{} rejected", summary.rejections.len());
        Ok(())
    }

    async fn files(
        &self,
        files: &[PathBuf],
        sender: &mut Sender<'_>,
        bar: &ProgressBar,
    ) -> anyhow::Result<()> {
        for file in files {
            bar.set_message(file.file_name().unwrap_or_default().to_string_lossy().into_owned());
            self.file(file, sender, bar).await?;
        }
        Ok(())
    }

    async fn file(&self, path: &Path, sender: &mut Sender<'_>, bar: &ProgressBar) -> anyhow::Result<()> {
        let place = path.display().to_string();
        let raw = std::fs::File::open(path).with_context(|| format!("cannot open `{place}`"))?;
        let raw = bar.wrap_read(raw);
        let name = place.strip_suffix(".gz").unwrap_or(&place);
        let reader: Box<dyn Read> = if place.ends_with(".gz") {
            Box::new(flate2::read::MultiGzDecoder::new(raw))
        } else {
            Box::new(raw)
        };
        let mut reader = BufReader::with_capacity(1 << 20, reader);
        if name.ends_with(".json") {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).with_context(|| format!("cannot read `{place}`"))?;
            let lines = self.resources(&text);
            let single = lines.len() == 1;
            for (number, line) in (1_u64..).zip(lines) {
                let place = if single { place.clone() } else { format!("{place}: entry {number}") };
                if line.trim().is_empty() {
                    sender.summary.reject(place, "empty".to_owned());
                } else {
                    sender.push(place, line).await?;
                }
            }
            return Ok(());
        }
        for number in 1_u64.. {
            let mut line = Vec::new();
            let read = reader.read_until(b'\n', &mut line);
            if read.with_context(|| format!("cannot read `{place}`, line {number}"))? == 0 {
                break;
            }
            let place = format!("{place}:{number}");
            match String::from_utf8(line) {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => sender.push(place, line.trim().to_owned()).await?,
                Err(_) => sender.summary.reject(place, "not UTF-8".to_owned()),
            }
        }
        Ok(())
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
            ward_fhir::bundle::rewrite_references(&mut resource, &|link| known.get(link).cloned());
            resource.to_string()
        })
        .collect()
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

/// Sends resources in chunks, and keeps account of what became of them.
pub(crate) struct Sender<'a> {
    operator: &'a mut Operator,
    overwrite: bool,
    lines: Vec<String>,
    /// Where each of `lines` comes from.
    places: Vec<String>,
    bytes: usize,
    pub(crate) summary: Summary,
}

impl<'a> Sender<'a> {
    pub(crate) fn new(operator: &'a mut Operator, overwrite: bool) -> Self {
        Self {
            operator,
            overwrite,
            lines: Vec::new(),
            places: Vec::new(),
            bytes: 0,
            summary: Summary::default(),
        }
    }

    /// Adds the resource on `line`, which comes from `place`. It may go up later, at the latest on [`Self::flush`].
    pub(crate) async fn push(&mut self, place: String, line: String) -> anyhow::Result<()> {
        if self.lines.len() == CHUNK_LINES || self.bytes + line.len() > CHUNK_BYTES {
            self.flush().await?;
        }
        self.bytes += line.len();
        self.lines.push(line);
        self.places.push(place);
        Ok(())
    }

    /// Sends what is still held.
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        self.bytes = 0;
        let lines = std::mem::take(&mut self.lines);
        let places = std::mem::take(&mut self.places);
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(()) };
        self.send(&lines, &places).await.with_context(|| format!("from {first} to {last}"))
    }

    async fn send(&mut self, lines: &[String], places: &[String]) -> anyhow::Result<()> {
        let path = if self.overwrite { "/ward/import?overwrite=true" } else { "/ward/import" };
        let body = Bytes::from(lines.join("\n"));
        let response = self.operator.send("POST", path, "application/x-ndjson", body).await?;
        anyhow::ensure!(response.status().is_success(), "{}", explanation(&response));
        for line in response.body().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let result: Value =
                serde_json::from_slice(line).context("the stack's answer is not understood")?;
            let text = |name: &str| result.get(name).and_then(Value::as_str).unwrap_or_default();
            let number =
                result.get("line").and_then(Value::as_u64).and_then(|line| usize::try_from(line).ok());
            let place =
                || number.and_then(|line| places.get(line.wrapping_sub(1))).cloned().unwrap_or_default();
            match text("outcome") {
                "created" => self.summary.count(text("type"), "created"),
                "updated" => self.summary.count(text("type"), "updated"),
                "unchanged" => self.summary.count(text("type"), "unchanged"),
                "conflict" => {
                    let why = "a different resource with this id is already there (--overwrite replaces it)";
                    self.summary.reject(place(), why.to_owned());
                }
                _ => self.summary.reject(place(), text("reason").to_owned()),
            }
        }
        Ok(())
    }
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
