//! Whether a target gets requests: pure, apart from whoever asks the target.

use crate::HealthCheck;

/// Good answers between two reports that nothing has changed: a supervisor that did not know the target yet when the
/// first came, or that started it anew meanwhile, learns of it so.
const REPEAT_AFTER: u32 = 5;

/// What one check of a target showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The answer that it should give.
    Good {
        /// It came over a new connection: perhaps from another process.
        anew: bool,
    },
    /// Another answer, or none in time.
    Bad,
    /// No connection, or not to who it should be.
    Refused,
}

/// What is held of a target so far.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    healthy: Option<bool>,
    good: u32,
    bad: u32,
    unreported: u32,
}

/// What follows from a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether requests go to it.
    pub(crate) healthy: bool,
    /// Whether that is another verdict than before.
    pub(crate) changed: bool,
    /// Whether the supervisor should be told.
    pub(crate) report: bool,
}

impl Standing {
    /// The first check decides at once, and so does a refused connection; otherwise it takes several in a row.
    pub(crate) fn after(&mut self, sign: Sign, check: &HealthCheck) -> Verdict {
        let before = self.healthy;
        match sign {
            Sign::Good { .. } => (self.good, self.bad) = (self.good.saturating_add(1), 0),
            Sign::Bad | Sign::Refused => (self.good, self.bad) = (0, self.bad.saturating_add(1)),
        }
        let healthy = match (before, sign) {
            (_, Sign::Refused) => false,
            (None, Sign::Good { .. }) => true,
            (None | Some(false), Sign::Bad) => false,
            (Some(true), Sign::Bad) => self.bad < check.unhealthy_after.max(1),
            (Some(true), Sign::Good { .. }) => true,
            (Some(false), Sign::Good { .. }) => self.good >= check.healthy_after.max(1),
        };
        self.healthy = Some(healthy);
        let changed = before != Some(healthy);
        self.unreported += 1;
        let news = matches!(sign, Sign::Good { anew: true }) || self.unreported >= REPEAT_AFTER;
        let report = changed || (healthy && news);
        if report {
            self.unreported = 0;
        }
        Verdict { healthy, changed, report }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Sign = Sign::Good { anew: false };
    const ANEW: Sign = Sign::Good { anew: true };

    /// `H` healthy, `u` unhealthy, `!` where it is reported.
    fn course(healthy_after: u32, unhealthy_after: u32, signs: &[Sign]) -> String {
        let check = HealthCheck { healthy_after, unhealthy_after, ..HealthCheck::default() };
        let mut standing = Standing::default();
        let verdicts = signs.iter().map(|sign| standing.after(*sign, &check));
        verdicts
            .map(|verdict| {
                format!(
                    "{}{}",
                    if verdict.healthy { "H" } else { "u" },
                    if verdict.report { "!" } else { "" }
                )
            })
            .collect()
    }

    #[test]
    fn the_first_result_decides() {
        assert_eq!(course(3, 3, &[ANEW, GOOD]), "H!H");
        assert_eq!(course(1, 3, &[Sign::Bad, ANEW]), "u!H!");
        assert_eq!(course(2, 3, &[Sign::Refused, ANEW, GOOD, GOOD]), "u!uH!H");
    }

    #[test]
    fn some_failures_are_forgiven_a_refusal_is_not() {
        assert_eq!(course(1, 2, &[ANEW, Sign::Bad, GOOD, Sign::Bad, Sign::Bad, GOOD]), "H!HHHu!H!");
        assert_eq!(course(1, 2, &[ANEW, Sign::Refused, Sign::Refused, ANEW]), "H!u!uH!");
    }

    #[test]
    fn a_process_that_was_replaced_unnoticed_is_reported_again() {
        assert_eq!(course(1, 2, &[ANEW, GOOD, ANEW, GOOD]), "H!HH!H");
        assert_eq!(course(1, 2, &[ANEW, GOOD, GOOD, GOOD, GOOD, GOOD, GOOD]), "H!HHHHH!H");
    }
}
