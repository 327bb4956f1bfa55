use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use ward_base::{Clock as _, InstanceId, Secret, SystemClock, Timestamp};
use zeroize::Zeroizing;

use crate::SpkiPin;

/// How long an authority's own certificate is valid. Its key is sealed at rest and used by the supervisor alone.
const AUTHORITY_SECONDS: i64 = 10 * 365 * 86_400;
/// Clocks of two hosts may differ by this much.
const BACKDATE_SECONDS: i64 = 300;

/// What can go wrong with authorities and the certificates they issue. Holds nothing of any key.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The stored or configured PEM is not a certificate and its key; the operator's to mend.
    #[error("the certificate or its private key cannot be read")]
    Unreadable,
    /// A host name or lifetime cannot stand in a certificate; the operator's to mend.
    #[error("a certificate cannot be made for these names and this lifetime")]
    Impossible(#[source] Option<rcgen::Error>),
}

/// A private certificate authority: ECDSA P-256, issuing end-entity certificates only.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

/// A certificate chain with its private key, both PEM: what proves who a process or a listener is.
#[derive(Clone, Serialize, Deserialize)]
pub struct IdentityMaterial {
    /// The chain, end entity first.
    pub certificate_pem: String,
    /// The private key, PKCS#8. Overwritten when dropped.
    pub private_key_pem: Zeroizing<String>,
}

impl CertificateAuthority {
    /// A new authority with a new key, valid for ten years from `now`.
    pub fn create(name: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = new_key()?;
        let mut parameters = parameters(name, now, AUTHORITY_SECONDS)?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key).map_err(impossible)?;
        Ok(Self { certificate_pem: certificate.pem(), issuer: Issuer::new(parameters, key) })
    }

    /// Certificate and private key in one PEM text, to be sealed.
    pub fn to_pem(&self) -> Secret {
        let key = Zeroizing::new(self.issuer.key().serialize_pem());
        let mut both = Vec::with_capacity(self.certificate_pem.len() + key.len());
        both.extend_from_slice(self.certificate_pem.as_bytes());
        both.extend_from_slice(key.as_bytes());
        Secret::new(both)
    }

    /// Reads what [`Self::to_pem`] gave.
    pub fn from_pem(both: &Secret) -> Result<Self, AuthorityError> {
        let text = std::str::from_utf8(both.expose()).map_err(|_| AuthorityError::Unreadable)?;
        let certificate =
            CertificateDer::from_pem_slice(both.expose()).map_err(|_| AuthorityError::Unreadable)?;
        let start = text.find("-----BEGIN PRIVATE KEY-----").ok_or(AuthorityError::Unreadable)?;
        let (certificate_pem, key_pem) = text.split_at(start);
        let key = KeyPair::from_pem(key_pem).map_err(|_| AuthorityError::Unreadable)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| AuthorityError::Unreadable)?;
        Ok(Self { issuer, certificate_pem: certificate_pem.to_owned() })
    }

    /// The authority's certificate, for those who are to trust it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A new key and a certificate for `instance`, for `valid_seconds` from now, good on both ends of a connection.
    ///
    /// Names: the SPIFFE id, [`server_name`], and `localhost` with the loopback addresses.
    pub fn issue(
        &self,
        instance: InstanceId,
        valid_seconds: i64,
    ) -> Result<IdentityMaterial, AuthorityError> {
        let names = vec![
            SanType::URI(instance.uri().try_into().map_err(impossible)?),
            SanType::DnsName(server_name(instance).try_into().map_err(impossible)?),
            SanType::DnsName("localhost".try_into().map_err(impossible)?),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ];
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.certify(&instance.to_string(), names, usages, valid_seconds)
    }

    /// A new key and a server certificate for a listener that answers to `hosts` (DNS names and IP addresses), for
    /// `valid_seconds` from now.
    pub fn issue_listener(
        &self,
        hosts: &[String],
        valid_seconds: i64,
    ) -> Result<IdentityMaterial, AuthorityError> {
        let names: Vec<SanType> = hosts
            .iter()
            .map(|host| match host.trim_matches(['[', ']']).parse() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => host.as_str().try_into().map(SanType::DnsName).map_err(impossible),
            })
            .collect::<Result<_, _>>()?;
        let first = hosts.first().ok_or(AuthorityError::Impossible(None))?;
        self.certify(first, names, vec![ExtendedKeyUsagePurpose::ServerAuth], valid_seconds)
    }

    fn certify(
        &self,
        name: &str,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        valid_seconds: i64,
    ) -> Result<IdentityMaterial, AuthorityError> {
        let key = new_key()?;
        let mut parameters = parameters(name, SystemClock.now(), valid_seconds)?;
        parameters.subject_alt_names = names;
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = usages;
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(impossible)?;
        Ok(IdentityMaterial {
            certificate_pem: certificate.pem(),
            private_key_pem: Zeroizing::new(key.serialize_pem()),
        })
    }
}

impl IdentityMaterial {
    /// The pin of this identity's key.
    pub fn pin(&self) -> Result<SpkiPin, AuthorityError> {
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes())
            .map_err(|_| AuthorityError::Unreadable)?;
        SpkiPin::of(&certificate).ok_or(AuthorityError::Unreadable)
    }
}

impl std::fmt::Debug for IdentityMaterial {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("IdentityMaterial(..)")
    }
}

/// The DNS name that `instance` proves to its callers, such as `web-2.ward.internal`; it is never looked up.
pub fn server_name(instance: InstanceId) -> String {
    format!("{instance}.ward.internal")
}

fn new_key() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(impossible)
}

fn parameters(name: &str, now: Timestamp, valid_seconds: i64) -> Result<CertificateParams, AuthorityError> {
    if valid_seconds <= 0 {
        return Err(AuthorityError::Impossible(None));
    }
    let moment = |moment: Timestamp| {
        time::OffsetDateTime::from_unix_timestamp(moment.seconds())
            .map_err(|_| AuthorityError::Impossible(None))
    };
    let mut parameters = CertificateParams::default();
    parameters.not_before = moment(now.plus_seconds(-BACKDATE_SECONDS))?;
    parameters.not_after = moment(now.plus_seconds(valid_seconds))?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    Ok(parameters)
}

fn impossible(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Impossible(Some(error))
}

#[cfg(test)]
mod tests {
    use ward_base::Tier;

    use super::*;

    const WEB: InstanceId = InstanceId { tier: Tier::Web, number: 1 };

    #[test]
    fn an_authority_survives_being_stored() {
        let made = CertificateAuthority::create("test", SystemClock.now()).unwrap();
        let read = CertificateAuthority::from_pem(&made.to_pem()).unwrap();
        assert_eq!(read.certificate_pem(), made.certificate_pem());
        assert_ne!(read.issue(WEB, 60).unwrap().pin().unwrap(), made.issue(WEB, 60).unwrap().pin().unwrap());
    }

    #[test]
    fn bad_material_is_refused() {
        assert!(CertificateAuthority::from_pem(&Secret::new(b"nothing".to_vec())).is_err());
        let authority = CertificateAuthority::create("test", SystemClock.now()).unwrap();
        assert!(authority.issue(WEB, 0).is_err());
        assert!(authority.issue_listener(&[], 60).is_err());
        assert!(authority.issue_listener(&["ward.example".to_owned(), "[::1]".to_owned()], 60).is_ok());
        let identity = authority.issue(WEB, 60).unwrap();
        assert_eq!(format!("{identity:?}"), "IdentityMaterial(..)");
    }
}
