//! Weights turned for products with few rows.
//!
//! A weight is stored (out, in), as everybody stores it, and a product with it first brings it into another order: with many rows
//! that costs nothing to speak of, with a row for each text that grows it costs several times the product. A decoder that reads
//! the same weights for every token turns them once. The order of additions, and so every bit, stays.

use super::Weights;
use crate::device::{Buffer, Pool, Span, Use};
use crate::layout::ParamId;
use crate::ops::transpose::transpose;
use std::collections::BTreeMap;

/// Some weights, (in, out).
pub struct Turned {
    copies: BTreeMap<ParamId, Buffer>,
}

impl Turned {
    /// Copies of these weights in memory from the pool; of none, where the device does without.
    pub fn new(weights: Weights, ids: impl IntoIterator<Item = ParamId>, pool: &mut Pool) -> Self {
        let turns = pool.device().turns_weights();
        let turn = |id: ParamId| {
            let entry = weights.layout.entry(id);
            let mut copy = pool.take(entry.len, Use::Exact);
            transpose(weights.get(id).host(), entry.shape[1], copy.span_mut().host());
            (id, copy)
        };
        Self {
            copies: ids.into_iter().filter(|_| turns).map(turn).collect(),
        }
    }

    /// A weight, if it is among them.
    pub(super) fn get(&self, id: ParamId) -> Option<Span<'_>> {
        self.copies.get(&id).map(Buffer::span)
    }

    /// Gives the memory back.
    pub fn give(self, pool: &mut Pool) {
        self.copies.into_values().for_each(|copy| pool.give(copy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;
    use crate::random::{Purpose, Stream};
    use crate::tape::Tape;

    #[test]
    fn a_turned_weight_gives_the_same_bits() {
        let stream = Stream::new(1, Purpose::Init);
        for (out, inner) in [(2, 96), (40, 33), (96, 384), (384, 96), (300, 1100)] {
            let mut layout = Layout::default();
            let (w, b) = (layout.add("w", &[out, inner]), layout.add("b", &[out]));
            let data: Vec<f32> = (0..layout.len())
                .map(|i| stream.normals([i as u32, 0, 0, 0])[0])
                .collect();
            let weights = Weights::new(&layout, &data);
            let turned = Turned::new(weights, [w], &mut Pool::default());
            for rows in [1, 2, 4, 8, 50, 130] {
                let x: Vec<f32> = (0..rows * inner)
                    .map(|i| stream.normals([i as u32, 1, 0, 0])[0])
                    .collect();
                let run = |turned: Option<&Turned>| {
                    let mut pool = Pool::default();
                    let tape = Tape::inference(weights, &mut pool);
                    let mut tape = match turned {
                        Some(turned) => tape.reading(turned),
                        None => tape,
                    };
                    let x = tape.input(&x, inner);
                    let y = tape.linear(x, w, Some(b));
                    tape.read(y)
                };
                assert_eq!(run(Some(&turned)), run(None), "{rows} × {inner} → {out}");
            }
        }
    }
}
