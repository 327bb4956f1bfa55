//! The cookie that keeps a browser at one target.
//!
//! It holds the target's name and a keyed hash of it: no user, no record, and no way for a client to choose a target
//! that it was not given. Which one it is makes no difference to what may be seen; it only saves a page's parts from
//! being fetched from instances of two versions while they are replaced.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use ward_base::InstanceId;

pub(crate) const NAME: &str = "__Host-ward-target";
const KEY_DIGITS_MIN: usize = 32;

/// Makes the cookies.
pub(crate) struct Sticky {
    key: hmac::Key,
}

/// The cookie of one target.
pub(crate) struct Mark {
    value: String,
    pub(crate) set: HeaderValue,
}

impl Sticky {
    /// `None` if the key is too short to be one.
    pub(crate) fn new(key: &str) -> Option<Self> {
        // HMAC draws on the digits as well as on the bytes that they stand for.
        (key.len() >= KEY_DIGITS_MIN).then(|| Self { key: hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()) })
    }

    /// The cookie of `instance`.
    pub(crate) fn mark(&self, instance: InstanceId) -> Option<Mark> {
        let name = instance.to_string();
        let tag = hmac::sign(&self.key, format!("ward target {name}").as_bytes());
        let value = format!("{name}.{}", URL_SAFE_NO_PAD.encode(tag));
        let set = format!("{NAME}={value}; Path=/; Secure; HttpOnly; SameSite=Strict");
        Some(Mark { set: HeaderValue::try_from(set).ok()?, value })
    }
}

impl Mark {
    /// Whether a cookie of a request is this one.
    pub(crate) fn is(&self, value: &str) -> bool {
        verify_slices_are_equal(self.value.as_bytes(), value.as_bytes()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use ward_base::Tier;

    use super::*;

    const WEB: InstanceId = InstanceId { tier: Tier::Web, number: 1 };
    const OTHER: InstanceId = InstanceId { tier: Tier::Web, number: 2 };

    fn sticky(digit: &str) -> Sticky {
        Sticky::new(&digit.repeat(64)).unwrap()
    }

    #[test]
    fn a_cookie_is_good_for_its_target_and_key_only() {
        let mark = sticky("a").mark(WEB).unwrap();
        assert!(mark.is(&sticky("a").mark(WEB).unwrap().value));
        assert!(!mark.is(&sticky("a").mark(OTHER).unwrap().value));
        assert!(!mark.is(&sticky("b").mark(WEB).unwrap().value));
        assert!(!mark.is("web-1"));
        assert!(!mark.is(""));
        let set = mark.set.to_str().unwrap();
        assert!(set.starts_with("__Host-ward-target=web-1."), "{set}");
        assert!(set.ends_with("; Path=/; Secure; HttpOnly; SameSite=Strict"), "{set}");
        assert!(Sticky::new("short").is_none());
    }
}
