//! `kill -9` under load: no acknowledged write is lost, and each has its audit entry.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use ward_testkit::{Https, Stack};

use crate::empty_stack;

/// Creates patients until told to stop; remembers the ids of those that were acknowledged.
fn write_until(client: &Https, stop: &AtomicBool, acknowledged: &Mutex<BTreeSet<String>>) {
    while !stop.load(Ordering::Relaxed) {
        let body = json!({"resourceType": "Patient", "name": [{"family": "Crash"}]});
        let sent = client.try_send(
            "POST",
            "/fhir/R4/Patient",
            &[("Content-Type", "application/fhir+json")],
            body.to_string().as_bytes(),
        );
        match sent {
            Ok(answer) if answer.status == 201 => {
                let id = answer.json()["id"].as_str().unwrap().to_owned();
                acknowledged.lock().unwrap().insert(id);
            }
            // While it is down, anything but an acknowledgement is fair.
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn under_load(client: &Https, acknowledged: &Arc<Mutex<BTreeSet<String>>>, disturb: impl FnOnce()) {
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (client, stop, acknowledged) = (client.clone(), Arc::clone(&stop), Arc::clone(acknowledged));
            std::thread::spawn(move || write_until(&client, &stop, &acknowledged))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(400));
    disturb();
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().unwrap();
    }
}

fn check(stack: &Stack, acknowledged: &BTreeSet<String>, minimum: usize) {
    assert!(acknowledged.len() >= minimum, "only {} writes were acknowledged", acknowledged.len());
    let client = stack.signed_in("system/*.cruds");
    for id in acknowledged {
        let answer = client.get(&format!("/fhir/R4/Patient/{id}"));
        assert_eq!(answer.status, 200, "an acknowledged write is gone: {}", answer.text());
    }
    let verified = stack.ward_json(&["audit", "verify"]);
    assert!(verified["entries"].as_u64().unwrap() as usize >= acknowledged.len());
    for id in acknowledged.iter().take(50) {
        let who = stack.ward_json(&["audit", "who", "--patient", id]);
        let actions: Vec<&str> = who["accesses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|access| access["action"].as_str().unwrap())
            .collect();
        assert!(actions.contains(&"create"), "no audit entry for a write: {who}");
    }
}

#[test]
fn killing_the_app_tier_twenty_times_loses_nothing() {
    let stack = empty_stack();
    let client = stack.signed_in("system/*.cruds");
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    for _ in 0..20 {
        under_load(&client, &acknowledged, || stack.kill("app-1"));
        stack.wait_until_healthy();
    }
    let acknowledged = acknowledged.lock().unwrap();
    check(&stack, &acknowledged, 20);
}

#[test]
fn killing_the_whole_stack_twenty_times_loses_nothing() {
    let mut stack = empty_stack();
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    for _ in 0..20 {
        let client = stack.signed_in("system/*.cruds");
        under_load(&client, &acknowledged, || stack.kill_everything());
        stack.start_again();
    }
    let acknowledged = acknowledged.lock().unwrap();
    check(&stack, &acknowledged, 20);
}
