use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::AuthorityError;

/// Of an answer, so much is taken in; nothing of it is looked at.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A caller of hosts outside: HTTPS only, to whoever has a certificate for the name that is called, from one of the
/// authorities that the operator named. TLS 1.3, or 1.2 with forward secrecy and authenticated encryption (NIST SP
/// 800-52r2): other people's servers are not ours to choose. Each call has a connection of its own; no redirect is
/// followed.
#[derive(Clone)]
pub struct Outside {
    connector: TlsConnector,
    patience: Duration,
}

/// Scheme, host and port of an `https` URL (RFC 6454), in the one form in which two are compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// In lower case; an IPv6 address in brackets.
    pub host: String,
    /// 443 if none is named.
    pub port: u16,
}

impl Origin {
    /// The origin of a URL. Nothing if it is not `https`, names a user, or has a port that is none.
    pub fn of(url: &Uri) -> Option<Self> {
        let authority = url.authority().filter(|_| url.scheme_str() == Some("https"))?;
        let host = authority.host();
        // Whatever else is there, such as a user, stands before or after the host. A port that is no number counts as
        // none elsewhere.
        let port = match authority.as_str().strip_prefix(host)? {
            "" => 443,
            rest => {
                let digits =
                    rest.strip_prefix(':').filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
                digits.parse().ok().filter(|port| *port != 0)?
            }
        };
        (!host.is_empty()).then(|| Self { host: host.to_ascii_lowercase(), port })
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            443 => write!(formatter, "https://{}", self.host),
            port => write!(formatter, "https://{}:{port}", self.host),
        }
    }
}

/// Why a host outside was not told, or did not say that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutsideError {
    /// Its name leads nowhere, or nobody answers there by TLS.
    #[error("the host cannot be reached")]
    Unreachable,
    /// It does not prove that it is who it must be. It was sent nothing.
    #[error("the host has no certificate for its name from an authority that is trusted")]
    Untrusted,
    /// The connection broke, or what came back was no HTTP.
    #[error("the host closed the connection without an answer")]
    Broken,
    /// It took too long.
    #[error("the host did not answer in time")]
    Late,
}

impl Outside {
    /// A caller that trusts the certificates in `authorities_pem` and no others, and gives up on a call after
    /// `patience`.
    ///
    /// # Errors
    /// [`AuthorityError::Unreadable`] if there is no certificate of an authority in it, or something else.
    pub fn new(authorities_pem: &str, patience: Duration) -> Result<Self, AuthorityError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities_pem.as_bytes()) {
            let certificate = certificate.map_err(|_| AuthorityError::Unreadable)?;
            roots.add(certificate).map_err(|_| AuthorityError::Unreadable)?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|_| AuthorityError::Unreadable)?
            .with_webpki_verifier(verifier.build().map_err(|_| AuthorityError::Unreadable)?)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), patience })
    }

    /// Finds out whether the host is there and is who it must be. It is sent nothing.
    ///
    /// # Errors
    /// Any of [`OutsideError`] but [`OutsideError::Broken`].
    pub async fn greet(&self, host: &str, port: u16) -> Result<(), OutsideError> {
        let greeting = async { self.connect(host, port).await.map(drop) };
        tokio::time::timeout(self.patience, greeting).await.unwrap_or(Err(OutsideError::Late))
    }

    /// Sends a request, whose address is a path, and gives the status of the answer. Nothing of it leaves before the
    /// host has proved who it is.
    ///
    /// # Errors
    /// Any of [`OutsideError`]; after [`OutsideError::Broken`] and [`OutsideError::Late`] it may have been heard.
    pub async fn send(
        &self,
        host: &str,
        port: u16,
        request: Request<Bytes>,
    ) -> Result<StatusCode, OutsideError> {
        let called = async {
            let stream = self.connect(host, port).await?;
            exchange(stream, host, port, request).await
        };
        tokio::time::timeout(self.patience, called).await.unwrap_or(Err(OutsideError::Late))
    }

    /// Asks for what is at a path, and gives the status and the body as it comes. The patience is for the beginning of the
    /// answer, and again for each piece of it.
    ///
    /// # Errors
    /// Any of [`OutsideError`].
    pub async fn get(
        &self,
        host: &str,
        port: u16,
        path: &str,
    ) -> Result<(StatusCode, OutsideBody), OutsideError> {
        let broken = |_| OutsideError::Broken;
        let asked = async {
            let stream = self.connect(host, port).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
            let mut driver = JoinSet::new();
            driver.spawn(async move {
                let _ = connection.await;
            });
            let request = Request::get(path).header(header::HOST, authority(host, port)?);
            let request = request.body(Full::<Bytes>::default()).map_err(|_| OutsideError::Unreachable)?;
            let answer = sender.send_request(request).await.map_err(broken)?;
            let (status, body) = (answer.status(), answer.into_body());
            Ok((status, OutsideBody { body, patience: self.patience, _driver: driver, _sender: sender }))
        };
        tokio::time::timeout(self.patience, asked).await.unwrap_or(Err(OutsideError::Late))
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TlsStream<TcpStream>, OutsideError> {
        let bare = host.trim_matches(['[', ']']);
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| OutsideError::Unreachable)?;
        let stream = TcpStream::connect((bare, port)).await.map_err(|_| OutsideError::Unreachable)?;
        stream.set_nodelay(true).map_err(|_| OutsideError::Unreachable)?;
        self.connector.connect(name, stream).await.map_err(|error| match error.get_ref() {
            Some(cause) if matches!(cause.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))) => {
                OutsideError::Untrusted
            }
            _ => OutsideError::Unreachable,
        })
    }
}

/// The body of an answer. The connection ends with it.
pub struct OutsideBody {
    body: Incoming,
    patience: Duration,
    // The connection moves while it is driven, and stays open while there is somebody to ask on it.
    _driver: JoinSet<()>,
    _sender: http1::SendRequest<Full<Bytes>>,
}

impl OutsideBody {
    /// The next piece; nothing at the end.
    ///
    /// # Errors
    /// [`OutsideError::Broken`] if the body is cut off, and [`OutsideError::Late`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, OutsideError> {
        loop {
            let frame = tokio::time::timeout(self.patience, self.body.frame());
            match frame.await.map_err(|_| OutsideError::Late)? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(bytes) = frame.map_err(|_| OutsideError::Broken)?.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

fn authority(host: &str, port: u16) -> Result<HeaderValue, OutsideError> {
    let authority = if port == 443 { host.to_owned() } else { format!("{host}:{port}") };
    HeaderValue::try_from(authority).map_err(|_| OutsideError::Unreachable)
}

async fn exchange(
    stream: TlsStream<TcpStream>,
    host: &str,
    port: u16,
    request: Request<Bytes>,
) -> Result<StatusCode, OutsideError> {
    let broken = |_| OutsideError::Broken;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut request = request.map(Full::new);
    request.headers_mut().insert(header::HOST, authority(host, port)?);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    let answered = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        // Read, so that the other side can finish; what it says besides the status does not matter.
        let _ = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(status)
    };
    // The connection moves only while it is polled; once the answer is there, it is let go.
    let mut connection = std::pin::pin!(connection);
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        _ = &mut connection => answered.await,
    }
}

impl std::fmt::Debug for OutsideBody {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("OutsideBody(..)")
    }
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Outside(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use ward_base::{Clock as _, SystemClock};

    use super::*;
    use crate::{CertificateAuthority, Identity, public_server_config};

    /// A server that answers everything with `answer`, and counts the bytes of requests that it got to see.
    async fn server(
        authority: &CertificateAuthority,
        host: &str,
        answer: Vec<u8>,
    ) -> (u16, Arc<AtomicUsize>) {
        let identity = authority.issue_listener(&[host.to_owned()], 600).unwrap();
        let config = public_server_config(&Identity::new(&identity).unwrap()).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = TlsAcceptor::from(Arc::clone(&config)).accept(stream).await else {
                    continue;
                };
                let mut buffer = [0; 4096];
                let read = stream.read(&mut buffer).await.unwrap_or(0);
                counter.fetch_add(read, Ordering::SeqCst);
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            }
        });
        (port, seen)
    }

    fn request() -> Request<Bytes> {
        Request::post("/hook").body(Bytes::from_static(b"{}")).unwrap()
    }

    fn authority() -> CertificateAuthority {
        CertificateAuthority::create("test", SystemClock.now()).unwrap()
    }

    fn outside(authority: &CertificateAuthority) -> Outside {
        Outside::new(authority.certificate_pem(), Duration::from_secs(10)).unwrap()
    }

    #[tokio::test]
    async fn a_host_is_told_only_if_it_proves_its_name_to_a_named_authority() {
        let authority = authority();
        let fine = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
        let (port, seen) = server(&authority, "localhost", fine.clone()).await;
        assert_eq!(outside(&authority).send("localhost", port, request()).await, Ok(StatusCode::NO_CONTENT));
        assert!(seen.load(Ordering::SeqCst) > 0);
        assert_eq!(outside(&authority).greet("localhost", port).await, Ok(()));

        let (other_name, seen) = server(&authority, "other.example", fine.clone()).await;
        let answer = outside(&authority).send("localhost", other_name, request()).await;
        assert_eq!(answer, Err(OutsideError::Untrusted));
        assert_eq!(seen.load(Ordering::SeqCst), 0);
        let (stranger, seen) = server(&self::authority(), "localhost", fine).await;
        let answer = outside(&authority).send("localhost", stranger, request()).await;
        assert_eq!(answer, Err(OutsideError::Untrusted));
        assert_eq!(outside(&authority).greet("localhost", stranger).await, Err(OutsideError::Untrusted));
        assert_eq!(seen.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn whatever_comes_back_is_a_status_or_an_error() {
        let authority = authority();
        let long =
            [b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n".to_vec(), vec![b'x'; 1 << 20]].concat();
        for (answer, expected) in [
            (b"HTTP/1.1 302 Found\r\nLocation: https://localhost/\r\n\r\n".to_vec(), Ok(StatusCode::FOUND)),
            (long, Ok(StatusCode::OK)),
            (b"nonsense\r\n\r\n".to_vec(), Err(OutsideError::Broken)),
            (Vec::new(), Err(OutsideError::Broken)),
        ] {
            let (port, _) = server(&authority, "localhost", answer).await;
            assert_eq!(outside(&authority).send("localhost", port, request()).await, expected);
        }
        // A port where nobody listens, and one whose host accepts and says nothing.
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let silent = listener.local_addr().unwrap().port();
        let hasty = Outside::new(authority.certificate_pem(), Duration::from_millis(50)).unwrap();
        assert_eq!(hasty.send("localhost", silent, request()).await, Err(OutsideError::Late));
        drop(listener);
        let closed = outside(&authority).send("localhost", silent, request()).await;
        assert_eq!(closed, Err(OutsideError::Unreachable));
    }

    #[test]
    fn an_origin_has_one_form() {
        let origin = |text: &str| Origin::of(&text.parse().ok()?).map(|origin| origin.to_string());
        for (text, expected) in [
            ("https://A.example", "https://a.example"),
            ("https://a.example:443/x?y", "https://a.example"),
            ("https://a.example:8443/", "https://a.example:8443"),
            ("https://[::1]:1/", "https://[::1]:1"),
        ] {
            assert_eq!(origin(text).as_deref(), Some(expected));
        }
        for none in [
            "http://a.example",
            "a.example",
            "/path",
            "https://user@a.example/",
            "https://user:443@a.example/",
            "https://a.example:0/",
            "https://a.example:99999/",
            "https://a.example:+1/",
        ] {
            assert_eq!(origin(none), None, "{none}");
        }
    }

    #[test]
    fn without_authorities_there_is_no_caller() {
        assert!(Outside::new("", Duration::from_secs(1)).is_err());
        assert!(
            Outside::new(
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                Duration::from_secs(1)
            )
            .is_err()
        );
    }
}
