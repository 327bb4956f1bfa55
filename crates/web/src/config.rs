use serde::{Deserialize, Serialize};
use ward_base::Secret;
use ward_transport::control::Target;
use zeroize::Zeroize as _;

/// What a web instance is told at its start, besides who it is.
#[derive(Clone, Serialize, Deserialize)]
pub struct WebConfig {
    /// The address that people use, such as `https://ward.example`.
    pub public_origin: String,
    /// The internal balancers, group `internal-edge`.
    pub upstream: Vec<Target>,
    /// Secret out of which the handles in the pages' addresses are sealed: 64 hexadecimal digits, the same for all
    /// instances. Overwritten when dropped.
    pub handle_key: String,
    /// After how long without a sign of life a page leaves the screen.
    pub idle_seconds: u64,
}

impl WebConfig {
    /// The key. HKDF draws on its digits as well as on the bytes they stand for.
    pub(crate) fn handle_key(&self) -> Secret {
        Secret::new(self.handle_key.as_bytes().to_vec())
    }
}

impl std::fmt::Debug for WebConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("WebConfig")
            .field("public_origin", &self.public_origin)
            .field("upstream", &self.upstream)
            .field("idle_seconds", &self.idle_seconds)
            .finish_non_exhaustive()
    }
}

impl Drop for WebConfig {
    fn drop(&mut self) {
        self.handle_key.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_not_shown() {
        let config: WebConfig = serde_json::from_value(serde_json::json!({
            "public_origin": "https://ward.example", "upstream": [], "handle_key": "ab".repeat(32), "idle_seconds": 900,
        }))
        .unwrap();
        assert!(!format!("{config:?}").contains("abab"));
        assert_eq!(config.handle_key().expose().len(), 64);
    }
}
