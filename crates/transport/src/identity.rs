use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme};
use tokio::sync::watch;

use crate::{AuthorityError, IdentityMaterial, SpkiPin};

/// Who this process or listener is. Clones share one identity, which can be replaced while connections are open: new
/// connections prove the new one.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    current: ArcSwap<CertifiedKey>,
    generation: AtomicU64,
}

/// The certificates at which every chain between tiers must end.
#[derive(Clone)]
pub struct Authority(pub(crate) Arc<RootCertStore>);

/// The keys that the other side of a hop may have. Clones share one list, which can be replaced while connections are
/// open: those whose key is no longer listed finish what they are doing and are closed.
#[derive(Clone)]
pub struct Peers(Arc<watch::Sender<Arc<[SpkiPin]>>>);

impl Identity {
    /// An identity out of `material`. Fails if key and certificate cannot be read or do not belong together.
    pub fn new(material: &IdentityMaterial) -> Result<Self, AuthorityError> {
        let current = ArcSwap::from_pointee(certified_key(material)?);
        Ok(Self(Arc::new(Inner { current, generation: AtomicU64::new(0) })))
    }

    /// Proves `material` on every connection from now on. On failure the old identity stays.
    pub fn replace(&self, material: &IdentityMaterial) -> Result<(), AuthorityError> {
        self.0.current.store(Arc::new(certified_key(material)?));
        self.0.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Counts the replacements, so that a pool can leave connections of an old identity.
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    pub(crate) fn server_resolver(&self) -> Arc<dyn ResolvesServerCert> {
        self.0.clone()
    }

    pub(crate) fn client_resolver(&self) -> Arc<dyn rustls::client::ResolvesClientCert> {
        self.0.clone()
    }
}

impl Authority {
    /// Trusts the certificates in `pem`, at least one.
    pub fn from_pem(pem: &str) -> Result<Self, AuthorityError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|_| AuthorityError::Unreadable)?;
            roots.add(certificate).map_err(|_| AuthorityError::Unreadable)?;
        }
        if roots.is_empty() {
            return Err(AuthorityError::Unreadable);
        }
        Ok(Self(Arc::new(roots)))
    }
}

impl Peers {
    /// Accepts exactly `pins`; none at all if it is empty.
    pub fn new(pins: Vec<SpkiPin>) -> Self {
        Self(Arc::new(watch::Sender::new(pins.into())))
    }

    /// Accepts exactly `pins` from now on.
    pub fn replace(&self, pins: Vec<SpkiPin>) {
        self.0.send_replace(pins.into());
    }

    /// Whether a key is on the list.
    pub fn allow(&self, pin: &SpkiPin) -> bool {
        self.0.borrow().contains(pin)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<[SpkiPin]>> {
        self.0.subscribe()
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Identity(..)")
    }
}

impl ResolvesServerCert for Inner {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl rustls::client::ResolvesClientCert for Inner {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified_key(material: &IdentityMaterial) -> Result<CertifiedKey, AuthorityError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(material.certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| AuthorityError::Unreadable)?;
    let key = PrivateKeyDer::from_pem_slice(material.private_key_pem.as_bytes())
        .map_err(|_| AuthorityError::Unreadable)?;
    let provider = crate::tls::provider();
    // Fails unless the key belongs to the first certificate.
    CertifiedKey::from_der(chain, key, &provider).map_err(|_| AuthorityError::Unreadable)
}
