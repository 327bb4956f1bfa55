/// What a wrapped key is for: authenticated when it is wrapped, demanded when it is unwrapped, and fit for an audit
/// log (it never holds PHI).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptionContext(Vec<(&'static str, String)>);

impl EncryptionContext {
    /// From names and values; the order does not matter.
    pub fn new(pairs: &[(&'static str, &str)]) -> Self {
        let mut pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        pairs.sort();
        Self(pairs)
    }

    /// One unambiguous byte string: each name and value with its length before it.
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in self.0.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]) {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// The pairs, for logs.
    pub fn pairs(&self) -> &[(&'static str, String)] {
        &self.0
    }
}
