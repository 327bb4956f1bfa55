//! Lock-out after repeated failures.
//!
//! Ten failures within fifteen minutes lock the account for signing in until the oldest of the ten is fifteen
//! minutes old. Attempts while locked are not counted: whoever guesses cannot lengthen the lock by guessing on,
//! and the right password is refused too, so that the lock tells nothing. A success clears the count.

use serde::{Deserialize, Serialize};
use ward_base::Timestamp;

/// Failures within [`WINDOW_SECONDS`] that lock.
pub const FAILURES_MAX: usize = 10;
/// How long a failure counts.
pub const WINDOW_SECONDS: i64 = 15 * 60;

/// The recent failures of one account (or of one name nobody has).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures(Vec<Timestamp>);

/// Whether another attempt is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Look at it.
    Open,
    /// Refuse it unseen until then.
    LockedUntil(Timestamp),
}

/// Decides about an attempt made at `now`.
pub fn decide(failures: &Failures, now: Timestamp) -> Lock {
    let since = now.plus_seconds(-WINDOW_SECONDS);
    let mut recent: Vec<_> = failures.0.iter().copied().filter(|moment| *moment > since).collect();
    recent.sort_unstable();
    match recent.len().checked_sub(FAILURES_MAX).and_then(|oldest| recent.get(oldest)) {
        Some(oldest) => Lock::LockedUntil(oldest.plus_seconds(WINDOW_SECONDS)),
        None => Lock::Open,
    }
}

impl Failures {
    /// The count after one more failure at `now`; unchanged while locked. What no longer counts is dropped.
    #[must_use]
    pub fn after_failure(&self, now: Timestamp) -> Self {
        if decide(self, now) != Lock::Open {
            return self.clone();
        }
        let since = now.plus_seconds(-WINDOW_SECONDS);
        let mut kept: Vec<_> = self.0.iter().copied().filter(|moment| *moment > since).collect();
        kept.push(now);
        Self(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_failures_lock_and_the_lock_ends() {
        let start = Timestamp(0);
        let mut failures = Failures::default();
        for attempt in 0..10 {
            assert_eq!(decide(&failures, start.plus_seconds(attempt)), Lock::Open, "attempt {attempt}");
            failures = failures.after_failure(start.plus_seconds(attempt));
        }
        let locked = Lock::LockedUntil(start.plus_seconds(WINDOW_SECONDS));
        assert_eq!(decide(&failures, start.plus_seconds(10)), locked);
        let pushed = failures.after_failure(start.plus_seconds(800));
        assert_eq!(
            decide(&pushed, start.plus_seconds(800)),
            locked,
            "guessing on does not lengthen the lock"
        );
        assert_eq!(decide(&failures, start.plus_seconds(WINDOW_SECONDS)), Lock::Open);
    }

    #[test]
    fn slow_failures_do_not_lock() {
        let mut failures = Failures::default();
        for attempt in 0..100 {
            let now = Timestamp(0).plus_seconds(attempt * 100);
            assert_eq!(decide(&failures, now), Lock::Open);
            failures = failures.after_failure(now);
        }
    }
}
