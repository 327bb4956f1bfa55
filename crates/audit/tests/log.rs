//! The log through its public interface: round trips, crashes, tampering, and the index.

mod common;

use common::*;
use ward_audit::*;

#[test]
fn entries_come_back_as_they_went_in() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), keys()).unwrap();
    let appended = log.append(&[read(1, "p1"), read(2, "p2")]).unwrap();
    assert_eq!(appended, Appended { first: 0, size: 2 });
    log.append(&[read(3, "p1")]).unwrap();
    let check = |log: &Log| {
        let found = log.patient_entries(&id("p1")).unwrap();
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
        assert!(log.patient_entries(&id("p3")).unwrap().is_empty());
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
