//! Opaque bearer tokens: sessions, access tokens, enrolment links, sign-in challenges.
//!
//! A token is 256 random bits. The store keeps only its SHA-256, so that whoever reads the database (or a
//! backup) cannot use one. A plain hash is enough because the input cannot be guessed.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ward_base::{Random, Secret};
use zeroize::Zeroizing;

const BYTES: usize = 32;
const CHARACTERS: usize = 43;

/// A new token as base64url text, and the key under which its record is stored.
pub fn new_token(random: &dyn Random) -> (Secret, String) {
    let bytes = Zeroizing::new(random.bytes::<BYTES>());
    let text = URL_SAFE_NO_PAD.encode(bytes.as_slice());
    let key = hashed(&text);
    (Secret::new(text.into_bytes()), key)
}

/// The key under which the record of `presented` would be stored; `None` if no token looks like that.
pub fn storage_key(presented: &str) -> Option<String> {
    let plausible = presented.len() == CHARACTERS
        && presented.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    plausible.then(|| hashed(presented))
}

fn hashed(text: &str) -> String {
    use std::fmt::Write as _;
    let mut key = String::with_capacity(2 * BYTES);
    for byte in digest(&SHA256, text.as_bytes()).as_ref() {
        let _ = write!(key, "{byte:02x}");
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use ward_base::SystemRandom;

    #[test]
    fn a_token_is_found_again_and_nothing_else_is() {
        let (token, key) = new_token(&SystemRandom);
        let text = std::str::from_utf8(token.expose()).unwrap();
        assert_eq!(storage_key(text).unwrap(), key);
        assert_ne!(new_token(&SystemRandom).1, key);
        assert_eq!(storage_key(&text[1..]), None);
        assert_eq!(storage_key(&"é".repeat(22)), None);
        // printf %s AAAA…A (43 times) | sha256sum
        assert_eq!(
            storage_key(&"A".repeat(43)).unwrap(),
            "0f007385b6f9d4b7eeb2748605afe1a984a0a3bfa3f014d09e2a784ce9e5cd1a"
        );
    }
}
