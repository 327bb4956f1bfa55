use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use ward_base::{Clock as _, SystemClock, SystemRandom};

use crate::Https;

/// A service account's key, for `private_key_jwt`.
pub struct ServiceAccount {
    pair: EcdsaKeyPair,
}

impl Default for ServiceAccount {
    fn default() -> Self {
        Self { pair: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key pair") }
    }
}

impl ServiceAccount {
    /// The public key, as `ward user add-client --jwks` takes it.
    pub fn jwks(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({"keys": [{
            "kty": "EC", "crv": "P-384", "alg": "ES384", "use": "sig", "kid": "test",
            "x": URL_SAFE_NO_PAD.encode(&point[1..49]), "y": URL_SAFE_NO_PAD.encode(&point[49..97]),
        }]})
    }

    /// The private key in PEM (PKCS#8), for clients in other languages.
    pub fn pem(&self) -> String {
        let der = self.pair.to_pkcs8v1().expect("an encoding");
        let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    }

    /// A signed assertion; `change` may spoil the claims first.
    pub fn assertion(&self, client: &str, audience: &str, change: impl FnOnce(&mut Value)) -> String {
        let now = SystemClock.now().seconds();
        let mut claims = json!({
            "iss": client, "sub": client, "aud": audience, "iat": now, "exp": now + 120,
            "jti": URL_SAFE_NO_PAD.encode(SystemRandom::bytes::<16>()),
        });
        change(&mut claims);
        let head = json!({"alg": "ES384", "typ": "JWT", "kid": "test"});
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let text = format!("{}.{}", encode(&head), encode(&claims));
        let signature =
            self.pair.sign(&aws_lc_rs::rand::SystemRandom::new(), text.as_bytes()).expect("a signature");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// Asks for a token with an assertion.
    pub fn token_request(https: &Https, assertion: &str, scope: &str) -> crate::Answer {
        let scope = scope.replace('/', "%2F").replace(' ', "+");
        let form = format!(
            "grant_type=client_credentials&scope={scope}&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3A\
             client-assertion-type%3Ajwt-bearer&client_assertion={assertion}"
        );
        https.send(
            "POST",
            "/oauth/token",
            &[("Content-Type", "application/x-www-form-urlencoded")],
            form.as_bytes(),
        )
    }
}

/// The TOTP code (RFC 6238, SHA-1, 30 s, 6 digits) for a Base32 secret, `steps` from now.
pub fn one_time_code(secret: &str, steps: i64) -> String {
    let mut bits = 0_u64;
    let mut count = 0;
    let mut key = Vec::new();
    for letter in secret.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'2'..=b'7' => letter - b'2' + 26,
            _ => panic!("not Base32"),
        };
        bits = bits << 5 | u64::from(value);
        count += 5;
        if count >= 8 {
            count -= 8;
            key.push((bits >> count & 0xff) as u8);
        }
    }
    let step = SystemClock.now().seconds() / 30 + steps;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key), &step.to_be_bytes());
    let tag = tag.as_ref();
    let offset = usize::from(tag[19] & 0xf);
    let number = u32::from_be_bytes(tag[offset..offset + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}
