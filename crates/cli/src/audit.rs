//! `ward audit`: verify the log, and ask it who looked.

use std::path::PathBuf;

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
        /// The patient's id.
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
                Ok(())
            }
        }
    }
}

/// Checks every byte of a log. Needs no key but the public one.
fn verify(directory: &std::path::Path, key: Option<&str>, format: Format) -> anyhow::Result<()> {
    let verified = ward_audit::verify(directory, key)
        .map_err(|error| anyhow::anyhow!("the audit log does not verify: {error}"))?;
    let root: String = verified.root.iter().map(|byte| format!("{byte:02x}")).collect();
    let moment = |moment: Option<ward_base::Timestamp>| moment.map(ward_base::Timestamp::to_instant);
    let (first, last) = (moment(verified.first), moment(verified.last));
    if format == Format::Json {
        output::json(&json!({
            "entries": verified.entries, "root": root, "origin": verified.origin, "first": first, "last": last,
        }));
        return Ok(());
    }
    output::line(format!("{} entries, complete and unaltered", verified.entries));
    output::line(format!("log     {}", verified.origin));
    output::line(format!("root    {root}"));
    if let (Some(first), Some(last)) = (first, last) {
        output::line(format!("from    {first}\nto      {last}"));
    }
    if key.is_none() {
        output::line(
            "The signature was checked with the key stored beside the log; give --key with a key you kept elsewhere to prove who signed it.",
        );
    }
    Ok(())
}
