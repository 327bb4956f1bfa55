use zeroize::{Zeroize, ZeroizeOnDrop};

/// A value that is, or may hold, protected health information (45 CFR 160.103).
///
/// It cannot be printed, logged or serialised by accident: there is no `Display` and no `Serialize`, and
/// `Debug` shows the type's name only. [`Phi::expose`] is the one door, and easy to search for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Phi<T>(T);

impl<T> Phi<T> {
    /// Marks `value` as protected.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Lends the value to code that answers an authorised request, encrypts or matches it.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// Gives the value up, unprotected.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// A protected value made from this one.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Phi<U> {
        Phi(change(self.0))
    }
}

impl<T> std::fmt::Debug for Phi<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Phi(..)")
    }
}

impl<T> From<T> for Phi<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

/// Bytes that must not outlive their use: keys, passphrases, tokens. Overwritten when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes ownership of `bytes`; the caller keeps no other copy.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Lends the bytes to a cryptographic operation.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Phi::new("Ada Lovelace")), "Phi(..)");
        assert_eq!(format!("{:?}", Secret::new(b"key".to_vec())), "Secret(..)");
    }
}
