//! The order of samples: a keyed permutation, found in constant time at any position of any epoch.
//!
//! An epoch reads the N samples of a dataset version in the order of a permutation of 0…N−1 that is a function of
//! (seed, epoch). It is a Feistel network over the smallest even number of bits that holds N, walked until the result lies below
//! N, so nothing is stored and any step of any epoch is found at once. A sample that cannot be decoded after all is replaced by
//! another draw for the same position.

use crate::random::Key;

/// Rounds of the network; four suffice for pseudo-randomness (Luby and Rackoff), more cost nothing here.
const ROUNDS: u64 = 6;

/// A permutation of 0…n−1.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    n: u64,
    half_bits: u32,
    key: Key,
}

impl Order {
    /// The order of `n` samples in an epoch.
    ///
    /// # Panics
    /// If there are no samples.
    pub fn new(seed: u64, epoch: u64, n: u64) -> Self {
        assert!(n > 0, "there is no order of no samples");
        let bits = (u64::BITS - (n - 1).leading_zeros()).max(2);
        Self {
            n,
            half_bits: bits.div_ceil(2),
            key: Key::new(seed).at(epoch),
        }
    }

    /// The sample at a position.
    pub fn at(&self, position: u64) -> u64 {
        debug_assert!(position < self.n);
        let mut x = position;
        loop {
            x = self.network(x);
            if x < self.n {
                return x;
            }
        }
    }

    /// The sample that stands in for the one at a position after `attempt` samples could not be decoded.
    pub fn substitute(&self, position: u64, attempt: u64) -> u64 {
        if attempt == 0 {
            return self.at(position);
        }
        let key = self.key.at(u64::MAX).at(position);
        key.below(attempt, self.n as usize) as u64
    }

    fn network(&self, x: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for round in 0..ROUNDS {
            let mixed = left ^ (self.key.at(round).word(right) & mask);
            (left, right) = (right, mixed);
        }
        left << self.half_bits | right
    }
}

/// Seed of a stage's order, augmentation, dropout and negatives: stages of one job differ, fresh weights do not.
///
/// # Panics
/// Never: a hash has eight bytes.
pub fn stage_seed(seed: u64, stage_name: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(stage_name.as_bytes());
    let hash = hasher.finalize();
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has eight bytes"))
}

/// Where a slot of a lane of a step reads: (epoch, position in the epoch). An epoch has `steps_per_epoch` whole steps; what is
/// left over is not read.
pub fn place(step: u64, steps_per_epoch: u64, lanes: u64, batch: u64, lane: u64, slot: u64) -> (u64, u64) {
    let (epoch, within) = (step / steps_per_epoch, step % steps_per_epoch);
    (epoch, (within * lanes + lane) * batch + slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_sample_comes_once(seed: u64, epoch in 0u64..100, n in 1u64..3000) {
            let order = Order::new(seed, epoch, n);
            let mut seen = vec![false; n as usize];
            for position in 0..n {
                let sample = order.at(position) as usize;
                prop_assert!(!seen[sample]);
                seen[sample] = true;
            }
        }

        #[test]
        fn steps_of_an_epoch_read_disjoint_positions(lanes in 1u64..6, batch in 1u64..5, steps in 1u64..7) {
            let mut seen = std::collections::BTreeSet::new();
            for (step, lane, slot) in (0..steps * lanes * batch).map(|i| (i / (lanes * batch), i / batch % lanes, i % batch)) {
                let (epoch, position) = place(step, steps, lanes, batch, lane, slot);
                prop_assert_eq!(epoch, 0);
                prop_assert!(position < steps * lanes * batch && seen.insert(position));
            }
        }
    }

    #[test]
    fn stages_of_one_job_have_seeds_of_their_own() {
        assert_ne!(stage_seed(1, "pretrain-0"), stage_seed(1, "pretrain-1"));
        assert_ne!(stage_seed(1, "pretrain-0"), stage_seed(2, "pretrain-0"));
        assert_eq!(stage_seed(1, "filter-0"), stage_seed(1, "filter-0"));
    }

    #[test]
    fn epochs_differ() {
        let order = |epoch| (0..50).map(|p| Order::new(1, epoch, 50).at(p)).collect::<Vec<_>>();
        assert_ne!(order(0), order(1));
    }

    #[test]
    fn substitutes_differ_from_each_other() {
        let order = Order::new(1, 0, 1000);
        assert_ne!(order.substitute(3, 1), order.substitute(3, 2));
        assert_eq!(order.substitute(3, 0), order.at(3));
    }
}
