//! `ward export`: gives back what went in, as NDJSON files by type.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use bytes::Bytes;
use flate2::write::GzEncoder;
use http_body_util::BodyExt as _;
use serde_json::json;

use crate::custody;
use crate::operator::Operator;
use crate::output::{self, Format};

/// Write every current resource to DIR, as it was when it came in: one NDJSON file a type.
///
/// The files hold PHI in the clear: put them on an encrypted volume and destroy them after use.
#[derive(clap::Args, Debug)]
pub(crate) struct Export {
    /// Directory for the files; made if it is not there, and it must be empty.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Only this resource type; may be given several times.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Compress with gzip.
    #[arg(long)]
    gzip: bool,
}

impl Export {
    pub(crate) async fn run(self, operator: &mut Operator, format: Format) -> anyhow::Result<()> {
        custody::make_private_directory(&self.directory)?;
        anyhow::ensure!(
            std::fs::read_dir(&self.directory)?.next().is_none(),
            "`{}` is not empty; nothing was written",
            self.directory.display()
        );
        let types = if self.types.is_empty() {
            ward_fhir::ResourceType::all().map(|kind| kind.name().to_owned()).collect()
        } else {
            for name in &self.types {
                anyhow::ensure!(
                    ward_fhir::ResourceType::parse(name).is_some(),
                    "`{name}` is not a FHIR R4 type"
                );
            }
            self.types.clone()
        };
        let mut rows = Vec::new();
        for kind in &types {
            let count = self.export_type(kind, operator).await.with_context(|| {
                format!(
                    "the export of {kind} broke off; empty `{}` before you start again",
                    self.directory.display()
                )
            })?;
            if count > 0 {
                rows.push((kind.clone(), count));
            }
        }
        let total: u64 = rows.iter().map(|row| row.1).sum();
        if format == Format::Json {
            let types: std::collections::BTreeMap<_, _> = rows.into_iter().collect();
            output::json(&json!({"types": types, "total": total}));
        } else {
            let rows: Vec<Vec<String>> =
                rows.into_iter().map(|(kind, count)| vec![kind, count.to_string()]).collect();
            output::raw(&output::table(&["TYPE", "RESOURCES"], &rows));
            output::line(format!("{total} resources written to {}", self.directory.display()));
        }
        Ok(())
    }

    async fn export_type(&self, kind: &str, operator: &mut Operator) -> anyhow::Result<u64> {
        let path = format!("/ward/export?type={kind}");
        let response = operator.open("GET", &path, "application/x-ndjson", Bytes::new()).await?;
        anyhow::ensure!(response.status().is_success(), "the stack answered {}", response.status());
        let mut body = response.into_body();
        let mut lines = 0_u64;
        let mut out = None;
        while let Some(frame) = body.frame().await {
            let frame = frame?;
            let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) else { continue };
            // A type of which there is nothing gets no file.
            let out = match &mut out {
                Some(out) => out,
                None => out.insert(self.create(kind)?),
            };
            out.write_all(data)?;
            lines += data.iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        if let Some(out) = out {
            out.finish()?;
        }
        Ok(lines)
    }

    fn create(&self, kind: &str) -> anyhow::Result<Output> {
        let suffix = if self.gzip { ".gz" } else { "" };
        let file = custody::create_private(&self.directory.join(format!("{kind}.ndjson{suffix}")))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(if self.gzip {
            Output::Gzip(GzEncoder::new(file, flate2::Compression::fast()))
        } else {
            Output::Plain(file)
        })
    }
}

/// A file that is being written.
enum Output {
    Plain(BufWriter<File>),
    Gzip(GzEncoder<BufWriter<File>>),
}

impl Output {
    fn write_all(&mut self, data: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(data),
            Self::Gzip(file) => file.write_all(data),
        }
    }

    /// Writes what is still held back, and waits until it is on the disk.
    fn finish(self) -> std::io::Result<()> {
        let file = match self {
            Self::Plain(file) => file,
            Self::Gzip(file) => file.finish()?,
        };
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    }
}
