use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::body::Pace;
use crate::control::Target;
use crate::io::{Socket, socket};
use crate::{Authority, Body, BodyError, Identity, Peers, SpkiPin, mutual_client_config, server_name};

/// Bounds of the calls to a back end.
#[derive(Clone, Debug)]
pub struct UpstreamLimits {
    /// How long TCP and TLS may take to stand.
    pub connect_timeout: Duration,
    /// How long the head of an answer may take, counted from when the last of the request's body was taken.
    pub response_timeout: Duration,
    /// How long the back end may keep us waiting for a body: each byte that comes renews a little of it.
    pub body_read_timeout: Duration,
    /// How long an idle connection is kept; less than the back end keeps it, so that it does not close one that is
    /// just being used.
    pub idle_timeout: Duration,
    /// Idle connections kept for each target.
    pub idle_max: usize,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(60),
            body_read_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            idle_max: 256,
        }
    }
}

/// Why a back end gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// There is no back end to ask, or none that is healthy.
    #[error("no back end is available")]
    NoTarget,
    /// It cannot be reached.
    #[error("the back end cannot be reached")]
    Connect,
    /// It does not prove that it is who it must be. It was sent nothing.
    #[error("the back end is not the one that it should be")]
    Untrusted,
    /// The connection broke after the request was sent.
    #[error("the back end closed the connection without an answer")]
    Closed,
    /// It took too long.
    #[error("the back end did not answer in time")]
    Timeout,
    /// The request's own body failed while it was passed on; the caller's fault.
    #[error("the request's body did not arrive")]
    RequestBody(#[source] BodyError),
}

/// A request that got no answer.
pub struct SendError {
    /// Why.
    pub error: UpstreamError,
    /// The request, if it does no harm to send it again, to this or another target: nothing of it was sent, or its
    /// method is idempotent (or it is marked [`Repeatable`]) and its body at hand.
    pub request: Option<Box<Request<Body>>>,
}

/// Connections to one target, used again and again. Clones share them.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    target: Target,
    name: ServerName<'static>,
    identity: Identity,
    pins: Peers,
    connector: TlsConnector,
    limits: UpstreamLimits,
    idle: Mutex<Vec<Link>>,
    connections: AtomicU64,
    connecting: Semaphore,
}

/// Handshakes with one target at once.
const CONNECTING_MAX: usize = 16;

/// One connection. Whoever sends on it drives it as well: no second task, no hand-over between threads.
struct Link {
    sender: SendRequest<Body>,
    /// Boxed: a connection is moved about between requests and is some 2 KB large.
    connection: Box<Connection<TokioIo<TlsStream<Socket>>, Body>>,
    generation: u64,
    pin: SpkiPin,
    used: Instant,
}

impl Pool {
    /// A pool for `target`, empty at first. Fails only if the authority cannot be used.
    pub fn new(
        target: Target,
        identity: &Identity,
        authority: &Authority,
        limits: UpstreamLimits,
    ) -> Result<Self, rustls::Error> {
        let pins = Peers::new(target.pins.clone());
        let config: Arc<ClientConfig> = mutual_client_config(identity, authority, &pins)?;
        let name = ServerName::try_from(server_name(target.instance))
            .map_err(|_| rustls::Error::General("not a server name".to_owned()))?;
        Ok(Self(Arc::new(Inner {
            target,
            name,
            identity: identity.clone(),
            pins,
            connector: TlsConnector::from(config),
            limits,
            idle: Mutex::default(),
            connections: AtomicU64::new(0),
            connecting: Semaphore::new(CONNECTING_MAX),
        })))
    }

    /// The target that it was made for; its pins may have changed since.
    pub fn target(&self) -> &Target {
        &self.0.target
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> u64 {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Accepts exactly these keys of the target from now on.
    pub fn set_pins(&self, pins: Vec<SpkiPin>) {
        self.0.pins.replace(pins);
    }

    /// Sends a request over an idle connection or a new one. Nothing of it leaves before the target has proved who
    /// it is.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<UpstreamBody>, SendError> {
        let mut request = request;
        if let Some(link) = self.0.take_idle() {
            match self.0.exchange(link, request).await {
                Ok(response) => return Ok(response),
                // A connection that was closed while it lay idle says nothing about the target. A new one will.
                Err(SendError { error: UpstreamError::Closed, request: Some(again) }) => request = *again,
                Err(error) => return Err(error),
            }
        }
        match self.0.link().await {
            Ok(link) => self.0.exchange(link, request).await,
            Err(error) => Err(SendError { error, request: Some(Box::new(request)) }),
        }
    }
}

impl Inner {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Link>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The idle connection used last that is still good for a request.
    fn take_idle(&self) -> Option<Link> {
        loop {
            let mut link = self.idle().pop()?;
            if self.welcome(&link) && link.used.elapsed() < self.limits.idle_timeout && link.is_ready() {
                return Some(link);
            }
        }
    }

    /// Whether it was made under the identity of now, with a key that is accepted now.
    fn welcome(&self, link: &Link) -> bool {
        link.generation == self.identity.generation() && self.pins.allow(&link.pin)
    }

    fn put_idle(&self, mut link: Link) {
        link.used = Instant::now();
        if !self.welcome(&link) || !link.is_ready() {
            return;
        }
        let mut idle = self.idle();
        if idle.first().is_some_and(|oldest| oldest.used.elapsed() >= self.limits.idle_timeout) {
            let timeout = self.limits.idle_timeout;
            idle.retain(|link| link.used.elapsed() < timeout);
        }
        if idle.len() < self.limits.idle_max {
            idle.push(link);
        }
    }

    /// A new connection, or one that was given back while this waited for its turn to connect. Turns, since a crowd of
    /// handshakes at once keeps each of them from being done in time.
    async fn link(&self) -> Result<Link, UpstreamError> {
        let patience = self.limits.connect_timeout.saturating_mul(4);
        match tokio::time::timeout(patience, self.connecting.acquire()).await {
            Ok(Ok(_turn)) => match self.take_idle() {
                Some(link) => Ok(link),
                None => self.connect().await,
            },
            _ => Err(UpstreamError::Connect),
        }
    }

    async fn connect(&self) -> Result<Link, UpstreamError> {
        // Before the handshake: if the identity changes meanwhile, the connection counts as old.
        let generation = self.identity.generation();
        let standing = async {
            let stream = TcpStream::connect(self.target.address).await.map_err(|_| UpstreamError::Connect)?;
            let socket = socket(stream).map_err(|_| UpstreamError::Connect)?;
            let stream =
                self.connector.connect(self.name.clone(), socket).await.map_err(|error| distrust(&error))?;
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let pin = certificate.and_then(SpkiPin::of).ok_or(UpstreamError::Untrusted)?;
            let (sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|_| UpstreamError::Connect)?;
            self.connections.fetch_add(1, Ordering::Relaxed);
            Ok(Link { sender, connection: Box::new(connection), generation, pin, used: Instant::now() })
        };
        tokio::time::timeout(self.limits.connect_timeout, standing)
            .await
            .unwrap_or(Err(UpstreamError::Connect))
    }

    async fn exchange(
        self: &Arc<Self>,
        mut link: Link,
        mut request: Request<Body>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let progress = (!request.body().is_empty()).then(|| request.body_mut().progress());
        let copy = copy_of(&request);
        let answer = link.sender.try_send_request(request);
        let answer = {
            let mut answer = std::pin::pin!(answer);
            let connection = &mut link.connection;
            let mut ended = false;
            let mut driven = std::pin::pin!(std::future::poll_fn(move |context| {
                if !ended {
                    // Its result comes out of `answer` as well.
                    ended = Pin::new(&mut *connection).poll(context).is_ready();
                }
                answer.as_mut().poll(context)
            }));
            loop {
                let answer = tokio::time::timeout(self.limits.response_timeout, driven.as_mut()).await;
                // As long as the request itself goes on, nobody can have answered.
                let went_on =
                    progress.as_ref().is_some_and(|progress| progress.swap(false, Ordering::Relaxed));
                if answer.is_ok() || !went_on {
                    break answer;
                }
            }
        };
        match answer {
            Ok(Ok(response)) => Ok(response.map(|body| UpstreamBody::new(body, link, self.clone()))),
            Ok(Err(mut error)) => Err(match error.take_message() {
                Some(unsent) => SendError { error: UpstreamError::Closed, request: Some(Box::new(unsent)) },
                None => match body_error(error.error()) {
                    Some(fault) => SendError { error: UpstreamError::RequestBody(fault), request: None },
                    None => SendError { error: UpstreamError::Closed, request: copy.map(Box::new) },
                },
            }),
            Err(_) => Err(SendError { error: UpstreamError::Timeout, request: None }),
        }
    }
}

impl Link {
    /// Lets the connection notice what happened since, without being woken by it later.
    fn is_ready(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(&mut self.connection).poll(&mut context).is_pending() && self.sender.is_ready()
    }
}

/// Put among a request's extensions, says that it does no harm to send it twice, though its method does not say so.
#[derive(Clone, Copy, Debug)]
pub struct Repeatable;

/// The request once more, if it does no harm to send it twice (RFC 9110, section 9.2.2) and its body, if it has one, is
/// at hand. What is streamed is gone once it was sent.
fn copy_of(request: &Request<Body>) -> Option<Request<Body>> {
    let marked = request.extensions().get::<Repeatable>().copied();
    let idempotent =
        matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE);
    if !idempotent && marked.is_none() {
        return None;
    }
    let mut copy = Request::new(request.body().at_hand()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    if let Some(marked) = marked {
        copy.extensions_mut().insert(marked);
    }
    Some(copy)
}

/// Why a handshake failed: the certificate, or else the network.
fn distrust(error: &std::io::Error) -> UpstreamError {
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            UpstreamError::Untrusted
        }
        _ => UpstreamError::Connect,
    }
}

fn body_error(error: &hyper::Error) -> Option<BodyError> {
    std::error::Error::source(error)?.downcast_ref().copied()
}

/// The body of an answer. Drives its connection, and gives it back when it is through; dropped before, it closes it.
pub struct UpstreamBody {
    incoming: Incoming,
    link: Option<Link>,
    pool: Arc<Inner>,
    pace: Pace,
}

impl UpstreamBody {
    fn new(incoming: Incoming, link: Link, pool: Arc<Inner>) -> Self {
        let pace = Pace::new(pool.limits.body_read_timeout);
        let mut body = Self { incoming, link: Some(link), pool, pace };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some(link) = self.link.take() {
            self.pool.put_idle(link);
        }
    }
}

impl HttpBody for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        // Asking first tells the connection that there is room for more.
        let mut frame = Pin::new(&mut this.incoming).poll_frame(context);
        if frame.is_pending()
            && let Some(link) = &mut this.link
        {
            if Pin::new(&mut link.connection).poll(context).is_ready() {
                this.link = None;
            }
            frame = Pin::new(&mut this.incoming).poll_frame(context);
        }
        match frame {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.pace.received(u64::try_from(bytes).unwrap_or(u64::MAX));
                if this.incoming.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => {
                this.link = None;
                Poll::Ready(Some(Err(BodyError::Broken)))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Pending if this.pace.exhausted(context) => {
                this.link = None;
                Poll::Ready(Some(Err(BodyError::TooSlow)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
