//! No entry in the audit log, no answer: the log's disk is full, and nothing is said until there is room again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::empty_stack;

/// A file system of its own, small enough to fill. Unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m,mode=0700", "ward-test"])
            .arg(at)
            .status();
        let works = mounted.is_ok_and(|status| status.success());
        assert!(works, "this test mounts a small file system, which takes root");
        Self(at.to_owned())
    }

    /// Takes all room that is left.
    fn fill(&self) {
        use std::io::Write as _;
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        for size in [1 << 16, 1 << 10, 1] {
            let block = vec![0; size];
            while filler.write_all(&block).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn nothing_is_answered_while_the_log_cannot_be_written() {
    let mut stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let patient = json!({"resourceType": "Patient", "name": [{"family": "Zqxsealed"}]});
    let id = client.post("/fhir/R4/Patient", &patient).json()["id"].as_str().unwrap().to_owned();
    stack.stop();

    let log = stack.data().join("app/audit");
    let kept = stack.data().join("app/audit-kept");
    std::fs::rename(&log, &kept).unwrap();
    std::fs::create_dir(&log).unwrap();
    let disk = SmallDisk::mount(&log);
    let copied = Command::new("cp").arg("-a").arg(kept.join(".")).arg(&log).status().unwrap();
    assert!(copied.success());
    std::fs::remove_dir_all(&kept).unwrap();
    stack.start_again();

    let client = stack.signed_in("system/*.cruds");
    let path = format!("/fhir/R4/Patient/{id}");
    assert_eq!(client.get(&path).status, 200);
    disk.fill();
    // What the writer had in hand may still fit; soon nothing does.
    let started = Instant::now();
    while client.get(&path).status == 200 {
        assert!(started.elapsed() < Duration::from_secs(60), "answered without an entry in the log");
    }
    for _ in 0..5 {
        let answer = client.get(&path);
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(!answer.text().contains("Zqxsealed"));
        assert_eq!(answer.json()["resourceType"], "OperationOutcome");
        let written = client
            .post("/fhir/R4/Patient", &json!({"resourceType": "Patient", "name": [{"family": "Unwritten"}]}));
        assert_eq!(written.status, 503, "{}", written.text());
    }
    disk.make_room();
    stack.wait_until_healthy();
    assert_eq!(client.get(&path).status, 200, "{}", stack.logs());
    let found = client.search("Patient", "family=unwritten").json();
    assert!(found["entry"].as_array().is_none_or(Vec::is_empty), "what was not logged was not done");
    assert!(stack.ward_json(&["audit", "verify"])["entries"].as_u64().unwrap() > 5);
    stack.stop();
}
