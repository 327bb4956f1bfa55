//! What only a server can do and suffer: several instances of the store at once, restarts, a standby that takes over,
//! and servers that are not the right one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "figures for whoever reads the output")]

mod common;

use std::{
    future::Future,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::*;
use serde_json::json;
use ward_base::{Secret, SystemClock, SystemRandom};
use ward_fhir::search::{self, Handling, Parameters};
use ward_store::{
    Database, Expected, Page, RecordKind, ServerOptions, Store, StoreError, StoreOptions, Transaction,
};
use ward_testkit::Postgres;

fn several() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap()
}

/// Runs two at the same moment.
async fn at_once<T: Send + 'static>(
    first: impl Future<Output = T> + Send + 'static,
    second: impl Future<Output = T> + Send + 'static,
) -> (T, T) {
    let barrier = Arc::new(tokio::sync::Barrier::new(2));
    let other = Arc::clone(&barrier);
    let first = tokio::spawn(async move {
        barrier.wait().await;
        first.await
    });
    let second = tokio::spawn(async move {
        other.wait().await;
        second.await
    });
    (first.await.unwrap(), second.await.unwrap())
}

fn put_at_once(
    store: &Store,
    resource: serde_json::Value,
    expected: Expected,
) -> impl Future<Output = Result<u64, StoreError>> + Send + 'static {
    let store = store.clone();
    async move { put_if(&store, &resource, expected).await.map(|written| written.version) }
}

#[test]
fn of_two_who_write_the_same_version_one_wins() {
    several().block_on(async {
        let place = Place::server();
        let (one, other) = (place.open(), place.open());
        for number in 0..60 {
            let id = format!("p{number}");
            let mut expected = Expected::Absent;
            for version in 1..4 {
                let results = at_once(
                    put_at_once(&one, patient(&id, "One"), expected),
                    put_at_once(&other, patient(&id, "Other"), expected),
                )
                .await;
                assert!(
                    results == (Ok(version), Err(StoreError::Conflict))
                        || results == (Err(StoreError::Conflict), Ok(version)),
                    "{results:?}"
                );
                expected = Expected::Version(version);
            }
        }
        assert_eq!(place.run("SELECT count(*) FROM resource"), "60");
        assert_eq!(place.run("SELECT count(*) FROM history"), "120");
        one.close().await;
        other.close().await;
    });
}

/// Each adds one to a counter in a resource and to one in a record, over and over, in one operation.
#[test]
fn nothing_that_two_instances_count_is_lost() {
    const TASKS: usize = 4;
    const ROUNDS: usize = 25;
    several().block_on(async {
        let place = Place::server();
        let stores = [place.open(), place.open()];
        put(&stores[0], &patient("counter", "0")).await.unwrap();
        let mut tasks = Vec::new();
        for task in 0..TASKS {
            let store = stores[task % 2].clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    let preparing = store.clone();
                    let count = move |transaction: &mut dyn Transaction| {
                        let key = key("Patient", "counter");
                        let stored = transaction.current(&key)?.ok_or(StoreError::Corrupt)?;
                        let read: serde_json::Value = serde_json::from_slice(stored.body.expose()).unwrap();
                        let counted: usize = read["name"][0]["family"].as_str().unwrap().parse().unwrap();
                        let next = patient("counter", &(counted + 1).to_string());
                        transaction
                            .put(&preparing.prepare(&key, &next)?, Expected::Version(stored.version))?;
                        let record = transaction.record(RecordKind::Setting, "counter")?.unwrap_or_default();
                        let counted = String::from_utf8(record).unwrap().parse().unwrap_or(0) + 1;
                        transaction.put_record(
                            RecordKind::Setting,
                            "counter",
                            counted.to_string().as_bytes(),
                            None,
                        )
                    };
                    store.write(count).await.unwrap();
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let (stored, record) = stores[1]
            .read(|session| {
                Ok::<_, StoreError>((
                    session.current(&key("Patient", "counter"))?.unwrap(),
                    session.record(RecordKind::Setting, "counter")?.unwrap(),
                ))
            })
            .await
            .unwrap();
        let expected = TASKS * ROUNDS;
        assert_eq!(stored.version as usize, expected + 1);
        assert!(String::from_utf8_lossy(stored.body.expose()).contains(&format!("\"{expected}\"")));
        assert_eq!(record, expected.to_string().as_bytes());
    });
}

/// A resource is made only if a search finds none: what is not there cannot be locked, yet one is made.
#[test]
fn of_two_who_look_and_then_create_one_does() {
    several().block_on(async {
        let place = Place::server();
        let (one, other) = (place.open(), place.open());
        let create = |store: &Store, id: String, number: usize| {
            let store = store.clone();
            async move {
                let mut resource = patient(&id, "Lovelace");
                resource["identifier"] = json!([{"system": "urn:mrn", "value": format!("N{number}")}]);
                let prepared = store.prepare(&key_of(&resource), &resource).unwrap();
                let asked = [("identifier".to_owned(), format!("urn:mrn|N{number}"))];
                let query = search::parse(
                    resource_type("Patient"),
                    &asked,
                    Handling::Strict,
                    BASE,
                    &Parameters::default(),
                )
                .unwrap()
                .0;
                store
                    .write(move |transaction| {
                        if !transaction
                            .search(std::slice::from_ref(&query), &Page { count: 1, after: None })?
                            .hits
                            .is_empty()
                        {
                            return Ok(false);
                        }
                        transaction.put(&prepared, Expected::Absent)?;
                        Ok::<_, StoreError>(true)
                    })
                    .await
                    .unwrap()
            }
        };
        for number in 0..40 {
            let made = at_once(
                create(&one, format!("a{number}"), number),
                create(&other, format!("b{number}"), number),
            )
            .await;
            assert!(made.0 != made.1, "{number}: {made:?}");
        }
    });
}

#[test]
fn what_was_ended_does_not_come_back() {
    several().block_on(async {
        let place = Place::server();
        let (one, other) = (place.open(), place.open());
        for number in 0..40 {
            let name = format!("s{number}");
            let (put, renewed, ended) = (name.clone(), name.clone(), name.clone());
            one.write(move |transaction| transaction.put_record(RecordKind::Session, &put, b"1", None))
                .await
                .unwrap();
            let (first, second) = (one.clone(), other.clone());
            at_once(
                async move {
                    let renew = move |transaction: &mut dyn Transaction| {
                        if transaction.record(RecordKind::Session, &renewed)?.is_some() {
                            transaction.put_record(RecordKind::Session, &renewed, b"2", None)?;
                        }
                        Ok::<_, StoreError>(())
                    };
                    first.write(renew).await.unwrap();
                },
                async move {
                    let end = move |transaction: &mut dyn Transaction| {
                        transaction.delete_record(RecordKind::Session, &ended)
                    };
                    second.write(end).await.unwrap();
                },
            )
            .await;
            let left = one.read(move |session| session.record(RecordKind::Session, &name)).await.unwrap();
            assert_eq!(left, None);
        }
    });
}

#[test]
fn data_keys_made_at_the_same_moment_stay_readable() {
    several().block_on(async {
        let place = Place::server();
        let (one, other) = (place.open(), place.open());
        for number in 0..30 {
            let subject = format!("p{number}");
            let results = at_once(
                put_at_once(&one, observation(&format!("a{number}"), &subject, "1-1", "2020"), Expected::Any),
                put_at_once(
                    &other,
                    observation(&format!("b{number}"), &subject, "1-1", "2020"),
                    Expected::Any,
                ),
            )
            .await;
            assert_eq!(results, (Ok(1), Ok(1)));
        }
        for store in [one, other, place.open()] {
            let found = store.read(|session| session.export(None, None, 100)).await.unwrap();
            assert_eq!(found.0.len(), 60);
        }
        println!("{} data keys for 30 patients", place.run("SELECT count(*) FROM data_key"));
    });
}

#[test]
fn many_may_open_an_empty_database_at_once() {
    let place = Place::server();
    drop(place.keys());
    let opened: Vec<Result<(), StoreError>> = std::thread::scope(|scope| {
        let open = || place.open_with(place.keys(), Arc::new(SystemClock)).map(drop);
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(opened, vec![Ok(()); 6]);
    assert_eq!(place.run("SELECT count(*) FROM migration"), "1");
    assert_eq!(place.run("SELECT count(*) FROM meta"), "1");
}

#[tokio::test]
async fn reading_leaves_no_transaction_open() {
    let place = Place::server();
    let store = place.open();
    put(&store, &patient("p", "Lovelace")).await.unwrap();
    for _ in 0..4 {
        store.read(|session| session.current(&key("Patient", "p"))).await.unwrap();
    }
    let idle =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    let started = Instant::now();
    while place.run(idle) != "0" {
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    store.close().await;
    let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ward'";
    while place.run(left) != "0" {
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

fn open_on(server: &Postgres, change: impl FnOnce(&mut ServerOptions)) -> Result<Store, StoreError> {
    open_with_keys_of(tempfile::tempdir().unwrap().path(), server, change)
}

fn open_with_keys_of(
    directory: &Path,
    server: &Postgres,
    change: impl FnOnce(&mut ServerOptions),
) -> Result<Store, StoreError> {
    let mut options = server_options(server, "postgres");
    change(&mut options);
    let options = StoreOptions { database: Database::Server(options), ..StoreOptions::new("", BASE) };
    Store::open(options, keys(directory), Arc::new(SystemClock), Arc::new(SystemRandom))
}

#[test]
fn only_the_right_server_and_the_right_user_will_do() {
    let server = Postgres::shared();
    let other = Postgres::start_for(&["elsewhere.test", "127.0.0.1"], "fsync = off\nlog_connections = on\n");
    let fresh = |options: &mut ServerOptions| options.database = server.new_database();
    assert!(open_on(&server, fresh).is_ok());
    // The address is in the certificate too.
    assert!(
        open_on(&server, |options| {
            fresh(options);
            options.hosts = vec![("127.0.0.1".to_owned(), server.port())];
        })
        .is_ok()
    );
    // Another authority: of the right host name, and with a certificate for another.
    let of_other = |options: &mut ServerOptions| options.authorities_pem = other.authority_pem().to_owned();
    assert_eq!(open_on(&server, of_other).err(), Some(StoreError::Untrusted));
    assert_eq!(open_on(&other, |_| {}).err(), Some(StoreError::Untrusted));
    let proof = "connection authenticated: identity=\"ward\"";
    assert!(!other.log().contains(proof), "something was proved to a server that is not trusted");
    let trusted = open_on(&other, |options| {
        options.database = other.new_database();
        options.hosts = vec![("127.0.0.1".to_owned(), other.port())];
    });
    assert!(trusted.is_ok() && other.log().contains(proof), "what is proved is logged");
    let no_authority = open_on(&server, |options| options.authorities_pem.clear());
    assert_eq!(no_authority.err(), Some(StoreError::Settings));
    let password = open_on(&server, |options| options.password = Some(Secret::new(b"wrong".to_vec())));
    assert_eq!(password.err(), Some(StoreError::Refused));
    let no_password = open_on(&server, |options| options.password = None);
    assert_eq!(no_password.err(), Some(StoreError::Refused));
    let database = open_on(&server, |options| options.database = "nowhere".to_owned());
    assert_eq!(database.err(), Some(StoreError::Refused));
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let nobody = open_on(&server, |options| options.hosts = vec![("localhost".to_owned(), silent)]);
    assert_eq!(nobody.err(), Some(StoreError::Unavailable));
    drop(server);
    let plain = other.without_tls();
    assert_eq!(open_on(&plain, |_| {}).err(), Some(StoreError::Untrusted));
}

#[test]
fn a_host_that_is_silent_is_passed_over() {
    let server = Postgres::shared();
    // The kernel takes the connection; nobody ever says a word.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let opened = open_on(&server, |options| {
        options.database = server.new_database();
        options.hosts.insert(0, ("localhost".to_owned(), silent.local_addr().unwrap().port()));
    });
    assert_eq!(opened.err(), None);
}

/// The server goes away before the commit of what has written nothing.
#[tokio::test]
async fn what_only_reads_is_never_uncertain() {
    let mut server = Postgres::start("");
    let database = server.new_database();
    let store = open_on(&server, |options| options.database = database).unwrap();
    put(&store, &patient("p", "Lovelace")).await.unwrap();
    let mut running = true;
    let found = store.write(move |transaction| {
        let found = transaction.current(&key("Patient", "p"))?;
        if std::mem::take(&mut running) {
            server.kill();
            server.start_again();
        }
        Ok::<_, StoreError>(found.is_some())
    });
    assert_eq!(found.await, Ok(true));
}

#[test]
fn a_write_outlasts_a_lock_of_some_seconds() {
    several().block_on(async {
        let place = Arc::new(Place::server());
        let store = place.open();
        put(&store, &patient("p", "Lovelace")).await.unwrap();
        let locking = Arc::clone(&place);
        let holder = std::thread::spawn(move || {
            locking.run("BEGIN; SELECT rid FROM resource FOR UPDATE; SELECT pg_sleep(7); COMMIT");
        });
        let held = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event = 'PgSleep'";
        while tokio::task::block_in_place(|| place.run(held)) == "0" {
            assert!(!holder.is_finished());
        }
        assert_eq!(put(&store, &patient("p", "Byron")).await.map(|written| written.version), Ok(2));
        holder.join().unwrap();
    });
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let mut server = Postgres::start("");
    let database = server.new_database();
    let store = open_on(&server, |options| options.database = database).unwrap();
    put(&store, &patient("p", "Lovelace")).await.unwrap();
    for kill in [false, true] {
        if kill {
            server.kill()
        } else {
            server.stop()
        }
        let read = store.read(|session| session.current(&key("Patient", "p"))).await;
        assert_eq!(read.err(), Some(StoreError::Unavailable));
        assert_eq!(put(&store, &patient("q", "Byron")).await.err(), Some(StoreError::Unavailable));
        server.start_again();
        let read = store.read(|session| session.current(&key("Patient", "p"))).await;
        assert!(read.unwrap().is_some());
        put(&store, &patient("p", "Again")).await.unwrap();
        // A restart that nobody notices is nobody's error.
        server.stop();
        server.start_again();
        put(&store, &patient("p", "Again")).await.unwrap();
        let read = store.read(|session| session.current(&key("Patient", "p"))).await;
        assert!(read.unwrap().is_some());
    }
}

/// Writers write until they are told to stop; what was acknowledged is written down.
fn under_load(
    store: &Store,
    stop: &Arc<AtomicBool>,
    acknowledged: &Arc<Mutex<Vec<String>>>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let write = |writer: usize| {
        let (store, stop, acknowledged) = (store.clone(), Arc::clone(stop), Arc::clone(acknowledged));
        tokio::spawn(async move {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("w{writer}-n{number}");
                let resource = observation(&id, &format!("p{writer}"), "8480-6", "2020-01-02");
                match put_if(&store, &resource, Expected::Absent).await {
                    Ok(_) => acknowledged.lock().unwrap().push(id),
                    Err(StoreError::Unavailable | StoreError::Uncertain) => {
                        tokio::time::sleep(Duration::from_millis(20)).await
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
        })
    };
    (0..8).map(write).collect()
}

#[test]
fn no_acknowledged_write_is_lost_when_the_standby_takes_over() {
    several().block_on(async {
        let mut primary = Postgres::start("");
        let database = primary.new_database();
        let standby = primary.synchronous_standby();
        let directory = tempfile::tempdir().unwrap();
        let store = open_with_keys_of(directory.path(), &primary, |options| {
            options.database = database.clone();
            options.hosts.push(("localhost".to_owned(), standby.port()));
        })
        .unwrap();
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let writers = under_load(&store, &stop, &acknowledged);
        tokio::time::sleep(Duration::from_secs(2)).await;
        tokio::task::block_in_place(|| primary.kill());
        let before = acknowledged.lock().unwrap().len();
        tokio::task::block_in_place(|| standby.promote());
        // The same store goes on with the one that took over.
        let started = Instant::now();
        while acknowledged.lock().unwrap().len() < before + 50 {
            assert!(started.elapsed() < Duration::from_secs(60), "writing does not go on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        let acknowledged = acknowledged.lock().unwrap().clone();
        let count = acknowledged.len();
        store.close().await;
        // With the same keys, and nothing remembered.
        let fresh = open_with_keys_of(directory.path(), &standby, |options| options.database = database);
        let missing = fresh
            .unwrap()
            .read(move |session| {
                let mut missing = 0;
                for id in acknowledged {
                    missing += usize::from(session.current(&key("Observation", &id))?.is_none());
                }
                Ok::<_, StoreError>(missing)
            })
            .await
            .unwrap();
        println!("{before} writes acknowledged before the kill, {count} in all");
        assert!(before > 50);
        assert_eq!(missing, 0);
    });
}

/// A standby that nobody waits for may take over without the newest rows.
#[test]
fn a_data_key_that_was_lost_with_its_server_seals_nothing_more() {
    several().block_on(async {
        let mut primary = Postgres::start("");
        let database = primary.new_database();
        let standby = primary.synchronous_standby();
        let directory = tempfile::tempdir().unwrap();
        let store = open_with_keys_of(directory.path(), &primary, |options| {
            options.database = database.clone();
            options.hosts.push(("localhost".to_owned(), standby.port()));
        })
        .unwrap();
        for id in ["a", "b"] {
            put(&store, &observation(id, "p", "1-1", "2020")).await.unwrap();
        }
        tokio::task::block_in_place(|| {
            primary.kill();
            standby.promote();
            standby.run(&database, "DELETE FROM bix; DELETE FROM resource; DELETE FROM data_key");
        });
        put(&store, &observation("c", "p", "1-1", "2020")).await.unwrap();
        let fresh = open_with_keys_of(directory.path(), &standby, |options| options.database = database);
        let found = fresh.unwrap().read(|session| session.current(&key("Observation", "c"))).await;
        assert!(found.unwrap().is_some());
    });
}

/// While the standby is away, commits wait for longer than we do.
#[test]
fn connections_do_not_pile_up_behind_a_commit_that_waits() {
    several().block_on(async {
        let primary = Postgres::start("");
        let database = primary.new_database();
        let mut standby = primary.synchronous_standby();
        let store = open_on(&primary, |options| {
            options.database = database;
            options.writers = 1;
        })
        .unwrap();
        put(&store, &patient("p", "Lovelace")).await.unwrap();
        let count = |condition: &str| {
            let query = format!(
                "SELECT count(*), min(pid) FROM pg_stat_activity WHERE application_name = 'ward' {condition}"
            );
            tokio::task::block_in_place(|| primary.run("postgres", &query))
        };
        let connection = count("");
        tokio::task::block_in_place(|| standby.stop());
        assert_eq!(put(&store, &patient("p", "Byron")).await.err(), Some(StoreError::Uncertain));
        assert_eq!(count("AND wait_event = 'SyncRep'"), connection);
        let next = tokio::spawn({
            let store = store.clone();
            async move { put(&store, &patient("p", "Babbage")).await }
        });
        tokio::task::block_in_place(|| standby.start_again());
        assert_eq!(next.await.unwrap().map(|written| written.version), Ok(3));
        assert_eq!(count(""), connection);
    });
}

/// PostgreSQL answers with success and a warning when somebody ends its wait for the standby.
#[test]
fn a_write_that_the_standby_does_not_have_is_not_acknowledged() {
    several().block_on(async {
        let primary = Postgres::start("");
        let database = primary.new_database();
        let mut standby = primary.synchronous_standby();
        let store = open_on(&primary, |options| options.database = database).unwrap();
        put(&store, &patient("p", "Lovelace")).await.unwrap();
        tokio::task::block_in_place(|| standby.stop());
        let writing = {
            let store = store.clone();
            tokio::spawn(async move { put(&store, &patient("p", "Byron")).await })
        };
        let waiting =
            "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let started = Instant::now();
        while tokio::task::block_in_place(|| primary.run("postgres", waiting)) == "0" {
            assert!(started.elapsed() < Duration::from_secs(20));
            assert!(!writing.is_finished());
        }
        assert_eq!(writing.await.unwrap().err(), Some(StoreError::Uncertain));
    });
}

/// A whole Bundle in one transaction meets many small writes, from another instance too.
#[test]
fn a_large_write_gets_through_among_small_ones() {
    several().block_on(async {
        let place = Place::server();
        let (one, other) = (place.open(), place.open());
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let mut writers = under_load(&one, &stop, &acknowledged);
        let updating = (0..4).map(|writer| {
            let (store, stop) = (one.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    put(&store, &patient(&format!("u{writer}"), "Lovelace")).await.unwrap();
                }
            })
        });
        writers.extend(updating.collect::<Vec<_>>());
        let mut took = Vec::new();
        for round in 0..5 {
            let resources = (0..300).map(|number| {
                observation(&format!("b{number}"), &format!("q{}", number % 5), "1-1", &format!("20{round:02}"))
            });
            let prepared: Vec<_> =
                resources.map(|resource| other.prepare(&key_of(&resource), &resource).unwrap()).collect();
            let started = Instant::now();
            other
                .write(move |transaction| {
                    prepared.iter().try_for_each(|one| transaction.put(one, Expected::Any).map(drop))
                })
                .await
                .unwrap_or_else(|error: StoreError| panic!("after {:?}: {error}", started.elapsed()));
            took.push(started.elapsed().as_millis());
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        let small = acknowledged.lock().unwrap().len();
        println!("300 resources in one write: {took:?} ms, among {small} small writes and updates of four resources");
    });
}
