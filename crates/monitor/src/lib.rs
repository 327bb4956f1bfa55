//! Log events that cannot carry protected health information.
//!
//! An event is a name fixed in the source and fields whose types are [`LogSafe`]: numbers, flags, moments, opaque
//! ids and text fixed in the source. `String` is not among them, so no value that came from outside can be
//! logged; making a type `LogSafe` is a reviewed act in this file. The crate writes one JSON object a line to the
//! process's standard error, which the supervisor collects.

use std::fmt::Write as _;
use std::io::Write as _;

use ward_base::{Clock as _, InstanceId, RequestId, SystemClock, Tier, Timestamp};

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Worth keeping.
    Information,
    /// Something is off and was dealt with.
    Warning,
    /// Something failed and a person should look.
    Error,
}

/// A value that may stand in a log: it cannot hold anything a patient or a caller supplied.
pub trait LogSafe {
    /// Appends the value as JSON.
    fn write_json(&self, line: &mut String);
}

macro_rules! numbers {
    ($($number:ty),*) => { $(impl LogSafe for $number {
        fn write_json(&self, line: &mut String) {
            let _ = write!(line, "{self}");
        }
    })* };
}

numbers!(u8, u16, u32, u64, usize, i32, i64, bool);

impl LogSafe for &'static str {
    fn write_json(&self, line: &mut String) {
        line.push('"');
        line.extend(self.chars().flat_map(char::escape_default));
        line.push('"');
    }
}

impl LogSafe for RequestId {
    fn write_json(&self, line: &mut String) {
        let _ = write!(line, "\"{self}\"");
    }
}

impl LogSafe for InstanceId {
    fn write_json(&self, line: &mut String) {
        let _ = write!(line, "\"{self}\"");
    }
}

impl LogSafe for Tier {
    fn write_json(&self, line: &mut String) {
        self.name().write_json(line);
    }
}

impl LogSafe for Timestamp {
    fn write_json(&self, line: &mut String) {
        let _ = write!(line, "\"{}\"", self.to_instant());
    }
}

/// Microseconds.
impl LogSafe for std::time::Duration {
    fn write_json(&self, line: &mut String) {
        let _ = write!(line, "{}", self.as_micros());
    }
}

/// The kind only: an operating-system error's text may name a file.
impl LogSafe for std::io::ErrorKind {
    fn write_json(&self, line: &mut String) {
        let _ = write!(line, "\"{self:?}\"");
    }
}

impl<T: LogSafe> LogSafe for Option<T> {
    fn write_json(&self, line: &mut String) {
        match self {
            Some(value) => value.write_json(line),
            None => line.push_str("null"),
        }
    }
}

/// Writes one event; use it through [`event!`].
pub fn emit(level: Level, name: &'static str, fields: &[(&'static str, &dyn LogSafe)]) {
    let mut line = format!(
        "{{\"time\":\"{}\",\"level\":\"{}\",\"event\":\"{name}\"",
        SystemClock.now().to_instant(),
        match level {
            Level::Information => "information",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    );
    for (key, value) in fields {
        let _ = write!(line, ",\"{key}\":");
        value.write_json(&mut line);
    }
    line.push_str("}\n");
    // A log that cannot be written must not stop care; the audit log, which must, is another thing.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Logs an event: `event!(Warning, "target.unhealthy", instance = id, failures = 3_u32)`.
#[macro_export]
macro_rules! event {
    ($level:ident, $name:literal $(, $key:ident = $value:expr)* $(,)?) => {
        $crate::emit($crate::Level::$level, $name, &[$((stringify!($key), &$value as &dyn $crate::LogSafe)),*])
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &dyn LogSafe) -> String {
        let mut line = String::new();
        value.write_json(&mut line);
        line
    }

    #[test]
    fn values_are_json() {
        assert_eq!(json(&"a\"b\n"), r#""a\"b\n""#);
        assert_eq!(json(&Some(7_u32)), "7");
        assert_eq!(json(&None::<bool>), "null");
        assert_eq!(json(&InstanceId { tier: Tier::Web, number: 2 }), "\"web-2\"");
    }
}
