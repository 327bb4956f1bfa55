//! A small HTTPS client for the public listener: what `ward import`, `ward export`, `ward user` and `ward bench`
//! speak through. It trusts one authority, and nothing else.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};

/// Where the listener is and whom to trust there.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    tls: Arc<rustls::ClientConfig>,
}

/// One connection with keep-alive.
pub(crate) struct Connection {
    endpoint: Endpoint,
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Endpoint {
    /// An endpoint whose certificate must lead to one of those in `trust`, a PEM file.
    pub(crate) fn new(address: SocketAddr, host: &str, trust: &Path) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(trust)
            .with_context(|| format!("cannot read the certificates in `{}`", trust.display()))?
        {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { address, host: host.to_owned(), tls: Arc::new(tls) })
    }

    /// The same listener with another TLS configuration: `ward bench` uses it to call one tier alone.
    pub(crate) fn with_tls(address: SocketAddr, host: &str, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { address, host: host.to_owned(), tls }
    }

    /// `https://host:port`, as the stack knows itself.
    pub(crate) fn origin(&self) -> String {
        origin(&self.host, self.address.port())
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = tokio::net::TcpStream::connect(self.address)
            .await
            .with_context(|| format!("nothing answers at {}; is `ward up` running?", self.address))?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone()).context("the host name is not valid")?;
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await
            .with_context(|| format!("no trusted TLS connection to {}", self.address))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // The sender reports a broken connection to whoever uses it.
            let _ = connection.await;
        });
        Ok(Connection { endpoint: self.clone(), sender })
    }
}

/// A host as it stands in a URL and in a `Host` header: an IPv6 address in brackets.
pub(crate) fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// `https://host:port`, without the port if it is the standard one.
pub(crate) fn origin(host: &str, port: u16) -> String {
    let host = in_url(host);
    if port == 443 { format!("https://{host}") } else { format!("https://{host}:{port}") }
}

impl Connection {
    /// The origin this connection speaks to.
    pub(crate) fn origin(&self) -> String {
        self.endpoint.origin()
    }

    /// Sends one request and gives the response with its body still to come; connects again if the peer had
    /// closed the idle connection.
    pub(crate) async fn open(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        if self.sender.ready().await.is_err() {
            *self = self.endpoint.connect().await?;
        }
        let authority = self.endpoint.origin();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, authority.trim_start_matches("https://"));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        Ok(self.sender.send_request(request.body(Full::new(body))?).await?)
    }

    /// Sends one request and reads the whole answer.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: Bytes,
    ) -> anyhow::Result<Response<Bytes>> {
        let (parts, body) = self.open(method, path, headers, body).await?.into_parts();
        Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
    }
}
