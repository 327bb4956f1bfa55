//! The operator: the service account by which this host's own commands speak to the running stack.
//!
//! Its private key is sealed under the keystore, so a command needs the passphrase, and every call it makes
//! stands in the audit log under its own name. It has no door of its own: it signs in at the public listener
//! like any other client (OAuth 2.0 client credentials with `private_key_jwt`, RFC 7523).

use anyhow::Context as _;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Response, header};
use serde_json::{Value, json};
use ward_base::{Clock as _, Secret, SystemClock, SystemRandom};

use crate::client::{Connection, Endpoint};
use crate::custody::Custody;

/// The operator's client id.
pub(crate) const CLIENT_ID: &str = "operator";
const FILE: &str = "operator-key.json";

/// The key pair of the operator.
pub(crate) struct OperatorKey {
    pair: EcdsaKeyPair,
}

impl OperatorKey {
    /// Opens the sealed key, or makes one at the first start.
    pub(crate) fn open_or_create(custody: &Custody) -> anyhow::Result<Self> {
        let encoded = match custody.load(FILE)? {
            Some(encoded) => encoded,
            None => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)
                    .map_err(|_| anyhow::anyhow!("cannot make a key pair"))?;
                let document = pair.to_pkcs8v1().map_err(|_| anyhow::anyhow!("cannot encode a key pair"))?;
                let encoded = Secret::new(document.as_ref().to_vec());
                custody.save(FILE, &encoded)?;
                encoded
            }
        };
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, encoded.expose())
            .map_err(|_| anyhow::anyhow!("`{FILE}` holds no key of the right kind"))?;
        Ok(Self { pair })
    }

    /// The public half as a JWK set (RFC 7517), which the app tier checks assertions with.
    pub(crate) fn jwks(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (point.get(1..49).unwrap_or_default(), point.get(49..97).unwrap_or_default());
        json!({"keys": [{
            "kty": "EC", "crv": "P-384", "alg": "ES384", "use": "sig", "kid": CLIENT_ID,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }

    /// A signed assertion for the token endpoint at `audience`, good for one minute.
    fn assertion(&self, audience: &str) -> anyhow::Result<String> {
        let now = SystemClock.now().seconds();
        let identifier = URL_SAFE_NO_PAD.encode(SystemRandom::bytes::<16>());
        let claims = json!({
            "iss": CLIENT_ID, "sub": CLIENT_ID, "aud": audience, "jti": identifier, "iat": now, "exp": now + 60,
        });
        let head = json!({"alg": "ES384", "typ": "JWT", "kid": CLIENT_ID});
        let text = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(head.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = self
            .pair
            .sign(&aws_lc_rs::rand::SystemRandom::new(), text.as_bytes())
            .map_err(|_| anyhow::anyhow!("cannot sign"))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    /// The private key as PKCS#8 DER, for tests of the encoding.
    #[cfg(test)]
    fn der(&self) -> Vec<u8> {
        self.pair.to_pkcs8v1().unwrap().as_ref().to_vec()
    }
}

/// The operator, signed in at a running stack.
pub(crate) struct Operator {
    connection: Connection,
    key: OperatorKey,
    authorization: String,
    expires: i64,
}

impl Operator {
    /// Connects to the public listener and signs in.
    pub(crate) async fn sign_in(endpoint: &Endpoint, key: OperatorKey) -> anyhow::Result<Self> {
        let connection = endpoint.connect().await?;
        let mut operator = Self { connection, key, authorization: String::new(), expires: 0 };
        operator.renew(&endpoint.origin()).await?;
        Ok(operator)
    }

    async fn renew(&mut self, origin: &str) -> anyhow::Result<()> {
        let now = SystemClock.now().seconds();
        if now + 30 < self.expires {
            return Ok(());
        }
        let assertion = self.key.assertion(&format!("{origin}/oauth/token"))?;
        let form = format!(
            "grant_type=client_credentials&scope=system%2F*.cruds\
             &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
             &client_assertion={assertion}"
        );
        let response = self
            .connection
            .send(
                "POST",
                "/oauth/token",
                &[(header::CONTENT_TYPE, "application/x-www-form-urlencoded")],
                Bytes::from(form),
            )
            .await?;
        anyhow::ensure!(
            response.status().is_success(),
            "the stack refused the operator ({})",
            response.status()
        );
        let answer: Value = serde_json::from_slice(response.body())?;
        let token = answer.get("access_token").and_then(Value::as_str).context("no token in the answer")?;
        self.authorization = format!("Bearer {token}");
        self.expires = now + answer.get("expires_in").and_then(Value::as_i64).unwrap_or(60);
        Ok(())
    }

    /// Sends one authorised request and reads the whole answer.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Bytes>> {
        use http_body_util::BodyExt as _;
        let (parts, body) = self.open(method, path, content_type, body).await?.into_parts();
        Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
    }

    /// Sends one authorised request; the body of the answer is still to be read.
    pub(crate) async fn open(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<hyper::body::Incoming>> {
        let origin = self.connection.origin();
        self.renew(&origin).await?;
        let headers =
            [(header::AUTHORIZATION, self.authorization.as_str()), (header::CONTENT_TYPE, content_type)];
        self.connection.open(method, path, &headers, body).await
    }

    /// The `Authorization` header for further requests, good for a few minutes.
    pub(crate) async fn authorization(&mut self) -> anyhow::Result<String> {
        let origin = self.connection.origin();
        self.renew(&origin).await?;
        Ok(self.authorization.clone())
    }

    /// The origin of the stack it signed in at.
    pub(crate) fn origin(&self) -> String {
        self.connection.origin()
    }

    /// Sends JSON and reads JSON; an error status becomes an error with the stack's own words.
    pub(crate) async fn call(&mut self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let response = self.send(method, path, "application/json", bytes).await?;
        anyhow::ensure!(response.status().is_success(), "{}", explanation(&response));
        Ok(serde_json::from_slice(response.body()).unwrap_or(Value::Null))
    }
}

/// The words of an OperationOutcome or error object, or the status alone.
pub(crate) fn explanation(response: &Response<Bytes>) -> String {
    let body: Value = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
    let words = body
        .pointer("/issue/0/diagnostics")
        .or_else(|| body.get("error_description"))
        .or_else(|| body.get("error"))
        .and_then(Value::as_str);
    match words {
        Some(words) => format!("{words} ({})", response.status()),
        None => format!("the stack answered {}", response.status()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_key_set_holds_no_private_part() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let key = OperatorKey { pair };
        let set = key.jwks();
        assert!(set.pointer("/keys/0/d").is_none());
        assert_eq!(set.pointer("/keys/0/x").and_then(Value::as_str).unwrap().len(), 64);
        assert!(key.der().len() > 100);
    }
}
