//! When a process that ended is started again: a pure decision.

use std::time::Duration;

/// Pause before the first restart; it doubles with each that follows quickly.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A process that ran this long was well: what happened before is forgotten.
const WELL_AFTER: Duration = Duration::from_mins(1);
/// So many quick ends in a row, and it is not tried again.
const MAX_QUICK_ENDS: u32 = 8;

/// How often a process ended quickly of late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    quick_ends: u32,
    /// Ends are expected: they change nothing.
    is_patient: bool,
}

impl Backoff {
    /// Nothing has ended yet. A patient one starts a process again whenever it ends.
    pub(crate) fn new(is_patient: bool) -> Self {
        Self {
            quick_ends: 0,
            is_patient,
        }
    }

    /// The pause before the next start of a process that ended after `ran`; none if it is hopeless.
    pub(crate) fn after(&mut self, ran: Duration) -> Option<Duration> {
        if ran >= WELL_AFTER || self.is_patient {
            self.quick_ends = 0;
        }
        self.quick_ends += 1;
        if self.quick_ends >= MAX_QUICK_ENDS {
            return None;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << (self.quick_ends - 1));
        Some(doubled.min(LONGEST_PAUSE))
    }

    /// Quick ends in a row.
    pub(crate) fn quick_ends(self) -> u32 {
        self.quick_ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_then_it_is_hopeless() {
        let mut backoff = Backoff::new(false);
        let pauses: Vec<Option<u64>> = (0..8)
            .map(|_| backoff.after(Duration::ZERO).map(|p| p.as_millis() as u64))
            .collect();
        let expected = [500, 1000, 2000, 4000, 8000, 15_000, 15_000];
        assert_eq!(pauses[..7], expected.map(Some));
        assert_eq!(pauses[7], None);
    }

    #[test]
    fn a_process_that_was_well_starts_again_soon() {
        let mut backoff = Backoff::new(false);
        for _ in 0..6 {
            let _ = backoff.after(Duration::ZERO);
        }
        assert_eq!(backoff.after(Duration::from_secs(61)), Some(FIRST_PAUSE));
        assert_eq!(backoff.quick_ends(), 1);
    }
}
