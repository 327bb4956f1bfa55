//! PHI canaries (N2): unique texts in every string of a Patient, an Observation and a DocumentReference go in at
//! the front door, and are found nowhere but in the answers.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use ward_testkit::{Stack, StackOptions};

use crate::stack;

/// Seven letters and a number that occur nowhere else. In a base64 field it is encoded, in all three alignments.
const MARK: &str = "Zqxkanary";

struct Canaries(u32);

impl Canaries {
    fn text(&mut self) -> String {
        self.0 += 1;
        format!("{MARK}{:04}", self.0)
    }

    fn patient(&mut self) -> Value {
        json!({
            "resourceType": "Patient", "id": self.text(), "language": "en",
            "meta": {"source": format!("urn:{}", self.text()), "tag": [{"system": format!("urn:{}", self.text()), "code": self.text(), "display": self.text()}]},
            "extension": [{"url": format!("urn:{}", self.text()), "valueString": self.text()}],
            "identifier": [{"system": format!("urn:{}", self.text()), "value": self.text(), "type": {"text": self.text()}, "assigner": {"display": self.text()}}],
            "name": [{"text": self.text(), "family": self.text(), "given": [self.text(), self.text()], "prefix": [self.text()], "suffix": [self.text()]}],
            "telecom": [{"system": "email", "value": self.text()}],
            "gender": "female", "birthDate": "1961-07-13",
            "address": [{"text": self.text(), "line": [self.text()], "city": self.text(), "district": self.text(), "state": self.text(), "postalCode": self.text(), "country": self.text()}],
            "maritalStatus": {"coding": [{"system": format!("urn:{}", self.text()), "version": self.text(), "code": self.text(), "display": self.text()}], "text": self.text()},
            "contact": [{"name": {"family": self.text()}, "telecom": [{"system": "other", "value": self.text()}], "organization": {"display": self.text()}}],
            "communication": [{"language": {"text": self.text()}}],
            "generalPractitioner": [{"display": self.text(), "identifier": {"value": self.text()}}],
        })
    }

    fn observation(&mut self, patient: &str) -> Value {
        json!({
            "resourceType": "Observation", "id": self.text(), "status": "final",
            "identifier": [{"value": self.text()}],
            "category": [{"coding": [{"code": self.text(), "display": self.text()}], "text": self.text()}],
            "code": {"coding": [{"system": format!("urn:{}", self.text()), "code": self.text(), "display": self.text()}], "text": self.text()},
            "subject": {"reference": format!("Patient/{patient}"), "display": self.text()},
            "effectiveDateTime": "2026-03-04T05:06:07Z",
            "performer": [{"display": self.text()}],
            "valueQuantity": {"value": 12.5, "unit": self.text(), "system": format!("urn:{}", self.text()), "code": self.text()},
            "interpretation": [{"text": self.text()}],
            "note": [{"authorString": self.text(), "text": self.text()}],
            "bodySite": {"text": self.text()}, "method": {"text": self.text()},
            "referenceRange": [{"text": self.text()}],
            "component": [{"code": {"text": self.text()}, "valueString": self.text()}],
        })
    }

    fn document(&mut self, patient: &str) -> Value {
        use base64::Engine as _;
        let note = base64::engine::general_purpose::STANDARD.encode(format!("Note: {}", self.text()));
        json!({
            "resourceType": "DocumentReference", "id": self.text(), "status": "current",
            "masterIdentifier": {"value": self.text()},
            "type": {"text": self.text()}, "category": [{"text": self.text()}],
            "subject": {"reference": format!("Patient/{patient}")},
            "author": [{"display": self.text()}], "description": self.text(),
            "content": [{"attachment": {"contentType": "text/plain", "title": self.text(), "data": note}, "format": {"code": self.text(), "display": self.text()}}],
            "context": {"facilityType": {"text": self.text()}, "sourcePatientInfo": {"display": self.text()}},
        })
    }
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The mark as it would stand in clear, in UTF-16, in hex, and in each alignment of base64.
fn forms() -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
    let mut forms = vec![
        MARK.as_bytes().to_vec(),
        MARK.to_lowercase().into_bytes(),
        MARK.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        MARK.bytes().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes(),
    ];
    for shift in 0..3 {
        let padded = [vec![b'x'; shift], MARK.as_bytes().to_vec()].concat();
        let text = engine.encode(&padded);
        // Leave out the letters that depend on what stands around it.
        let start = if shift == 0 { 0 } else { 4 };
        let end = text.len() - if padded.len() % 3 == 0 { 0 } else { 2 };
        forms.push(text.as_bytes()[start..end].to_vec());
    }
    forms
}

/// Looks through the data, the output and every temporary file made since the test began.
fn assert_clean(stack: &Stack, when: &str) {
    let mut all = Vec::new();
    files(&stack.data(), &mut all);
    all.push(stack.scratch().join("up.stderr"));
    let began =
        std::fs::metadata(stack.data().join("keystore.json")).and_then(|data| data.modified()).unwrap();
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let path = entry.path();
        let is_new = entry.metadata().and_then(|data| data.modified()).is_ok_and(|changed| changed >= began);
        if path.is_file() && is_new {
            all.push(path);
        }
    }
    assert!(all.len() > 8);
    let forms = forms();
    for file in all {
        let Ok(bytes) = std::fs::read(&file) else { continue };
        for form in &forms {
            let found = bytes.windows(form.len()).any(|window| window == form.as_slice());
            assert!(!found, "{when}: a canary stands in {}", file.display());
        }
    }
}

#[test]
fn no_canary_leaves_the_envelopes() {
    let mut stack = stack(StackOptions {
        configuration: "[app]\naccept_client_ids = true\n".to_owned(),
        ..Default::default()
    });
    let mut canaries = Canaries(0);

    // Through import.
    let patient = canaries.patient();
    let id = patient["id"].as_str().unwrap().to_owned();
    let imported = [patient.clone(), canaries.observation(&id), canaries.document(&id)];
    let file = stack.scratch().join("canaries.ndjson");
    std::fs::write(&file, imported.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")).unwrap();
    let report = stack.ward_json(&["import", file.to_str().unwrap()]);
    assert_eq!(report["accepted"], 3, "{report}");

    // Through the API: create, read, update, search, delete, history, and Bundles.
    let client = stack.signed_in("system/*.cruds");
    let created = client.post("/fhir/R4/Patient", &canaries.patient());
    assert_eq!(created.status, 201, "{}", created.text());
    let created = created.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(client.post("/fhir/R4/Observation", &canaries.observation(&created)).status, 201);
    assert_eq!(client.get(&format!("/fhir/R4/Patient/{id}")).status, 200);
    let mut changed = patient.clone();
    changed["name"][0]["family"] = canaries.text().into();
    assert_eq!(client.put(&format!("/fhir/R4/Patient/{id}"), &changed).status, 200);
    assert_eq!(client.get(&format!("/fhir/R4/Patient/{id}/_history")).status, 200);
    let family = changed["name"][0]["family"].as_str().unwrap();
    let found = client.search("Patient", &format!("family={family}"));
    assert_eq!(found.json()["entry"].as_array().map(Vec::len), Some(1), "{}", found.text());
    let bundle = json!({"resourceType": "Bundle", "type": "transaction", "entry": [
        {"resource": canaries.document(&id), "request": {"method": "POST", "url": "DocumentReference"}},
    ]});
    assert_eq!(client.post("/fhir/R4", &bundle).status, 200);

    // Through errors: whatever is wrong must not come back, nor be logged.
    let canary = canaries.text();
    let bad: Vec<(&str, String, String)> = vec![
        (
            "POST",
            "/fhir/R4/Patient".to_owned(),
            format!("{{\"resourceType\":\"Patient\",\"name\":[{{\"family\":\"{canary}\""),
        ),
        (
            "POST",
            "/fhir/R4/Patient".to_owned(),
            json!({"resourceType": "Patient", canary.clone(): 1}).to_string(),
        ),
        (
            "POST",
            "/fhir/R4/Patient".to_owned(),
            json!({"resourceType": "Patient", "gender": canary}).to_string(),
        ),
        (
            "POST",
            "/fhir/R4/Patient".to_owned(),
            json!({"resourceType": "Patient", "birthDate": canary}).to_string(),
        ),
        ("POST", "/fhir/R4/Patient".to_owned(), json!({"resourceType": canary}).to_string()),
        ("POST", format!("/fhir/R4/{canary}"), json!({"resourceType": "Patient"}).to_string()),
        ("GET", format!("/fhir/R4/Patient/{canary}"), String::new()),
        ("GET", format!("/fhir/R4/Patient?family={canary}"), String::new()),
        ("GET", format!("/fhir/R4/Patient?{canary}=1"), String::new()),
        ("GET", format!("/{canary}"), String::new()),
        (
            "PUT",
            format!("/fhir/R4/Patient/{canary}x"),
            json!({"resourceType": "Patient", "id": canary}).to_string(),
        ),
    ];
    for (method, path, body) in &bad {
        let answer = client.send(method, path, &[("Content-Type", "application/fhir+json")], body.as_bytes());
        assert!(answer.status >= 400, "{method} {path}: {}", answer.status);
        assert!(!answer.text().contains(MARK), "{method}: an error repeats what was sent: {}", answer.text());
    }
    let unsigned = stack.https().with_token(&canary).get("/fhir/R4/Patient/1");
    assert_eq!(unsigned.status, 401);
    let failed = stack.https().send(
        "POST",
        "/sign-in",
        &[("Content-Type", "application/x-www-form-urlencoded"), ("Origin", &stack.origin())],
        format!("username={canary}&password={canary}").as_bytes(),
    );
    assert!(!failed.headers.iter().any(|(_, value)| value.contains(MARK)));
    assert_clean(&stack, "while running");

    stack.kill("app-1");
    stack.wait_until_healthy();
    stack.stop();
    assert_clean(&stack, "after stopping");
    stack.start_again();
    let directory = stack.scratch().join("export");
    stack.ward_json(&["export", directory.to_str().unwrap()]);
    assert!(
        std::fs::read_to_string(directory.join("Patient.ndjson")).unwrap().contains(MARK),
        "the export is real"
    );
    assert_clean(&stack, "after export");
}

#[test]
fn processes_leave_no_core_and_cannot_be_read_by_others_of_the_same_user() {
    let stack = crate::empty_stack();
    for name in ["public-edge-1", "web-1", "internal-edge-1", "app-1"] {
        let (_, process) = stack.instance(name);
        let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        // A process that is not dumpable belongs to root in /proc, whoever runs it; as root, ask the kernel.
        let arguments = Command::new("cat").arg(format!("/proc/{process}/cmdline")).output().unwrap().stdout;
        assert_eq!(
            String::from_utf8_lossy(&arguments).matches('\0').count(),
            3,
            "no secret among the arguments"
        );
        let environment = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        assert!(environment.is_empty(), "{name} inherits an environment");
    }
}
