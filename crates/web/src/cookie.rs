//! The two cookies: the session's token, and the challenge between password and code.
//!
//! Both have the `__Host-` prefix (this host only, TLS only, whole site), cannot be read by script, and are not
//! sent with requests that other sites start.

use http::{HeaderMap, HeaderValue};
use ward_base::Secret;
use ward_transport::cookies;
use zeroize::Zeroizing;

const SESSION: &str = "__Host-ward-session";
const CHALLENGE: &str = "__Host-ward-challenge";
const CHALLENGE_SECONDS: u32 = 300;

/// Takes the session's token away from the browser.
pub(crate) const NO_SESSION: &str =
    "__Host-ward-session=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0";
/// Takes the challenge away from the browser.
pub(crate) const NO_CHALLENGE: &str =
    "__Host-ward-challenge=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0";

/// The session's token in a request.
pub(crate) fn session(headers: &HeaderMap) -> Option<Secret> {
    find(headers, SESSION)
}

/// The challenge in a request.
pub(crate) fn challenge(headers: &HeaderMap) -> Option<Secret> {
    find(headers, CHALLENGE)
}

/// Gives the browser the session's token until it is closed; when the session ends is for the app tier to say.
pub(crate) fn set_session(token: &str) -> Option<HeaderValue> {
    set(token, SESSION, "")
}

/// Gives the browser the challenge.
pub(crate) fn set_challenge(token: &str) -> Option<HeaderValue> {
    set(token, CHALLENGE, &format!("; Max-Age={CHALLENGE_SECONDS}"))
}

fn set(token: &str, name: &str, rest: &str) -> Option<HeaderValue> {
    if !is_token(token) {
        return None;
    }
    let text = Zeroizing::new(format!("{name}={token}; Path=/; Secure; HttpOnly; SameSite=Strict{rest}"));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The one cookie of this name. Two of them, which only an attack would send, count as none.
fn find(headers: &HeaderMap, name: &str) -> Option<Secret> {
    let mut found = cookies(headers, name);
    let value = found.next()?;
    (found.next().is_none() && is_token(value)).then(|| Secret::new(value.as_bytes().to_vec()))
}

/// The form of every token of ours; also what keeps a value from carrying a header's or a cookie's separators.
pub(crate) fn is_token(text: &str) -> bool {
    (16..=256).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    fn read(cookies: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::COOKIE, HeaderValue::from_static(cookie));
        }
        session(&headers).map(|token| String::from_utf8(token.expose().to_vec()).unwrap())
    }

    #[test]
    fn the_token_is_found_among_others() {
        let token = "abcdefghijklmnop";
        assert_eq!(read(&["a=b; __Host-ward-session=abcdefghijklmnop; c=d"]).as_deref(), Some(token));
        assert_eq!(read(&["a=b", "__Host-ward-session=abcdefghijklmnop"]).as_deref(), Some(token));
        assert_eq!(
            read(&["__Host-ward-session=abcdefghijklmnop; __Host-ward-session=abcdefghijklmnop"]),
            None
        );
        assert_eq!(read(&["ward-session=abcdefghijklmnop"]), None);
        assert_eq!(read(&["__Host-ward-session=short"]), None);
        assert_eq!(read(&["__Host-ward-session=abcdefghijklmnop\"x"]), None);
    }

    #[test]
    fn cookies_are_bound_to_host_and_tls() {
        let value = set_session("abcdefghijklmnop").unwrap();
        let expected = "__Host-ward-session=abcdefghijklmnop; Path=/; Secure; HttpOnly; SameSite=Strict";
        assert_eq!(value.to_str().unwrap(), expected);
        assert!(value.is_sensitive());
        assert!(set_session("abcdefghijklmnop; Domain=evil").is_none());
    }
}
