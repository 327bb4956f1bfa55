//! The dependency arrows of ARCHITECTURE.md, held over `cargo metadata`: a crate may use what stands here and
//! nothing else of Ward.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// Each crate with the crates of Ward it may link, besides `base`.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("fhir", &[]),
    ("identity", &[]),
    ("keys", &[]),
    ("monitor", &[]),
    ("audit", &["keys"]),
    ("transport", &["monitor"]),
    ("kms", &["keys"]),
    ("store", &["fhir", "keys"]),
    ("edge", &["monitor", "transport"]),
    ("web", &["identity", "monitor", "transport"]),
    ("app", &["fhir", "identity", "keys", "audit", "monitor", "transport", "store", "kms"]),
    (
        "cli",
        &["fhir", "identity", "keys", "audit", "monitor", "transport", "kms", "store", "edge", "web", "app"],
    ),
    ("testkit", &["fhir", "transport"]),
    ("xtask", &[]),
];

/// Every arrow that should not be there, in words.
pub(crate) fn check() -> anyhow::Result<()> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        let name = short(&package["name"]).context("a package that is not Ward's")?;
        let Some(may) = allowed.get(name) else {
            wrong.push(format!("`{name}` has no row in the table of arrows"));
            continue;
        };
        for dependency in package["dependencies"].as_array().context("no dependencies")? {
            // Tests may use what they like.
            let Some(other) = short(&dependency["name"]).filter(|_| dependency["kind"].is_null()) else {
                continue;
            };
            if other != "base" && !may.contains(&other) {
                wrong.push(format!("`{name}` must not use `{other}`"));
            }
        }
    }
    let run = metadata["workspace_default_members"].as_array().context("no default members")?;
    if !matches!(run.as_slice(), [only] if only.as_str().is_some_and(|id| id.contains("crates/cli"))) {
        wrong.push("`cargo run` must have one binary to run, `ward`".to_owned());
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn short(name: &Value) -> Option<&str> {
    name.as_str()?.strip_prefix("ward-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_arrows_hold() {
        super::check().unwrap();
    }
}
