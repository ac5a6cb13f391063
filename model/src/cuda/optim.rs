//! The optimiser and norms of whole buffers: [`ops::optim`](crate::ops::optim).
//!
//! Parameters are many ranges with steps of their own; one launch moves them all, and writes copies in bf16 on the way.

use super::Cuda;
use super::format::{Format, single};
use super::launch::{Kernel, THREADS, args};
use super::memory::{Slice, SliceMut};
use crate::ops::optim::AdamW;
use std::ops::Range;

/// Elements of a range that a block has, as the kernels count them.
const UNIT: usize = 1 << 14;

/// Elements of a partial sum of [`Cuda::squares`].
const SQUARES_UNIT: usize = 1 << 16;

impl Cuda {
    /// Moves ranges of parameters `p`, each by its step, by gradient `g · scale` with moments `m` and `v`. `shadow` receives a copy
    /// of these ranges in bf16.
    pub fn adamw_all(
        &self,
        segments: &[(Range<usize>, AdamW)],
        p: SliceMut<'_>,
        g: Slice<'_>,
        scale: f32,
        m: SliceMut<'_>,
        v: SliceMut<'_>,
        shadow: Option<SliceMut<'_>>,
    ) {
        let end = segments.iter().map(|(range, _)| range.end).max().unwrap_or(0);
        assert!(
            end <= p.len().min(g.len()).min(m.len()).min(v.len()),
            "every parameter has its gradient and moments"
        );
        single("adamw", &[&p, &g, &m, &v]);
        let (blocks, first_blocks) = blocks(segments.iter().map(|(range, _)| range.len()));
        let entries: Vec<[u32; 12]> = segments
            .iter()
            .zip(&first_blocks)
            .map(|((range, step), first)| step_words(range, *first, step))
            .collect();
        let table = self.bring(&entries);
        let aligned = g.is_aligned() && [&p, &m, &v].iter().all(|slice| slice.is_aligned());
        let (shadow, fits) = address_of_shadow(shadow.as_ref(), end);
        let args = args![&table, entries.len(), &p, g, scale, &m, &v, shadow, aligned && fits];
        self.launch(Kernel::AdamW, (blocks, 1), THREADS, args);
    }

    /// `e = momentum·e + (1 − momentum)·p` for segments: where each begins in `e` and in `p`, and its length. `shadow` receives a copy
    /// of these ranges of `e` in bf16.
    pub fn momentum_all(
        &self,
        segments: &[(usize, usize, usize)],
        e: SliceMut<'_>,
        p: Slice<'_>,
        momentum: f64,
        shadow: Option<SliceMut<'_>>,
    ) {
        let inside = |(at, from, len): &(usize, usize, usize)| at + len <= e.len() && from + len <= p.len();
        assert!(segments.iter().all(inside), "every element has its parameter");
        single("momentum_average", &[&e, &p]);
        let (blocks, first_blocks) = blocks(segments.iter().map(|segment| segment.2));
        let words = |((at, from, len), first): (&(usize, usize, usize), &u32)| {
            let [at, from, len] = [*at, *from, *len].map(halves);
            [at[0], at[1], from[0], from[1], len[0], len[1], *first, 0]
        };
        let entries: Vec<[u32; 8]> = segments.iter().zip(&first_blocks).map(words).collect();
        let table = self.bring(&entries);
        let (old, new) = (momentum as f32, (1.0 - momentum) as f32);
        let end = segments.iter().map(|(at, _, len)| at + len).max().unwrap_or(0);
        let (shadow, fits) = address_of_shadow(shadow.as_ref(), end);
        let aligned = e.is_aligned() && p.is_aligned() && fits;
        let args = args![&table, entries.len(), &e, p, old, new, shadow, aligned];
        self.launch(Kernel::MomentumAverage, (blocks, 1), THREADS, args);
    }

    /// Σ x² in double precision. Waits; not a number after an error.
    pub fn squares(&self, x: Slice<'_>) -> f64 {
        single("squares", &[&x]);
        if x.is_empty() {
            return 0.0;
        }
        let units = x.len().div_ceil(SQUARES_UNIT);
        let partials = self.scratch((units + 1) * size_of::<f64>());
        let args = args![x, x.len(), SQUARES_UNIT, &partials];
        self.launch(Kernel::SquarePartials, (units as u32, 1), THREADS, args);
        let total = partials.address() + (units * size_of::<f64>()) as u64;
        self.launch(Kernel::SumSquares, (1, 1), THREADS, args![&partials, units, total]);
        let mut sum = [f64::NAN];
        self.fetch(total, &mut sum);
        sum[0]
    }
}

/// Blocks for ranges of these lengths, and the first block of each.
fn blocks(lens: impl Iterator<Item = usize>) -> (u32, Vec<u32>) {
    let mut next = 0;
    let first_blocks = lens
        .map(|len| {
            let first = next;
            next += len.div_ceil(UNIT) as u32;
            first
        })
        .collect();
    (next, first_blocks)
}

/// Address of a copy in bf16 of `len` elements, 0 if there is none; and whether it can be written 16 bytes at a time.
fn address_of_shadow(shadow: Option<&SliceMut<'_>>, len: usize) -> (u64, bool) {
    let Some(shadow) = shadow else { return (0, true) };
    assert!(
        shadow.format() == Format::Bf16 && len <= shadow.len(),
        "a shadow has an element of bf16 for every parameter"
    );
    (shadow.address(), shadow.is_aligned())
}

/// A number of 64 bits in two words, the lower one first.
const fn halves(n: usize) -> [u32; 2] {
    [n as u32, (n as u64 >> 32) as u32]
}

/// An entry of the table of steps, as the kernel reads it.
fn step_words(range: &Range<usize>, first_block: u32, step: &AdamW) -> [u32; 12] {
    let ([start, start_high], [len, len_high]) = (halves(range.start), halves(range.len()));
    let numbers = [
        step.step,
        step.keep,
        step.new1,
        step.beta2,
        step.new2,
        step.correction2_sqrt,
        step.eps,
    ];
    let mut words = [start, start_high, len, len_high, first_block, 0, 0, 0, 0, 0, 0, 0];
    for (word, number) in words[5..].iter_mut().zip(numbers) {
        *word = number.to_bits();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_blocks_one_after_the_other() {
        let lens = [1, UNIT, 0, UNIT + 1, 5];
        assert_eq!(blocks(lens.into_iter()), (5, vec![0, 1, 2, 2, 4]));
        assert_eq!(blocks([].into_iter()), (0, vec![]));
    }

    #[test]
    fn numbers_of_64_bits_are_two_words() {
        assert_eq!(halves((7 << 32) + 5), [5, 7]);
    }
}
