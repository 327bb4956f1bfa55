//! Who may talk to whom: nobody gets past a balancer, and a balancer talks to nobody it does not know.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ward_testkit::{Https, StackOptions};

use crate::{empty_stack, stack};

/// Sends a plaintext request and gives whatever comes back.
fn plaintext(address: SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received);
    received
}

#[test]
fn nothing_listens_without_tls_and_no_instance_answers_past_its_balancer() {
    let stack = empty_stack();
    for name in ["public-edge-1", "web-1", "web-2", "internal-edge-1", "app-1"] {
        let (address, _) = stack.instance(name);
        let answer = plaintext(address);
        assert!(!answer.starts_with(b"HTTP/"), "{name} speaks plaintext");
        if name == "public-edge-1" {
            continue;
        }
        // With the right trust but without a certificate of the right caller, no request is answered.
        let direct = Https::new(address, &stack.trust());
        assert!(direct.try_send("GET", "/healthz", &[], b"").is_err(), "{name} answers a direct call");
    }
}

#[test]
fn each_process_dies_alone_and_comes_back() {
    let stack = stack(StackOptions { demo_patients: 1, ..Default::default() });
    let client = stack.signed_in("system/*.rs");
    assert_eq!(client.search("Patient", "_count=1").status, 200);
    for name in ["web-1", "web-2"] {
        let (_, before) = stack.instance(name);
        stack.kill(name);
        // The other web instance answers meanwhile.
        for _ in 0..20 {
            assert_eq!(client.search("Patient", "_count=1").status, 200, "while {name} is down");
        }
        wait_for_another(&stack, name, before);
    }
    for name in ["internal-edge-1", "app-1", "public-edge-1"] {
        let (_, before) = stack.instance(name);
        stack.kill(name);
        let back = wait_for_another(&stack, name, before);
        assert!(back < Duration::from_secs(10), "{name} took {back:?}");
        let deadline = Instant::now() + Duration::from_secs(20);
        while client.try_send("GET", "/fhir/R4/metadata", &[], b"").map_or(0, |answer| answer.status) != 200 {
            assert!(Instant::now() < deadline, "no answer after {name} came back\n{}", stack.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
        // Tokens survive a restart of the app tier: they are in the store.
        assert_eq!(client.search("Patient", "_count=1").status, 200, "{name}");
    }
}

fn wait_for_another(stack: &ward_testkit::Stack, name: &str, before: i32) -> Duration {
    let started = Instant::now();
    loop {
        stack.wait_until_healthy();
        let (_, now) = stack.instance(name);
        if now != before && now != 0 {
            return started.elapsed();
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{name} did not come back\n{}", stack.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn certificates_rotate_while_requests_run() {
    // Two minutes of life: a rotation a minute.
    let stack = stack(StackOptions {
        configuration: "[certificates]\nlifetime_minutes = 2\n".to_owned(),
        demo_patients: 1,
    });
    let client = stack.signed_in("system/*.rs");
    let started = Instant::now();
    let mut answered = 0;
    let mut last_token = Instant::now();
    let mut client = client;
    while started.elapsed() < Duration::from_secs(130) {
        if last_token.elapsed() > Duration::from_secs(100) {
            client = stack.signed_in("system/*.rs");
            last_token = Instant::now();
        }
        let answer = client.search("Patient", "_count=1");
        assert_eq!(answer.status, 200, "after {:?}: {}\n{}", started.elapsed(), answer.text(), stack.logs());
        answered += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(answered > 500);
    let rotated = std::fs::read_to_string(stack.scratch().join("up.stderr")).unwrap();
    assert!(rotated.matches("identity.rotated").count() >= 5, "{rotated}");
    assert!(stack.status()["instances"].as_array().unwrap().iter().all(|one| one["restarts"] == 0));
}
