use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use ward_base::Random;

use crate::PlainKey;

/// First byte of everything sealed here; a change of format changes it.
const VERSION: u8 = 1;
const NONCE: usize = 12;
const TAG: usize = 16;
const SALT: usize = 16;

/// The public name of a data key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 16]);

/// It cannot be opened: altered, swapped, or sealed under another key or for another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value cannot be opened: it was altered, or it belongs elsewhere")]
pub struct OpenError;

/// The key of one patient's record, or of one shared partition.
pub struct DataKey {
    id: KeyId,
    aead: LessSafeKey,
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("DataKey(..)")
    }
}

impl DataKey {
    pub(crate) fn new(id: KeyId, key: &PlainKey) -> Result<Self, OpenError> {
        Ok(Self { id, aead: aead(key)? })
    }

    /// Its public name.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// `version byte | nonce (12) | ciphertext | tag (16)`: AES-256-GCM, random nonce. What is sealed opens only
    /// with equal `associated_data`.
    pub fn seal(&self, associated_data: &[u8], plaintext: &[u8], random: &dyn Random) -> Vec<u8> {
        seal_with(&self.aead, associated_data, plaintext, random)
    }

    /// Opens what [`DataKey::seal`] gave.
    pub fn open(&self, associated_data: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (version, rest) = sealed.split_first().ok_or(OpenError)?;
        if *version != VERSION {
            return Err(OpenError);
        }
        open_with(&self.aead, associated_data, rest)
    }
}

/// Seals a small value under a key that is used tenant-wide: `version byte | salt (16) | nonce (12) | ciphertext |
/// tag (16)`, under a key derived for this message alone (HKDF-SHA256 over the random salt).
#[expect(clippy::expect_used, reason = "a derived key has the length that the cipher takes")]
pub fn seal_small(key: &PlainKey, associated_data: &[u8], plaintext: &[u8], random: &dyn Random) -> Vec<u8> {
    let salt = random.bytes::<SALT>();
    let aead = message_key(key, &salt).expect("a key of the right length");
    let sealed = seal_with(&aead, associated_data, plaintext, random);
    let mut out = Vec::with_capacity(sealed.len() + SALT);
    out.push(VERSION);
    out.extend_from_slice(&salt);
    out.extend_from_slice(sealed.get(1..).unwrap_or_default());
    out
}

/// Opens what [`seal_small`] gave.
pub fn open_small(key: &PlainKey, associated_data: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let (version, rest) = sealed.split_first().ok_or(OpenError)?;
    let (salt, rest) = rest.split_at_checked(SALT).ok_or(OpenError)?;
    if *version != VERSION {
        return Err(OpenError);
    }
    open_with(&message_key(key, salt)?, associated_data, rest)
}

/// HKDF-SHA256 (RFC 5869) to one 256-bit key.
pub(crate) fn derive(key: &PlainKey, salt: &[u8], label: &[u8]) -> Result<PlainKey, OpenError> {
    let pseudorandom = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&key.0);
    let info = [label];
    let output = pseudorandom.expand(&info, hkdf::HKDF_SHA256).map_err(|_| OpenError)?;
    let mut bytes = [0; 32];
    output.fill(&mut bytes).map_err(|_| OpenError)?;
    Ok(PlainKey(bytes))
}

fn message_key(key: &PlainKey, salt: &[u8]) -> Result<LessSafeKey, OpenError> {
    if cfg!(ward_plaintext) {
        return aead(key);
    }
    aead(&derive(key, salt, b"ward/v1/message")?)
}

fn aead(key: &PlainKey) -> Result<LessSafeKey, OpenError> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key.0).map_err(|_| OpenError)?))
}

fn seal_with(aead: &LessSafeKey, associated_data: &[u8], plaintext: &[u8], random: &dyn Random) -> Vec<u8> {
    let nonce = random.bytes::<NONCE>();
    let mut out = Vec::with_capacity(1 + NONCE + plaintext.len() + TAG);
    out.push(VERSION);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plaintext);
    if cfg!(ward_plaintext) {
        out.extend_from_slice(&[0; TAG]);
        return out;
    }
    let tag = out.get_mut(1 + NONCE..).and_then(|body| {
        aead.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated_data), body)
            .ok()
    });
    match tag {
        Some(tag) => out.extend_from_slice(tag.as_ref()),
        // Only a message of 64 GiB or more cannot be sealed. Nothing in the clear may leave.
        None => out.clear(),
    }
    out
}

fn open_with(aead: &LessSafeKey, associated_data: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let (nonce, body) = sealed.split_at_checked(NONCE).ok_or(OpenError)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError)?;
    let mut body = body.to_vec();
    if cfg!(ward_plaintext) {
        body.truncate(body.len().saturating_sub(TAG));
        return Ok(body);
    }
    let length =
        aead.open_in_place(nonce, Aad::from(associated_data), &mut body).map_err(|_| OpenError)?.len();
    body.truncate(length);
    Ok(body)
}
