//! The log through its public interface: round trips, crashes, tampering, and the index.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use base64::Engine as _;
use common::*;
use std::path::Path;
use std::sync::Arc;
use ward_audit::*;
use ward_base::{Phi, RequestId};

#[test]
fn entries_come_back_as_they_went_in() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), keys()).unwrap();
    let appended = log.append(&[read(1, "p1"), read(2, "p2")]).unwrap();
    assert_eq!(appended, Appended { first: 0, size: 2 });
    log.append(&[read(3, "p1")]).unwrap();
    let check = |log: &Log| {
        let found = log.patient_entries(&id("p1"), usize::MAX).unwrap();
        assert_eq!(found.iter().map(|access| access.index).collect::<Vec<_>>(), [0, 2]);
        let access = &found[0];
        assert_eq!(access.class, Class::Rest);
        assert_eq!(access.actor, Actor::User("u-1".to_owned()));
        assert_eq!(access.patients, [id("p1")]);
        assert_eq!(access.resource, Some(("Observation".to_owned(), id("o-1"), Some(3))));
        assert_eq!(access.query.as_ref().unwrap().expose(), "code=1234-5&value-quantity=gt7");
        assert_eq!(access.address.as_ref().unwrap().expose().to_string(), "192.0.2.17");
        assert_eq!(log.latest(2).unwrap().iter().map(|access| access.index).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(log.latest(9).unwrap().len(), 3);
        assert!(log.patient_entries(&id("p3"), usize::MAX).unwrap().is_empty());
    };
    check(&log);
    let root = log.root();
    log.close().unwrap();
    let verified = verify(directory.path(), Some(&keys().verifier_key())).unwrap();
    assert_eq!((verified.entries, verified.root, verified.torn_bytes), (3, root, 0));
    assert_eq!((verified.first, verified.last), (Some(moment(1)), Some(moment(3))));
    assert_eq!(verified.origin, ORIGIN);
    check(&Log::open(directory.path(), keys()).unwrap());
}

#[test]
fn an_event_of_many_patients_becomes_several_entries_of_one_request() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), keys()).unwrap();
    let mut entry = read(1, "first");
    entry.patients = (0..600).map(|number| id(&format!("{number:0>64}"))).collect();
    entry.patients.extend((0..600).map(|number| id(&format!("{number:0>64}"))));
    entry.query = Some(Phi::new("\u{1}".repeat(100_000)));
    entry.user_agent = Some(Phi::new("é".repeat(100_000)));
    entry.rows = 1200;
    let appended = log.append(&[entry.clone()]).unwrap();
    assert_eq!(appended, Appended { first: 0, size: 3 });
    let found = log.latest(3).unwrap();
    assert_eq!(
        found.iter().map(|access| access.part).collect::<Vec<_>>(),
        [Some((1, 3)), Some((2, 3)), Some((3, 3))]
    );
    assert!(found.iter().all(|access| access.request == entry.request && access.rows == 1200));
    let patients: Vec<_> = found.iter().flat_map(|access| access.patients.clone()).collect();
    assert_eq!(patients, entry.patients[..600]);
    assert!(found[0].query.as_ref().unwrap().expose().ends_with("\u{1}…"));
    assert!(found[0].user_agent.as_ref().unwrap().expose().len() <= 1024);
    assert_eq!(log.patient_entries(&entry.patients[599], usize::MAX).unwrap().len(), 1);
    // An event beyond what one record of the journal holds.
    entry.patients = (0..600 * 256).map(|number| id(&format!("{number:0>64}"))).collect();
    assert_eq!(log.append(&[entry.clone()]).unwrap(), Appended { first: 3, size: 603 });
    assert!(verify(directory.path(), None).is_ok_and(|verified| verified.entries == 603));
    log.close().unwrap();
    assert_eq!(verify(directory.path(), None).unwrap().entries, 603);
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_the_log_usable() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), keys()).unwrap();
    let mut entry = read(1, "p");
    entry.actor = Actor::User("x".repeat(70_000));
    assert!(matches!(log.append(&[read(0, "p"), entry]), Err(AuditError::TooLarge)));
    assert_eq!(log.size(), 0);
    assert_eq!(log.append(&[]).unwrap(), Appended { first: 0, size: 0 });
    assert_eq!(log.append(&[read(0, "p")]).unwrap(), Appended { first: 0, size: 1 });
}

#[test]
fn one_writer_and_the_right_keys() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::open(directory.path(), keys()).unwrap();
    assert!(matches!(Log::open(directory.path(), keys()), Err(AuditError::InUse)));
    drop(log);
    let others = Arc::new(AuditKeys::derive(&ring("main"), "ward.example/audit/app-2"));
    assert_ne!(others.verifier_key(), keys().verifier_key());
    assert!(matches!(Log::open(directory.path(), others), Err(AuditError::OtherKey)));
    for origin in ["", "two words", "a+b"] {
        let keys = Arc::new(AuditKeys::derive(&ring("main"), origin));
        assert!(matches!(Log::open(&directory.path().join("new"), keys), Err(AuditError::Origin)));
    }
}

#[test]
fn a_log_that_cannot_be_continued_without_contradiction_is_not_opened() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("log");
    let mut log = Log::open(&directory, keys()).unwrap();
    log.append(&reads(0, 600)).unwrap();
    let crashed = scratch.path().join("crashed");
    copy(&directory, &crashed);
    log.publish().unwrap();
    let published = std::fs::read(directory.join("checkpoint")).unwrap();
    let refused = |name: &str, change: &dyn Fn(&Path)| {
        let altered = scratch.path().join(name);
        copy(&crashed, &altered);
        change(&altered);
        assert!(matches!(Log::open(&altered, keys()), Err(AuditError::Damaged { .. })), "{name}");
    };
    refused("no-journal", &|log| std::fs::remove_file(log.join("journal")).unwrap());
    refused("no-checkpoint", &|log| std::fs::remove_file(log.join("checkpoint")).unwrap());
    refused("cut-behind-published", &|log| {
        std::fs::write(log.join("checkpoint"), &published).unwrap();
        let journal = written(&log.join("journal"));
        std::fs::write(log.join("journal"), &journal[..journal.len() - 1]).unwrap();
    });
    refused("empty-journal", &|log| std::fs::write(log.join("journal"), b"").unwrap());
    refused("unsigned", &|log| std::fs::write(log.join("checkpoint"), b"nonsense").unwrap());
    log.close().unwrap();
    let refused = |name: &str, change: &dyn Fn(&Path)| {
        let altered = scratch.path().join(name);
        copy(&directory, &altered);
        change(&altered);
        assert!(matches!(Log::open(&altered, keys()), Err(AuditError::Damaged { .. })), "{name}");
    };
    refused("no-bundle", &|log| std::fs::remove_file(log.join("tile/entries/002.p/88")).unwrap());
    refused("altered-tile", &|log| std::fs::write(log.join("tile/0/001"), [7; 8192]).unwrap());
    refused("no-tile", &|log| std::fs::remove_file(log.join("tile/0/000")).unwrap());
    assert!(Log::open(&directory, keys()).is_ok());
}

#[test]
fn whatever_the_index_says_the_answer_is_right() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), keys()).unwrap();
    let mut batch = reads(0, 999);
    batch.push(read(999, "rare"));
    for _ in 0..34 {
        log.append(&batch).unwrap();
    }
    let rare = id("rare");
    let answer = |log: &Log| -> Vec<u64> {
        log.patient_entries(&rare, usize::MAX).unwrap().iter().map(|access| access.index).collect()
    };
    let right: Vec<u64> = (0..34).map(|number| number * 1000 + 999).collect();
    assert_eq!(answer(&log), right);
    log.close().unwrap();
    let [first, second] = ["index/000000000", "index/000000001"].map(|name| directory.path().join(name));
    let kept = [std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap()];
    let lies: [&dyn Fn(); 6] = [
        &|| std::fs::remove_dir_all(directory.path().join("index")).unwrap(),
        &|| std::fs::write(&first, b"").unwrap(),
        &|| std::fs::write(&first, &kept[1]).unwrap(),
        // One entry is left out.
        &|| std::fs::write(&second, &kept[1][..kept[1].len() - 24]).unwrap(),
        &|| std::fs::write(&second, [&kept[1][..], &kept[1][32..56]].concat()).unwrap(),
        &|| {
            let mut altered = kept[0].clone();
            altered[40] ^= 1;
            std::fs::write(&first, altered).unwrap();
        },
    ];
    for lie in lies {
        lie();
        assert!(verify(directory.path(), None).is_ok(), "nothing follows from the index");
        let log = Log::open(directory.path(), keys()).unwrap();
        assert_eq!(answer(&log), right);
        assert_eq!(answer(&log), right);
        log.close().unwrap();
        assert_eq!([std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap()], kept, "made anew");
    }
}

#[test]
fn an_index_of_a_log_that_went_on_differently_is_not_believed() {
    let scratch = tempfile::tempdir().unwrap();
    let (directory, restored) = (scratch.path().join("log"), scratch.path().join("restored"));
    let mut log = Log::open(&directory, keys()).unwrap();
    log.append(&reads(0, 16_000)).unwrap();
    log.close().unwrap();
    copy(&directory, &restored);
    let mut log = Log::open(&directory, keys()).unwrap();
    log.append(&reads(0, 400)).unwrap();
    log.close().unwrap();
    let mut log = Log::open(&restored, keys()).unwrap();
    log.append(&[read(0, "rare")]).unwrap();
    log.append(&reads(0, 400)).unwrap();
    log.close().unwrap();
    copy(&directory.join("index"), &restored.join("index"));
    let log = Log::open(&restored, keys()).unwrap();
    assert_eq!(log.patient_entries(&id("rare"), usize::MAX).unwrap().len(), 1);
}

#[test]
fn no_byte_on_the_disk_gives_phi_away() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), keys()).unwrap();
    let mut entry = read(1, "canary-patient-Lovelace");
    entry.patients.push(id("canary-patient-Turing"));
    entry.resource = Some(("Condition", id("canary-resource-77"), Some(3)));
    entry.address = Some(Phi::new("203.0.113.77".parse().unwrap()));
    entry.session = Some("canary-session-key".to_owned());
    entry.user_agent = Some(Phi::new("canary-agent/9.9".to_owned()));
    entry.query = Some(Phi::new("name=canary-query-Hopper".to_owned()));
    // Long enough not to turn up by chance in what is random.
    let canaries = [
        "patient-Lovelace",
        "canary-patient",
        "patient-Turing",
        "canary-resource",
        "203.0.113.77",
        "canary-session",
        "canary-agent",
        "name=canary",
        "query-Hopper",
    ];
    let mut needles: Vec<Vec<u8>> = Vec::new();
    for canary in canaries {
        needles.push(canary.as_bytes().to_vec());
        needles.push(canary.bytes().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes());
        for shift in 0..3 {
            // The letters of base64 that depend on the canary alone, at each of three offsets.
            let padded = [&b"xyz"[..shift], canary.as_bytes()].concat();
            let whole = padded.len() / 3 * 4;
            let skip = if shift == 0 { 0 } else { 4 };
            for engine in
                [&base64::engine::general_purpose::STANDARD, &base64::engine::general_purpose::URL_SAFE]
            {
                needles.push(engine.encode(&padded).as_bytes()[skip..whole].to_vec());
            }
        }
    }
    let search = |found: &mut Vec<String>| {
        for file in files(directory.path()) {
            let bytes = std::fs::read(&file).unwrap();
            let name = file.to_string_lossy().into_owned();
            for needle in &needles {
                if bytes.windows(needle.len()).any(|window| window == needle) {
                    found.push(format!("{name} {}", String::from_utf8_lossy(needle)));
                }
            }
        }
    };
    let mut found = Vec::new();
    for _ in 0..300 {
        log.append(&[entry.clone()]).unwrap();
    }
    search(&mut found);
    assert!(directory.path().join("journal").exists());
    // So many that a segment of the index is written.
    let other = Entry::new(moment(2), request(), Class::Flow, "connect", Outcome::Success);
    log.append(&vec![other; 16_200]).unwrap();
    log.append(&[entry.clone()]).unwrap();
    log.close().unwrap();
    search(&mut found);
    assert!(directory.path().join("index/000000000").exists());
    assert_eq!(found, Vec::<String>::new());
    let log = Log::open(directory.path(), keys()).unwrap();
    let access = &log.latest(1).unwrap()[0];
    let printed = format!("{entry:?} {access:?} {log:?} {:?} {:?}", keys(), access.query);
    assert!(canaries.iter().all(|canary| !printed.contains(canary)), "{printed}");
    assert_eq!(access.query.as_ref().unwrap().expose(), "name=canary-query-Hopper");
}

#[test]
fn equal_events_have_equal_tokens_and_different_seals() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), keys()).unwrap();
    let mut late = read(0, "p1");
    late.time = late.time.plus_seconds(40 * 86_400);
    log.append(&[read(0, "p1"), late]).unwrap();
    log.publish().unwrap();
    let bundle = std::fs::read(directory.path().join("tile/entries/000.p/2")).unwrap();
    let bundle = String::from_utf8_lossy(&bundle);
    let fields = |name: &str| -> Vec<String> {
        bundle
            .split(name)
            .skip(1)
            .map(|rest| rest.chars().take_while(|letter| *letter != '"').collect())
            .collect()
    };
    let sealed = fields("\"sealed\":\"");
    assert_ne!(sealed[0], sealed[1], "equal events have different seals");
    assert_eq!(fields("\"patients\":[\"")[0], fields("\"patients\":[\"")[1], "and equal tokens, as stated");
    assert_eq!(log.latest(2).unwrap()[1].patients, [id("p1")], "a month later the seal opens too");
}

#[test]
fn an_entry_looks_like_this() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), keys()).unwrap();
    let mut full = read(0, "p-1");
    full.request = RequestId::parse("01KDYXB0HDTCS3MJ3Q9J5V5XKZ").unwrap();
    full.patients.push(id("p-2"));
    let mut least = Entry::new(moment(1), full.request, Class::AuditStatus, "start", Outcome::Intent);
    let mut program = least.clone();
    program.actor = Actor::Client("c-1".to_owned());
    least.rows = 3;
    log.append(&[full, least, program]).unwrap();
    log.close().unwrap();
    let bundle = std::fs::read(directory.path().join("tile/entries/000.p/3")).unwrap();
    let mut rest = bundle.as_slice();
    let mut shown = String::new();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (entry, after) = after.split_at(usize::from(u16::from_be_bytes(*length)));
        let mut text = String::from_utf8(entry.to_vec()).unwrap();
        // What is random.
        for (field, replacement) in [("\"id\":\"", "ULID"), ("\"sealed\":\"", "SEALED")] {
            if let Some(start) = text.find(field).map(|start| start + field.len()) {
                let end = start + text[start..].find('"').unwrap();
                let length = format!("{replacement} of {}", end - start);
                text.replace_range(start..end, &length);
            }
        }
        shown.push_str(&text);
        shown.push('\n');
        rest = after;
    }
    expect_test::expect![[r#"
        {"v":1,"id":"ULID of 26","time":1767322245678901,"class":"rest","action":"read","outcome":"success","user":"u-1","roles":["clinician"],"mfa":"totp","purpose":"TREAT","policy":4,"request":"01KDYXB0HDTCS3MJ3Q9J5V5XKZ","type":"Observation","rows":1,"status":200,"patients":["oguBzLlouQjqugttfkddAg","8r0FVC12cJnnMkaFKmUvRg"],"resource":"EQOfM0rfqNqzE8FeLMcI1Q","address":"mTBfEceBe6a5MsNUrHoKjg","session":"uXN3As_jsl-O2_Xj4oqmdQ","sealed":"SEALED of 316"}
        {"v":1,"id":"ULID of 26","time":1767322246678901,"class":"audit-status","action":"start","outcome":"intent","policy":0,"request":"01KDYXB0HDTCS3MJ3Q9J5V5XKZ","rows":3}
        {"v":1,"id":"ULID of 26","time":1767322246678901,"class":"audit-status","action":"start","outcome":"intent","client":"c-1","policy":0,"request":"01KDYXB0HDTCS3MJ3Q9J5V5XKZ","rows":0}
    "#]].assert_eq(&shown);
}

/// A log that was written when this format was made: closed, and as a crash left it.
#[test]
fn kept_logs_still_verify_and_open() {
    const ROOT: &str = "32822c5d45f8e8593559ceda7a8365373c2b3a00a0c2929c03a89a19512a4f45";
    for kept in ["v1", "v1-crashed", "v2-crashed"] {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(kept);
        let directory = tempfile::tempdir().unwrap();
        copy(&kept, directory.path());
        let verified = verify(directory.path(), Some(&keys().verifier_key())).unwrap();
        assert_eq!(verified.entries, 5);
        let root: String = verified.root.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(root, ROOT);
        let mut log = Log::open(directory.path(), keys()).unwrap();
        let found = log.patient_entries(&id("p-3"), usize::MAX).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].query.as_ref().unwrap().expose(), "code=1234-5&value-quantity=gt7");
        log.append(&reads(5, 5)).unwrap();
    }
}
