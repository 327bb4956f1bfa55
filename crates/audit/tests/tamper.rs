//! Whoever changes, adds or removes anything is found out.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::*;
use proptest::prelude::*;
use ward_audit::*;

fn fails(directory: &Path) -> bool {
    verify(directory, None).is_err()
}

/// A closed log, and a copy of one as a crash leaves it: with a journal, beyond what was published.
fn logs(scratch: &Path, batches: &[u64]) -> [std::path::PathBuf; 2] {
    let (closed, crashed) = (scratch.join("closed"), scratch.join("crashed"));
    let mut log = Log::open(&closed, keys()).unwrap();
    for batch in batches {
        log.append(&reads(log.size(), *batch)).unwrap();
    }
    copy(&closed, &crashed);
    log.close().unwrap();
    for log in [&closed, &crashed] {
        assert_eq!(verify(log, Some(&keys().verifier_key())).unwrap().entries, batches.iter().sum::<u64>());
    }
    assert!(!closed.join("journal").exists());
    assert!(crashed.join("journal").exists());
    [closed, crashed]
}

fn flip(file: &Path, position: usize, bit: u8) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[position] ^= 1 << bit;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn every_byte_of_a_small_log_counts() {
    let scratch = tempfile::tempdir().unwrap();
    for directory in logs(scratch.path(), &[2, 1]) {
        let mut bit = 0;
        for file in files(&directory) {
            let length = written(&file).len();
            for position in 0..length {
                bit = (bit + 3) % 8;
                flip(&file, position, bit);
                assert!(fails(&directory), "byte {position} of {}", file.display());
                flip(&file, position, bit);
            }
            let bytes = std::fs::read(&file).unwrap();
            std::fs::write(&file, [bytes.as_slice(), b"{"].concat()).unwrap();
            // After the journal of a crash there may be the first bytes of an append.
            assert!(fails(&directory) || file.ends_with("journal"), "a byte after {}", file.display());
            std::fs::write(&file, bytes).unwrap();
        }
        assert!(!fails(&directory));
    }
}

#[test]
fn no_file_may_be_missing_cut_or_added() {
    let scratch = tempfile::tempdir().unwrap();
    for directory in logs(scratch.path(), &[300, 300, 50]) {
        for file in files(&directory) {
            let bytes = std::fs::read(&file).unwrap();
            std::fs::remove_file(&file).unwrap();
            let missing = verify(&directory, None);
            // A crash may come before a full tile is written: the journal has what it holds.
            let follows = directory.ends_with("crashed") && file.starts_with(directory.join("tile"));
            assert!(missing.is_err() || follows, "without {}", file.display());
            std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
            // A journal that is cut off is that of a crash some batches earlier.
            assert!(fails(&directory) || file.ends_with("journal"), "half of {}", file.display());
            std::fs::write(&file, b"").unwrap();
            assert!(fails(&directory), "nothing in {}", file.display());
            std::fs::write(&file, bytes).unwrap();
        }
        for name in
            ["more", "tile/entries/007", "tile/0/000.p/300", "tile/0/more", "tile/7/000", "tile/0/000.p/0"]
        {
            let file = directory.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, b"").unwrap();
            assert!(fails(&directory), "with {name}");
            std::fs::remove_file(file).unwrap();
        }
        let file = directory.join("tile/0/002");
        std::os::unix::fs::symlink("001", &file).unwrap();
        assert!(fails(&directory), "a link");
        std::fs::remove_file(file).unwrap();
        std::fs::create_dir(directory.join("tile/Ada Lovelace")).unwrap();
        let error = verify(&directory, None).unwrap_err().to_string();
        assert!(!error.contains("Ada"), "a foreign name is not repeated");
        std::fs::remove_dir(directory.join("tile/Ada Lovelace")).unwrap();
        assert!(!fails(&directory));
    }
}

#[test]
fn the_last_entry_cannot_be_dropped_with_the_tree_made_anew() {
    let scratch = tempfile::tempdir().unwrap();
    let [directory, _] = logs(scratch.path(), &[260]);
    let root = Log::open(&directory, keys()).unwrap().root_at(259).unwrap();
    let (bundle, tile) = (directory.join("tile/entries/001.p/4"), directory.join("tile/0/001.p/4"));
    let bytes = std::fs::read(&bundle).unwrap();
    let mut length = 0;
    for _ in 0..3 {
        length += 2 + usize::from(u16::from_be_bytes([bytes[length], bytes[length + 1]]));
    }
    std::fs::write(directory.join("tile/entries/001.p/3"), &bytes[..length]).unwrap();
    let hashes = std::fs::read(&tile).unwrap();
    std::fs::write(directory.join("tile/0/001.p/3"), &hashes[..96]).unwrap();
    assert!(!fails(&directory), "these may stand beside the newer ones");
    std::fs::remove_file(bundle).unwrap();
    std::fs::remove_file(tile).unwrap();
    assert!(fails(&directory));
    let checkpoint = std::fs::read_to_string(directory.join("checkpoint")).unwrap();
    let lines: Vec<&str> = checkpoint.lines().collect();
    let forged = format!("{}\n259\n{}\n\n{}\n", lines[0], STANDARD.encode(root), lines[4]);
    std::fs::write(directory.join("checkpoint"), forged).unwrap();
    let error = verify(&directory, None).unwrap_err();
    assert!(matches!(error, VerifyError::Altered { ref file, .. } if file == "checkpoint"), "{error}");
}

#[test]
fn a_log_of_another_key_is_consistent_and_not_ours() {
    let scratch = tempfile::tempdir().unwrap();
    let others = std::sync::Arc::new(AuditKeys::derive(&ring("other"), ORIGIN));
    let mut log = Log::open(scratch.path(), std::sync::Arc::clone(&others)).unwrap();
    log.append(&reads(0, 3)).unwrap();
    log.close().unwrap();
    assert!(verify(scratch.path(), None).is_ok());
    assert!(verify(scratch.path(), Some(&others.verifier_key())).is_ok());
    assert!(matches!(verify(scratch.path(), Some(&keys().verifier_key())), Err(VerifyError::OtherKey)));
    assert!(matches!(verify(scratch.path(), Some("nonsense")), Err(VerifyError::Key)));
    assert!(matches!(Log::open(scratch.path(), keys()), Err(AuditError::OtherKey)));
}

#[test]
fn a_witness_may_sign_the_checkpoint_too() {
    let scratch = tempfile::tempdir().unwrap();
    let [directory, _] = logs(scratch.path(), &[3]);
    let mut checkpoint = std::fs::read_to_string(directory.join("checkpoint")).unwrap();
    checkpoint.push_str(&format!("\u{2014} witness.example/w {}\n", STANDARD.encode([5; 76])));
    std::fs::write(directory.join("checkpoint"), &checkpoint).unwrap();
    assert!(!fails(&directory));
    drop(Log::open(&directory, keys()).unwrap());
    assert_eq!(std::fs::read_to_string(directory.join("checkpoint")).unwrap(), checkpoint, "and it stays");
    // A second signature under the log's own name and key that is not good spoils the note.
    let own = checkpoint.lines().nth(4).unwrap();
    let spoiled = format!("{checkpoint}{}A{}\n", &own[..own.len() - 9], &own[own.len() - 8..]);
    std::fs::write(directory.join("checkpoint"), spoiled).unwrap();
    assert!(fails(&directory));
}

#[test]
fn a_log_cut_back_to_an_older_whole_state_shows_against_a_kept_checkpoint() {
    let scratch = tempfile::tempdir().unwrap();
    let (directory, older) = (scratch.path().join("log"), scratch.path().join("older"));
    let mut log = Log::open(&directory, keys()).unwrap();
    log.append(&reads(0, 10)).unwrap();
    log.close().unwrap();
    copy(&directory, &older);
    let mut log = Log::open(&directory, keys()).unwrap();
    log.append(&reads(10, 10)).unwrap();
    let (size, root) = (log.size(), log.root());
    drop(log);
    assert!(verify(&older, None).is_ok(), "the directory alone cannot tell");
    let mut log = Log::open(&older, keys()).unwrap();
    assert!(matches!(log.root_at(size), Err(AuditError::Beyond)));
    log.append(&reads(10, 10)).unwrap();
    assert_ne!(log.root_at(size).unwrap(), root);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_byte_of_a_larger_log_counts(
        which in 0_usize..2,
        file in any::<prop::sample::Index>(),
        position in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        use std::sync::OnceLock;
        static LOGS: OnceLock<(tempfile::TempDir, [std::path::PathBuf; 2])> = OnceLock::new();
        let (_, logs) = LOGS.get_or_init(|| {
            let scratch = tempfile::tempdir().unwrap();
            let logs = logs(scratch.path(), &[200, 100, 1, 1, 300, 70]);
            (scratch, logs)
        });
        let directory = &logs[which];
        let files = files(directory);
        let file = file.get(&files);
        let position = position.index(written(file).len());
        flip(file, position, bit);
        let failed = fails(directory);
        flip(file, position, bit);
        prop_assert!(failed, "byte {} of {}", position, file.display());
        prop_assert!(!fails(directory));
    }
}
