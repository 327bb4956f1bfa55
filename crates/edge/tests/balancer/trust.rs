//! Who may talk to whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use ward_base::{InstanceId, Tier};
use ward_transport::control::{Target, Update};
use ward_transport::{Identity, Peers, SpkiPin, mutual_server_config};

use crate::support::{Balancer, World, eventually, limits, web};

/// Somebody with a certificate of the right authority for `instance` who writes down all that reaches it.
struct Listener {
    target: Target,
    connections: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
}

impl Listener {
    async fn start(world: &World, instance: InstanceId, believed: impl FnOnce(SpkiPin) -> Target) -> Self {
        let material = world.authority.issue(instance, 600).unwrap();
        let identity = Identity::new(&material).unwrap();
        let clients = Peers::new(vec![world.edge.pin().unwrap()]);
        let acceptor = TlsAcceptor::from(mutual_server_config(&identity, &world.trust(), &clients).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut target = believed(material.pin().unwrap());
        target.address = listener.local_addr().unwrap();
        let (connections, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, heard) = (connections.clone(), bytes.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let (acceptor, heard) = (acceptor.clone(), heard.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut buffer = [0; 1024];
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        heard.fetch_add(read, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { target, connections, bytes }
    }

    fn has_heard_nothing(&self) {
        assert_ne!(self.connections.load(Ordering::Relaxed), 0, "it was never tried");
        assert_eq!(self.bytes.load(Ordering::Relaxed), 0, "it was spoken to");
    }
}

fn nowhere() -> std::net::SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_end_with_an_unlisted_key_hears_nothing() {
    let world = World::new();
    let good = world.named(web(1)).await;
    let listed = world.authority.issue(web(2), 600).unwrap().pin().unwrap();
    let believed = |_| Target { instance: web(2), address: nowhere(), pins: vec![listed] };
    let rogue = Listener::start(&world, web(2), believed).await;
    let targets = vec![good.target.clone(), rogue.target.clone()];
    let balancer = Balancer::start(&world, targets, limits(), vec![], true).await;
    let mut client = balancer.client().await;
    for _ in 0..10 {
        let answer = client.send(Request::post("/fhir/R4/x"), "secret").await;
        assert_eq!((answer.status, answer.text()), (200, "web-1"));
    }
    // Alone: not even then.
    balancer.retarget(vec![rogue.target.clone()]).await;
    eventually("only the rogue is left", || async { balancer.get("/").await.status == 503 }).await;
    assert_eq!(client.send(Request::post("/fhir/R4/x"), "secret").await.status, 503);
    rogue.has_heard_nothing();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_end_with_the_right_key_and_another_name_hears_nothing() {
    let world = World::new();
    // Its key is on the list, but for `web-1`; its certificate is of `web-2`.
    let believed = |pin| Target { instance: web(1), address: nowhere(), pins: vec![pin] };
    let other = Listener::start(&world, web(2), believed).await;
    let app = InstanceId { tier: Tier::App, number: 1 };
    let tier =
        Listener::start(&world, app, |pin| Target { instance: web(3), address: nowhere(), pins: vec![pin] })
            .await;
    let targets = vec![other.target.clone(), tier.target.clone()];
    let balancer = Balancer::start(&world, targets, limits(), vec![], true).await;
    for _ in 0..4 {
        assert_eq!(balancer.client().await.send(Request::post("/"), "secret").await.status, 503);
    }
    other.has_heard_nothing();
    tier.has_heard_nothing();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_taken_off_the_list_gets_no_more_requests() {
    let world = World::new();
    let back_end = world.named(web(1)).await;
    let balancer = Balancer::public(&world, &[&back_end]).await;
    let mut client = balancer.client().await;
    assert_eq!(client.get("/").await.status, 200);
    let other = world.authority.issue(web(1), 600).unwrap().pin().unwrap();
    balancer.retarget(vec![Target { pins: vec![other], ..back_end.target.clone() }]).await;
    eventually("the key is not accepted", || async { balancer.get("/").await.status == 503 }).await;
    let before = back_end.requests();
    assert_eq!(client.get("/").await.status, 503, "not over the connection that stood before either");
    assert_eq!(back_end.requests(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_internal_balancer_answers_only_those_on_its_list() {
    let world = World::new();
    let back_end = world.named(web(1)).await;
    let (caller, stranger) =
        (world.authority.issue(web(1), 600).unwrap(), world.authority.issue(web(1), 600).unwrap());
    let balancer =
        Balancer::start(&world, vec![back_end.target.clone()], limits(), vec![caller.pin().unwrap()], false)
            .await;
    let mut known = balancer.mutual_client(&world, &caller).await.unwrap();
    let answer = known.get("/fhir/R4/x").await;
    assert_eq!((answer.status, answer.header("strict-transport-security")), (200, None));
    let before = back_end.requests();
    if let Some(mut client) = balancer.mutual_client(&world, &stranger).await {
        // With TLS 1.3 a client learns only afterwards that it was turned away.
        assert!(client.try_send(Request::get("/fhir/R4/x"), "").await.is_err());
    }
    if let Ok(stream) = balancer.try_connect(balancer.browser()).await {
        let (mut stream, mut answer) = (stream, Vec::new());
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "no certificate, no answer");
    }
    assert_eq!(back_end.requests(), before);
    // Turned away later as well, and let in again.
    balancer.tell(Update::Clients(vec![stranger.pin().unwrap()])).await;
    eventually("the list is in force", || async {
        match balancer.mutual_client(&world, &stranger).await {
            Some(mut client) => client.try_send(Request::get("/"), "").await.is_ok(),
            None => false,
        }
    })
    .await;
    assert!(known.try_send(Request::get("/"), "").await.is_err(), "an open connection is closed");
}
