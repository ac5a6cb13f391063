//! The operations of heads and losses.

use super::{Node, Tape, Var};
use crate::device::{Device, Factor, Span, SpanMut, Temperature};
use crate::layout::ParamId;
use crate::ops::cross_entropy::KEPT;
use crate::ops::gemm::Start;
use std::rc::Rc;

/// Targets of one direction of the contrastive loss: `alpha · softmax(query·[own, queue]ᵀ / temperature) + positives`.
#[derive(Debug, Clone, Copy)]
pub struct Teaching<'a> {
    /// Divides the similarities.
    pub temperature: Temperature<'a>,
    /// Weight of the softmax; at 0 it is not computed.
    pub alpha: f32,
    /// Columns of each row that match it.
    pub positives: &'a [Vec<usize>],
}

impl<'a> Tape<'a> {
    /// Each row divided by its Euclidean norm.
    pub fn l2_norm(&mut self, x: Var) -> Var {
        let (rows, cols) = self.dims(x);
        let (mut y, mut norms) = (self.take_exact(rows * cols), self.take_exact(rows));
        self.device.l2_norm(self.value(x), cols, y.span_mut(), norms.span_mut());
        let y = self.push_exact(rows, cols, y, self.needs(x));
        if self.needs(y) {
            self.nodes.push(Node::L2Norm { x, norms, y });
        } else {
            self.pool.give(norms);
        }
        y
    }

    /// Similarities with constant keys, divided by the learned temperature: `x·[own, queue]ᵀ / t`.
    ///
    /// # Shapes
    /// x: rows × width; own: n × width; queue: q × width → rows × (n + q)
    pub fn logits(&mut self, x: Var, own: Var, queue: Span<'a>, temperature: ParamId) -> Var {
        let (rows, width) = self.dims(x);
        let cols = self.dims(own).0 + queue.len() / width;
        let mut y = self.take_exact(rows * cols);
        let keys = [self.value(own), queue];
        similarities(&self.device, self.value(x), width, &keys, y.span_mut());
        self.device
            .scale_by_inverse(y.span_mut(), self.weights.get(temperature));
        let y = self.push_exact(rows, cols, y, self.needs(x) || self.trains(temperature));
        self.record(y, || Node::Logits {
            x,
            own,
            queue,
            temperature,
            y,
        });
        y
    }

    /// Targets by the momentum encoders, each row's positives sharing the weight `1 − alpha` evenly: a constant.
    ///
    /// # Shapes
    /// query: rows × width; own: n × width; queue: q × width → rows × (n + q)
    pub fn targets(&mut self, query: Var, own: Var, queue: Span, teaching: Teaching) -> Var {
        let (rows, width) = self.dims(query);
        let cols = self.dims(own).0 + queue.len() / width;
        let (alpha, mut t) = (teaching.alpha, self.take_exact(rows * cols));
        if alpha > 0.0 {
            let keys = [self.value(own), queue];
            similarities(&self.device, self.value(query), width, &keys, t.span_mut());
            self.device.cool(t.span_mut(), teaching.temperature);
            self.device.softmax(t.span_mut(), cols);
            self.device.scale(t.span_mut(), alpha);
        } else {
            self.device.fill(t.span_mut(), 0.0);
        }
        let (mut at, mut weights) = (Vec::new(), Vec::new());
        for (row, columns) in teaching.positives.iter().enumerate() {
            at.extend(columns.iter().map(|column| (row * cols + column) as u32));
            weights.resize(at.len(), (1.0 - alpha) / columns.len() as f32);
        }
        self.device.add_at(t.span_mut(), &at, &weights);
        self.push_exact(rows, cols, t, false)
    }

    /// Mean over rows of the cross-entropy with label smoothing: a scalar. The logits are consumed by the backward pass.
    pub fn cross_entropy(&mut self, x: Var, targets: &Rc<[u32]>, smoothing: f32) -> Var {
        let (rows, cols) = self.dims(x);
        assert_eq!(rows, targets.len(), "every row has a target");
        let mut stats = self.take_exact(KEPT * rows);
        self.device
            .smoothed(self.value(x), targets, smoothing, cols, stats.span_mut());
        let y = self.mean_loss(x, stats.span());
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
    pub fn soft_cross_entropy(&mut self, x: Var, targets: Var) -> Var {
        let (rows, cols) = self.dims(x);
        assert_eq!((rows, cols), self.dims(targets), "every logit has a target");
        let mut stats = self.take_exact(KEPT * rows);
        self.device
            .soft(self.value(x), self.value(targets), cols, stats.span_mut());
        let y = self.mean_loss(x, stats.span());
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
    fn mean_loss(&mut self, x: Var, stats: Span) -> Var {
        let mut y = self.take_exact(1);
        self.device.mean_loss(stats, y.span_mut());
        self.push_exact(1, 1, y, self.needs(x))
    }

    /// A weighted sum of scalars.
    pub fn weighted_sum(&mut self, terms: &[(Var, f32)]) -> Var {
        let mut y = self.take_exact(1);
        let values: Vec<_> = terms.iter().map(|(v, weight)| (self.value(*v), *weight)).collect();
        self.device.weighted_sum(&values, y.span_mut());
        let needs = terms.iter().any(|(v, _)| self.needs(*v));
        let y = self.push_exact(1, 1, y, needs);
        self.record(y, || Node::Sum {
            terms: terms.to_vec(),
            y,
        });
        y
    }
}

/// `y = x·[keys…]ᵀ`, each block of keys in its own columns of `y`.
fn similarities(device: &Device, x: Span, width: usize, keys: &[Span], mut y: SpanMut) {
    let (len, cols) = (y.len(), y.len() * width / x.len());
    let mut offset = 0;
    for keys in keys {
        let right = Factor::new(*keys, width).t();
        let columns = y.reborrow().range(offset..len);
        device.gemm_strided(Factor::new(x, width), right, columns, cols, Start::Zero);
        offset += keys.len() / width;
    }
}
