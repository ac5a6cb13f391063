//! Chance, from a seed: the same in every run and on every machine.

use medley_data::random::Key;
use std::time::Duration;

pub(super) struct Dice {
    key: Key,
    rolls: u64,
}

impl Dice {
    /// The dice of a seed; `purpose` keeps several of one seed apart.
    pub(super) fn new(seed: u64, purpose: u64) -> Self {
        let key = Key::new(seed).at(purpose);
        Self { key, rolls: 0 }
    }

    fn roll(&mut self) -> u64 {
        self.rolls += 1;
        self.rolls
    }

    /// A number in 0…n−1.
    pub(super) fn below(&mut self, n: usize) -> usize {
        let roll = self.roll();
        self.key.below(roll, n)
    }

    /// True in `percent` of all cases.
    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A time of `low` to `high` milliseconds, to the microsecond.
    pub(super) fn ms(&mut self, low: u64, high: u64) -> Duration {
        let span = (high - low) * 1000 + 1;
        Duration::from_micros(low * 1000 + self.below(span as usize) as u64)
    }
}
