//! A code that somebody asks about, and what is to be said of it.

use std::sync::Arc;

use serde_json::Value;

use super::text;
use crate::search::normalize_string;

/// A code as it was sent. It may be out of a patient's record, so it cannot be printed.
#[derive(Clone)]
pub struct Coding {
    /// The code system, if it is named.
    pub system: Option<String>,
    /// Its version, if it is named.
    pub version: Option<String>,
    /// The code.
    pub code: String,
    /// What it is called.
    pub display: Option<String>,
}

impl Coding {
    /// Out of a `Coding`; nothing without a code.
    pub fn read(value: &Value) -> Option<Self> {
        let own = |key| text(value, key).map(str::to_owned);
        Some(Self {
            system: own("system"),
            version: own("version"),
            code: own("code")?,
            display: own("display"),
        })
    }
}

impl std::fmt::Debug for Coding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Coding(..)")
    }
}

/// What is to be said of a code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether all is well with it.
    pub result: bool,
    /// What is wrong.
    pub message: Option<&'static str>,
    /// What it should be called.
    pub display: Option<Arc<str>>,
}

impl Verdict {
    /// All is well.
    pub const fn fine(display: Option<Arc<str>>) -> Self {
        Self { result: true, message: None, display }
    }

    /// It is not there.
    pub const fn wrong(message: &'static str) -> Self {
        Self { result: false, message: Some(message), display: None }
    }

    /// It is there, but not called so.
    pub const fn misnamed(display: Option<Arc<str>>) -> Self {
        Self { result: false, message: Some("the code is right, but it is not called so"), display }
    }
}

/// Whether two names are the same but for case, accents and blanks.
pub(super) fn same_words(own: &str, other: &str) -> bool {
    own == other || normalize_string(own) == normalize_string(other)
}
