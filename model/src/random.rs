//! Counter-based randomness: every random number is a function of where it is used.
//!
//! A [`Stream`] is named by a seed and a path of numbers (purpose, step, lane, site, …); within it, a counter of four words
//! names the element (sample, position, channel, …). There is nothing to store and nothing to restore: a step that is
//! redone, on whatever rank, draws the same numbers. The generator is Philox4x32-10 (Salmon et al., "Parallel random
//! numbers: as easy as 1, 2, 3", SC 2011).

/// Counters whose words are computed side by side.
const COUNTERS: usize = 8;

/// Words that [`Stream::many`] yields.
pub const WORDS_AT_ONCE: usize = 4 * COUNTERS;

/// What a stream is for: the first number of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Fresh weights and queues.
    Init = 1,
    /// Dropout on hidden states and attention probabilities.
    Dropout = 2,
    /// Drop-path of the image tower.
    DropPath = 3,
    /// Hard negatives of image-text matching.
    Negatives = 4,
    /// Nucleus sampling.
    Sampling = 5,
}

/// A named stream of random words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    key: u64,
}

impl Stream {
    /// The stream of a purpose under a seed.
    pub const fn new(seed: u64, purpose: Purpose) -> Self {
        Self {
            key: mix(seed ^ 0x4d65_646c_6579),
        }
        .at(purpose as u64)
    }

    /// The key of the generator, for devices that draw for themselves.
    #[cfg(feature = "cuda")]
    pub(crate) const fn key(self) -> u64 {
        self.key
    }

    /// The sub-stream with this number.
    pub const fn at(self, number: u64) -> Self {
        Self {
            key: mix(self.key.wrapping_add(mix(number.wrapping_add(0x9e37_79b9_7f4a_7c15)))),
        }
    }

    /// The sub-stream with this name.
    pub fn named(self, name: &str) -> Self {
        name.bytes()
            .fold(self.at(name.len() as u64), |stream, byte| stream.at(u64::from(byte)))
    }

    /// Four random words.
    #[inline]
    pub fn words(self, counter: [u32; 4]) -> [u32; 4] {
        philox(self.key as u32, (self.key >> 32) as u32, counter.map(|word| [word])).map(|[word]| word)
    }

    /// The words of the counters `[first, …]`, `[first + 1, …]` and so on, four of each: what [`words`](Self::words) yields for
    /// them, but computed in vectors.
    #[inline]
    pub fn many(self, first: u32, [c1, c2, c3]: [u32; 3]) -> [u32; WORDS_AT_ONCE] {
        let first = std::array::from_fn(|i| first.wrapping_add(i as u32));
        let counters = [first, [c1; COUNTERS], [c2; COUNTERS], [c3; COUNTERS]];
        let words = philox(self.key as u32, (self.key >> 32) as u32, counters);
        std::array::from_fn(|i| words[i % 4][i / 4])
    }

    /// A number in [0, 1), uniform over 2²⁴ values.
    #[inline]
    pub fn uniform(self, counter: [u32; 4]) -> f32 {
        unit(self.words(counter)[0])
    }

    /// Four independent numbers from the normal distribution (Box-Muller).
    pub fn normals(self, counter: [u32; 4]) -> [f32; 4] {
        let [a, b, c, d] = self.words(counter);
        let (x, y) = box_muller(a, b);
        let (z, w) = box_muller(c, d);
        [x, y, z, w]
    }
}

/// The top 24 bits as a number in [0, 1).
#[inline]
fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

fn box_muller(a: u32, b: u32) -> (f32, f32) {
    // In (0, 1], so that the logarithm is finite.
    let u = (f64::from(a) + 1.0) / 4_294_967_296.0;
    let angle = f64::from(b) / 4_294_967_296.0 * std::f64::consts::TAU;
    let radius = libm::sqrt(-2.0 * libm::log(u));
    ((radius * libm::cos(angle)) as f32, (radius * libm::sin(angle)) as f32)
}

/// The finaliser of SplitMix64: every input bit reaches every output bit.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Philox4x32-10 of N counters side by side.
#[inline(always)]
fn philox<const N: usize>(mut k0: u32, mut k1: u32, counters: [[u32; N]; 4]) -> [[u32; N]; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counters;
    for _ in 0..10 {
        for i in 0..N {
            let p0 = u64::from(c0[i]) * 0xd251_1f53;
            let p1 = u64::from(c2[i]) * 0xcd9e_8d57;
            (c0[i], c1[i], c2[i], c3[i]) = (
                (p1 >> 32) as u32 ^ c1[i] ^ k0,
                p1 as u32,
                (p0 >> 32) as u32 ^ c3[i] ^ k1,
                p0 as u32,
            );
        }
        k0 = k0.wrapping_add(0x9e37_79b9);
        k1 = k1.wrapping_add(0xbb67_ae85);
    }
    [c0, c1, c2, c3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_words_are_those_of_their_counters() {
        let stream = Stream::new(7, Purpose::Dropout).at(3);
        let many = stream.many(11, [5, u32::MAX, 2]);
        let one_by_one: Vec<u32> = (11..11 + COUNTERS as u32)
            .flat_map(|i| stream.words([i, 5, u32::MAX, 2]))
            .collect();
        assert_eq!(many[..], one_by_one);
    }

    #[test]
    fn philox_matches_the_published_vectors() {
        let philox = |k0, k1, counter: [u32; 4]| super::philox(k0, k1, counter.map(|word| [word])).map(|[word]| word);
        assert_eq!(
            philox(0, 0, [0; 4]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox(u32::MAX, u32::MAX, [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                0xa409_3822,
                0x299f_31d0,
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn uniforms_fill_the_unit_interval() {
        let stream = Stream::new(1, Purpose::Sampling);
        let draws: Vec<f32> = (0..20_000).map(|i| stream.uniform([i, 0, 0, 0])).collect();
        let mean = draws.iter().sum::<f32>() / 20_000.0;
        assert!((mean - 0.5).abs() < 0.01);
        assert!(draws.iter().all(|u| (0.0..1.0).contains(u)));
    }

    #[test]
    fn normals_have_unit_variance() {
        let stream = Stream::new(1, Purpose::Init).named("w");
        let draws: Vec<f32> = (0..5_000).flat_map(|i| stream.normals([i, 0, 0, 0])).collect();
        let mean = draws.iter().sum::<f32>() / 20_000.0;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }

    #[test]
    fn streams_of_different_paths_differ() {
        let a = Stream::new(1, Purpose::Dropout).at(1).at(2);
        let b = Stream::new(1, Purpose::Dropout).at(2).at(1);
        assert_ne!(a.words([0; 4]), b.words([0; 4]));
    }
}
