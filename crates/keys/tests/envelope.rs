//! The sealed formats and tokens: what opens, what must not, and that the formats stay as they are.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::HashMap;

use proptest::prelude::*;
use ward_base::{Clock, FixedClock, Random, Secret, SystemRandom, Timestamp};
use ward_keys::*;

/// A root key in memory, as plain as a provider can be.
struct Root(PlainKey);

impl Kms for Root {
    fn describe(&self) -> KeyDescription {
        KeyDescription { provider: "memory", current: KeyVersion(1) }
    }
    fn generate(&self, context: &EncryptionContext) -> Result<(PlainKey, WrappedKey), KmsError> {
        let key = PlainKey::new(SystemRandom::bytes());
        Ok((key.clone(), self.wrap(&key, context)?))
    }
    fn wrap(&self, key: &PlainKey, context: &EncryptionContext) -> Result<WrappedKey, KmsError> {
        Ok(WrappedKey(seal_small(&self.0, &context.canonical(), key.expose(), &SystemRandom)))
    }
    fn unwrap(&self, wrapped: &WrappedKey, context: &EncryptionContext) -> Result<PlainKey, KmsError> {
        let bytes = open_small(&self.0, &context.canonical(), &wrapped.0).map_err(|_| KmsError::Refused)?;
        Ok(PlainKey::new(bytes.try_into().map_err(|_| KmsError::Refused)?))
    }
    fn rewrap(&self, wrapped: &WrappedKey, context: &EncryptionContext) -> Result<WrappedKey, KmsError> {
        self.wrap(&self.unwrap(wrapped, context)?, context)
    }
    fn rotate(&self) -> Result<KeyVersion, KmsError> {
        Err(KmsError::NotSupported("not here"))
    }
}

fn ring() -> KeyRing {
    KeyRing::create(&Root(PlainKey::new([7; 32])), "main").unwrap().0
}

/// Counts up: makes sealed values repeatable.
struct Counting;

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for (number, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::try_from(number % 251).unwrap();
        }
    }
}

#[test]
fn the_formats_are_those_of_the_kept_vectors() {
    let vectors: HashMap<String, String> = include_str!("vectors/formats.txt")
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let key = PlainKey::new([1; 32]);
    let tokenizer = Tokenizer::new(&key);
    let long = vec![b'x'; 400];
    let found = [
        ("seal_small", hex(&seal_small(&key, b"place", b"value", &Counting))),
        ("token128", hex(&tokenizer.token128("label", &[b"one", b"two"]))),
        ("token64", hex(&tokenizer.token64("label", &[b"one", b"two"]).to_be_bytes())),
        ("token128_long", hex(&tokenizer.token128("label", &[&long]))),
        ("context", hex(&EncryptionContext::new(&[("b", "2"), ("a", "1")]).canonical())),
    ];
    for (name, value) in &found {
        assert_eq!(vectors.get(*name), Some(value), "{name} {value}");
    }
    let kept: Vec<u8> = (0..vectors["seal_small"].len() / 2)
        .map(|index| u8::from_str_radix(&vectors["seal_small"][index * 2..index * 2 + 2], 16).unwrap())
        .collect();
    assert_eq!(open_small(&key, b"place", &kept).unwrap(), b"value");
}

#[test]
fn a_data_key_opens_for_its_own_patient_and_tenant_only() {
    let root = Root(PlainKey::new([7; 32]));
    let (ring, wrapped_ring) = KeyRing::create(&root, "main").unwrap();
    let scope = KeyScope::Patient([1; 16]);
    let (key, wrapped) = ring.new_data_key(&scope, &SystemRandom);
    let sealed = key.seal(b"row", b"body", &SystemRandom);
    let again = KeyRing::open(&root, "main", &wrapped_ring).unwrap();
    let opened = again.unwrap_data_key(&wrapped, &scope).unwrap();
    assert_eq!(opened.id(), key.id());
    assert_eq!(opened.open(b"row", &sealed).unwrap(), b"body");
    assert!(again.unwrap_data_key(&wrapped, &KeyScope::Patient([2; 16])).is_err());
    assert!(again.unwrap_data_key(&wrapped, &KeyScope::Shared("Practitioner")).is_err());
    assert_eq!(KeyRing::open(&root, "other", &wrapped_ring).err(), Some(KmsError::Refused));
    let other = Root(PlainKey::new([8; 32]));
    assert_eq!(KeyRing::open(&other, "main", &wrapped_ring).err(), Some(KmsError::Refused));
}

#[test]
fn derived_keys_differ_by_purpose_and_are_stable() {
    let ring = ring();
    assert_eq!(ring.derive("a").expose(), ring.derive("a").expose());
    assert_ne!(ring.derive("a").expose(), ring.derive("b").expose());
}

#[test]
fn cached_keys_are_few_young_and_not_worn() {
    let ring = ring();
    let clock = FixedClock::new(Timestamp(0));
    let cache = DataKeyCache::new(CacheLimits { count: 2, age_seconds: 10, uses: 3 });
    let scopes: Vec<KeyScope> = (0..3).map(|number| KeyScope::Patient([number; 16])).collect();
    for scope in &scopes {
        cache.insert(*scope, ring.new_data_key(scope, &SystemRandom).0.into(), clock.now());
    }
    assert!(cache.get(&scopes[0], clock.now()).is_none(), "the oldest made room");
    for _ in 0..3 {
        assert!(cache.get(&scopes[1], clock.now()).is_some());
    }
    assert!(cache.get(&scopes[1], clock.now()).is_none(), "used up");
    assert!(cache.get(&scopes[2], clock.now()).is_some());
    clock.advance_seconds(11);
    assert!(cache.get(&scopes[2], clock.now()).is_none(), "too old");
}

#[test]
fn weak_passphrases_are_refused() {
    for weak in ["", "short", "aaaaaaaaaaaaaaaa", "élevenchars"] {
        assert!(check_passphrase(&Secret::new(weak.as_bytes().to_vec())).is_err(), "{weak}");
    }
    assert!(check_passphrase(&Secret::new(b"correct horse battery".to_vec())).is_ok());
}

proptest! {
    #[test]
    fn sealed_values_open_and_altered_ones_do_not(
        plain in proptest::collection::vec(any::<u8>(), 0..300),
        place in proptest::collection::vec(any::<u8>(), 0..20),
        position in any::<proptest::sample::Index>(),
        bit in 0_u8..8,
        cut in any::<proptest::sample::Index>(),
    ) {
        let key = PlainKey::new([3; 32]);
        let (data_key, _) = ring().new_data_key(&KeyScope::Shared("x"), &SystemRandom);
        for small in [true, false] {
            let seal = |plain: &[u8]| if small {
                seal_small(&key, &place, plain, &SystemRandom)
            } else {
                data_key.seal(&place, plain, &SystemRandom)
            };
            let open = |place: &[u8], sealed: &[u8]| if small {
                open_small(&key, place, sealed)
            } else {
                data_key.open(place, sealed)
            };
            let sealed = seal(&plain);
            prop_assert_eq!(open(&place, &sealed).unwrap(), plain.clone());
            let mut altered = sealed.clone();
            altered[position.index(sealed.len())] ^= 1 << bit;
            prop_assert!(open(&place, &altered).is_err());
            prop_assert!(open(&place, &sealed[..cut.index(sealed.len())]).is_err());
            let mut elsewhere = place.clone();
            elsewhere.push(0);
            prop_assert!(open(&elsewhere, &sealed).is_err());
        }
    }

    #[test]
    fn tokens_keep_parts_apart(parts in proptest::collection::vec("[a-c]{0,3}", 0..4), other in proptest::collection::vec("[a-c]{0,3}", 0..4)) {
        let tokenizer = Tokenizer::new(&PlainKey::new([3; 32]));
        let token = |parts: &[String]| {
            let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
            tokenizer.token128("l", &parts)
        };
        prop_assert_eq!(token(&parts) == token(&other), parts == other);
    }
}
