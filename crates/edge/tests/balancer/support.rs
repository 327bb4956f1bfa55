//! Back ends, a balancer and clients in one process: real sockets, real certificates.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use ward_base::{Clock as _, InstanceId, SystemClock, Tier};
use ward_edge::{EdgeConfig, EdgeError, EdgeLimits, HealthCheck, TargetGroup};
use ward_transport::control::{Bootstrap, Target, Update};
use ward_transport::{
    Authority, Body, Caller, CertificateAuthority, Identity, IdentityMaterial, Peers, RequestBody, Serve,
    Server, ServerLimits, SpkiPin, mutual_client_config, mutual_server_config,
};

pub(crate) const EDGE: InstanceId = InstanceId { tier: Tier::PublicEdge, number: 1 };

pub(crate) const fn web(number: u16) -> InstanceId {
    InstanceId { tier: Tier::Web, number }
}

/// The authorities of a stack, and the balancer's identity.
pub(crate) struct World {
    pub(crate) authority: CertificateAuthority,
    pub(crate) listeners: CertificateAuthority,
    pub(crate) edge: IdentityMaterial,
}

impl World {
    pub(crate) fn new() -> Self {
        let authority = CertificateAuthority::create("tiers", SystemClock.now()).unwrap();
        let listeners = CertificateAuthority::create("listeners", SystemClock.now()).unwrap();
        let edge = authority.issue(EDGE, 600).unwrap();
        Self { authority, listeners, edge }
    }

    pub(crate) fn trust(&self) -> Authority {
        Authority::from_pem(self.authority.certificate_pem()).unwrap()
    }

    /// A back end named `instance` that says so.
    pub(crate) async fn named(&self, instance: InstanceId) -> BackEnd {
        self.back_end(instance, move |_| async move { text(&instance.to_string()) }).await
    }

    pub(crate) async fn back_end<F>(
        &self,
        instance: InstanceId,
        answer: impl Fn(Request<RequestBody>) -> F + Send + Sync + 'static,
    ) -> BackEnd
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let clients = Peers::new(vec![self.edge.pin().unwrap()]);
        BackEnd::start(self, instance, "127.0.0.1:0".parse().unwrap(), clients, answer).await
    }
}

pub(crate) fn text(words: &str) -> Response<Body> {
    Response::new(Body::full(words.to_owned()))
}

type Answer =
    Box<dyn Fn(Request<RequestBody>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync>;

/// A server of a tier behind. Answers health checks by itself; counts all other requests.
pub(crate) struct BackEnd {
    pub(crate) target: Target,
    pub(crate) identity: Identity,
    pub(crate) clients: Peers,
    pub(crate) heads: Arc<Mutex<Vec<HeaderMap>>>,
    pub(crate) status: Arc<AtomicUsize>,
    task: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

struct Service {
    answer: Answer,
    heads: Arc<Mutex<Vec<HeaderMap>>>,
    status: Arc<AtomicUsize>,
}

impl Serve for Service {
    type Body = Body;

    async fn serve(&self, _: &Caller, request: Request<RequestBody>) -> Response<Body> {
        if request.uri().path() == "/healthz" {
            let status = u16::try_from(self.status.load(Ordering::Relaxed)).unwrap();
            return Response::builder().status(status).body(Body::empty()).unwrap();
        }
        self.heads.lock().unwrap().push(request.headers().clone());
        (self.answer)(request).await
    }
}

impl BackEnd {
    pub(crate) async fn start<F>(
        world: &World,
        instance: InstanceId,
        address: SocketAddr,
        clients: Peers,
        answer: impl Fn(Request<RequestBody>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let material = world.authority.issue(instance, 600).unwrap();
        let identity = Identity::new(&material).unwrap();
        let tls = mutual_server_config(&identity, &world.trust(), &clients).unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let target =
            Target { instance, address: listener.local_addr().unwrap(), pins: vec![material.pin().unwrap()] };
        let heads = Arc::default();
        let status = Arc::new(AtomicUsize::new(200));
        let service = Service {
            answer: Box::new(move |request| Box::pin(answer(request))),
            heads: Arc::clone(&heads),
            status: status.clone(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let limits = ServerLimits { drain_timeout: Duration::from_millis(1), ..ServerLimits::default() };
        let server = Server::new(tls, limits).with_clients(&clients);
        let task = tokio::spawn(server.serve(listener, service, async { drop(stopped.await) }));
        Self { target, identity, clients, heads, status, task, stop: Some(stop) }
    }

    pub(crate) fn requests(&self) -> usize {
        self.heads.lock().unwrap().len()
    }

    /// Ends it like a crash: connections are cut.
    pub(crate) async fn kill(mut self) -> Target {
        drop(self.stop.take());
        let _ = (&mut self.task).await;
        self.target.clone()
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A running balancer.
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    pub(crate) updates: mpsc::Sender<Update>,
    pub(crate) task: JoinHandle<Result<(), EdgeError>>,
    public: bool,
    trust: String,
    host: String,
}

pub(crate) fn limits() -> EdgeLimits {
    EdgeLimits {
        request_bytes: 1 << 20,
        header_read_timeout_ms: 2_000,
        body_read_timeout_ms: 500,
        response_timeout_ms: 2_000,
        drain_timeout_ms: 5_000,
        ..EdgeLimits::default()
    }
}

impl Balancer {
    pub(crate) async fn public(world: &World, targets: &[&BackEnd]) -> Self {
        Self::public_with(world, targets, limits()).await
    }

    pub(crate) async fn public_with(world: &World, targets: &[&BackEnd], limits: EdgeLimits) -> Self {
        let targets = targets.iter().map(|back_end| back_end.target.clone()).collect();
        Self::start(world, targets, limits, vec![], true).await
    }

    pub(crate) async fn start(
        world: &World,
        targets: Vec<Target>,
        limits: EdgeLimits,
        clients: Vec<SpkiPin>,
        public: bool,
    ) -> Self {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let host = format!("localhost:{}", address.port());
        let config = EdgeConfig {
            public,
            listener_certificate: public
                .then(|| world.listeners.issue_listener(&["localhost".to_owned()], 600).unwrap()),
            group: TargetGroup {
                name: "web".to_owned(),
                targets,
                health: HealthCheck { interval_ms: 200, ..HealthCheck::default() },
            },
            sticky: public.then(|| "5a".repeat(32)),
            limits,
            public_hosts: if public { vec![host.clone()] } else { vec![] },
        };
        let bootstrap = Bootstrap {
            instance: EDGE,
            identity: world.edge.clone(),
            authority_pem: world.authority.certificate_pem().to_owned(),
            listen: address,
            clients,
            config,
        };
        let (updates, receiver) = mpsc::channel(8);
        let task = tokio::spawn(ward_edge::run(bootstrap, receiver));
        eventually("the balancer listens", || async { TcpStream::connect(address).await.is_ok() }).await;
        let trust =
            if public { world.listeners.certificate_pem() } else { world.authority.certificate_pem() };
        Self { address, updates, task, public, trust: trust.to_owned(), host }
    }

    pub(crate) async fn tell(&self, update: Update) {
        self.updates.send(update).await.unwrap();
    }

    pub(crate) async fn retarget(&self, targets: Vec<Target>) {
        self.tell(Update::Targets { group: "web".to_owned(), targets }).await;
    }

    /// A TLS connection of somebody from outside.
    pub(crate) async fn connect(&self) -> TlsStream<TcpStream> {
        assert!(self.public);
        self.try_connect(self.browser()).await.unwrap()
    }

    pub(crate) async fn try_connect(
        &self,
        config: Arc<ClientConfig>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = if self.public { "localhost".to_owned() } else { ward_transport::server_name(EDGE) };
        TlsConnector::from(config).connect(ServerName::try_from(name).unwrap(), stream).await
    }

    pub(crate) fn browser(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.trust.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    pub(crate) async fn client(&self) -> Client {
        Client::over(self.connect().await, &self.host).await
    }

    /// A client of an internal balancer.
    pub(crate) async fn mutual_client(&self, world: &World, identity: &IdentityMaterial) -> Option<Client> {
        let identity = Identity::new(identity).unwrap();
        let peers = Peers::new(vec![world.edge.pin().unwrap()]);
        let config = mutual_client_config(&identity, &world.trust(), &peers).unwrap();
        let stream = self.try_connect(config).await.ok()?;
        Some(Client::over(stream, &self.host).await)
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.client().await.get(path).await
    }

    /// Sends bytes as they are and gives all that comes back until the connection ends.
    pub(crate) async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        let text = String::from_utf8_lossy(bytes.as_ref()).replace("HOST", &self.host);
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the connection stays open: {}", String::from_utf8_lossy(&answer));
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// One keep-alive connection.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    pub(crate) connection: JoinHandle<Result<(), hyper::Error>>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Client {
    async fn over(stream: TlsStream<TcpStream>, host: &str) -> Self {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        Self { sender, host: host.to_owned(), connection: tokio::spawn(connection) }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.send(Request::get(path), "").await
    }

    pub(crate) async fn send(&mut self, request: http::request::Builder, body: impl Into<Bytes>) -> Reply {
        self.try_send(request, body).await.unwrap()
    }

    pub(crate) async fn try_send(
        &mut self,
        request: http::request::Builder,
        body: impl Into<Bytes>,
    ) -> Result<Reply, hyper::Error> {
        let mut request = request.body(Full::new(body.into())).unwrap();
        request.headers_mut().entry("host").or_insert(self.host.parse().unwrap());
        self.sender.ready().await?;
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Waits until something holds; how long it may take says nothing about how long it should.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not in 20 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
