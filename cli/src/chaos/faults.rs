//! Which faults come when: drawn from a seed.

use medley_data::random::Key;
use std::fmt;
use std::time::Duration;

/// How long something that is stopped stands still, in seconds.
const STANDS_STILL: (f64, f64) = (0.5, 8.0);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// A rank is killed.
    KillRank,
    /// A rank is stopped for good, until its agent has ended it.
    HangRank,
    /// A node's agent is killed, and its ranks with it.
    KillNode,
    /// A node's agent and ranks stand still for a while.
    PauseNode,
    /// The coordinator is killed, and its database with it.
    KillCoordinator,
    /// The database is killed.
    KillDatabase,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::KillRank,
        Self::HangRank,
        Self::KillNode,
        Self::PauseNode,
        Self::KillCoordinator,
        Self::KillDatabase,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::console::wire_name(self))
    }
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// How long it lasts; none if it does not end by itself.
    pub(super) lasts: Option<Duration>,
    /// Chooses among what can be hit.
    pub(super) choice: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, lasts, .. } = self;
        match lasts {
            None => write!(f, "{kind}"),
            Some(lasts) => write!(f, "{kind} for {:.1} s", lasts.as_secs_f64()),
        }
    }
}

impl Kind {
    /// Seconds, about, until a training of a small model has all its ranks again.
    pub(super) fn heals_after(self) -> f64 {
        match self {
            Self::KillCoordinator | Self::KillDatabase => 1.0,
            Self::KillRank => 2.0,
            Self::HangRank | Self::KillNode => 4.0,
            Self::PauseNode => f64::midpoint(STANDS_STILL.0, STANDS_STILL.1) + 3.0,
        }
    }
}

/// The faults of a seed, one after the other.
#[derive(Debug)]
pub(super) struct Plan {
    key: Key,
    every: f64,
    kinds: Vec<Kind>,
    /// How often each kind is still to come, if they are counted.
    left: Option<Vec<u32>>,
    drawn: u64,
}

impl Plan {
    /// Faults without end, or so many of each kind.
    pub(super) fn new(seed: u64, every: f64, kinds: &[Kind], count: Option<u32>) -> Self {
        let mut kinds = kinds.to_vec();
        kinds.sort_unstable();
        kinds.dedup();
        Self {
            key: Key::new(seed),
            every,
            left: count.map(|count| vec![count; kinds.len()]),
            kinds,
            drawn: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    /// Time until the next fault.
    pub(super) fn pause(&mut self) -> Duration {
        let counter = self.next();
        Duration::from_secs_f64(self.every * self.key.between(counter, 0.25, 1.75))
    }

    /// The next fault; none after the last.
    pub(super) fn fault(&mut self) -> Option<Fault> {
        let counter = self.next();
        let remain = |i: &usize| self.left.as_ref().is_none_or(|left| left[*i] > 0);
        let open: Vec<usize> = (0..self.kinds.len()).filter(remain).collect();
        if open.is_empty() {
            return None;
        }
        let i = *self.key.choose(counter, &open);
        let kind = self.kinds[i];
        let (low, high) = STANDS_STILL;
        let lasts = Duration::from_secs_f64(self.key.between(self.next(), low, high));
        Some(Fault {
            kind,
            lasts: (kind == Kind::PauseNode).then_some(lasts),
            choice: self.key.word(self.next()),
        })
    }

    /// Whether faults are counted, and some are still to come.
    pub(super) fn is_counting(&self) -> bool {
        self.left.as_ref().is_some_and(|left| left.iter().any(|left| *left > 0))
    }

    /// A fault of this kind was carried out, and counts.
    pub(super) fn struck(&mut self, kind: Kind) {
        let of_kind = self.kinds.iter().position(|known| *known == kind);
        if let (Some(i), Some(left)) = (of_kind, &mut self.left) {
            left[i] = left[i].saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_faults_every_time_and_all_kinds() {
        let drawn = || -> Vec<Fault> {
            let mut plan = Plan::new(3, 15.0, &Kind::ALL, None);
            (0..200).map_while(|_| plan.fault()).collect()
        };
        assert_eq!(drawn(), drawn());
        assert!(
            Kind::ALL
                .iter()
                .all(|kind| drawn().iter().any(|fault| fault.kind == *kind))
        );
    }

    #[test]
    fn faults_that_are_counted_come_so_often_each_and_then_no_more() {
        let mut plan = Plan::new(3, 15.0, &Kind::ALL, Some(7));
        let mut drawn = Vec::new();
        while let Some(fault) = plan.fault() {
            // One that finds nothing to hit comes again.
            if drawn.len() % 5 != 4 || fault.choice % 2 == 0 {
                plan.struck(fault.kind);
                drawn.push(fault.kind);
            }
        }
        for kind in Kind::ALL {
            assert_eq!(drawn.iter().filter(|drawn| **drawn == kind).count(), 7);
        }
    }

    #[test]
    fn pauses_have_the_mean_that_was_asked_for() {
        let mut plan = Plan::new(1, 10.0, &Kind::ALL, None);
        let mean = (0..1000).map(|_| plan.pause().as_secs_f64()).sum::<f64>() / 1000.0;
        assert!((mean - 10.0).abs() < 0.5, "{mean}");
    }
}
