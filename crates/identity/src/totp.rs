//! The second factor: time-based one-time codes (RFC 6238), SHA-1, six digits, thirty seconds, which is what
//! every authenticator app reads.
//!
//! A code is accepted in its own step and one to either side (RFC 6238, 5.2, on clocks that differ), and once
//! only: the caller stores the step that [`verify`] returns and hands it back the next time.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use totp_rs::{Builder, Secret};
use ward_base::{Random, Timestamp};
use zeroize::Zeroizing;

const STEP_SECONDS: u64 = 30;
const SECRET_BYTES: usize = 20;

/// A shared secret of 160 bits (RFC 4226, 4, R6). Serialises as base32; its record is stored sealed.
#[derive(Clone)]
pub struct TotpSecret(Zeroizing<[u8; SECRET_BYTES]>);

impl TotpSecret {
    /// A new random secret.
    pub fn new(random: &dyn Random) -> Self {
        Self(Zeroizing::new(random.bytes()))
    }

    /// The secret as base32 without padding, for people who type it into their authenticator.
    pub fn to_base32(&self) -> Zeroizing<String> {
        Zeroizing::new(Secret::from(self.0.to_vec()).to_base32())
    }

    /// Reads what [`TotpSecret::to_base32`] wrote.
    pub fn from_base32(text: &str) -> Option<Self> {
        let secret = Secret::try_from_base32(text).ok()?;
        Some(Self(Zeroizing::new(secret.as_ref().try_into().ok()?)))
    }

    /// The `otpauth:` URI that a QR code carries. It holds the secret.
    pub fn otpauth_uri(&self, issuer: &str, username: &str) -> Zeroizing<String> {
        let (issuer, username) = (percent_encoded(issuer), percent_encoded(username));
        let secret = self.to_base32();
        Zeroizing::new(format!(
            "otpauth://totp/{issuer}:{username}?secret={}&issuer={issuer}&algorithm=SHA1&digits=6&period=30",
            secret.as_str()
        ))
    }

    fn totp(&self, digits: u8) -> Option<totp_rs::Totp> {
        Builder::new()
            .with_secret(self.0.to_vec())
            .with_digits(digits)
            .with_skew(1)
            .with_step_duration(STEP_SECONDS)
            .build()
            .ok()
    }
}

/// Checks `code` at `now`; returns the step it belongs to.
///
/// `None` if it is wrong, or not newer than `last_used_step`, the step accepted last. Spaces are ignored, since
/// authenticator apps show codes in two groups.
pub fn verify(secret: &TotpSecret, code: &str, now: Timestamp, last_used_step: Option<u64>) -> Option<u64> {
    let code: Zeroizing<String> =
        Zeroizing::new(code.chars().filter(|c| !c.is_whitespace()).take(7).collect());
    let step = secret.totp(6)?.check(&code, u64::try_from(now.seconds()).ok()?)?;
    last_used_step.is_none_or(|last| step > last).then_some(step)
}

/// The code of `now`, as an authenticator shows it; for drivers and tests.
pub fn code_at(secret: &TotpSecret, now: Timestamp) -> Option<String> {
    Some(secret.totp(6)?.generate(u64::try_from(now.seconds()).ok()?).to_string())
}

fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

impl std::fmt::Debug for TotpSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("TotpSecret(..)")
    }
}

impl Serialize for TotpSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base32())
    }
}

impl<'de> Deserialize<'de> for TotpSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Self::from_base32(&text).ok_or_else(|| serde::de::Error::custom("not a TOTP secret"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ward_base::SystemRandom;

    fn rfc() -> TotpSecret {
        TotpSecret(Zeroizing::new(*b"12345678901234567890"))
    }

    /// RFC 6238, appendix B, the SHA1 rows.
    #[test]
    fn codes_are_those_of_the_rfc() {
        for (seconds, code) in [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            assert_eq!(rfc().totp(8).unwrap().generate(seconds).to_string(), code);
            let now = Timestamp(0).plus_seconds(i64::try_from(seconds).unwrap());
            assert_eq!(verify(&rfc(), &code[2..], now, None), Some(seconds / 30));
        }
    }

    #[test]
    fn a_code_counts_once_and_near_its_time_only() {
        let now = Timestamp(0).plus_seconds(1_000_000_000);
        let step = 1_000_000_000 / 30;
        let code = code_at(&rfc(), now).unwrap();
        assert_eq!(verify(&rfc(), &code, now, Some(step - 1)), Some(step));
        assert_eq!(verify(&rfc(), &code, now, Some(step)), None, "used before");
        assert_eq!(verify(&rfc(), &code, now, Some(step + 1)), None, "older than the last");
        assert_eq!(verify(&rfc(), &format!("{} {}", &code[..3], &code[3..]), now, None), Some(step));
        assert_eq!(verify(&rfc(), &code, now.plus_seconds(30), None), Some(step), "one step late");
        assert_eq!(verify(&rfc(), &code, now.plus_seconds(-30), None), Some(step), "one step early");
        assert_eq!(verify(&rfc(), &code, now.plus_seconds(60), None), None);
        assert_eq!(verify(&rfc(), &code, now.plus_seconds(-60), None), None);
        assert_eq!(verify(&rfc(), &code, Timestamp(-1), None), None);
        for wrong in ["", "12345", "1234567", "abcdef", "+12345", "١٢٣٤٥٦"] {
            assert_eq!(verify(&rfc(), wrong, now, None), None);
        }
    }

    #[test]
    fn the_secret_round_trips_and_stays_out_of_debug() {
        let secret = TotpSecret::new(&SystemRandom);
        let json = serde_json::to_string(&secret).unwrap();
        let read: TotpSecret = serde_json::from_str(&json).unwrap();
        assert_eq!(*read.0, *secret.0);
        assert_eq!(format!("{secret:?}"), "TotpSecret(..)");
        assert!(TotpSecret::from_base32("MFRGG").is_none());
        assert_eq!(
            rfc().otpauth_uri("Ward", "a b:c").as_str(),
            "otpauth://totp/Ward:a%20b%3Ac?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Ward\
             &algorithm=SHA1&digits=6&period=30"
        );
    }
}
