//! Counter-based random numbers: a function of a key and a position, the same on every machine.

/// A keyed stream of random words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// The stream of a seed.
    pub const fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0xd1b5_4a32_d192_ed03))
    }

    /// The sub-stream with this number.
    pub const fn at(self, number: u64) -> Self {
        Self(mix(self
            .0
            .wrapping_add(mix(number.wrapping_add(0x9e37_79b9_7f4a_7c15)))))
    }

    /// A random word.
    pub const fn word(self, counter: u64) -> u64 {
        self.at(counter).0
    }

    /// A number in [0, 1), uniform over 2⁵³ values.
    pub fn uniform(self, counter: u64) -> f64 {
        (self.word(counter) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number in [low, high).
    pub fn between(self, counter: u64, low: f64, high: f64) -> f64 {
        low + self.uniform(counter) * (high - low)
    }

    /// A number in 0…n−1.
    pub fn below(self, counter: u64, n: usize) -> usize {
        // The high half of a 64 × 64-bit product; its bias is below n / 2⁶⁴.
        ((u128::from(self.word(counter)) * n as u128) >> 64) as usize
    }

    /// One of `choices`.
    pub fn choose<T>(self, counter: u64, choices: &[T]) -> &T {
        &choices[self.below(counter, choices.len())]
    }
}

/// The finaliser of SplitMix64.
const fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
