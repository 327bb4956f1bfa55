//! What was acknowledged survives a kill, a torn write and a full disk; what was signed is never contradicted.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::*;
use proptest::prelude::*;
use ward_audit::*;
use ward_base::SystemRandom;

const DIRECTORY: &str = "WARD_AUDIT_TEST_DIRECTORY";

/// Not a test by itself: the process that the others start and kill. Appends until it is stopped, and says what was
/// acknowledged.
#[test]
#[ignore = "started by other tests"]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let mut log = Log::open(Path::new(&directory), keys()).unwrap();
    let mut out = std::io::stdout().lock();
    loop {
        let [large, small] = SystemRandom::bytes::<2>();
        let count = if large < 40 { 50 + u64::from(small) } else { 1 + u64::from(small % 7) };
        if let Err(error) = log.append(&reads(log.size(), count)) {
            assert!(matches!(log.append(&reads(0, 1)), Err(AuditError::Poisoned)));
            writeln!(out, "failed {error}").unwrap();
            return;
        }
        let root: String = log.root().iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "acknowledged {} {root}", log.size()).unwrap();
        out.flush().unwrap();
    }
}

fn start(directory: &Path, shell: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" --exact child --ignored --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The sizes and roots that were acknowledged, in order.
fn acknowledged(lines: impl Iterator<Item = String>) -> Vec<(u64, String)> {
    lines
        .filter_map(|line| {
            let (size, root) = line.strip_prefix("acknowledged ")?.split_once(' ')?;
            // The last line may be cut off by the kill.
            (root.len() == 64).then(|| (size.parse().unwrap(), root.to_owned()))
        })
        .collect()
}

fn hex(root: [u8; 32]) -> String {
    root.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn twenty_kills_lose_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut all: Vec<(u64, String)> = Vec::new();
    for round in 0..20_u64 {
        let mut child = start(directory.path(), "");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut known = acknowledged(
            lines.by_ref().filter(|line| line.starts_with("ack")).take(3 + (round as usize) * 7),
        );
        assert!(!known.is_empty(), "the child did not append");
        let [wait] = SystemRandom::bytes::<1>();
        std::thread::sleep(std::time::Duration::from_micros(u64::from(wait) * 40));
        child.kill().unwrap();
        child.wait().unwrap();
        known.extend(acknowledged(lines));
        let (last, _) = *known.last().as_ref().unwrap();
        all.extend(known.iter().cloned());

        let verified = verify(directory.path(), Some(&keys().verifier_key())).unwrap();
        assert!(verified.entries >= *last, "round {round}");
        // Some logs are closed properly now and then; most are left to the next child as the kill left them.
        let copied = tempfile::tempdir().unwrap();
        let place = if round % 4 == 0 { directory.path() } else { copied.path() };
        if round % 4 != 0 {
            copy(directory.path(), place);
        }
        let log = Log::open(place, keys()).unwrap();
        assert_eq!((log.size(), log.root()), (verified.entries, verified.root), "round {round}");
        for (size, root) in &all {
            assert_eq!(&hex(log.root_at(*size).unwrap()), root, "round {round}, size {size}");
        }
        log.close().unwrap();
        assert_eq!(verify(place, None).unwrap().entries, verified.entries);

        // And one that is killed while it opens the log, or soon after.
        let mut child = start(directory.path(), "");
        let [wait] = SystemRandom::bytes::<1>();
        std::thread::sleep(std::time::Duration::from_micros(u64::from(wait) * 100));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(verify(directory.path(), None).unwrap().entries >= verified.entries, "round {round}");
    }
    let log = Log::open(directory.path(), keys()).unwrap();
    assert!(log.size() > 16_384, "some kills should meet a journal that was begun anew: {}", log.size());
    for (number, access) in log.latest(u64::MAX).unwrap().iter().enumerate() {
        assert_eq!(access.index, number as u64);
    }
}

#[test]
fn a_full_disk_stops_the_log_and_harms_nothing() {
    let directory = tempfile::tempdir().unwrap();
    // A limit on the size of files, in units of 512 or 1,024 bytes; the journal meets it first.
    let mut child = start(directory.path(), "trap '' XFSZ; ulimit -f 3000;");
    let lines: Vec<String> =
        BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok).collect();
    child.wait().unwrap();
    assert!(lines.iter().any(|line| line.starts_with("failed ")), "{lines:?}");
    let known = acknowledged(lines.into_iter());
    let (last, root) = known.last().unwrap();
    let verified = verify(directory.path(), Some(&keys().verifier_key())).unwrap();
    assert!(verified.entries >= *last);
    let mut log = Log::open(directory.path(), keys()).unwrap();
    assert_eq!(&hex(log.root_at(*last).unwrap()), root);
    assert_eq!(log.dropped_bytes(), verified.torn_bytes);
    log.append(&reads(0, 3)).unwrap();
}

#[test]
fn a_write_that_fails_poisons_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), keys()).unwrap();
    log.append(&reads(0, 5)).unwrap();
    // Where the first full bundle should go, something is in the way.
    std::fs::write(directory.path().join("tile"), b"").unwrap();
    assert!(matches!(log.append(&reads(5, 300)), Err(AuditError::Io { .. })));
    std::fs::remove_file(directory.path().join("tile")).unwrap();
    assert!(matches!(log.append(&reads(0, 1)), Err(AuditError::Poisoned)));
    assert!(matches!(log.publish(), Err(AuditError::Poisoned)));
    assert!(matches!(log.close(), Err(AuditError::Poisoned)));
    assert_eq!(verify(directory.path(), None).unwrap().entries, 305, "durable, though not acknowledged");
    let log = Log::open(directory.path(), keys()).unwrap();
    assert_eq!(log.size(), 305);
}

#[test]
fn tiles_that_were_lost_with_the_power_are_made_anew() {
    let scratch = tempfile::tempdir().unwrap();
    let (directory, crashed) = (scratch.path().join("log"), scratch.path().join("crashed"));
    let mut log = Log::open(&directory, keys()).unwrap();
    for _ in 0..3 {
        log.append(&reads(log.size(), 300)).unwrap();
    }
    copy(&directory, &crashed);
    let tiles: Vec<_> =
        files(&crashed).into_iter().filter(|file| file.starts_with(crashed.join("tile"))).collect();
    assert_eq!(tiles.len(), 6);
    for (number, tile) in tiles.iter().enumerate() {
        if number % 2 == 0 { std::fs::write(tile, b"").unwrap() } else { std::fs::remove_file(tile).unwrap() }
    }
    let opened = Log::open(&crashed, keys()).unwrap();
    assert_eq!((opened.size(), opened.root(), opened.dropped_bytes()), (900, log.root(), 0));
    opened.close().unwrap();
    assert_eq!(verify(&crashed, Some(&keys().verifier_key())).unwrap().root, log.root());
}

#[test]
fn a_log_that_is_being_written_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = start(directory.path(), "");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut known = 0;
    for _ in 0..30 {
        known = acknowledged(lines.by_ref().filter(|line| line.starts_with("ack")).take(5))
            .last()
            .unwrap()
            .0
            .max(known);
        let verified = verify(directory.path(), Some(&keys().verifier_key())).unwrap();
        assert!(verified.entries >= known);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// How a write can be torn.
#[derive(Clone, Debug)]
enum Tear {
    Cut,
    Zeros,
    Garbage(u8),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_torn_batch_is_dropped_whole_and_nothing_else(
        batches in prop::collection::vec(1_u64..300, 1..5),
        last in 1_u64..300,
        at in any::<prop::sample::Index>(),
        room in 0_usize..10_000,
        tear in prop_oneof![Just(Tear::Cut), Just(Tear::Zeros), any::<u8>().prop_map(Tear::Garbage)],
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let (whole, torn) = (scratch.path().join("whole"), scratch.path().join("torn"));
        let mut log = Log::open(&whole, keys()).unwrap();
        for batch in &batches {
            log.append(&reads(log.size(), *batch)).unwrap();
        }
        let (size, root) = (log.size(), log.root());
        // What a crash in the last append leaves: the tiles of before, and a part of the batch in the journal.
        copy(&whole, &torn);
        let before = written(&torn.join("journal"));
        log.append(&reads(size, last)).unwrap();
        let mut bytes = written(&whole.join("journal"));
        prop_assert!(bytes.starts_with(&before));
        let position = before.len() + at.index(bytes.len() - before.len());
        match tear {
            Tear::Cut => bytes.truncate(position),
            Tear::Zeros => {
                bytes[position..].fill(0);
                bytes.resize(bytes.len() + room, 0);
            }
            Tear::Garbage(seed) => {
                let mut value = seed;
                for byte in &mut bytes[position..] {
                    value = value.wrapping_mul(13).wrapping_add(101);
                    *byte ^= value | 1;
                }
            }
        }
        std::fs::write(torn.join("journal"), &bytes).unwrap();
        let bytes = written(&torn.join("journal"));
        let unchanged = written(&whole.join("journal")) == bytes;
        if matches!(tear, Tear::Cut | Tear::Zeros) {
            let verified = verify(&torn, Some(&keys().verifier_key())).unwrap();
            prop_assert_eq!((verified.entries, verified.root), (size, root));
            prop_assert_eq!(verified.torn_bytes, bytes.len() - before.len());
        }
        let log_of_torn = Log::open(&torn, keys()).unwrap();
        prop_assert!(!unchanged || log_of_torn.size() == size + last);
        if !unchanged {
            prop_assert_eq!((log_of_torn.size(), log_of_torn.root()), (size, root));
            prop_assert_eq!(log_of_torn.dropped_bytes(), bytes.len() - before.len());
        }
        log_of_torn.close().unwrap();
        prop_assert!(verify(&torn, None).is_ok());
    }

    #[test]
    fn an_altered_batch_before_the_last_is_not_taken_for_a_torn_one(
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let (whole, altered) = (scratch.path().join("whole"), scratch.path().join("altered"));
        let mut log = Log::open(&whole, keys()).unwrap();
        log.append(&reads(0, 20)).unwrap();
        log.append(&reads(0, 3)).unwrap();
        let length = written(&whole.join("journal")).len();
        log.append(&reads(0, 5)).unwrap();
        copy(&whole, &altered);
        let mut bytes = std::fs::read(altered.join("journal")).unwrap();
        bytes[at.index(length)] ^= 1 << bit;
        std::fs::write(altered.join("journal"), bytes).unwrap();
        prop_assert!(verify(&altered, None).is_err());
        match Log::open(&altered, keys()) {
            Ok(opened) => prop_assert_eq!((opened.size(), opened.root()), (log.size(), log.root())),
            Err(AuditError::Damaged { .. }) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn batches_and_reopenings_in_any_order_give_one_growing_log(
        steps in prop::collection::vec((0_u8..8, 1_u64..400), 1..25),
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let mut directory = scratch.path().join("0");
        let mut log = Log::open(&directory, keys()).unwrap();
        let mut heads = vec![(0, log.root())];
        let mut patients: Vec<String> = Vec::new();
        for (number, (step, count)) in steps.into_iter().enumerate() {
            match step {
                0 => {
                    log.close().unwrap();
                    prop_assert!(!directory.join("journal").exists());
                    prop_assert_eq!(verify(&directory, None).unwrap().entries, patients.len() as u64);
                    log = Log::open(&directory, keys()).unwrap();
                }
                1 => {
                    // A crash: the directory as it is, without a closing.
                    let next = scratch.path().join((number + 1).to_string());
                    copy(&directory, &next);
                    let verified = verify(&next, None).unwrap();
                    prop_assert_eq!((verified.entries, verified.root), *heads.last().unwrap());
                    log = Log::open(&next, keys()).unwrap();
                    directory = next;
                }
                2 => log.publish().unwrap(),
                _ => {
                    let batch = reads(log.size(), count);
                    patients.extend(batch.iter().map(|entry| entry.patients[0].as_str().to_owned()));
                    let appended = log.append(&batch).unwrap();
                    prop_assert_eq!(appended.size, patients.len() as u64);
                    heads.push((log.size(), log.root()));
                }
            }
        }
        for (size, root) in heads {
            prop_assert_eq!(log.root_at(size).unwrap(), root);
        }
        for number in 0..7 {
            let name = format!("p-{number}");
            let found: Vec<u64> =
                log.patient_entries(&id(&name), usize::MAX).unwrap().iter().map(|access| access.index).collect();
            let expected: Vec<u64> =
                (0..).zip(&patients).filter(|(_, patient)| **patient == name).map(|(entry, _)| entry).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
