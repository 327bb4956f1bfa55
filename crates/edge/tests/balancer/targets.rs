//! Who gets a request.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use http::Request;
use ward_transport::Peers;

use crate::support::{BackEnd, Balancer, World, eventually, text, web};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_targets_take_turns() {
    let world = World::new();
    let (one, two, three) = (world.named(web(1)).await, world.named(web(2)).await, world.named(web(3)).await);
    two.status.store(503, Ordering::Relaxed);
    let balancer = Balancer::public(&world, &[&one, &two, &three]).await;
    let mut client = balancer.client().await;
    let mut answers = BTreeMap::<String, u32>::new();
    for _ in 0..20 {
        *answers.entry(client.get("/fhir/R4/x").await.text().to_owned()).or_default() += 1;
    }
    assert_eq!(answers, BTreeMap::from([("web-1".to_owned(), 10), ("web-3".to_owned(), 10)]));
    two.status.store(200, Ordering::Relaxed);
    eventually("web-2 is back", || async { balancer.get("/fhir/R4/x").await.text() == "web-2" }).await;
    three.status.store(500, Ordering::Relaxed);
    eventually("web-3 is out", || async {
        let mut client = balancer.client().await;
        for _ in 0..6 {
            if client.get("/fhir/R4/x").await.text() == "web-3" {
                return false;
            }
        }
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_dies_costs_no_request_and_its_successor_is_used_again() {
    let world = World::new();
    let (one, two) = (world.named(web(1)).await, world.named(web(2)).await);
    let balancer = Balancer::public(&world, &[&one, &two]).await;
    let mut client = balancer.client().await;
    for _ in 0..4 {
        assert_eq!(client.get("/fhir/R4/x").await.status, 200);
    }
    let mut targets = vec![two.target.clone()];
    let dead = one.kill().await;
    for step in 0..20 {
        let answer = client.get("/fhir/R4/x").await;
        assert_eq!((answer.status, answer.text()), (200, "web-2"), "{step}");
    }
    // A new process at the same address, with a new key.
    let clients = Peers::new(vec![world.edge.pin().unwrap()]);
    let successor =
        BackEnd::start(&world, web(1), dead.address, clients, |_| async { text("the successor") }).await;
    assert_eq!(client.get("/fhir/R4/x").await.text(), "web-2", "its key is not on the list yet");
    targets.push(successor.target.clone());
    balancer.retarget(targets).await;
    eventually("the successor answers", || async {
        balancer.get("/fhir/R4/x").await.text() == "the successor"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_targets_everyone_is_told_to_come_back() {
    let world = World::new();
    let only = world.named(web(1)).await;
    let balancer = Balancer::public(&world, &[&only]).await;
    assert_eq!(balancer.get("/").await.status, 200);
    only.kill().await;
    for (path, media_type) in [
        ("/", "text/html"),
        ("/fhir/R4/Patient/1", "application/fhir+json"),
        ("/oauth/token", "application/json"),
    ] {
        let answer = balancer.get(path).await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.header("retry-after").is_some());
        assert!(answer.header("content-type").unwrap().starts_with(media_type), "{path}");
        assert!(answer.text().contains("ry again"), "{}", answer.text());
        assert!(!answer.text().contains("Patient/1"));
        assert!(answer.header("strict-transport-security").is_some());
        assert!(answer.header("x-request-id").is_some());
    }
    let outcome: serde_json::Value = serde_json::from_slice(&balancer.get("/fhir/R4/x").await.body).unwrap();
    assert_eq!(
        (outcome["resourceType"].as_str(), outcome["issue"][0]["code"].as_str()),
        (Some("OperationOutcome"), Some("transient"))
    );
    let none = Balancer::public(&world, &[]).await;
    assert_eq!(none.get("/").await.status, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_stays_with_its_target() {
    let world = World::new();
    let (one, two) = (world.named(web(1)).await, world.named(web(2)).await);
    let balancer = Balancer::public(&world, &[&one, &two]).await;
    let mut client = balancer.client().await;
    for path in
        ["/fhir/R4/x", "/oauth/token", "/ward/users", "/.well-known/x", "/assets/0/ward.css", "/healthz"]
    {
        assert_eq!(client.get(path).await.header("set-cookie"), None, "{path}");
    }
    let first = client.get("/").await;
    let set = first.header("set-cookie").unwrap().to_owned();
    let (cookie, attributes) = set.split_once("; ").unwrap();
    assert!(cookie.starts_with("__Host-ward-target="), "{set}");
    assert_eq!(attributes, "Path=/; Secure; HttpOnly; SameSite=Strict");
    let mine = first.text().to_owned();
    for _ in 0..6 {
        let again = client.send(Request::get("/").header("cookie", format!("a=b; {cookie}")), "").await;
        assert_eq!((again.text(), again.header("set-cookie")), (mine.as_str(), None));
    }
    // A cookie of somebody's own making chooses nothing.
    let forged = cookie.replace("web-1", "web-9").replace("web-2", "web-1").replace("web-9", "web-2");
    let mut answers = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let answer = client.send(Request::get("/").header("cookie", &forged), "").await;
        assert!(answer.header("set-cookie").is_some());
        answers.insert(answer.text().to_owned());
    }
    assert_eq!(answers.len(), 2);
    // Its target dies: the other one takes over, and keeps the browser.
    let (dead, alive) = if mine == "web-1" { (one, two) } else { (two, one) };
    dead.kill().await;
    let moved = client.send(Request::get("/").header("cookie", cookie), "").await;
    assert_eq!((moved.status, moved.text()), (200, alive.target.instance.to_string().as_str()));
    assert!(moved.header("set-cookie").unwrap().contains(&alive.target.instance.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_broken_back_ends_have_their_own_status() {
    let world = World::new();
    let back_end = world
        .back_end(web(1), |request| async move {
            if request.uri().path() == "/slow" {
                std::future::pending::<()>().await;
            }
            assert_ne!(request.uri().path(), "/break", "an end without an answer");
            text("fine")
        })
        .await;
    let balancer = Balancer::public(&world, &[&back_end]).await;
    let slow = balancer.get("/slow").await;
    assert_eq!((slow.status, slow.header("retry-after")), (504, None));
    assert_eq!(balancer.client().await.send(Request::post("/break"), "x").await.status, 502);
    assert_eq!(balancer.get("/").await.status, 200);
    let posts = back_end.requests();
    assert_eq!(balancer.client().await.send(Request::post("/break"), "x").await.status, 502);
    assert_eq!(back_end.requests(), posts + 1, "what may have been done is not done twice");
}
