//! What a request through a balancer costs: a trivial back end, a public balancer and clients in one process.
//!
//! `cargo run --release -p ward-edge --example throughput -- [connections] [seconds] [answer bytes]`
//!
//! The same clients ask the back end directly first; the difference of the two is the balancer's share. Rates depend
//! on how many processors there are for the three parts; CPU time per request does not, nearly.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for developers")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use ward_base::{Clock as _, InstanceId, SystemClock, Tier};
use ward_edge::{EdgeConfig, EdgeLimits, HealthCheck, TargetGroup};
use ward_transport::control::{Bootstrap, Target};
use ward_transport::{
    Authority, Body, Caller, CertificateAuthority, Identity, Peers, RequestBody, Serve, Server, ServerLimits,
    mutual_client_config, mutual_server_config, server_name,
};

const EDGE: InstanceId = InstanceId { tier: Tier::PublicEdge, number: 1 };
const WEB: InstanceId = InstanceId { tier: Tier::Web, number: 1 };

struct Trivial(Bytes);

impl Serve for Trivial {
    type Body = Body;

    async fn serve(&self, _: &Caller, _: Request<RequestBody>) -> Response<Body> {
        Response::new(Body::full(self.0.clone()))
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>().unwrap());
    let connections = arguments.next().unwrap_or(16);
    let seconds = Duration::from_secs(arguments.next().unwrap_or(5) as u64);
    let bytes = arguments.next().unwrap_or(1024);

    let authority = CertificateAuthority::create("tiers", SystemClock.now()).unwrap();
    let listeners = CertificateAuthority::create("listeners", SystemClock.now()).unwrap();
    let (edge, web) = (authority.issue(EDGE, 3600).unwrap(), authority.issue(WEB, 3600).unwrap());
    let trust = Authority::from_pem(authority.certificate_pem()).unwrap();

    let clients = Peers::new(vec![edge.pin().unwrap()]);
    let tls = mutual_server_config(&Identity::new(&web).unwrap(), &trust, &clients).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let behind = listener.local_addr().unwrap();
    let server = Server::new(tls, ServerLimits::default());
    tokio::spawn(server.serve(listener, Trivial(vec![b'x'; bytes].into()), std::future::pending()));

    let front = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = Target { instance: WEB, address: behind, pins: vec![web.pin().unwrap()] };
    let (_updates, receiver) = mpsc::channel(1);
    let bootstrap = Bootstrap {
        instance: EDGE,
        identity: edge.clone(),
        authority_pem: authority.certificate_pem().to_owned(),
        listen: front,
        clients: vec![],
        config: EdgeConfig {
            public: true,
            listener_certificate: Some(listeners.issue_listener(&["localhost".to_owned()], 3600).unwrap()),
            group: TargetGroup {
                name: "web".to_owned(),
                targets: vec![target],
                health: HealthCheck::default(),
            },
            sticky: Some("5a".repeat(32)),
            limits: EdgeLimits::default(),
            public_hosts: vec!["localhost".to_owned()],
        },
    };
    tokio::spawn(ward_edge::run(bootstrap, receiver));
    while TcpStream::connect(front).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(listeners.certificate_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let browser = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let peers = Peers::new(vec![web.pin().unwrap()]);
    let direct = mutual_client_config(&Identity::new(&edge).unwrap(), &trust, &peers).unwrap();

    let direct = measure("direct", connections, seconds, direct, behind, &server_name(WEB)).await;
    let through = measure("through", connections, seconds, Arc::new(browser), front, "localhost").await;
    println!("the balancer's share: {:.1} µs of CPU per request", through - direct);
}

/// Microseconds of CPU time per request, everything in this process counted.
async fn measure(
    name: &str,
    connections: usize,
    duration: Duration,
    tls: Arc<ClientConfig>,
    address: SocketAddr,
    server: &str,
) -> f64 {
    let mut senders = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let server = ServerName::try_from(server.to_owned()).unwrap();
        let stream = TlsConnector::from(tls.clone()).connect(server, stream).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        senders.push(sender);
    }
    let (started, before) = (Instant::now(), processor_time());
    let workers: Vec<_> = senders
        .into_iter()
        .map(|mut sender| {
            tokio::spawn(async move {
                let mut requests = 0_u32;
                while started.elapsed() < duration {
                    let request = Request::get("/fhir/R4/Patient/0b6a")
                        .header("host", "localhost")
                        .header("accept", "application/fhir+json")
                        .header("authorization", "Bearer 0123456789abcdef0123456789abcdef")
                        .header("user-agent", "throughput")
                        .body(Empty::<Bytes>::new())
                        .unwrap();
                    sender.ready().await.unwrap();
                    let response = sender.send_request(request).await.unwrap();
                    assert_eq!(response.status(), 200);
                    response.into_body().collect().await.unwrap();
                    requests += 1;
                }
                requests
            })
        })
        .collect();
    let mut requests = 0;
    for worker in workers {
        requests += worker.await.unwrap();
    }
    let cost = (processor_time() - before).as_secs_f64() * 1e6 / f64::from(requests);
    let rate = f64::from(requests) / started.elapsed().as_secs_f64();
    println!("{name}: {rate:.0} requests/s over {connections} connections, {cost:.1} µs of CPU per request");
    cost
}

/// User and system time of this process so far.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
