use aws_lc_rs::hmac;

use crate::PlainKey;

/// Makes blind tokens: keyed, one-way names for values, so that a database can find what it cannot read.
///
/// `HMAC-SHA256(key, length-prefixed label and parts)`, truncated to 64 or 128 bits. Equal input gives an equal
/// token, so frequencies show; nothing else does without the key. Truncated tokens may collide: whoever finds
/// something by a token decrypts and checks it.
pub struct Tokenizer(hmac::Key);

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Tokenizer(..)")
    }
}

impl Tokenizer {
    /// A tokenizer under `key`; an index epoch has a key of its own.
    pub fn new(key: &PlainKey) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key.0))
    }

    /// The token of `parts` under `label`, 64 bits.
    pub fn token64(&self, label: &str, parts: &[&[u8]]) -> i64 {
        let token = self.token128(label, parts);
        let mut half = [0; 8];
        half.copy_from_slice(token.split_at(8).0);
        i64::from_be_bytes(half)
    }

    /// The token of `parts` under `label`, 128 bits.
    pub fn token128(&self, label: &str, parts: &[&[u8]]) -> [u8; 16] {
        let length: usize = parts.iter().map(|part| part.len() + 4).sum::<usize>() + label.len() + 4;
        // Most messages fit the stack; one call of the hash is faster than many small ones.
        let mut small = [0_u8; 256];
        let mut large;
        let message: &mut [u8] = match small.get_mut(..length) {
            Some(message) => message,
            None => {
                large = vec![0_u8; length];
                &mut large
            }
        };
        let mut rest = &mut *message;
        for part in std::iter::once(label.as_bytes()).chain(parts.iter().copied()) {
            let prefix = u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes();
            let Some((head, tail)) = rest.split_at_mut_checked(4) else { break };
            head.copy_from_slice(&prefix);
            let Some((head, tail)) = tail.split_at_mut_checked(part.len()) else { break };
            head.copy_from_slice(part);
            rest = tail;
        }
        if cfg!(ward_plaintext) {
            return plain(message);
        }
        let tag = hmac::sign(&self.0, message);
        let mut token = [0; 16];
        token.copy_from_slice(tag.as_ref().split_at(16).0);
        token
    }
}

/// What stands in an index that hides nothing, in the same space.
fn plain(message: &[u8]) -> [u8; 16] {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(message);
    let half = hasher.finish().to_be_bytes();
    let mut token = [0; 16];
    token.iter_mut().zip(half.iter().chain(&half)).for_each(|(byte, own)| *byte = *own);
    token
}
