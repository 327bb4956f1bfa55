use std::sync::{Mutex, PoisonError};

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use ward_base::Timestamp;
use ward_keys::{KeyRing, PlainKey, Tokenizer};

use crate::merkle::Tree;
use crate::note::{Checkpoint, VerifierKey};

/// The keys of one log: one signs its checkpoints, one makes its tokens, one a month seals what only an authorised
/// reader may see.
pub struct AuditKeys {
    signing: Ed25519KeyPair,
    verifier: VerifierKey,
    tokenizer: Tokenizer,
    sealing: hmac::Key,
    index: hmac::Key,
    /// The sealing key used last, with its month.
    month: Mutex<Option<(String, PlainKey)>>,
}

impl std::fmt::Debug for AuditKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("AuditKeys(..)")
    }
}

impl AuditKeys {
    /// The keys of a tenant for the log named `origin`, such as `ward.example/audit/app-1`. Equal arguments give
    /// equal keys. All logs of a tenant share tokens and seals, so that one question can be asked of all; each log
    /// has a signing key of its own, so that a checkpoint of one is never one of another.
    #[expect(clippy::expect_used, reason = "a seed of 32 bytes always gives a key pair")]
    pub fn derive(ring: &KeyRing, origin: &str) -> Self {
        let seed = ring.derive(&format!("audit-signing/{origin}"));
        let signing = Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("a key pair");
        let mut public = [0; 32];
        public.copy_from_slice(signing.public_key().as_ref());
        let pseudorandom = |label| hmac::Key::new(hmac::HMAC_SHA256, ring.derive(label).expose());
        Self {
            signing,
            verifier: VerifierKey::new(origin.to_owned(), public),
            tokenizer: Tokenizer::new(&ring.derive("audit-token")),
            sealing: pseudorandom("audit-seal"),
            index: pseudorandom("audit-index"),
            month: Mutex::new(None),
        }
    }

    /// The public key that an outsider verifies this log with, as one line of text (`name+hash+key`, as in Go's
    /// `sumdb/note`). To be kept where whoever writes the log cannot change it.
    pub fn verifier_key(&self) -> String {
        self.verifier.text()
    }

    pub(crate) const fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    pub(crate) fn origin(&self) -> &str {
        self.verifier.name()
    }

    pub(crate) const fn index(&self) -> &hmac::Key {
        &self.index
    }

    /// The signature under the checkpoint of `tree`. Ed25519 is deterministic: a tree has one.
    pub(crate) fn sign(&self, tree: &Tree) -> [u8; 64] {
        let mut bytes = [0; 64];
        let signature = self.signing.sign(self.checkpoint(tree).text().as_bytes());
        for (byte, signed) in bytes.iter_mut().zip(signature.as_ref()) {
            *byte = *signed;
        }
        bytes
    }

    /// Whether `signature` is the one under the checkpoint of `tree`.
    pub(crate) fn is_signed(&self, tree: &Tree, signature: &[u8; 64]) -> bool {
        self.verifier.signed(&self.checkpoint(tree).text(), signature)
    }

    /// The signed note of `tree`.
    pub(crate) fn note(&self, tree: &Tree) -> String {
        self.verifier.note(&self.checkpoint(tree).text(), &self.sign(tree))
    }

    fn checkpoint(&self, tree: &Tree) -> Checkpoint {
        Checkpoint { origin: self.origin().to_owned(), size: tree.size(), root: tree.root() }
    }

    /// The keyed name of a value; `kind` keeps a patient's id apart from an equal session id.
    pub(crate) fn token(&self, kind: &str, parts: &[&[u8]]) -> [u8; 16] {
        self.tokenizer.token128(kind, parts)
    }

    /// The key that seals entries of the month of `time` (UTC).
    pub(crate) fn sealing(&self, time: Timestamp) -> PlainKey {
        let instant = time.to_instant();
        let month = instant.get(..7).unwrap_or_default();
        let mut last = self.month.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, key)) if known == month => key.clone(),
            _ => {
                let output = hmac::sign(&self.sealing, format!("ward/v1/audit-seal/{month}").as_bytes());
                let mut bytes = [0; 32];
                bytes.copy_from_slice(output.as_ref());
                let key = PlainKey::new(bytes);
                *last = Some((month.to_owned(), key.clone()));
                key
            }
        }
    }
}
