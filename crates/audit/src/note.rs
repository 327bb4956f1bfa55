use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::merkle::Hash;

/// The signature type of Ed25519 in a signed note.
const ED25519_TYPE: u8 = 1;
/// A checkpoint is a few hundred bytes; with the cosignatures of witnesses some thousands.
const NOTE_LENGTH_MAX: usize = 128 * 1024;
const SIGNATURES_MAX: usize = 64;

/// A public key with its name, as Go's `sumdb/note` writes it: `name+hash+base64(type, key)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VerifierKey {
    name: String,
    public: [u8; 32],
}

/// The head of a log (<https://c2sp.org/tlog-checkpoint>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) origin: String,
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

/// Why a note does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoteError {
    /// It is not a signed note, or not of a checkpoint.
    Malformed,
    /// The key did not sign it.
    Unsigned,
}

/// Whether `name` may name a key: not empty, no space, no plus, no control character.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.chars().any(|letter| letter.is_whitespace() || letter.is_control() || letter == '+')
}

impl VerifierKey {
    pub(crate) const fn new(name: String, public: [u8; 32]) -> Self {
        Self { name, public }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn text(&self) -> String {
        format!("{}+{:08x}+{}", self.name, self.id(), STANDARD.encode(self.typed()))
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '+');
        let (name, _, key) = (parts.next()?, parts.next()?, parts.next()?);
        let key: [u8; 33] = STANDARD.decode(key).ok()?.try_into().ok()?;
        let (kind, public) = key.split_first_chunk::<1>()?;
        let found = Self { name: name.to_owned(), public: public.try_into().ok()? };
        (*kind == [ED25519_TYPE] && is_name(name) && found.text() == text).then_some(found)
    }

    fn typed(&self) -> Vec<u8> {
        let mut typed = vec![ED25519_TYPE];
        typed.extend_from_slice(&self.public);
        typed
    }

    fn id(&self) -> u32 {
        let mut message = self.name.as_bytes().to_vec();
        message.push(b'\n');
        message.extend_from_slice(&self.typed());
        let hash = digest(&SHA256, &message);
        hash.as_ref().first_chunk().map_or(0, |id| u32::from_be_bytes(*id))
    }

    /// Whether `signature` is this key's under the text.
    pub(crate) fn signed(&self, text: &str, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.public).verify(text.as_bytes(), signature).is_ok()
    }

    /// The whole note of a text and this key's signature under it.
    pub(crate) fn note(&self, text: &str, signature: &[u8; 64]) -> String {
        let mut signed = self.id().to_be_bytes().to_vec();
        signed.extend_from_slice(signature);
        format!("{text}\n\u{2014} {} {}\n", self.name, STANDARD.encode(signed))
    }

    /// The checkpoint in `note`, if this key signed it. Signatures of other keys are passed over.
    pub(crate) fn open(&self, note: &[u8]) -> Result<Checkpoint, NoteError> {
        if note.len() > NOTE_LENGTH_MAX {
            return Err(NoteError::Malformed);
        }
        let note = std::str::from_utf8(note).map_err(|_| NoteError::Malformed)?;
        if note.chars().any(|letter| letter < ' ' && letter != '\n') {
            return Err(NoteError::Malformed);
        }
        let split = note.rfind("\n\n").ok_or(NoteError::Malformed)?;
        let (text, rest) = note.split_at(split + 1);
        let lines =
            rest.strip_prefix('\n').and_then(|lines| lines.strip_suffix('\n')).ok_or(NoteError::Malformed)?;
        let mut known = false;
        for (number, line) in lines.split('\n').enumerate() {
            let (name, signature) = line
                .strip_prefix("\u{2014} ")
                .and_then(|line| line.split_once(' '))
                .filter(|(name, _)| is_name(name) && number < SIGNATURES_MAX)
                .ok_or(NoteError::Malformed)?;
            let signature = STANDARD.decode(signature).map_err(|_| NoteError::Malformed)?;
            let (id, signature) = signature.split_first_chunk::<4>().ok_or(NoteError::Malformed)?;
            if name == self.name && *id == self.id().to_be_bytes() {
                if !self.signed(text, signature) {
                    return Err(NoteError::Unsigned);
                }
                known = true;
            }
        }
        if !known {
            return Err(NoteError::Unsigned);
        }
        Checkpoint::parse(text).ok_or(NoteError::Malformed)
    }
}

impl Checkpoint {
    /// The text that is signed.
    pub(crate) fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Reads the text. Extension lines, which Ward does not write, are not accepted.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split('\n');
        let found = Self {
            origin: lines.next()?.to_owned(),
            size: lines.next()?.parse().ok()?,
            root: STANDARD.decode(lines.next()?).ok()?.try_into().ok()?,
        };
        (found.text() == text).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of the signed-note documentation of Go (`golang.org/x/mod/sumdb/note`).
    const GO_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const GO_TEXT: &str = "If you think cryptography is the answer to your problem,\n\
                           then you don't know what your problem is.\n";
    const GO_SIGNATURE: &str =
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";

    #[test]
    fn a_note_of_go_opens() {
        let key = VerifierKey::parse(GO_KEY).unwrap();
        assert_eq!(key.text(), GO_KEY);
        let signed = STANDARD.decode(GO_SIGNATURE).unwrap();
        assert!(key.signed(GO_TEXT, &signed[4..]));
        let note = format!("{GO_TEXT}\n\u{2014} PeterNeumann {GO_SIGNATURE}\n");
        assert_eq!(key.note(GO_TEXT, signed[4..].try_into().unwrap()), note);
        assert_eq!(key.open(note.as_bytes()), Err(NoteError::Malformed), "signed, but no checkpoint");
        assert_eq!(key.open(note.replace("think", "thinks").as_bytes()), Err(NoteError::Unsigned));
        assert_eq!(key.open(note.replace("PeterN", "peterN").as_bytes()), Err(NoteError::Unsigned));
    }

    #[test]
    fn names_are_checked() {
        for bad in ["", "a b", "a+b", "a\nb", "a\u{a0}b"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_name("ward.example/audit/app-1"));
        assert_eq!(
            VerifierKey::parse("PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"),
            None
        );
    }

    proptest! {
        #[test]
        fn no_note_or_key_panics(note in any::<Vec<u8>>(), text in "(\n|\u{2014} |[a+ 0=])*") {
            let key = VerifierKey::parse(GO_KEY).unwrap();
            prop_assert!(key.open(&note).is_err());
            prop_assert!(key.open(text.as_bytes()).is_err());
            let _ = (VerifierKey::parse(&text), Checkpoint::parse(&text));
        }
    }
}
