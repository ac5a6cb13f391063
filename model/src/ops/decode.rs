//! Attention of texts that grow: a query or a few each, over keys and values that are kept in blocks.

use super::attention::{self, Inputs, Sequence};
use super::dropout::Place;
use super::elementwise::rectangle;

/// Blocks of rows that keep keys or values, and which of them queries attend to. Texts have their queries one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Blocks<'a> {
    /// The block of each text.
    pub of: &'a [u32],
    /// Rows from one block to the next.
    pub every: usize,
    /// Queries of each text.
    pub per: usize,
    /// Rows of its block that a text's first query attends to.
    pub seen: usize,
    /// Whether each of its queries attends to one row more than the one before.
    pub grows: bool,
}

impl Blocks<'_> {
    /// Number of queries.
    pub const fn queries(&self) -> usize {
        self.of.len() * self.per
    }

    /// Rows that the last query of a text attends to.
    pub const fn most(&self) -> usize {
        self.seen + if self.grows { self.per - 1 } else { 0 }
    }

    /// Every query as a sequence of its own.
    pub fn sequences(&self) -> Vec<Sequence> {
        let sequence = |query: usize| {
            let (text, number) = (query / self.per, query % self.per);
            let first = self.of[text] as usize * self.every;
            Sequence {
                queries: query..query + 1,
                keys: first..first + self.seen + if self.grows { number } else { 0 },
                causal_from: None,
                place: Place {
                    sample: query as u32,
                    position: 0,
                },
            }
        };
        (0..self.queries()).map(sequence).collect()
    }
}

/// `out[i] = softmax(q[i]·kᵀ / √dim)·v` over the rows that query `i` attends to.
pub fn attend(x: &Inputs<&[f32]>, blocks: &Blocks, out: &mut [f32]) {
    attention::forward(x, &blocks.sequences(), None, out);
}

/// Puts the rows of each text behind the `taken` ones of its block, blocks in the order of the texts.
///
/// # Shapes
/// x: (texts·per) × width; y: (texts·every) × width
pub fn keep(x: &[f32], y: &mut [f32], (every, taken): (usize, usize), (texts, per): (usize, usize), width: usize) {
    let from = (x, (0, per * width));
    rectangle(from, (y, (taken * width, every * width)), (texts, per * width), true);
}

/// The first `taken` rows of the blocks that `parents` names, as blocks one after the other.
///
/// # Shapes
/// x: (texts·every) × width; y: (parents·every) × width
pub fn pick(x: &[f32], parents: &[u32], (every, taken): (usize, usize), width: usize, y: &mut [f32]) {
    for (parent, y) in parents.iter().zip(y.chunks_exact_mut(every * width)) {
        let x = &x[*parent as usize * every * width..];
        y[..taken * width].copy_from_slice(&x[..taken * width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_query_sees_its_block_as_far_as_it_has_grown() {
        let blocks = Blocks {
            of: &[1, 0],
            every: 10,
            per: 2,
            seen: 4,
            grows: true,
        };
        let keys: Vec<_> = blocks.sequences().into_iter().map(|seq| seq.keys).collect();
        assert_eq!(keys, [10..14, 10..15, 0..4, 0..5]);
        assert_eq!((blocks.queries(), blocks.most()), (4, 5));
        let read = Blocks { grows: false, ..blocks };
        assert!(read.sequences().iter().all(|seq| seq.keys.len() == 4));
        assert_eq!(read.most(), 4);
    }

    #[test]
    fn kept_rows_follow_those_that_were_picked() {
        let mut kept = [0.0; 12];
        keep(&[1.0, 2.0, 3.0, 4.0], &mut kept, (3, 0), (2, 1), 2);
        keep(&[5.0, 6.0, 7.0, 8.0], &mut kept, (3, 1), (2, 1), 2);
        assert_eq!(kept, [1.0, 2.0, 5.0, 6.0, 0.0, 0.0, 3.0, 4.0, 7.0, 8.0, 0.0, 0.0]);
        let mut picked = [9.0; 18];
        pick(&kept, &[1, 1, 0], (3, 2), 2, &mut picked);
        assert_eq!(picked[..6], [3.0, 4.0, 7.0, 8.0, 9.0, 9.0]);
        assert_eq!(picked[6..12], picked[..6]);
        assert_eq!(picked[12..16], [1.0, 2.0, 5.0, 6.0]);
    }
}
