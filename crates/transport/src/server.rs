use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use ward_base::Phi;
use ward_monitor::event;

use crate::framing::Inspector;
use crate::io::{Guarded, socket};
use crate::{Audience, Body, Peers, Refusal, RequestBody, SpkiPin};

/// Answers requests.
pub trait Serve: Send + Sync + 'static {
    /// What its answers carry.
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static;

    /// Answers one request. Dropped if the client goes away.
    fn serve(
        &self,
        caller: &Caller,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Who is on the other end of a connection.
#[derive(Debug)]
pub struct Caller {
    /// Its address: of the previous hop, which is the client itself on the public listener only.
    pub address: Phi<IpAddr>,
}

/// Bounds of a listener.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Connections at once. Those beyond it get 503; far beyond it they are closed.
    pub connections_max: usize,
    /// Connections at once from one address, or one IPv6 network of 64 bits; the same beyond it.
    pub connections_per_network_max: usize,
    /// How long the TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a head may take to arrive, counted from the end of the previous answer: so also how long an idle
    /// connection is kept.
    pub header_read_timeout: Duration,
    /// Bytes of a request's head, beyond which 431 is answered; 64 KiB are taken in any case.
    pub header_bytes_max: usize,
    /// Headers of a request, beyond which 431 is answered.
    pub headers_max: usize,
    /// Bytes of a request's body, beyond which reading it fails.
    pub body_bytes_max: u64,
    /// How long the client may keep us waiting for its body: each byte that comes renews a little of it.
    pub body_read_timeout: Duration,
    /// The same for a client that does not read its answer.
    pub write_timeout: Duration,
    /// How long answers may take to be finished once the listener is told to stop.
    pub drain_timeout: Duration,
    /// Whether ambiguous framing is refused before the parser sees it; for listeners that anyone can reach.
    pub strict_framing: bool,
}

impl Default for ServerLimits {
    /// For a listener of other tiers, which apply the outside's limits before.
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_network_max: usize::MAX,
            handshake_timeout: Duration::from_secs(10),
            header_read_timeout: Duration::from_secs(90),
            // More than a balancer may be told to let through; the parser's buffer grows with what comes.
            header_bytes_max: 512 << 10,
            headers_max: 100,
            body_bytes_max: u64::MAX,
            body_read_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
            strict_framing: false,
        }
    }
}

/// An HTTP/1.1 server over TLS.
pub struct Server {
    tls: Arc<ServerConfig>,
    limits: ServerLimits,
    clients: Option<Peers>,
    header: Option<(HeaderName, HeaderValue)>,
}

/// Connections that are told to come back later, beyond the most that are served.
const REFUSALS_MAX: usize = 64;
/// Between two events about them: whoever causes them must not be able to fill the log.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(5);

impl Server {
    /// A server for anyone who may connect according to `tls`.
    pub const fn new(tls: Arc<ServerConfig>, limits: ServerLimits) -> Self {
        Self { tls, limits, clients: None, header: None }
    }

    /// Closes connections, after the answer they are waiting for, whose key is no longer among `clients`. What `tls`
    /// was made with must be the same list.
    #[must_use]
    pub fn with_clients(mut self, clients: &Peers) -> Self {
        self.clients = Some(clients.clone());
        self
    }

    /// Every answer carries this header, those to connections beyond the most included.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    /// Serves until `shutdown` completes, then takes nothing new, finishes what is being answered within the drain
    /// timeout, and returns.
    pub async fn serve<S: Serve>(
        self,
        listener: TcpListener,
        service: S,
        shutdown: impl Future<Output = ()>,
    ) {
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(Shared {
            acceptor: TlsAcceptor::from(self.tls),
            http: http(&self.limits),
            limits: self.limits,
            clients: self.clients,
            header: self.header,
            stopping,
        });
        let service = Arc::new(service);
        let open = Arc::new(Semaphore::new(shared.limits.connections_max));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        let networks = Networks::new(shared.limits.connections_per_network_max);
        let mut complained = None;
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => accepted,
                // Collected as they end, so that the set does not grow.
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, address)) => {
                    let place = networks.enter(address.ip()).zip(open.clone().try_acquire_owned().ok());
                    if let Some(place) = place {
                        connections.spawn(connection(
                            shared.clone(),
                            service.clone(),
                            stream,
                            address,
                            place,
                        ));
                        continue;
                    }
                    if complained.is_none_or(|when: Instant| when.elapsed() > COMPLAINT_INTERVAL) {
                        complained = Some(Instant::now());
                        event!(Warning, "listener.full", connections = connections.len());
                    }
                    if let Ok(permit) = refusals.clone().try_acquire_owned() {
                        connections.spawn(connection(
                            shared.clone(),
                            Arc::new(Full),
                            stream,
                            address,
                            permit,
                        ));
                    }
                }
                Err(error) => {
                    // Mostly a lack of file descriptors: turning round at once would only burn time.
                    event!(Error, "listener.accept_failed", kind = error.kind());
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        let _ = stop.send(true);
        let drained = tokio::time::timeout(shared.limits.drain_timeout, async {
            while connections.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            event!(Warning, "listener.drain_cut_off", connections = connections.len());
        }
    }
}

/// How many connections each network has, so that no one of them can take all.
#[derive(Clone)]
struct Networks {
    most: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection of a network.
struct Place {
    network: IpAddr,
    networks: Option<Networks>,
}

impl Networks {
    fn new(most: usize) -> Self {
        Self { most, open: Arc::default() }
    }

    /// `None` if the network of `address` has as many as it may.
    fn enter(&self, address: IpAddr) -> Option<Place> {
        // Whoever has one IPv6 address has 2^64 of them.
        let network = match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            address => address,
        };
        if self.most == usize::MAX {
            return Some(Place { network, networks: None });
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(&network).copied().unwrap_or(0);
        if count >= self.most {
            return None;
        }
        open.insert(network, count + 1);
        Some(Place { network, networks: Some(self.clone()) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(networks) = &self.networks else { return };
        let mut open = networks.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.network) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.network)),
        }
    }
}

struct Shared {
    acceptor: TlsAcceptor,
    http: hyper::server::conn::http1::Builder,
    limits: ServerLimits,
    clients: Option<Peers>,
    header: Option<(HeaderName, HeaderValue)>,
    stopping: watch::Receiver<bool>,
}

fn http(limits: &ServerLimits) -> hyper::server::conn::http1::Builder {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(head_bytes_max(limits))
        .half_close(false);
    // The parser's own default costs no allocation.
    if limits.headers_max != 100 {
        http.max_headers(limits.headers_max);
    }
    http
}

/// What the parser takes for a head; less than 64 KiB would also cut bodies into small pieces.
fn head_bytes_max(limits: &ServerLimits) -> usize {
    limits.header_bytes_max.max(64 << 10)
}

/// One connection from its first byte to its last. Everything that goes wrong in here is the other side's affair and
/// ends this connection alone.
///
/// `place` is what it takes up of the listener's bounds; given back at the end.
async fn connection<S: Serve>(
    shared: Arc<Shared>,
    service: Arc<S>,
    stream: TcpStream,
    address: SocketAddr,
    place: impl Send,
) {
    let Ok(socket) = socket(stream) else { return };
    let handshake = tokio::time::timeout(shared.limits.handshake_timeout, shared.acceptor.accept(socket));
    let Ok(Ok(stream)) = handshake.await else { return };
    let key = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).and_then(SpkiPin::of);
    let caller = Arc::new(Caller { address: Phi::new(address.ip().to_canonical()) });
    let limits = &shared.limits;
    let inspector = limits.strict_framing.then(|| Inspector::new(head_bytes_max(limits)));
    let guarded = TokioIo::new(Guarded::new(stream, inspector, limits.write_timeout));
    let answer = service_fn(|request: Request<Incoming>| {
        let (service, caller) = (service.clone(), caller.clone());
        let request =
            request.map(|body| RequestBody::new(body, limits.body_bytes_max, limits.body_read_timeout));
        let header = shared.header.clone();
        async move {
            let mut response = service.serve(&caller, request).await;
            if let Some((name, value)) = header {
                response.headers_mut().insert(name, value);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = std::pin::pin!(shared.http.serve_connection(guarded, answer));
    let unwelcome = unwelcome(&shared, key);
    tokio::select! {
        biased;
        _ = connection.as_mut() => return drop(place),
        () = unwelcome => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
    drop(place);
}

/// Completes when a connection should end: the listener stops, or its key is no longer accepted.
async fn unwelcome(shared: &Shared, key: Option<SpkiPin>) {
    let mut stopping = shared.stopping.clone();
    let stopped = async move {
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    match (&shared.clients, key) {
        (Some(clients), Some(key)) => {
            let mut clients = clients.watch();
            tokio::select! {
                () = stopped => {}
                _ = clients.wait_for(|pins| !pins.contains(&key)) => {}
            }
        }
        _ => stopped.await,
    }
}

/// Answers everything with 503.
struct Full;

impl Serve for Full {
    type Body = Body;

    async fn serve(&self, _: &Caller, request: Request<RequestBody>) -> Response<Body> {
        let words = "there are too many connections at the moment; try again in a few seconds";
        let refusal = Refusal::for_now(StatusCode::SERVICE_UNAVAILABLE, words, 2);
        let mut response = refusal.answer(Audience::of(request.uri().path()));
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

/// Any tower service, such as an axum router, as a [`Serve`].
pub struct TowerService<T>(pub T);

impl<T, B> Serve for TowerService<T>
where
    T: tower::Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    T::Future: Send,
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static,
{
    type Body = B;

    async fn serve(&self, _: &Caller, request: Request<RequestBody>) -> Response<B> {
        match tower::ServiceExt::oneshot(self.0.clone(), request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_network_takes_all_places() {
        let networks = Networks::new(2);
        let enter = |address: &str| networks.enter(address.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        let second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        drop(second);
        let taken = [enter("2001:db8::1").unwrap(), enter("2001:db8::ffff:0:0:2").unwrap()];
        assert!(enter("2001:db8::3").is_none());
        assert!(enter("2001:db8:0:1::3").is_some());
        drop(taken);
        assert!(networks.open.lock().unwrap().is_empty(), "nothing is remembered of those who left");
        assert!(Networks::new(0).enter(Ipv6Addr::LOCALHOST.into()).is_none());
    }
}
