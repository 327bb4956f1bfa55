//! Another implementation proves the log: Go's `sumdb/note` and `sumdb/tlog`, with nothing of Ward.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{copy, files, keys, reads};
use ward_audit::Log;

/// Builds the outsider's program, once per run of this test, under `target`.
fn outsider() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/verify.go");
    let program = target.join(format!("audit-outsider-{}", std::process::id()));
    let library = Path::new("/usr/share/gocode/src/golang.org/x/mod/sumdb/note");
    let built = Command::new("go")
        .args(["build", "-o"])
        .args([&program, &source])
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOFLAGS", "")
        .env("GOCACHE", target.join("go-cache"))
        .output();
    match built {
        Ok(output) if output.status.success() => program,
        Ok(output) if library.exists() => panic!("go build: {}", String::from_utf8_lossy(&output.stderr)),
        _ => panic!("go or golang.org/x/mod is missing: run `cargo xtask test`"),
    }
}

fn prove(program: &Path, directory: &Path) -> Output {
    Command::new(program).arg(directory).arg(keys().verifier_key()).output().unwrap()
}

#[test]
fn an_outsider_proves_the_log_and_refuses_an_altered_one() {
    let program = outsider();
    let scratch = tempfile::tempdir().unwrap();
    for size in [0, 1, 255, 256, 257, 700] {
        let directory = scratch.path().join(format!("log-{size}"));
        let mut log = Log::open(&directory, keys()).unwrap();
        log.append(&reads(0, size)).unwrap();
        let root: String = log.root().iter().map(|byte| format!("{byte:02x}")).collect();
        log.close().unwrap();
        let output = prove(&program, &directory);
        assert!(output.status.success(), "{size}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{size} {root}\n"));
    }
    let directory = scratch.path().join("log-700");
    for file in files(&directory).iter().filter(|file| !file.ends_with("key.txt")) {
        let altered = scratch.path().join("altered");
        copy(&directory, &altered);
        let target = altered.join(file.strip_prefix(&directory).unwrap());
        let mut bytes = std::fs::read(&target).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&target, bytes).unwrap();
        assert!(!prove(&program, &altered).status.success(), "{}", target.display());
        std::fs::remove_dir_all(&altered).unwrap();
    }
    std::fs::remove_file(program).unwrap();
}

#[test]
fn an_outsider_proves_a_log_of_three_levels_that_is_being_written() {
    let program = outsider();
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), keys()).unwrap();
    let batch = reads(0, 1000);
    for _ in 0..66 {
        log.append(&batch).unwrap();
    }
    log.publish().unwrap();
    log.append(&batch).unwrap();
    let output = prove(&program, directory.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let root: String = log.root_at(66_000).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("66000 {root}\n"));
    std::fs::remove_file(program).unwrap();
}
