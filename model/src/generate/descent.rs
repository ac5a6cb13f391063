//! The choice of a token as kernels of a GPU make it, in Rust and without parallelism: what `cuda/kernels/sample.cu` does must be
//! what [`nucleus`](super::nucleus) defines, but for the rounding of sums.
//!
//! Weights are integers, so sums have no order; nothing is sorted. Where the sum of weights from the highest key down crosses a bound
//! is found by halving the keys in question.

use super::nucleus::{Sampling, penalise};

/// Weight of the highest logit.
const UNIT: f32 = 2_147_483_648.0;

/// An integer that orders as the numbers do.
fn key_of(v: f32) -> u32 {
    let bits = v.to_bits();
    bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 }
}

fn number_of(key: u32) -> f32 {
    f32::from_bits(key ^ if key >> 31 == 1 { 1 << 31 } else { u32::MAX })
}

/// Keys of a row.
struct Row(Vec<u32>);

/// Where a sum from above crosses a bound.
struct Place {
    key: u32,
    /// The sum over all higher keys.
    above: u64,
}

impl Row {
    fn sum(&self, keys: std::ops::RangeInclusive<u32>, weight: impl Fn(u32) -> u64) -> (u64, usize) {
        let inside = self.0.iter().filter(|key| keys.contains(key));
        inside.fold((0, 0), |(mass, count), key| (mass + weight(*key), count + 1))
    }

    fn descend(&self, bound: u64, highest: u32, weight: impl Fn(u32) -> u64) -> Place {
        let (mut low, mut last, mut within, mut above) = (1, highest, self.0.len(), 0);
        while low < last && within > 1 {
            let middle = low + (last - low) / 2 + 1;
            let (mass, count) = self.sum(middle..=last, &weight);
            if above + mass > bound {
                (low, within) = (middle, count);
            } else {
                (last, above, within) = (middle - 1, above + mass, within - count);
            }
        }
        let inside = self.0.iter().filter(|key| (low..=last).contains(key));
        let key = *inside.max().unwrap();
        Place { key, above }
    }

    /// The column of the entry with this key that has `before` of its like before it.
    fn column_of(&self, key: u32, before: u64) -> u32 {
        let equal = self.0.iter().zip(0..).filter(|(own, _)| **own == key);
        equal.map(|(_, column)| column).nth(before as usize).unwrap()
    }
}

/// Chooses a token, as [`choose`](super::nucleus::choose) does.
fn choose(logits: &mut [f32], present: &[u32], banned: Option<u32>, sampling: &Sampling, u: f32) -> u32 {
    penalise(logits, present, sampling.repetition_penalty);
    if let Some(token) = banned {
        logits[token as usize] = f32::NEG_INFINITY;
    }
    let row = Row(logits.iter().map(|v| key_of(*v)).collect());
    let highest = *row.0.iter().max().unwrap();
    if sampling.top_p <= 0.0 || sampling.top_k == 1 {
        return row.column_of(highest, 0);
    }
    let weight = |key: u32| {
        let share = libm::expf(number_of(key) - number_of(highest));
        u64::from((share * UNIT).round_ties_even() as u32)
    };
    let (mut total, _) = row.sum(1..=highest, weight);
    let k = sampling.top_k as u64;
    if k > 0 && k < logits.len() as u64 {
        let last = row.descend(k - 1, highest, |_| 1);
        let whole = if last.key < highest {
            row.sum(last.key + 1..=highest, weight).0
        } else {
            0
        };
        total = whole + (k - last.above) * weight(last.key);
    }
    let bound = (f64::from(sampling.top_p) * total as f64) as u64;
    let mut kept = total;
    if bound < total {
        let last = row.descend(bound, highest, weight);
        let each = weight(last.key);
        kept = last.above + ((bound - last.above) / each + 1) * each;
    }
    let drawn = (f64::from(u) * kept as f64) as u64;
    let place = row.descend(drawn, highest, weight);
    row.column_of(place.key, (drawn - place.above) / weight(place.key))
}

mod tests {
    use super::*;
    use crate::generate::nucleus::{self, GREEDY};
    use crate::random::{Purpose, Stream};

    /// Logits of several kinds: spread, nearly flat, with many equal ones, with one that leads.
    fn logits(kind: u32, cols: usize) -> Vec<f32> {
        let stream = Stream::new(5, Purpose::Sampling).at(u64::from(kind));
        let number = |i: u32| {
            let [v, ..] = stream.normals([i, 0, 0, 0]);
            match kind % 4 {
                0 => 3.0 * v,
                1 => 0.01 * v,
                2 => (2.0 * v).round(),
                _ => v + if i == 7 { 6.0 } else { 0.0 },
            }
        };
        (0..cols as u32).map(number).collect()
    }

    const SAMPLINGS: [Sampling; 6] = [
        GREEDY,
        Sampling {
            top_p: 0.9,
            top_k: 0,
            repetition_penalty: 1.1,
        },
        Sampling {
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
        },
        Sampling {
            top_p: 0.9,
            top_k: 5,
            repetition_penalty: 1.0,
        },
        Sampling {
            top_p: 1.0,
            top_k: 50,
            repetition_penalty: 1.3,
        },
        Sampling {
            top_p: 0.3,
            top_k: 1,
            repetition_penalty: 0.8,
        },
    ];

    /// Whether the draw is so near to the border of two tokens that rounding decides.
    fn is_close(kept: &[(u32, f32)], a: u32, b: u32, u: f32, top_p: f32) -> bool {
        let place = |token: u32| kept.iter().position(|(kept, _)| *kept == token).unwrap_or(kept.len());
        let (first, second) = (place(a).min(place(b)), place(a).max(place(b)));
        let mass = |n: usize| kept[..n].iter().map(|(_, p)| f64::from(*p)).sum::<f64>();
        let drawn = f64::from(u) * mass(kept.len());
        // Which token is the last one kept may be rounding's choice too, and moves every draw by that token's share.
        let border = kept.len() > 1 && (mass(kept.len() - 1) - f64::from(top_p)).abs() < 1e-5;
        let near = (mass(second) - drawn).abs().min((mass(first + 1) - drawn).abs());
        near < 1e-5 || (border && near < 2.0 * f64::from(kept[kept.len() - 1].1) + 1e-5)
    }

    #[test]
    fn weights_choose_what_the_sorted_row_chooses() {
        let (mut close, mut all) = (0, 0);
        for kind in 0..8 {
            for (cols, sampling) in [1, 2, 40, 3000]
                .into_iter()
                .flat_map(|cols| SAMPLINGS.map(|s| (cols, s)))
            {
                let present = [7, 3, 7, 0].map(|token| token % cols as u32);
                let banned = (cols > 2).then_some(2);
                for draw in 0..40 {
                    let u = match draw {
                        0 => 0.0,
                        1 => 1.0 - 0.5f32.powi(24),
                        _ => Stream::new(6, Purpose::Sampling).uniform([draw, kind, 0, 0]),
                    };
                    let [mut a, mut b, mut c] = [(); 3].map(|()| logits(kind, cols));
                    let found = choose(&mut a, &present, banned, &sampling, u);
                    let expected = nucleus::choose(&mut b, &present, banned, &sampling, u);
                    all += 1;
                    if found != expected {
                        let kept = nucleus::nucleus(&mut c, &present, banned, &sampling);
                        assert!(
                            is_close(&kept, found, expected, u, sampling.top_p),
                            "{kind}, {cols} columns, {sampling:?}, {u}: {found} and not {expected}"
                        );
                        close += 1;
                    }
                }
            }
        }
        assert!(close * 100 < all, "{close} of {all} differ");
    }

    #[test]
    fn keys_order_as_numbers_do() {
        let numbers = [f32::NEG_INFINITY, -2.0, -1e-40, -0.0, 0.0, 1e-40, 1.5, f32::INFINITY];
        for pair in numbers.windows(2) {
            assert!(key_of(pair[0]) < key_of(pair[1]), "{pair:?}");
        }
        assert!(numbers.iter().all(|v| number_of(key_of(*v)).to_bits() == v.to_bits()));
    }
}
