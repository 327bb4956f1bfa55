use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 7469, section 2.4): names a key, whoever certified it.
///
/// In JSON it is 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpkiPin([u8; 32]);

impl SpkiPin {
    /// The pin of the key in `certificate`; `None` if that is not a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &parsed.subject_public_key_info());
        digest.as_ref().try_into().ok().map(Self)
    }
}

impl std::fmt::Debug for SpkiPin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SpkiPin({})", hex::encode(self.0))
    }
}

impl Serialize for SpkiPin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for SpkiPin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut pin = [0; 32];
        hex::decode_to_slice(&text, &mut pin)
            .map_err(|_| serde::de::Error::custom("a pin has 64 hex digits"))?;
        Ok(Self(pin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_hex_in_json() {
        let pin = SpkiPin([0xab; 32]);
        let json = serde_json::to_string(&pin).unwrap();
        assert_eq!(json, format!("\"{}\"", "ab".repeat(32)));
        assert_eq!(serde_json::from_str::<SpkiPin>(&json).unwrap(), pin);
        for bad in ["\"\"", "\"abab\"", &format!("\"{}\"", "zz".repeat(32)), "7"] {
            assert!(serde_json::from_str::<SpkiPin>(bad).is_err());
        }
    }
}
