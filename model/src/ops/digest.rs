//! A number that tells memory apart by what it holds and where.
//!
//! Each word is mixed with its place, and the results are summed without regard to overflow. The sum does not depend on the order,
//! so that a GPU makes it as fast as it reads memory. For a given place the mixing is one to one: a single word that differs always
//! shows, several with all but one chance in 2⁶⁴. It guards against faults, not against people.

use crate::random::mix;

/// How far apart the numbers of neighbouring places are before they are mixed.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// The digest of words, the first of which has this place.
pub fn digest(words: impl IntoIterator<Item = u32>, place: u64) -> u64 {
    let mixed = |(at, word): (u64, u32)| mix(at.wrapping_add(1).wrapping_mul(STRIDE).wrapping_add(word.into()));
    (place..).zip(words).map(mixed).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole() {
        let words = [3, 1, 4, 1, 5, 9, 2, 6];
        let parts = digest(words[..3].iter().copied(), 10).wrapping_add(digest(words[3..].iter().copied(), 13));
        assert_eq!(digest(words, 10), parts);
        assert_eq!(digest([], 7), 0);
    }

    #[test]
    fn each_bit_and_each_place_counts() {
        let words: Vec<u32> = (0..100).map(|i| i * 7919 % 11).collect();
        let plain = digest(words.iter().copied(), 0);
        assert_ne!(digest(words.iter().copied(), 1), plain);
        for at in 0..words.len() {
            for bit in 0..32 {
                let mut other = words.clone();
                other[at] ^= 1 << bit;
                assert_ne!(digest(other, 0), plain, "bit {bit} of word {at}");
            }
            let mut other = words.clone();
            other.swap(at, (at + 1) % words.len());
            let is_same = other == words;
            assert_eq!(digest(other, 0) == plain, is_same, "words from {at} on");
        }
    }
}
