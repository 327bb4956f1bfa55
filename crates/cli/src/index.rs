//! `ward index`: the blind search index.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::operator::Operator;
use crate::output::{self, Format};

/// How often a running change is asked for while somebody waits.
const ASK: Duration = Duration::from_millis(500);

/// The search index: how it is doing, and a new key for it.
///
/// Search parameters are added by storing SearchParameter resources; the index is filled up with them while requests
/// run.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Index {
    /// Say how the index is doing.
    Status {
        /// Wait until there is nothing left to do.
        #[arg(long)]
        wait: bool,
    },
    /// Replace the index's key while requests run: everything is found by either key until the old one is gone.
    ReplaceKey {
        /// Wait until the old key is gone.
        #[arg(long)]
        wait: bool,
    },
}

impl Index {
    pub(crate) async fn run(self, operator: &mut Operator, format: Format) -> anyhow::Result<()> {
        let wait = match self {
            Self::Status { wait } => wait,
            Self::ReplaceKey { wait } => {
                operator.call("POST", "/ward/index/key", &Value::Null).await?;
                wait
            }
        };
        let mut status = operator.call("GET", "/ward/index", &Value::Null).await?;
        if wait {
            let bar = progress_bar(format);
            while is_changing(&status) {
                show(&bar, &status);
                tokio::time::sleep(ASK).await;
                status = operator.call("GET", "/ward/index", &Value::Null).await?;
            }
            bar.finish_and_clear();
        }
        report(&status, format);
        Ok(())
    }
}

fn is_changing(status: &Value) -> bool {
    status.get("key_is_being_replaced").and_then(Value::as_bool).unwrap_or_default()
        || status.get("filling").is_some_and(|filling| !filling.is_null())
}

fn progress_bar(format: Format) -> ProgressBar {
    if format == Format::Json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} resources, {eta} left");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(bar: &ProgressBar, status: &Value) {
    let number = |name: &str| status.pointer(&format!("/filling/{name}")).and_then(Value::as_u64);
    bar.set_length(number("total").unwrap_or_default());
    bar.set_position(number("done").unwrap_or_default());
}

fn report(status: &Value, format: Format) {
    if format == Format::Json {
        return output::json(status);
    }
    let number = |name: &str| status.pointer(name).and_then(Value::as_u64).unwrap_or_default();
    let replaced = match status.get("key_is_being_replaced") {
        Some(Value::Bool(true)) => ", which is being replaced",
        _ => "",
    };
    output::line(format!("key: epoch {}{replaced}", number("/key_epoch")));
    output::line(format!(
        "added search parameters: {} of {} filled in",
        number("/parameters_ready"),
        number("/parameters")
    ));
    match status.pointer("/filling/total").and_then(Value::as_u64) {
        Some(total) => output::line(format!("filling in: {} of {total} resources", number("/filling/done"))),
        None if is_changing(status) => output::line("filling in: begins shortly"),
        None => output::line("nothing is left to do"),
    }
}
