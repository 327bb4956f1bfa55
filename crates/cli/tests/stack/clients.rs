//! Clients that others wrote, unchanged, against the public listener.

use std::process::Command;

use ward_testkit::{Https, Stack, StackOptions, repository, tools};

use crate::stack;

fn token(client: &Https) -> String {
    client.headers[0].1.trim_start_matches("Bearer ").to_owned()
}

fn run(stack: &Stack, mut command: Command, client: &Https) {
    let output = command
        .env("WARD_BASE", format!("{}/fhir/R4", stack.origin()))
        .env("WARD_TOKEN", token(client))
        .output()
        .expect("the interpreter is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.lines().last().is_some_and(|line| line == "ok"), "{text}\n{errors}");
}

#[test]
fn fhir_kit_client_creates_reads_updates_searches_and_deletes() {
    let stack = stack(StackOptions { demo_patients: 5, ..Default::default() });
    let client = stack.signed_in("system/*.cruds");
    let mut command = Command::new("node");
    command
        .arg(repository("crates/cli/tests/clients/fhir_kit_client.mjs"))
        .env("NODE_EXTRA_CA_CERTS", stack.trust())
        .env("WARD_MODULES", tools("node_modules"));
    run(&stack, command, &client);
}

#[test]
fn fhirpy_creates_reads_updates_searches_and_deletes() {
    // Its searches are GETs only: the compatibility switch is for such clients.
    let stack = stack(StackOptions {
        configuration: "[app]\nallow_phi_in_urls = true\n".to_owned(),
        demo_patients: 5,
    });
    let client = stack.signed_in("system/*.cruds");
    let mut command = Command::new("python3");
    command
        .arg(repository("crates/cli/tests/clients/fhirpy_client.py"))
        .env("PYTHONPATH", tools("python"))
        .env("WARD_TRUST", stack.trust());
    run(&stack, command, &client);
}
