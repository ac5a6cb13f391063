//! Which algorithm is used for which shape of a matrix product.
//!
//! The rows of texts change from lane to lane. A choice is made for rows that are rounded up, so that few shapes occur, and used for
//! all rows below; only where the library takes it for some of them not is one made for exactly those.

use super::blas::{Plan, Shape, Stored};
use std::collections::{HashMap, HashSet};

/// What was chosen for each shape; nothing where the library has no algorithm.
#[derive(Default)]
pub(super) struct Plans {
    pub(super) known: HashMap<Shape, Option<Plan>>,
    /// Shapes that are not computed as the rounded ones are.
    pub(super) exact: HashSet<Shape>,
}

impl Plans {
    /// The shape that is planned for this one.
    pub(super) fn planned(&self, shape: Shape) -> Shape {
        if self.exact.is_empty() || !self.exact.contains(&shape) {
            rounded(shape)
        } else {
            shape
        }
    }
}

/// Rows from which on they are rounded up.
const MANY_ROWS: usize = 512;
/// What they are rounded up to a multiple of.
const GRAIN: usize = 64;

/// The same product with more rows, of the result or of both factors. To the library they are columns, which lie a stride apart
/// however many there are.
fn rounded(shape: Shape) -> Shape {
    let [b, a, d] = shape.operands;
    let grown = |stored: Stored| Stored {
        cols: if stored.cols < MANY_ROWS {
            stored.cols
        } else {
            stored.cols.next_multiple_of(GRAIN)
        },
        ..stored
    };
    let operands = match (b.turned, a.turned) {
        // Summed over rows.
        (false, true) => [grown(b), grown(a), d],
        (_, false) => [b, grown(a), grown(d)],
        (true, true) => [b, a, d],
    };
    Shape { operands, ..shape }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::gemm::Factor;
    use crate::cuda::memory::Slice;

    /// What is planned for `a` (rows × cols) by `b`, as the rows and columns of `a`, `b` and the result.
    fn planned(a: (usize, usize, bool), b: (usize, usize, bool)) -> [(usize, usize); 3] {
        let factor = |(rows, cols, turned): (usize, usize, bool)| Factor {
            rows,
            cols,
            stride: cols,
            turned,
            data: Slice::nowhere(rows * cols),
        };
        let (a, b) = (factor(a), factor(b));
        let (m, n) = (a.shape().0, b.shape().1);
        let result = Stored {
            rows: n,
            cols: m,
            stride: n,
            turned: false,
            ..a.stored(0)
        };
        let shape = Shape {
            operands: [b.stored(0), a.stored(0), result],
            count: 1,
            bias: None,
        };
        let [b, a, d] = rounded(shape).operands;
        [a, b, d].map(|stored| (stored.cols, stored.rows))
    }

    #[test]
    fn many_rows_of_activations_are_planned_as_a_multiple() {
        let (x, w) = ((4311, 768, false), (3072, 768, false));
        let forward = planned(x, (3072, 768, true));
        assert_eq!(forward, [(4352, 768), (3072, 768), (4352, 3072)]);
        let back = planned((4311, 3072, false), w);
        assert_eq!(back, [(4352, 3072), (3072, 768), (4352, 768)]);
        let of_weights = planned((4311, 3072, true), x);
        assert_eq!(of_weights, [(4352, 3072), (4352, 768), (3072, 768)]);
    }

    #[test]
    fn few_rows_are_planned_as_they_are() {
        assert_eq!(
            planned((511, 8, false), (700, 8, true)),
            [(511, 8), (700, 8), (511, 700)]
        );
        assert_eq!(
            planned((8, 511, true), (8, 700, false)),
            [(8, 511), (8, 700), (511, 700)]
        );
        assert_eq!(
            planned((576, 8, false), (8, 700, false)),
            [(576, 8), (8, 700), (576, 700)]
        );
    }
}
