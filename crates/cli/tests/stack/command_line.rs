//! The commands a person types, and the mistakes they make.

use serde_json::Value;
use ward_testkit::StackOptions;

use crate::{empty_stack, stack};

#[test]
fn a_second_start_finds_everything_as_it_was() {
    let mut stack = stack(StackOptions { demo_patients: 3, ..Default::default() });
    assert!(stack.enrolment_link.is_some());
    let before = stack.signed_in("system/*.rs").search("Patient", "_count=50").json();
    assert_eq!(before["entry"].as_array().unwrap().len(), 3);
    stack.stop();
    stack.start_again();
    let after = stack.signed_in("system/*.rs").search("Patient", "_count=50").json();
    assert_eq!(after["entry"], before["entry"]);
}

#[test]
fn what_was_changed_in_a_demo_stays_so_at_the_next_start() {
    let mut stack = stack(StackOptions { demo_patients: 2, ..Default::default() });
    let client = stack.signed_in("system/*.cruds");
    let found = client.search("Patient", "_count=2").json();
    let id = |at: usize| found["entry"][at]["resource"]["id"].as_str().unwrap().to_owned();
    let (changed, deleted) = (format!("/fhir/R4/Patient/{}", id(0)), format!("/fhir/R4/Patient/{}", id(1)));
    let mut patient = found["entry"][0]["resource"].clone();
    patient["birthDate"] = "1901-02-03".into();
    assert_eq!(client.put(&changed, &patient).status, 200);
    assert!(matches!(client.send("DELETE", &deleted, &[], b"").status, 200 | 204));
    stack.stop();
    stack.start_again();
    let client = stack.signed_in("system/*.rs");
    assert_eq!(client.get(&changed).json()["birthDate"], "1901-02-03");
    assert_eq!(client.get(&deleted).status, 410);
}

/// Runs `ward` with the data directory `data`; gives its exit code and all that it said.
fn ward(data: &std::path::Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ward"))
        .arg("--data")
        .arg(data)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_demo_leaves_other_keystores_and_passphrases_alone() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let (code, text) = ward(&data, &["up", "--demo", "--passphrase-file", "anything"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("leave out --passphrase-file"), "{text}");
    std::fs::write(data.join("keystore.json"), "{}").unwrap();
    let (code, text) = ward(&data, &["up", "--demo"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("was not started with --demo") && !text.contains("DEMO:"), "{text}");
    assert!(!data.join("demo-passphrase").exists());
}

#[test]
fn what_keeps_a_stack_from_starting_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let (code, text) = ward(data, &["--listen", &address, "up", "--demo"]);
    assert_eq!(code, Some(1));
    assert!(text.contains(&format!("address in use: another program listens on {address}")), "{text}");
    assert!(text.contains("use --listen or listener.address"), "{text}");
    assert!(!data.join("app").exists(), "nothing was started");
    drop(other);
    // A file where the app tier needs a directory.
    std::fs::write(data.join("app"), "").unwrap();
    let (code, text) = ward(data, &["--listen", &address, "up", "--demo"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("app-1 ended 5 times and was never ready"), "{text}");
    assert!(text.contains("`tier.failed` (data directory)"), "{text}");
    assert!(text.contains("log/app-1.jsonl"), "{text}");
}

#[test]
fn every_problem_of_a_configuration_is_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    std::fs::write(&path, "[web]\ninstances = 99\n[listener]\nadress = \"127.0.0.1:1\"\n").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ward"))
        .args(["--config", path.to_str().unwrap(), "doctor"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("bad.toml:2: `web.instances` must be a whole number from 1 to 16"), "{text}");
    assert!(
        text.contains("bad.toml:4: `listener.adress` is not a setting; did you mean `listener.address`?"),
        "{text}"
    );
}

#[test]
fn a_broken_configuration_does_not_stand_in_the_way_of_mending_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    std::fs::write(&path, "[nothing]\nof = \"ours\"\n").unwrap();
    let path = path.to_str().unwrap();
    let (code, text) = ward(directory.path(), &["--config", path, "config"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = ward(directory.path(), &["--config", path, "population", "--patients", "1"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = ward(directory.path(), &["--config", path, "doctor"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("`nothing.of` is not a setting; `ward config` lists them all"), "{text}");
}

#[test]
fn a_wrong_passphrase_opens_nothing() {
    let stack = empty_stack();
    let wrong = stack.scratch().join("wrong");
    std::fs::write(&wrong, "not the passphrase\n").unwrap();
    std::fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let output = stack.ward(&["user", "list", "--passphrase-file", wrong.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answer["error"].as_str().unwrap().contains("passphrase"), "{answer}");
}

#[test]
fn a_passphrase_file_that_others_can_read_is_refused() {
    let stack = empty_stack();
    let open = stack.scratch().join("open");
    std::fs::write(&open, "whatever it is\n").unwrap();
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let output = stack.ward(&["user", "list", "--passphrase-file", open.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("chmod 600"), "{text}");
}

#[test]
fn the_audit_log_verifies_and_knows_who_looked() {
    let stack = stack(StackOptions { demo_patients: 1, ..Default::default() });
    let client = stack.signed_in("system/*.rs");
    let patient = client.search("Patient", "_count=1").json()["entry"][0]["resource"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(client.get(&format!("/fhir/R4/Patient/{patient}")).status, 200);
    let who = stack.ward_json(&["audit", "who", "--patient", &patient]);
    let actions: Vec<&str> =
        who["accesses"].as_array().unwrap().iter().map(|access| access["action"].as_str().unwrap()).collect();
    assert!(actions.contains(&"read") && actions.contains(&"search"), "{who}");
    let id = stack.scratch().join("id");
    std::fs::write(&id, format!("{patient}\n")).unwrap();
    let asked = std::process::Command::new(env!("CARGO_BIN_EXE_ward"))
        .arg("--data")
        .arg(stack.data())
        .args(["audit", "who", "--patient", "-"])
        .stdin(std::fs::File::open(id).unwrap())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&asked.stdout).contains("search"), "{asked:?}");
    let verified = stack.ward_json(&["audit", "verify"]);
    assert!(verified["entries"].as_u64().unwrap() > 3, "{verified}");
}

#[test]
fn a_disabled_account_is_out_at_once() {
    let stack = empty_stack();
    let (id, account) = stack.add_client("system/*.rs");
    let https = stack.https();
    let audience = format!("{}/oauth/token", stack.origin());
    let ask = || {
        ward_testkit::ServiceAccount::token_request(
            &https,
            &account.assertion(&id, &audience, |_| ()),
            "system/*.rs",
        )
    };
    let token = ask().json()["access_token"].as_str().unwrap().to_owned();
    let client = https.with_token(&token);
    assert_eq!(client.search("Patient", "_count=1").status, 200);
    assert_eq!(stack.ward_json(&["user", "disable", &id])["sessions_ended"], 1);
    assert_eq!(client.search("Patient", "_count=1").status, 401, "its token is gone");
    assert_eq!(ask().status, 401, "and it gets no other");
    stack.ward_json(&["user", "enable", &id]);
    assert_eq!(client.search("Patient", "_count=1").status, 401, "what was ended stays so");
    assert_eq!(ask().status, 200);
    assert!(
        stack.ward_json(&["user", "list"])["clients"].as_array().unwrap().iter().any(|one| one["id"] == id)
    );
    let unknown = stack.ward(&["user", "disable", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
fn an_altered_audit_log_is_noticed() {
    let mut stack = stack(StackOptions { demo_patients: 1, ..Default::default() });
    stack.stop();
    assert!(stack.ward(&["audit", "verify"]).status.success());
    // Turn over one bit in the middle of the largest file of the log.
    let mut files = Vec::new();
    collect(&stack.data().join("app/audit"), &mut files);
    let largest = files.iter().max_by_key(|file| std::fs::metadata(file).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(largest, bytes).unwrap();
    let output = stack.ward(&["audit", "verify"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("app/audit` does not verify"), "{text}");
}

#[test]
fn files_of_every_kind_go_in_and_what_is_wrong_is_told_by_place() {
    let stack = empty_stack();
    let directory = stack.scratch().join("in");
    std::fs::create_dir(&directory).unwrap();
    let patient = "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0";
    let bundle = serde_json::json!({"resourceType": "Bundle", "type": "collection", "entry": [
        {"fullUrl": patient, "resource": {"resourceType": "Patient", "id": "from-a-bundle"}},
        {"fullUrl": "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e1", "resource": {
            "resourceType": "Observation", "id": "of-it", "status": "final", "code": {"text": "x"},
            "subject": {"reference": patient}}},
    ]});
    std::fs::write(directory.join("bundle.json"), serde_json::to_vec_pretty(&bundle).unwrap()).unwrap();
    std::fs::write(
        directory.join("one.json"),
        r#"{"resourceType": "Organization", "id": "one", "name": "One"}"#,
    )
    .unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, b"{\"resourceType\":\"Basic\",\"code\":{\"text\":\"no id\"}}\n")
        .unwrap();
    std::fs::write(directory.join("packed.ndjson.gz"), packed.finish().unwrap()).unwrap();
    let lines = "{\"resourceType\":\"Patient\",\"id\":\"good\"}\n\n{\"resourceType\":\"Patient\",\"birthDate\":\"1x\"}\nnot json\n";
    std::fs::write(directory.join("some.ndjson"), lines).unwrap();
    std::fs::write(directory.join("notes.txt"), "not for import").unwrap();

    let import = || {
        let output = stack.ward(&["import", directory.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "something was rejected");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str::<Value>(text.lines().next().unwrap()).unwrap()
    };
    let first = import();
    assert_eq!(first["accepted"], 5, "{first}");
    let places: Vec<&str> =
        first["rejections"].as_array().unwrap().iter().map(|one| one["place"].as_str().unwrap()).collect();
    assert_eq!(places.len(), 2);
    assert!(places[0].ends_with("some.ndjson:3") && places[1].ends_with("some.ndjson:4"), "{places:?}");
    let again = import();
    assert_eq!(again["types"]["Basic"]["unchanged"], 1, "what has no id is known again: {again}");
    assert!(
        again["types"].as_object().unwrap().values().all(|counts| counts.get("created").is_none()),
        "{again}"
    );
    let client = stack.signed_in("system/*.rs");
    let observation = client.get("/fhir/R4/Observation/of-it").json();
    assert_eq!(observation["subject"]["reference"], "Patient/from-a-bundle");
}

#[test]
fn an_import_that_breaks_off_tells_what_is_in() {
    let stack = empty_stack();
    let directory = stack.scratch().join("in");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("a.ndjson"), "{\"resourceType\":\"Patient\",\"id\":\"in\"}\n").unwrap();
    std::fs::write(directory.join("b.ndjson.gz"), "not gzip").unwrap();
    let output = stack.ward(&["import", directory.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(said[0]["accepted"], 1, "{text}");
    let error = said[1]["error"].as_str().unwrap();
    assert!(error.contains("run it again") && error.contains("b.ndjson.gz"), "{text}");
}

fn collect(directory: &std::path::Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

#[test]
fn doctor_says_what_to_do_and_only_one_stack_runs_on_a_directory() {
    let stack = empty_stack();
    let output = stack.ward(&["doctor"]);
    let checks: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        checks.iter().any(|check| check["check"] == "core dumps" && check["state"] == "good"),
        "{checks:?}"
    );
    let second = stack.ward(&["up", "--demo"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stdout).contains("another `ward up` runs"));
    let listener = |data: &std::path::Path| {
        let (_, text) = ward(data, &["--listen", &stack.address.to_string(), "doctor"]);
        text.lines().find(|line| line.contains("listener")).unwrap().to_owned()
    };
    assert!(listener(&stack.data()).contains("by a running `ward up`"));
    // What a stack that was killed leaves behind is no running stack.
    let dead = stack.scratch().join("dead");
    std::fs::create_dir(&dead).unwrap();
    for name in ["lock", "status.json"] {
        std::fs::copy(stack.data().join(name), dead.join(name)).unwrap();
    }
    assert!(listener(&dead).contains("taken by another program"));
}
