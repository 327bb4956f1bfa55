//! Opaque stand-ins for patients and searches in URLs.
//!
//! A page's address ends up in the browser's history, in screenshots and in bookmarks, and a resource id or a
//! name in it would be PHI there. So a path carries a *handle*: the value sealed with AES-256-GCM under a key
//! that HKDF-SHA256 derives from a secret of the web tier and the session's token. It means nothing to another
//! session, or after this one; every web instance opens it; nothing is kept on the server.
//!
//! Values are padded to multiples of 64 bytes, so that a handle's length says little about them. A nonce is
//! random, and one session makes far fewer than 2^32 handles.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ward_base::{Phi, Random, Secret};
use zeroize::Zeroizing;

const PADDING: usize = 64;
const CHARACTERS_MAX: usize = 2048;

/// What a handle stands for; part of what is authenticated, so that one kind cannot pass for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `Patient/<id>`.
    Patient,
    /// What was typed into the search form.
    Search,
}

/// Seals and opens the handles of one session.
pub(crate) struct Handles {
    key: LessSafeKey,
}

impl Handles {
    /// The handles of the session with this token. `None` only if the key cannot be derived.
    pub(crate) fn new(secret: &Secret, session: &Secret) -> Option<Self> {
        let material = Salt::new(HKDF_SHA256, session.expose()).extract(secret.expose());
        let mut key = Zeroizing::new([0; 32]);
        material.expand(&[b"ward web handle 1"], &AES_256_GCM).ok()?.fill(key.as_mut_slice()).ok()?;
        Some(Self { key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_slice()).ok()?) })
    }

    /// The handle of `value`.
    pub(crate) fn seal(&self, kind: Kind, value: &Phi<String>, random: &dyn Random) -> Option<String> {
        let nonce: [u8; NONCE_LEN] = random.bytes();
        let mut text = value.expose().clone().into_bytes();
        text.push(0x80);
        text.resize(text.len().next_multiple_of(PADDING), 0);
        let nonce_text = nonce;
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(kind.label()), &mut text)
            .ok()?;
        let mut sealed = nonce_text.to_vec();
        sealed.append(&mut text);
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What `handle` stands for; `None` if it was not made in this session for this kind.
    pub(crate) fn open(&self, kind: Kind, handle: &str) -> Option<Phi<String>> {
        if handle.len() > CHARACTERS_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(handle).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut text = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.key.open_in_place(nonce, Aad::from(kind.label()), &mut text).ok()?;
        let end = opened.iter().rposition(|byte| *byte == 0x80)?;
        String::from_utf8(opened.get(..end)?.to_vec()).ok().map(Phi::new)
    }
}

impl Kind {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Patient => b"patient",
            Self::Search => b"search",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ward_base::SystemRandom;

    fn handles(secret: &[u8], session: &[u8]) -> Handles {
        Handles::new(&Secret::new(secret.to_vec()), &Secret::new(session.to_vec())).unwrap()
    }

    #[test]
    fn a_handle_means_something_in_its_session_only() {
        let own = handles(&[7; 32], b"session one");
        let id = Phi::new("Patient/0b6a".to_owned());
        let handle = own.seal(Kind::Patient, &id, &SystemRandom).unwrap();
        assert!(handle.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        assert!(own.open(Kind::Patient, &handle) == Some(id.clone()));
        // Another instance of the same tier.
        assert!(handles(&[7; 32], b"session one").open(Kind::Patient, &handle) == Some(id.clone()));
        assert!(own.open(Kind::Search, &handle).is_none(), "another kind");
        assert!(handles(&[7; 32], b"session two").open(Kind::Patient, &handle).is_none());
        assert!(handles(&[8; 32], b"session one").open(Kind::Patient, &handle).is_none());
        assert_ne!(own.seal(Kind::Patient, &id, &SystemRandom).unwrap(), handle);
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let handles = handles(&[7; 32], b"session");
        let handle = handles.seal(Kind::Search, &Phi::new("é\u{80}x".to_owned()), &SystemRandom).unwrap();
        assert!(handles.open(Kind::Search, &handle).is_some_and(|value| value.expose() == "é\u{80}x"));
        for position in 0..handle.len() {
            let mut changed = handle.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            assert!(handles.open(Kind::Search, std::str::from_utf8(&changed).unwrap()).is_none());
        }
        for garbage in ["", "A", "é", &"A".repeat(5000)] {
            assert!(handles.open(Kind::Search, garbage).is_none());
        }
    }

    #[test]
    fn length_says_little() {
        let handles = handles(&[7; 32], b"session");
        let length = |value: &str| {
            handles.seal(Kind::Patient, &Phi::new(value.to_owned()), &SystemRandom).unwrap().len()
        };
        assert_eq!(length("Patient/1"), length("Patient/01234567-89ab-cdef-0123-456789abcdef"));
    }
}
