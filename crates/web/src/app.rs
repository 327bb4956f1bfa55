//! The app tier, as the pages see it: JSON over HTTPS through the internal balancer.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::{Value, json};
use ward_base::{Phi, Secret};
use ward_transport::{Body, Upstream, UpstreamError};

use crate::trouble::Trouble;
use crate::visit::Visit;

/// The longest answer a page is made of. The store ends a page of a search with the resource that takes it beyond
/// 16 MiB, and one resource may have 64 MiB; the rest is for the Bundle around them.
const ANSWER_BYTES_MAX: usize = 96 << 20;
const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const FHIR: &str = "application/fhir+json";

/// Who is signed in, and for how long.
#[derive(Clone, Deserialize)]
pub(crate) struct Me {
    pub(crate) display_name: String,
    /// Seconds until the session ends if nothing happens.
    #[serde(rename = "expires_in")]
    pub(crate) remaining: u32,
}

/// An invitation, as the person invited sees it.
#[derive(Deserialize)]
pub(crate) struct Enrolment {
    pub(crate) username: String,
    pub(crate) totp_secret: String,
    pub(crate) otpauth_uri: String,
}

/// Calls to the app tier.
pub(crate) struct App {
    upstream: Upstream,
    idle_seconds: u32,
}

struct Call<'a> {
    method: Method,
    path: &'a str,
    media_type: &'static str,
    body: Bytes,
    passive: bool,
    /// It changes what is stored: without a clear answer it may have been carried out.
    writes: bool,
}

impl App {
    /// Calls through `upstream`. No page is shown for longer than `idle_seconds` without a sign of life.
    pub(crate) const fn new(upstream: Upstream, idle_seconds: u32) -> Self {
        Self { upstream, idle_seconds }
    }

    /// Who is signed in. `passive` does not count as being there.
    pub(crate) async fn me(&self, visit: &Visit, passive: bool) -> Result<Me, Trouble> {
        let answer = self.call(visit, Call { passive, ..Call::get("/session", JSON) }).await?;
        let me: Me = serde_json::from_value(answer.into_inner()).map_err(|_| Trouble::Unavailable)?;
        Ok(Me { remaining: me.remaining.min(self.idle_seconds), ..me })
    }

    /// Checks a password; gives a challenge for the second factor.
    pub(crate) async fn sign_in(
        &self,
        visit: &Visit,
        username: &str,
        password: &str,
    ) -> Result<Secret, Trouble> {
        let body = json!({"username": username, "password": password});
        let answer = self.call(visit, Call::post("/session/sign-in", &body)).await?;
        secret(&answer, "challenge")
    }

    /// Checks a code; gives the session's token.
    pub(crate) async fn second_factor(
        &self,
        visit: &Visit,
        challenge: &str,
        code: &str,
    ) -> Result<Secret, Trouble> {
        let body = json!({"challenge": challenge, "code": code});
        let answer = self.call(visit, Call::post("/session/second-factor", &body)).await?;
        secret(&answer, "session")
    }

    /// Ends the session.
    pub(crate) async fn sign_out(&self, visit: &Visit) -> Result<(), Trouble> {
        self.call(visit, Call::post("/session/sign-out", &json!({}))).await.map(drop)
    }

    /// What an invitation shows.
    pub(crate) async fn enrolment(&self, visit: &Visit, token: &str) -> Result<Enrolment, Trouble> {
        let answer = self.call(visit, Call::post("/session/enrolment", &json!({"token": token}))).await?;
        serde_json::from_value(answer.into_inner()).map_err(|_| Trouble::Unavailable)
    }

    /// Accepts an invitation.
    pub(crate) async fn enrol(
        &self,
        visit: &Visit,
        token: &str,
        password: &str,
        code: &str,
    ) -> Result<(), Trouble> {
        let body = json!({"token": token, "password": password, "code": code});
        let call = Call { writes: true, ..Call::post("/session/enrolment/complete", &body) };
        self.call(visit, call).await.map(drop)
    }

    /// Reads one patient.
    pub(crate) async fn patient(&self, visit: &Visit, id: &str) -> Result<Phi<Value>, Trouble> {
        self.call(visit, Call::get(&format!("/fhir/R4/Patient/{id}"), FHIR)).await
    }

    /// Searches a type.
    pub(crate) async fn search(
        &self,
        visit: &Visit,
        resource_type: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Phi<Value>, Trouble> {
        let path = format!("/fhir/R4/{resource_type}/_search");
        let body = Bytes::from(encoded(parameters));
        let call = Call { method: Method::POST, body, ..Call::get(&path, FORM) };
        self.call(visit, call).await
    }

    /// Stores a new resource.
    pub(crate) async fn create(
        &self,
        visit: &Visit,
        resource_type: &str,
        resource: &Value,
    ) -> Result<(), Trouble> {
        let path = format!("/fhir/R4/{resource_type}");
        let call = Call { media_type: FHIR, writes: true, ..Call::post(&path, resource) };
        self.call(visit, call).await.map(drop)
    }

    /// Who has looked at a patient's record.
    pub(crate) async fn accesses(&self, visit: &Visit, patient: &str) -> Result<Phi<Value>, Trouble> {
        self.call(visit, Call::post("/ward/accesses", &json!({"patient": patient}))).await
    }

    async fn call(&self, visit: &Visit, call: Call<'_>) -> Result<Phi<Value>, Trouble> {
        let unclear = if call.writes { Trouble::Unknown } else { Trouble::Unavailable };
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .body(Body::full(call.body))
            .map_err(|_| Trouble::Missing)?;
        let headers = request.headers_mut();
        *headers = visit.passed_on.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(call.media_type));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/fhir+json, application/json"));
        headers.insert(
            HeaderName::from_static("x-ward-purpose-of-use"),
            HeaderValue::from_static(ward_identity::Purpose::Treatment.name()),
        );
        if let Some(authorization) = visit.authorization() {
            headers.insert(header::AUTHORIZATION, authorization);
        }
        if call.passive {
            headers.insert(HeaderName::from_static("x-ward-passive"), HeaderValue::from_static("1"));
        }
        let response = self.upstream.send(request).await.map_err(|error| match error {
            UpstreamError::NoTarget | UpstreamError::Connect | UpstreamError::Untrusted => {
                Trouble::Unavailable
            }
            _ => unclear,
        })?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        match Trouble::of(parts.status) {
            Some(Trouble::Unavailable) => return Err(unclear),
            Some(trouble) => return Err(trouble),
            None => {}
        }
        let body = body.map_err(|_| unclear)?.to_bytes();
        Ok(Phi::new(serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }
}

impl<'a> Call<'a> {
    const fn get(path: &'a str, media_type: &'static str) -> Self {
        Self { method: Method::GET, path, media_type, body: Bytes::new(), passive: false, writes: false }
    }

    fn post(path: &'a str, body: &Value) -> Self {
        Self { method: Method::POST, body: Bytes::from(body.to_string()), ..Self::get(path, JSON) }
    }
}

fn secret(answer: &Phi<Value>, name: &str) -> Result<Secret, Trouble> {
    let text = answer.expose().get(name).and_then(Value::as_str).ok_or(Trouble::Unavailable)?;
    Ok(Secret::new(text.as_bytes().to_vec()))
}

/// `application/x-www-form-urlencoded`.
fn encoded(pairs: &[(&str, &str)]) -> String {
    use std::fmt::Write as _;
    let mut form = String::new();
    for (name, value) in pairs.iter().copied() {
        if !form.is_empty() {
            form.push('&');
        }
        for (position, part) in [name, value].into_iter().enumerate() {
            if position == 1 {
                form.push('=');
            }
            for byte in part.bytes() {
                if byte.is_ascii_alphanumeric() || b"-._*".contains(&byte) {
                    form.push(char::from(byte));
                } else {
                    let _ = write!(form, "%{byte:02X}");
                }
            }
        }
    }
    form
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_encoded() {
        let form = encoded(&[("name", "Zoë & Co"), ("a", "b=c+d"), ("_count", "5")]);
        assert_eq!(form, "name=Zo%C3%AB%20%26%20Co&a=b%3Dc%2Bd&_count=5");
    }
}
