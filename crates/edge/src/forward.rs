//! What the tiers behind are told about where a request came from.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::edge::X_REQUEST_ID;

/// How many headers [`set`] and the request id add at most.
pub(crate) const ADDED: usize = 3;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Of the headers that the tiers say things to each other with, the one that clients may send as well.
const PURPOSE_OF_USE: &str = "x-ward-purpose-of-use";

/// Takes away all that a client could pretend with, and says who it is.
pub(crate) fn set(headers: &mut HeaderMap, client: IpAddr) {
    // Collects nothing, and so costs next to nothing, unless somebody pretends.
    let pretended: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in pretended {
        headers.remove(name);
    }
    if let Ok(client) = HeaderValue::try_from(client.to_string()) {
        headers.insert(X_FORWARDED_FOR, client);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
}

fn is_ours(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("x-forwarded")
        || (text.starts_with("x-ward-") && text != PURPOSE_OF_USE)
        || *name == header::FORWARDED
        || *name == X_REQUEST_ID
        || matches!(
            text,
            "x-real-ip"
                | "x-client-ip"
                | "x-cluster-client-ip"
                | "true-client-ip"
                | "x-original-url"
                | "x-rewrite-url"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_pretended_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("x-request-id", "01HZX5"),
            ("x-ward-passive", "1"),
            ("x-ward-purpose-of-use", "TREAT"),
            ("authorization", "Bearer t"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        set(&mut headers, "2001:db8::1".parse().unwrap());
        let mut left: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        let expected = [
            ("authorization", "Bearer t"),
            ("x-forwarded-for", "2001:db8::1"),
            ("x-forwarded-proto", "https"),
            ("x-ward-purpose-of-use", "TREAT"),
        ];
        assert_eq!(left, expected);
    }
}
