//! `/oauth/token`: access tokens for service accounts (OAuth 2.0 client credentials with `private_key_jwt`,
//! RFC 6749 section 4.4, RFC 7523; SMART Backend Services).

use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use ward_audit::{Actor, Class};
use ward_fhir::outcome::IssueCode;
use ward_identity::{Holder, Scopes, SessionRecord, client_assertion, token};
use ward_store::RecordKind;
use ward_transport::RequestBody;

use crate::authenticate::{OPERATOR, client, put_session};
use crate::call::Call;
use crate::form;
use crate::problem::Problem;
use crate::reply::Reply;

/// How long an access token is good (SMART Backend Services: at most five minutes).
const TOKEN_SECONDS: u32 = 300;
/// An assertion has 8 KiB at most.
const FORM_BYTES_MAX: usize = 32 << 10;
const FORM: &str = "application/x-www-form-urlencoded";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// `POST /oauth/token`.
pub(crate) async fn token(call: &mut Call, body: RequestBody) -> Result<Reply, Problem> {
    call.doing(Class::Authentication, "token", None);
    let body = call.body(body, &[FORM], FORM, FORM_BYTES_MAX).await?;
    call.refresh();
    let pairs = form::pairs(&body)?;
    let one = |name: &str| {
        let mut found = pairs.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str());
        let value = found.next();
        if found.next().is_some() { Err(malformed("a parameter is repeated")) } else { Ok(value) }
    };
    if one("grant_type")? != Some("client_credentials") {
        return Err(Problem::unsupported_grant());
    }
    if one("client_assertion_type")? != Some(JWT_BEARER) {
        return Err(malformed("`client_assertion_type` must be that of a JWT bearer assertion"));
    }
    let assertion =
        one("client_assertion")?.ok_or_else(|| malformed("`client_assertion` is missing"))?.to_owned();
    let asked = one("scope")?.ok_or_else(|| malformed("`scope` is missing"))?;
    let asked = Scopes::parse(asked).map_err(|error| Problem::scope_refused(&error.to_string()))?;
    let claimed = client_assertion::claimed_client(&assertion).ok_or_else(Problem::bad_credential)?;
    let registered = if claimed == OPERATOR {
        Some(call.app.operator.clone())
    } else {
        call.app.store.read(move |session| client(session, &claimed)).await?
    };
    let registered = registered.ok_or_else(Problem::bad_credential)?;
    call.entry.actor = Actor::Client(registered.id.clone());
    let audience = [format!("{}/oauth/token", call.app.settings.origin)];
    let verified = client_assertion::verify(&assertion, &registered, &audience, call.now)
        .map_err(|_| Problem::bad_credential())?;
    let granted = registered
        .scopes
        .narrowed_to(&asked)
        .ok_or_else(|| Problem::scope_refused("the account is registered for none of these scopes"))?;
    let holder = Holder::Client { id: registered.id.clone(), scopes: granted.clone() };
    let session = SessionRecord::start(holder, call.now, 0, TOKEN_SECONDS);
    let (token, key) = token::new_token(&*call.app.random);
    call.intend().await?;
    let used = format!("{}/{}", registered.id, verified.jti);
    let fresh = call
        .app
        .store
        .write(move |transaction| {
            // An assertion counts once (RFC 7523, section 3, item 7).
            let fresh = transaction.insert_record(RecordKind::AssertionId, &used, b"", Some(verified.exp))?;
            if fresh {
                put_session(transaction, &key, &session)?;
            }
            Ok::<_, Problem>(fresh)
        })
        .await?;
    if !fresh {
        return Err(Problem::bad_credential());
    }
    let token = std::str::from_utf8(token.expose()).map_err(|_| Problem::internal())?;
    let mut reply = Reply::json(
        StatusCode::OK,
        &json!({
            "access_token": token, "token_type": "bearer", "expires_in": TOKEN_SECONDS, "scope": granted.to_string(),
        }),
    );
    reply.header(header::PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(reply)
}

/// An error as RFC 6749, section 5.2, has it.
pub(crate) fn refusal(problem: &Problem) -> Reply {
    let (status, error) = match problem.status() {
        StatusCode::UNAUTHORIZED => (StatusCode::UNAUTHORIZED, "invalid_client"),
        StatusCode::FORBIDDEN => (StatusCode::BAD_REQUEST, "invalid_scope"),
        StatusCode::NOT_IMPLEMENTED => (StatusCode::BAD_REQUEST, "unsupported_grant_type"),
        status if status.is_server_error() => (status, "temporarily_unavailable"),
        status => (status, "invalid_request"),
    };
    Reply::json(status, &json!({"error": error, "error_description": problem.words()}))
}

/// `GET /.well-known/smart-configuration` (SMART App Launch 2.2, section 4).
pub(crate) fn smart_configuration(call: &mut Call) -> Result<Reply, Problem> {
    call.doing(Class::Rest, "smart-configuration", None);
    let origin = &call.app.settings.origin;
    Ok(Reply::json(
        StatusCode::OK,
        &json!({
            "issuer": origin,
            "token_endpoint": format!("{origin}/oauth/token"),
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": ["RS384", "ES384"],
            "grant_types_supported": ["client_credentials"],
            "scopes_supported": ["system/*.cruds"],
            "capabilities": ["client-confidential-asymmetric", "permission-v2"],
        }),
    ))
}

fn malformed(words: &str) -> Problem {
    Problem::malformed(IssueCode::Value, words)
}
