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
            Self::Verify { directory } => {
                let directory = directory.unwrap_or_else(|| config.data_directory().join("app/audit"));
                verify(&directory, format)
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
                    Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
                    _ => String::new(),
                };
                let columns = ["time", "who", "roles", "action", "outcome", "resource_type", "address"];
                let rows: Vec<Vec<String>> = answer
                    .get("accesses")
                    .and_then(Value::as_array)
                    .unwrap_or(&empty)
                    .iter()
                    .map(|access| columns.iter().map(|name| text(access, name)).collect())
                    .collect();
                let header = ["TIME", "WHO", "ROLES", "ACTION", "OUTCOME", "TYPE", "FROM"];
                output::raw(&output::table(&header, &rows));
                Ok(())
            }
        }
    }
}
