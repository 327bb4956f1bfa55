//! `ward audit`: verify the log, and ask it who looked.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::config::Config;
use crate::output::{self, Format};
use crate::passphrase::PassphraseSource;

/// The audit log: verify it, and ask it who looked.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Audit {
    /// Check every entry, hash and signature of the log on this host. Needs no running stack and no passphrase.
    Verify {
        /// Another directory in the tlog-tiles layout, such as a copy.
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
        /// The log's public key (`name+hash+base64`), kept elsewhere; without it the one beside the log is used.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
    /// List who has accessed a patient's record.
    Who {
        /// The patient's id. Other users of this host see what stands on a command line: `-` reads the id from
        /// standard input instead.
        #[arg(long, value_name = "ID")]
        patient: String,
    },
}

impl Audit {
    pub(crate) async fn run(
        self,
        config: &Config,
        source: &PassphraseSource,
        format: Format,
    ) -> anyhow::Result<()> {
        match self {
            Self::Verify { directory, key } => {
                let directory = directory.unwrap_or_else(|| config.data_directory().join("app/audit"));
                verify(&directory, key.as_deref(), format)
            }
            Self::Who { patient } => {
                let patient = if patient == "-" { from_standard_input()? } else { patient };
                let mut operator = crate::sign_in(config, source).await?;
                let answer = operator.call("POST", "/ward/accesses", &json!({"patient": patient})).await?;
                if format == Format::Json {
                    output::json(&answer);
                    return Ok(());
                }
                let empty = Vec::new();
                let text = |access: &Value, name: &str| match access.get(name) {
                    Some(Value::String(text)) => text.clone(),
                    Some(Value::Number(number)) => number.to_string(),
                    Some(Value::Array(items)) => {
                        items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
                    }
                    _ => String::new(),
                };
                let columns =
                    ["time", "who", "roles", "action", "outcome", "resource_type", "count", "address"];
                let rows: Vec<Vec<String>> = answer
                    .get("accesses")
                    .and_then(Value::as_array)
                    .unwrap_or(&empty)
                    .iter()
                    .map(|access| columns.iter().map(|name| text(access, name)).collect())
                    .collect();
                let header = ["TIME", "WHO", "ROLES", "ACTION", "OUTCOME", "TYPE", "COUNT", "FROM"];
                output::raw(&output::table(&header, &rows));
                if answer.get("complete").and_then(Value::as_bool) == Some(false) {
                    output::note("only the newest entries were looked at");
                }
                Ok(())
            }
        }
    }
}

fn from_standard_input() -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("cannot read the id from standard input")?;
    let id = line.trim();
    anyhow::ensure!(!id.is_empty(), "no id on standard input; give one line with the patient's id");
    Ok(id.to_owned())
}

/// Checks every byte of a log. Needs no key but the public one.
fn verify(directory: &Path, key: Option<&str>, format: Format) -> anyhow::Result<()> {
    let verified = ward_audit::verify(directory, key)
        .with_context(|| format!("the audit log in `{}` does not verify", directory.display()))?;
    let root = hex::encode(verified.root);
    let moment = |moment: Option<ward_base::Timestamp>| moment.map(ward_base::Timestamp::to_instant);
    let (first, last) = (moment(verified.first), moment(verified.last));
    if format == Format::Json {
        output::json(&json!({
            "entries": verified.entries, "root": root, "origin": verified.origin, "first": first, "last": last,
            "torn_bytes": verified.torn_bytes,
        }));
        return Ok(());
    }
    let until = last.as_ref().map_or_else(String::new, |last| format!(" up to {last}"));
    output::line(format!("{} entries, consistent{until}", verified.entries));
    output::line(format!("log     {}", verified.origin));
    output::line(format!("root    {root}"));
    if let (Some(first), Some(last)) = (first, last) {
        output::line(format!("from    {first}\nto      {last}"));
    }
    if verified.torn_bytes > 0 {
        output::line(format!("torn    {} bytes that were never acknowledged", verified.torn_bytes));
    }
    output::line(
        "A log that was put back to an older state is noticed only by comparing with a root that is kept elsewhere.",
    );
    if key.is_none() {
        output::line(format!(
            "Checked with the key beside the log. Keep a copy of `{}` elsewhere and give its text with --key: that proves who \
             signed.",
            directory.join("key.txt").display()
        ));
    }
    Ok(())
}
