//! Assertions made by another implementation (PyPI `PyJWT`), and forged ones.

#![expect(clippy::unwrap_used, reason = "a broken test should stop at once")]

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use ward_base::Timestamp;
use ward_identity::client_assertion::{AssertionError, claimed_client, verify};
use ward_identity::{ClientKeys, ClientKeysError, ClientRecord, Scopes};

const NOW: i64 = 1_700_000_000;
const AUDIENCE: &str = "https://ward.example/oauth/token";

fn vectors() -> Value {
    serde_json::from_str(include_str!("assertions.json")).unwrap()
}

fn client(jwks: &Value) -> ClientRecord {
    ClientRecord {
        id: "c-1".to_owned(),
        name: String::new(),
        scopes: Scopes::parse("system/*.rs").unwrap(),
        keys: ClientKeys::from_jwks(jwks).unwrap(),
        roles: vec![],
        created: Timestamp(0),
        disabled: false,
    }
}

fn at(jwt: &str, client: &ClientRecord, seconds: i64) -> Result<String, AssertionError> {
    let audience = ["https://other.example".to_owned(), AUDIENCE.to_owned()];
    verify(jwt, client, &audience, Timestamp(0).plus_seconds(seconds)).map(|verified| verified.jti)
}

fn token(name: &str) -> String {
    vectors()["tokens"][name].as_str().unwrap().to_owned()
}

#[test]
fn both_algorithms_of_another_implementation_are_accepted() {
    let client = client(&vectors()["jwks"]);
    for name in ["rs384", "es384"] {
        let jwt = token(name);
        assert_eq!(at(&jwt, &client, NOW).as_deref(), Ok("once"), "{name}");
        assert_eq!(claimed_client(&jwt).as_deref(), Some("c-1"));
        assert_eq!(at(&jwt, &client, NOW + 299).as_deref(), Ok("once"));
        assert_eq!(at(&jwt, &client, NOW + 300), Err(AssertionError::Expired));
        assert_eq!(at(&jwt, &client, NOW - 31), Err(AssertionError::TooFarAhead), "issued in the future");
        let elsewhere =
            verify(&jwt, &client, &["https://evil.example".to_owned()], Timestamp(NOW * 1_000_000));
        assert_eq!(elsewhere, Err(AssertionError::Audience));
    }
    let mut disabled = client.clone();
    disabled.disabled = true;
    assert_eq!(at(&token("es384"), &disabled, NOW), Err(AssertionError::Disabled));
    let mut other = client;
    other.id = "c-2".to_owned();
    assert_eq!(at(&token("es384"), &other, NOW), Err(AssertionError::Subject));
}

#[test]
fn other_algorithms_and_keys_are_refused() {
    let client = client(&vectors()["jwks"]);
    for (name, expected) in [
        ("rs256", AssertionError::Algorithm),
        ("rs512", AssertionError::Algorithm),
        ("ps384", AssertionError::Algorithm),
        ("es256", AssertionError::Algorithm),
        ("rs384_with_the_ec_kid", AssertionError::Algorithm),
        ("es384_of_an_unlisted_key", AssertionError::Signature),
    ] {
        assert_eq!(at(&token(name), &client, NOW), Err(expected), "{name}");
    }
}

#[test]
fn every_changed_bit_of_a_signature_or_payload_is_noticed() {
    let client = client(&vectors()["jwks"]);
    let jwt = token("es384");
    let parts: Vec<&str> = jwt.split('.').collect();
    let signature = URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
    for position in 0..signature.len() {
        let mut changed = signature.clone();
        changed[position] ^= 1;
        let forged = format!("{}.{}.{}", parts[0], parts[1], URL_SAFE_NO_PAD.encode(changed));
        assert_eq!(at(&forged, &client, NOW), Err(AssertionError::Signature));
    }
    let payload = URL_SAFE_NO_PAD.encode(
        json!({"iss": "c-1", "sub": "c-1", "aud": AUDIENCE, "jti": "twice", "exp": NOW + 60}).to_string(),
    );
    let forged = format!("{}.{payload}.{}", parts[0], parts[2]);
    assert_eq!(at(&forged, &client, NOW), Err(AssertionError::Signature));
}

/// A key pair of ours, to sign any header and claims.
struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    fn jwk(&self) -> Value {
        let point = self.0.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-384", "kid": "k",
               "x": URL_SAFE_NO_PAD.encode(&point[1..49]), "y": URL_SAFE_NO_PAD.encode(&point[49..97])})
    }

    fn sign(&self, head: &Value, claims: &Value) -> String {
        let text = signed_text(head, claims);
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

fn signed_text(head: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(head.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn claims() -> Value {
    json!({"iss": "c-1", "sub": "c-1", "aud": AUDIENCE, "jti": "j", "iat": NOW, "exp": NOW + 300})
}

#[test]
fn claims_are_all_needed_and_checked() {
    let signer = Signer::new();
    let client = client(&json!({"keys": [signer.jwk()]}));
    let head = json!({"alg": "ES384", "kid": "k"});
    let check = |name: &str, value: Value, expected: Result<&str, AssertionError>| {
        let mut claims = claims();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
        let result = at(&signer.sign(&head, &claims), &client, NOW);
        assert_eq!(result.as_deref().map_err(|error| *error), expected, "{name} = {value}");
    };
    check("iat", Value::Null, Ok("j"));
    check("aud", json!(["https://x.example", AUDIENCE]), Ok("j"));
    check("exp", json!(NOW + 1), Ok("j"));
    check("iss", Value::Null, Err(AssertionError::Subject));
    check("sub", Value::Null, Err(AssertionError::Subject));
    check("iss", json!("c-2"), Err(AssertionError::Subject));
    check("sub", json!(["c-1"]), Err(AssertionError::Malformed));
    check("aud", Value::Null, Err(AssertionError::Audience));
    check("aud", json!([]), Err(AssertionError::Audience));
    check("aud", json!("https://ward.example"), Err(AssertionError::Audience));
    check("exp", Value::Null, Err(AssertionError::Malformed));
    check("exp", json!("soon"), Err(AssertionError::Malformed));
    check("exp", json!(-1), Err(AssertionError::Malformed));
    check("exp", json!(1e300), Err(AssertionError::Malformed));
    check("exp", json!(NOW), Err(AssertionError::Expired));
    check("exp", json!(NOW + 331), Err(AssertionError::TooFarAhead));
    check("nbf", json!(NOW + 31), Err(AssertionError::TooFarAhead));
    check("iat", json!(NOW + 31), Err(AssertionError::TooFarAhead));
    check("jti", Value::Null, Err(AssertionError::MissingJti));
    check("jti", json!(7), Err(AssertionError::MissingJti));
    check("jti", json!(""), Err(AssertionError::Malformed));
    check("jti", json!("j".repeat(257)), Err(AssertionError::Malformed));
}

#[test]
fn headers_choose_among_registered_keys_and_nothing_else() {
    let signer = Signer::new();
    let client = client(&json!({"keys": [signer.jwk()]}));
    let check = |head: Value, expected: Result<&str, AssertionError>| {
        let result = at(&signer.sign(&head, &claims()), &client, NOW);
        assert_eq!(result.as_deref().map_err(|error| *error), expected, "{head}");
    };
    check(json!({"alg": "ES384"}), Ok("j"));
    check(json!({"alg": "ES384", "kid": "other"}), Err(AssertionError::UnknownKey));
    check(json!({"alg": "ES384", "kid": null}), Err(AssertionError::UnknownKey));
    check(json!({"alg": "RS384", "kid": "k"}), Err(AssertionError::Algorithm));
    check(json!({"alg": "HS384", "kid": "k"}), Err(AssertionError::Algorithm));
    check(json!({"alg": "none", "kid": "k"}), Err(AssertionError::Algorithm));
    check(json!({"alg": "es384", "kid": "k"}), Err(AssertionError::Algorithm));
    check(json!({"kid": "k"}), Err(AssertionError::Malformed));
    for name in ["jwk", "jku", "x5c", "x5u", "crit"] {
        check(json!({"alg": "ES384", "kid": "k", name: signer.jwk()}), Err(AssertionError::Header));
    }
    // Signed by an attacker's key that the header brings along.
    let attacker = Signer::new();
    let brought = attacker.sign(&json!({"alg": "ES384", "jwk": attacker.jwk()}), &claims());
    assert_eq!(at(&brought, &client, NOW), Err(AssertionError::Header));
}

#[test]
fn unsigned_and_symmetric_forgeries_are_refused() {
    let signer = Signer::new();
    let jwk = signer.jwk();
    let client = client(&json!({"keys": [jwk.clone()]}));
    for alg in ["none", "None", "ES384"] {
        let text = signed_text(&json!({"alg": alg, "kid": "k"}), &claims());
        let expected = if alg == "ES384" { AssertionError::Signature } else { AssertionError::Algorithm };
        assert_eq!(at(&format!("{text}."), &client, NOW), Err(expected));
    }
    let text = signed_text(&json!({"alg": "HS384", "kid": "k"}), &claims());
    let public = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA384, &public), text.as_bytes());
    let forged = format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
    assert_eq!(at(&forged, &client, NOW), Err(AssertionError::Algorithm));
    for garbage in ["", "a", "a.b", "a.b.c", "a.b.c.d", &"x".repeat(9000), "é.é.é"] {
        assert_eq!(at(garbage, &client, NOW), Err(AssertionError::Malformed));
        assert_eq!(claimed_client(garbage), None);
    }
}

#[test]
fn key_sets_are_checked_when_registered() {
    let vectors = vectors();
    let (rsa, ec) = (vectors["jwks"]["keys"][0].clone(), vectors["jwks"]["keys"][1].clone());
    let with = |key: &Value, name: &str, value: Value| {
        let mut key = key.clone();
        key[name] = value;
        ClientKeys::from_jwks(&json!({"keys": [key]})).map(|_| ())
    };
    assert_eq!(with(&ec, "use", json!("sig")), Ok(()));
    assert_eq!(with(&ec, "use", json!("enc")), Err(ClientKeysError::Kind));
    assert_eq!(with(&ec, "d", json!("AA")), Err(ClientKeysError::Private));
    assert_eq!(with(&ec, "alg", json!("ES256")), Err(ClientKeysError::Kind));
    assert_eq!(with(&ec, "x", json!("AA")), Err(ClientKeysError::Size));
    assert_eq!(with(&rsa, "alg", json!("RS256")), Err(ClientKeysError::Kind));
    assert_eq!(with(&rsa, "n", json!(URL_SAFE_NO_PAD.encode([0xff; 128]))), Err(ClientKeysError::Size));
    assert_eq!(with(&rsa, "e", json!("Aw")), Err(ClientKeysError::Size), "an exponent of 3");
    let set = |keys: Value| ClientKeys::from_jwks(&json!({"keys": keys})).map(|_| ());
    assert_eq!(set(json!([vectors["p256"]])), Err(ClientKeysError::Kind));
    assert_eq!(set(json!([{"kty": "oct", "k": "AA"}])), Err(ClientKeysError::Private));
    assert_eq!(set(json!([ec, ec])), Err(ClientKeysError::Kid));
    assert_eq!(set(json!([])), Err(ClientKeysError::Shape));
    assert_eq!(ClientKeys::from_jwks(&json!([])).unwrap_err(), ClientKeysError::Shape);
}
