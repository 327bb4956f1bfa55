//! Signed assertions of service accounts (`private_key_jwt`; RFC 7523, SMART Backend Services).
//!
//! Accepted are RS384 and ES384 and nothing else: the algorithm is a property of the registered key, never of
//! the token, and a header that brings its own key (`jwk`, `jku`, `x5c`, `x5u`) or an extension that must be
//! understood (`crit`) is refused. The caller keeps each `jti` until its `exp` and refuses it the second time.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ward_base::Timestamp;

use crate::ClientRecord;

/// The longest life of an assertion (SMART Backend Services).
pub const LIFETIME_SECONDS_MAX: i64 = 300;
/// How far the client's clock may differ from ours.
const CLOCK_SKEW_SECONDS: i64 = 30;
const BYTES_MAX: usize = 8192;
const JTI_BYTES_MAX: usize = 256;
const KEYS_MAX: usize = 16;

/// What a good assertion leaves to do: remember `jti` until `exp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The assertion's own id; unique within the client.
    pub jti: String,
    /// After this moment the same `jti` is refused as expired anyway.
    pub exp: Timestamp,
}

/// Why an assertion is refused. The client is told `invalid_client` for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// No JWT, too long, or claims of the wrong form.
    #[error("the assertion is malformed")]
    Malformed,
    /// Not RS384 or ES384, or not the algorithm of the key named.
    #[error("the assertion is signed with an algorithm that is not accepted")]
    Algorithm,
    /// The header carries a key of its own or a critical extension.
    #[error("the assertion's header carries what is not accepted")]
    Header,
    /// No registered key has this `kid`.
    #[error("the assertion names no registered key")]
    UnknownKey,
    /// The signature does not fit.
    #[error("the assertion's signature does not fit")]
    Signature,
    /// `iss` or `sub` is not the client.
    #[error("the assertion is not about this client")]
    Subject,
    /// `aud` is not this server.
    #[error("the assertion is for another audience")]
    Audience,
    /// `exp` has passed.
    #[error("the assertion has expired")]
    Expired,
    /// `exp` is more than five minutes ahead, or `nbf`/`iat` lies ahead.
    #[error("the assertion is dated too far ahead")]
    TooFarAhead,
    /// No `jti`.
    #[error("the assertion has no `jti`")]
    MissingJti,
    /// The client is disabled.
    #[error("the client is disabled")]
    Disabled,
}

/// The client that an assertion claims to come from, *unverified*: only to find the record to verify with.
pub fn claimed_client(jwt: &str) -> Option<String> {
    let payload = jwt.get(..).filter(|text| text.len() <= BYTES_MAX)?.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.get("sub")?.as_str().filter(|sub| sub.len() <= 128).map(str::to_owned)
}

/// Verifies `jwt` as an assertion of `client`, made for one of `audience`, at `now`.
pub fn verify(
    jwt: &str,
    client: &ClientRecord,
    audience: &[String],
    now: Timestamp,
) -> Result<Verified, AssertionError> {
    if client.disabled {
        return Err(AssertionError::Disabled);
    }
    if jwt.len() > BYTES_MAX || jwt.split('.').count() != 3 {
        return Err(AssertionError::Malformed);
    }
    let (key, algorithm) = client.keys.named_in(jwt)?;
    let mut validation = Validation::new(algorithm);
    // Time is checked below, against the caller's clock; the rest is checked there too, with an error each.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims = HashSet::new();
    let claims =
        jsonwebtoken::decode::<Value>(jwt, &key, &validation).map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => AssertionError::Signature,
            _ => AssertionError::Malformed,
        })?;
    check_claims(&claims.claims, &client.id, audience, now)
}

fn check_claims(
    claims: &Value,
    client: &str,
    audience: &[String],
    now: Timestamp,
) -> Result<Verified, AssertionError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(client) || text("sub") != Some(client) {
        return Err(AssertionError::Subject);
    }
    let is_ours = |value: &Value| value.as_str().is_some_and(|text| audience.iter().any(|own| own == text));
    let addressed = match claims.get("aud") {
        Some(Value::Array(several)) => several.iter().any(is_ours),
        Some(one) => is_ours(one),
        None => false,
    };
    if !addressed {
        return Err(AssertionError::Audience);
    }
    let exp = seconds(claims, "exp")?.ok_or(AssertionError::Malformed)?;
    if exp <= now.seconds() {
        return Err(AssertionError::Expired);
    }
    let latest = now.seconds().saturating_add(CLOCK_SKEW_SECONDS);
    if exp > latest.saturating_add(LIFETIME_SECONDS_MAX) {
        return Err(AssertionError::TooFarAhead);
    }
    for start in [seconds(claims, "nbf")?, seconds(claims, "iat")?].into_iter().flatten() {
        if start > latest {
            return Err(AssertionError::TooFarAhead);
        }
    }
    match text("jti") {
        Some(jti) if !jti.is_empty() && jti.len() <= JTI_BYTES_MAX => {
            Ok(Verified { jti: jti.to_owned(), exp: Timestamp(0).plus_seconds(exp) })
        }
        Some(_) => Err(AssertionError::Malformed),
        None => Err(AssertionError::MissingJti),
    }
}

/// A NumericDate (RFC 7519, 2), cut to whole seconds.
fn seconds(claims: &Value, name: &str) -> Result<Option<i64>, AssertionError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let number = value.as_f64().filter(|number| number.is_finite() && (0.0..=1e12).contains(number));
    #[expect(clippy::cast_possible_truncation, reason = "checked to lie between 0 and 1e12")]
    number.map(|number| Some(number as i64)).ok_or(AssertionError::Malformed)
}

/// The public keys of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientKeys(Vec<ClientKey>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ClientKey {
    kid: Option<String>,
    #[serde(flatten)]
    public: PublicKey,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum PublicKey {
    #[serde(rename = "rs384")]
    Rs384 { n: String, e: String },
    #[serde(rename = "es384")]
    Es384 { x: String, y: String },
}

/// Why a JWK set is not accepted; the text is for whoever registers a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientKeysError {
    /// Not `{"keys": [...]}`.
    #[error("a JWK set is an object with a list `keys` of 1 to 16 keys")]
    Shape,
    /// It holds a secret.
    #[error("the set holds a private key: register the public part only, and replace the key")]
    Private,
    /// Another kind of key.
    #[error("a key must be RSA for RS384 or EC on P-384 for ES384")]
    Kind,
    /// Too short an RSA key, or coordinates of the wrong length.
    #[error("an RSA key needs 2048 to 8192 bits, and EC coordinates 48 bytes each")]
    Size,
    /// Several keys, and not each with its own `kid`.
    #[error("each of several keys needs a `kid` of its own, of at most 128 bytes")]
    Kid,
}

impl ClientKeys {
    /// Reads a JWK set (RFC 7517) and keeps what verifying needs.
    pub fn from_jwks(jwks: &Value) -> Result<Self, ClientKeysError> {
        let list = jwks.get("keys").and_then(Value::as_array).ok_or(ClientKeysError::Shape)?;
        if list.is_empty() || list.len() > KEYS_MAX {
            return Err(ClientKeysError::Shape);
        }
        let keys: Vec<ClientKey> = list.iter().map(ClientKey::from_jwk).collect::<Result<_, _>>()?;
        let kids: HashSet<&str> = keys.iter().filter_map(|key| key.kid.as_deref()).collect();
        if keys.len() > 1 && kids.len() != keys.len() || kids.iter().any(|kid| kid.len() > 128) {
            return Err(ClientKeysError::Kid);
        }
        Ok(Self(keys))
    }

    /// The key and its algorithm that the token's header names. The header is read here and only to choose among
    /// registered keys.
    fn named_in(&self, jwt: &str) -> Result<(DecodingKey, Algorithm), AssertionError> {
        let head = jwt.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let head: Value =
            head.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or(AssertionError::Malformed)?;
        if ["jwk", "jku", "x5c", "x5u", "crit"].iter().any(|name| head.get(name).is_some()) {
            return Err(AssertionError::Header);
        }
        let named = head.get("alg").and_then(Value::as_str).ok_or(AssertionError::Malformed)?;
        if named != "RS384" && named != "ES384" {
            return Err(AssertionError::Algorithm);
        }
        let key = match head.get("kid") {
            Some(kid) => {
                self.0.iter().find(|key| key.kid.as_deref().is_some() && key.kid.as_deref() == kid.as_str())
            }
            None if self.0.len() == 1 => self.0.first(),
            None => None,
        };
        let (algorithm, decoding) = match &key.ok_or(AssertionError::UnknownKey)?.public {
            PublicKey::Rs384 { n, e } => (Algorithm::RS384, DecodingKey::from_rsa_components(n, e)),
            PublicKey::Es384 { x, y } => (Algorithm::ES384, DecodingKey::from_ec_components(x, y)),
        };
        let is_named =
            matches!((algorithm, named), (Algorithm::RS384, "RS384") | (Algorithm::ES384, "ES384"));
        if !is_named {
            return Err(AssertionError::Algorithm);
        }
        Ok((decoding.map_err(|_| AssertionError::UnknownKey)?, algorithm))
    }
}

impl ClientKey {
    fn from_jwk(jwk: &Value) -> Result<Self, ClientKeysError> {
        if ["d", "p", "q", "dp", "dq", "qi", "k", "oth"].iter().any(|part| jwk.get(part).is_some()) {
            return Err(ClientKeysError::Private);
        }
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| -> Result<(String, Vec<u8>), ClientKeysError> {
            let part = text(name).ok_or(ClientKeysError::Kind)?;
            Ok((part.to_owned(), URL_SAFE_NO_PAD.decode(part).map_err(|_| ClientKeysError::Kind)?))
        };
        let public = match (text("kty"), text("crv"), text("alg")) {
            (Some("RSA"), _, None | Some("RS384")) => {
                let ((n, modulus), (e, exponent)) = (bytes("n")?, bytes("e")?);
                let leading = modulus.first().copied().unwrap_or(0);
                if !(256..=1024).contains(&modulus.len())
                    || leading < 0x80
                    || !(3..=8).contains(&exponent.len())
                {
                    return Err(ClientKeysError::Size);
                }
                PublicKey::Rs384 { n, e }
            }
            (Some("EC"), Some("P-384"), None | Some("ES384")) => {
                let ((x, first), (y, second)) = (bytes("x")?, bytes("y")?);
                if first.len() != 48 || second.len() != 48 {
                    return Err(ClientKeysError::Size);
                }
                PublicKey::Es384 { x, y }
            }
            _ => return Err(ClientKeysError::Kind),
        };
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return Err(ClientKeysError::Kind);
        }
        Ok(Self { kid: text("kid").map(str::to_owned), public })
    }
}
