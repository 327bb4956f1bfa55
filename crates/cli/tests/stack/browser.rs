//! The pages in a real browser: Debian's Chromium, driven by playwright-core.

use std::process::Command;

use serde_json::{Value, json};
use ward_testkit::{Stack, StackOptions, repository, tools};

use crate::stack;

/// The population that `--demo` loads.
const DEMO_SEED: &str = "20261";

fn run(stack: &Stack, script: &str, patient: &Value, secrets: &[String]) {
    let chromium = "/usr/bin/chromium";
    assert!(
        std::path::Path::new(chromium).exists(),
        "Chromium is missing: run `cargo xtask test`, which installs it"
    );
    let mut command = Command::new("node");
    command
        .arg(repository("crates/cli/tests/browser").join(script))
        .env("WARD_MODULES", tools("node_modules"))
        .env("WARD_CHROMIUM", chromium)
        .env("WARD_TRUST", stack.trust())
        .env("NODE_EXTRA_CA_CERTS", stack.trust())
        .env("WARD_ORIGIN", stack.origin())
        .env("WARD_LINK", stack.enrolment_link.as_deref().expect("the administrator's link"))
        .env("WARD_PATIENT", patient.to_string())
        .env("WARD_SECRETS", json!(secrets).to_string());
    let output = command.output().expect("node is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && text.lines().last() == Some("ok"),
        "{text}\n{errors}\n{}",
        stack.logs()
    );
}

#[test]
fn a_clinician_enrols_reads_a_record_adds_to_it_and_sees_who_looked() {
    let stack = stack(StackOptions { demo_patients: 8, ..Default::default() });
    let population = stack.ward(&["population", "--patients", "8", "--seed", DEMO_SEED]).stdout;
    let resources: Vec<Value> = String::from_utf8_lossy(&population)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let patient = resources.iter().find(|one| one["resourceType"] == "Patient").unwrap();
    let text = |pointer: &str| patient.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
    let secrets = ["/id", "/name/0/family", "/birthDate", "/identifier/0/value"].map(text);
    let name = json!({"family": patient["name"][0]["family"], "given": patient["name"][0]["given"][0]});
    run(&stack, "story.mjs", &name, &secrets);
}

#[test]
fn an_idle_session_warns_and_ends() {
    let stack = stack(StackOptions {
        configuration: "[session]\nidle_minutes = 1\n".to_owned(),
        ..Default::default()
    });
    run(&stack, "idle.mjs", &Value::Null, &[]);
}
