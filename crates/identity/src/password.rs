//! Passwords: what is accepted (NIST SP 800-63B, 5.1.1.2: length and a list of common ones, no composition
//! rules, no expiry) and how they are kept (argon2id with OWASP's 19 MiB, two passes, one lane).

use std::sync::LazyLock;

use argon2::password_hash::PasswordHasher as _;
use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordVerifier as _, Version};
use unicode_normalization::UnicodeNormalization as _;
use ward_base::{Random, Secret};
use zeroize::Zeroizing;

/// The fewest characters a password may have.
pub const CHARACTERS_MIN: usize = 12;
/// The most bytes a password may have; more would only cost time.
pub const BYTES_MAX: usize = 1024;

const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Passwords of twelve characters and more that lists of leaked ones lead with, lower case.
const COMMON: &str = include_str!("common_passwords.txt");

/// Why a password is not accepted; the text is for the person who chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Weakness {
    /// Fewer than [`CHARACTERS_MIN`] characters.
    #[error("Use at least 12 characters. A few unrelated words are easy to remember.")]
    TooShort,
    /// More than [`BYTES_MAX`] bytes.
    #[error("Use fewer than 1,000 characters.")]
    TooLong,
    /// It stands on the list of common passwords, perhaps with digits or signs around it.
    #[error("This is one of the passwords that are guessed first. Choose another.")]
    Common,
    /// Few different characters, or a run such as `abcdefghijkl`.
    #[error("This repeats or counts up. Choose something less regular.")]
    Regular,
    /// It contains the name to sign in with.
    #[error("The password must not contain the user name.")]
    ContainsUsername,
}

/// Checks a new password.
pub fn check(password: &Secret, username: &str) -> Result<(), Weakness> {
    if password.expose().len() > BYTES_MAX {
        return Err(Weakness::TooLong);
    }
    let Ok(text) = std::str::from_utf8(password.expose()) else { return Err(Weakness::Regular) };
    let text = Zeroizing::new(text.nfkc().collect::<String>());
    if text.chars().count() < CHARACTERS_MIN {
        return Err(Weakness::TooShort);
    }
    let lower = Zeroizing::new(text.to_lowercase());
    let username = username.to_lowercase();
    if username.chars().count() >= 3 && lower.contains(&username) {
        return Err(Weakness::ContainsUsername);
    }
    let bare = lower.trim_matches(|c: char| !c.is_alphabetic());
    if COMMON.lines().any(|common| common == lower.as_str() || common == bare) {
        return Err(Weakness::Common);
    }
    if is_regular(&lower) { Err(Weakness::Regular) } else { Ok(()) }
}

fn is_regular(lower: &str) -> bool {
    let characters: Zeroizing<Vec<u32>> = Zeroizing::new(lower.chars().map(u32::from).collect());
    let mut distinct = Zeroizing::new(characters.to_vec());
    distinct.sort_unstable();
    distinct.dedup();
    let near = characters.windows(2).filter(|pair| matches!(pair, [a, b] if a.abs_diff(*b) <= 1)).count();
    let repeats = (1..=characters.len() / 3)
        .any(|period| characters.iter().zip(characters.iter().skip(period)).all(|(a, b)| a == b));
    distinct.len() < 5 || near * 4 > characters.len() * 3 || repeats
}

/// The password as a PHC string to store. Costs about 20 ms and 19 MiB: call it off the async threads.
pub fn hash(password: &Secret, random: &dyn Random) -> String {
    let salt = random.bytes::<16>();
    #[expect(clippy::expect_used, reason = "fixed parameters, a 16 byte salt and bounded input cannot fail")]
    let hashed: PasswordHash =
        argon().hash_password_with_salt(&normalized(password), &salt).expect("argon2id parameters are valid");
    hashed.to_string()
}

/// Whether `password` is the one `phc` was made of. As costly as [`hash`]; a broken `phc` is never matched.
pub fn verify(phc: &str, password: &Secret) -> bool {
    PasswordHash::new(phc).is_ok_and(|stored| argon().verify_password(&normalized(password), &stored).is_ok())
}

/// A PHC string that no password matches but that costs as much to check: for names nobody has, so that the time
/// of an answer does not tell which names exist.
pub fn nobody() -> &'static str {
    static NOBODY: LazyLock<String> = LazyLock::new(|| {
        let unknowable = Secret::new(ward_base::SystemRandom::bytes::<32>().to_vec());
        hash(&unknowable, &ward_base::SystemRandom)
    });
    &NOBODY
}

/// NFKC, so that the same characters typed on another keyboard are the same password; bytes that are no text
/// stay as they are. Cut at [`BYTES_MAX`] so that no input makes hashing slow.
fn normalized(password: &Secret) -> Zeroizing<Vec<u8>> {
    let bytes = password.expose().get(..BYTES_MAX).unwrap_or(password.expose());
    match std::str::from_utf8(bytes) {
        Ok(text) => Zeroizing::new(text.nfkc().collect::<String>().into_bytes()),
        Err(_) => Zeroizing::new(bytes.to_vec()),
    }
}

fn argon() -> Argon2<'static> {
    let parameters = Params::new(MEMORY_KIB, PASSES, LANES, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ward_base::SystemRandom;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    #[test]
    fn only_the_right_password_matches() {
        let phc = hash(&secret("correct horse battery"), &SystemRandom);
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(verify(&phc, &secret("correct horse battery")));
        assert!(!verify(&phc, &secret("correct horse batterz")));
        assert!(!verify(&phc, &secret("")));
        assert!(!verify("not a hash", &secret("correct horse battery")));
        assert!(!verify(nobody(), &secret("correct horse battery")));
        assert!(nobody().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_ne!(phc, hash(&secret("correct horse battery"), &SystemRandom), "salted");
    }

    #[test]
    fn composed_and_decomposed_text_is_one_password() {
        let phc = hash(&secret("caf\u{e9} au lait 77"), &SystemRandom);
        assert!(verify(&phc, &secret("cafe\u{301} au lait 77")));
    }

    /// Made by the reference implementation, through PyPI `argon2-cffi`.
    #[test]
    fn hashes_of_others_are_read() {
        let phc = include_str!("../tests/argon2id.phc").trim();
        assert!(verify(phc, &secret("correct horse battery")));
        assert!(!verify(phc, &secret("correct horse batterY")));
    }

    #[test]
    fn weak_passwords_are_refused() {
        for (password, expected) in [
            ("elevenchars", Err(Weakness::TooShort)),
            ("äöüäöü", Err(Weakness::TooShort)),
            ("my ada.lovelace pass", Err(Weakness::ContainsUsername)),
            ("Password1234", Err(Weakness::Common)),
            ("Administrator!!", Err(Weakness::Common)),
            ("aaaaaaaaaaaaaaaa", Err(Weakness::Regular)),
            ("abcdefghijklmnop", Err(Weakness::Regular)),
            ("tiger!tiger!tiger!", Err(Weakness::Regular)),
            ("quiet lamp over 9 rivers", Ok(())),
            ("Ω≈ç√∫˜µ≤≥÷åß", Ok(())),
        ] {
            assert_eq!(check(&secret(password), "Ada.Lovelace"), expected, "{password}");
        }
        assert_eq!(check(&secret(&"x y".repeat(500)), "ada"), Err(Weakness::TooLong));
    }
}
