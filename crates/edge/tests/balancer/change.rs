//! What changes while requests run.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use ward_edge::EdgeLimits;
use ward_transport::control::Update;
use ward_transport::{Body, RequestBody, SpkiPin};

use crate::support::{Balancer, EDGE, World, eventually, limits, text, web};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_identities_are_replaced_under_load_without_a_failure() {
    let world = World::new();
    let back_ends = [world.named(web(1)).await, world.named(web(2)).await];
    let balancer = Arc::new(Balancer::public(&world, &[&back_ends[0], &back_ends[1]]).await);
    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let work = |worker: usize| {
        let (balancer, done, answered) = (balancer.clone(), done.clone(), answered.clone());
        async move {
            let mut client = balancer.client().await;
            let mut step = 0;
            while !done.load(Ordering::Relaxed) {
                // Some keep their connection all the time, some make new ones.
                if worker.is_multiple_of(2) && step % 5 == 0 {
                    client = balancer.client().await;
                }
                let request =
                    if step % 2 == 0 { Request::get("/fhir/R4/x") } else { Request::post("/fhir/R4/x") };
                let answer = client.send(request, "x").await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                answered.fetch_add(1, Ordering::Relaxed);
                step += 1;
            }
        }
    };
    let load: Vec<_> = (0..6).map(|worker| tokio::spawn(work(worker))).collect();
    let settle = || async {
        let before = answered.load(Ordering::Relaxed);
        eventually("requests go on", || async { answered.load(Ordering::Relaxed) > before + 60 }).await;
    };
    let accept =
        |pins: &[SpkiPin]| back_ends.iter().for_each(|back_end| back_end.clients.replace(pins.to_vec()));
    let mut targets = back_ends.each_ref().map(|back_end| back_end.target.clone());
    let mut edge = world.edge.pin().unwrap();
    for _ in 0..4 {
        // The balancer's own key: everyone learns it, then it is used, then the old one is forgotten.
        let next = world.authority.issue(EDGE, 600).unwrap();
        let new = next.pin().unwrap();
        accept(&[edge, new]);
        balancer.tell(Update::Identity(next)).await;
        settle().await;
        accept(&[new]);
        edge = new;
        // The public certificate.
        let listener = world.listeners.issue_listener(&["localhost".to_owned()], 600).unwrap();
        let shown = listener.pin().ok();
        balancer.tell(Update::ListenerCertificate(listener)).await;
        eventually("the new certificate is shown", || async {
            let stream = balancer.connect().await;
            SpkiPin::of(&stream.get_ref().1.peer_certificates().unwrap()[0]) == shown
        })
        .await;
        // The back ends' keys, like the balancer's.
        for (position, back_end) in back_ends.iter().enumerate() {
            let next = world.authority.issue(back_end.target.instance, 600).unwrap();
            targets[position].pins.push(next.pin().unwrap());
            balancer.retarget(targets.to_vec()).await;
            settle().await;
            back_end.identity.replace(&next).unwrap();
            settle().await;
            targets[position].pins.remove(0);
            balancer.retarget(targets.to_vec()).await;
            settle().await;
        }
    }
    done.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.unwrap();
    }
    assert!(back_ends.iter().all(|back_end| back_end.requests() > 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_changes_its_members_without_losing_a_request() {
    let world = World::new();
    let release = Arc::new(Notify::new());
    let waiting = release.clone();
    let slow = world
        .back_end(web(1), move |_| {
            let waiting = waiting.clone();
            async move {
                waiting.notified().await;
                text("finished")
            }
        })
        .await;
    let balancer = Balancer::public(&world, &[&slow]).await;
    let mut client = balancer.client().await;
    let under_way = tokio::spawn(async move { client.get("/fhir/R4/x").await });
    eventually("the request is under way", || async { slow.requests() == 1 }).await;
    let other = world.named(web(2)).await;
    balancer.retarget(vec![other.target.clone()]).await;
    eventually("the other one is used", || async {
        other.requests() > 0 || balancer.get("/fhir/R4/x").await.text() == "web-2"
    })
    .await;
    // At most those that came before the change was heard of.
    for _ in slow.requests()..=slow.requests() + 1 {
        assert_eq!(balancer.get("/fhir/R4/x").await.text(), "web-2");
    }
    release.notify_waiters();
    assert_eq!(under_way.await.unwrap().text(), "finished");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_finishes_what_runs_and_takes_nothing_new() {
    let world = World::new();
    let release = Arc::new(Notify::new());
    let waiting = release.clone();
    let slow = world
        .back_end(web(1), move |request: Request<RequestBody>| {
            let waiting = waiting.clone();
            async move {
                if request.uri().path() == "/slow" {
                    waiting.notified().await;
                }
                text("finished")
            }
        })
        .await;
    let balancer = Balancer::public(&world, &[&slow]).await;
    let (mut idle, mut busy) = (balancer.client().await, balancer.client().await);
    assert_eq!(idle.get("/").await.status, 200);
    let under_way = tokio::spawn(async move { busy.get("/slow").await });
    eventually("the request is under way", || async { slow.requests() == 2 }).await;
    balancer.tell(Update::Drain).await;
    eventually("nothing new is taken", || async { TcpStream::connect(balancer.address).await.is_err() })
        .await;
    eventually("idle connections are closed", || async { idle.connection.is_finished() }).await;
    assert!(!balancer.task.is_finished());
    release.notify_waiters();
    let answer = under_way.await.unwrap();
    assert_eq!((answer.status, answer.text(), answer.header("connection")), (200, "finished", Some("close")));
    balancer.task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_does_not_wait_for_ever() {
    let world = World::new();
    let stuck = world.back_end(web(1), |_| std::future::pending()).await;
    let limits = EdgeLimits { drain_timeout_ms: 200, response_timeout_ms: 600_000, ..limits() };
    let balancer = Balancer::public_with(&world, &[&stuck], limits).await;
    let mut client = balancer.client().await;
    let under_way = tokio::spawn(async move { client.try_send(Request::get("/"), "").await.is_err() });
    eventually("the request is under way", || async { stuck.requests() == 1 }).await;
    // Standard input ended: the supervisor is gone.
    drop(balancer.updates);
    balancer.task.await.unwrap().unwrap();
    assert!(under_way.await.unwrap(), "cut off, visibly");
}

/// An answer that comes piece by piece.
struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    announced: Option<u64>,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.announced.map(hyper::body::SizeHint::with_exact).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_an_answer_is_never_passed_off_as_whole() {
    let world = World::new();
    for announced in [None, Some(1000)] {
        let (sender, pieces) = mpsc::channel(1);
        let pieces = std::sync::Mutex::new(Some(pieces));
        let back_end = world
            .back_end(web(1), move |_| {
                let pieces = pieces.lock().unwrap().take();
                async move {
                    pieces.map_or_else(
                        || text("no more"),
                        |pieces| Response::new(Body::new(Pieces { pieces, announced })),
                    )
                }
            })
            .await;
        let balancer = Balancer::public(&world, &[&back_end]).await;
        let mut stream = balancer.connect().await;
        let request = format!(
            "GET /fhir/R4/x HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\r\n",
            balancer.address.port()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        sender.send(Bytes::from_static(b"the first half")).await.unwrap();
        // What has come goes on before the rest does.
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains("the first half") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
        back_end.kill().await;
        let rest = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        assert!(rest.is_ok(), "the connection is ended");
        let answer = String::from_utf8(answer).unwrap();
        match announced {
            Some(_) => assert!(answer.contains("content-length: 1000"), "{answer}"),
            None => assert!(answer.contains("chunked") && !answer.ends_with("0\r\n\r\n"), "{answer}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_takes_its_request_along() {
    let world = World::new();
    let gone = Arc::new(AtomicBool::new(false));
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let noticed = gone.clone();
    let stuck = world
        .back_end(web(1), move |_| {
            let dropped = Dropped(noticed.clone());
            async move {
                std::future::pending::<()>().await;
                drop(dropped);
                text("")
            }
        })
        .await;
    let balancer = Balancer::public(&world, &[&stuck]).await;
    let mut client = balancer.client().await;
    let under_way = tokio::spawn(async move { client.get("/").await });
    eventually("the request is under way", || async { stuck.requests() == 1 }).await;
    under_way.abort();
    eventually("the back end is told", || async { gone.load(Ordering::Relaxed) }).await;
}
