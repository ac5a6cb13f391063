//! The operations of heads and losses.

use super::{Node, Tape, Var};
use crate::layout::ParamId;
use crate::ops::gemm::{Mat, Start, gemm_strided};
use crate::ops::{cross_entropy, elementwise, norm};
use std::rc::Rc;

impl<'a> Tape<'a> {
    /// Each row divided by its Euclidean norm.
    pub fn l2_norm(&mut self, x: Var) -> Var {
        let (rows, cols) = self.dims(x);
        let (mut y, mut norms) = (self.pool.take(rows * cols), self.pool.take(rows));
        norm::l2_norm(self.value(x), cols, &mut y, &mut norms);
        let y = self.push(rows, cols, y, self.needs(x));
        if self.needs(y) {
            self.nodes.push(Node::L2Norm { x, norms, y });
        } else {
            self.pool.give(norms);
        }
        y
    }

    /// Similarities with constant keys, divided by the learned temperature: `x·[keys…]ᵀ / t`.
    ///
    /// # Shapes
    /// x: rows × width; keys: blocks of (n × width) → rows × Σ n
    pub fn logits(&mut self, x: Var, keys: &[&'a [f32]], temperature: ParamId) -> Var {
        let (rows, width) = self.dims(x);
        let cols = keys.iter().map(|k| k.len() / width).sum();
        let mut y = self.pool.take(rows * cols);
        similarities(self.value(x), width, keys, &mut y, cols);
        elementwise::scale(&mut y, 1.0 / self.weights.get(temperature)[0]);
        let y = self.push(rows, cols, y, self.needs(x) || self.trains(temperature));
        self.record(y, || Node::Logits {
            x,
            keys: keys.to_vec(),
            temperature,
            y,
        });
        y
    }

    /// Mean over rows of the cross-entropy with label smoothing: a scalar. The logits are consumed by the backward pass.
    pub fn cross_entropy(&mut self, x: Var, targets: &Rc<[u32]>, smoothing: f32) -> Var {
        let (rows, cols) = self.dims(x);
        assert_eq!(rows, targets.len(), "every row has a target");
        let mut stats = self.pool.take(cross_entropy::KEPT * rows);
        cross_entropy::smoothed(self.value(x), targets, smoothing, cols, &mut stats);
        let y = self.mean_loss(x, &stats);
        if self.needs(y) {
            self.nodes.push(Node::CrossEntropy {
                x,
                targets: targets.clone(),
                smoothing,
                rows: stats,
                y,
            });
        } else {
            self.pool.give(stats);
        }
        y
    }

    /// Mean over rows of the cross-entropy against constant distributions: a scalar.
    ///
    /// # Shapes
    /// x, targets: rows × classes → 1 × 1
    pub fn soft_cross_entropy(&mut self, x: Var, targets: Rc<[f32]>) -> Var {
        let (rows, cols) = self.dims(x);
        assert_eq!(rows * cols, targets.len(), "every logit has a target");
        let mut stats = self.pool.take(cross_entropy::KEPT * rows);
        cross_entropy::soft(self.value(x), &targets, cols, &mut stats);
        let y = self.mean_loss(x, &stats);
        if self.needs(y) {
            self.nodes.push(Node::SoftCrossEntropy {
                x,
                targets,
                rows: stats,
                y,
            });
        } else {
            self.pool.give(stats);
        }
        y
    }

    /// Mean of the losses in a buffer of what is kept of each row, rows in order.
    fn mean_loss(&mut self, x: Var, stats: &[f32]) -> Var {
        let losses = stats.chunks_exact(cross_entropy::KEPT).map(|row| row[0]);
        let mut y = self.pool.take(1);
        y[0] = losses.fold(0.0, |a, b| a + b) / self.dims(x).0 as f32;
        self.push(1, 1, y, self.needs(x))
    }

    /// A weighted sum of scalars.
    pub fn weighted_sum(&mut self, terms: &[(Var, f32)]) -> Var {
        let mut y = self.pool.take(1);
        y[0] = terms
            .iter()
            .fold(0.0, |total, (v, weight)| weight.mul_add(self.scalar(*v), total));
        let needs = terms.iter().any(|(v, _)| self.needs(*v));
        let y = self.push(1, 1, y, needs);
        self.record(y, || Node::Sum {
            terms: terms.to_vec(),
            y,
        });
        y
    }
}

/// `y = x·[keys…]ᵀ`, each block of keys in its own columns of `y`.
pub fn similarities(x: &[f32], width: usize, keys: &[&[f32]], y: &mut [f32], cols: usize) {
    let mut offset = 0;
    for keys in keys {
        gemm_strided(
            Mat::new(x, width),
            Mat::new(keys, width).t(),
            &mut y[offset..],
            cols,
            Start::Zero,
        );
        offset += keys.len() / width;
    }
}
