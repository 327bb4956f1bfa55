//! Twenty times, a process that writes is killed with SIGKILL. Every write it acknowledged is there afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod common;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use common::*;
use ward_store::{Expected, StoreError};

const ROUNDS: usize = 20;

/// The process that is killed: this test binary again, told where to write by its standard input.
#[test]
#[ignore = "run by `acknowledged_writes_survive` as a child process"]
fn child() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let (round, directory) = line.trim_end().split_once(' ').unwrap();
    let (round, directory) = (round.to_owned(), PathBuf::from(directory));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = open_file(&directory);
        let mut writers = Vec::new();
        for writer in 0..8 {
            let (store, round) = (store.clone(), round.clone());
            writers.push(tokio::spawn(async move {
                for number in 0.. {
                    let id = format!("r{round}-w{writer}-n{number}");
                    // Two resources in one operation: both or none.
                    let first = observation(&id, &format!("p{writer}-{round}"), "8480-6", "2020-01-02");
                    let second = patient(&format!("{id}-p"), "Lovelace");
                    let prepared = [&first, &second].map(|one| store.prepare(&key_of(one), one).unwrap());
                    store
                        .write(move |transaction| {
                            prepared
                                .iter()
                                .try_for_each(|one| transaction.put(one, Expected::Absent).map(|_| ()))
                        })
                        .await
                        .map_err(|_: StoreError| ())
                        .unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "acknowledged {id}").unwrap();
                    out.flush().unwrap();
                }
            }));
        }
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

#[tokio::test]
async fn acknowledged_writes_survive() {
    let place = Place::file();
    drop(place.keys());
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        writeln!(process.stdin.take().unwrap(), "{round} {}", place.path().display()).unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut seen = 0;
        // A different number each time, so that the kill falls into different moments.
        while seen < 5 + round * 7 {
            let line = lines.next().expect("the child goes on until it is killed").unwrap();
            if let Some(id) = line.split("acknowledged ").nth(1) {
                acknowledged.push(id.to_owned());
                seen += 1;
            }
        }
        std::thread::sleep(Duration::from_micros(311 * round as u64));
        process.kill().unwrap();
        process.wait().unwrap();
        acknowledged.extend(lines.map_while(Result::ok).filter_map(|line| {
            line.split("acknowledged ").nth(1).filter(|_| !line.is_empty()).map(str::to_owned)
        }));
    }
    assert!(acknowledged.len() > ROUNDS * 5);
    let store = place.open();
    let count = acknowledged.len();
    let missing = store
        .read(move |session| {
            let mut missing = 0;
            for id in acknowledged {
                for key in [key("Observation", &id), key("Patient", &format!("{id}-p"))] {
                    missing += usize::from(session.current(&key)?.is_none());
                }
            }
            Ok::<_, StoreError>(missing)
        })
        .await
        .unwrap();
    println!("{count} acknowledged writes over {ROUNDS} kills");
    assert_eq!(missing, 0);
    store.close().await;
    let connection = place.with_database_key();
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    // Both or none: as many of the one as of the other.
    let counts: Vec<i64> = connection
        .prepare("SELECT count(*) FROM resource GROUP BY type")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(counts.len() == 2 && counts[0] == counts[1], "{counts:?}");
}
