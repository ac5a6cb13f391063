//! The record in reverse.

mod attention;

use super::{Node, Tape, Var};
use crate::device::{Buffer, Factor, Span, SpanMut, Temperature};
use crate::layout::ParamId;
use crate::ops::dropout::{Dropout, Place};
use crate::ops::gemm::Start;
use crate::ops::meter;

/// What a gradient starts from.
pub(super) fn start(fresh: bool) -> Start<Span<'static>> {
    if fresh { Start::Zero } else { Start::Add }
}

impl<'a> Tape<'a> {
    /// Runs the record in reverse from a scalar with gradient `seed`, consuming activations on the way.
    pub fn backward(&mut self, loss: Var, seed: f32) {
        assert!(self.needs(loss), "the loss depends on no trainable parameter");
        let mut grad = self.take_exact(1);
        self.device.fill(grad.span_mut(), seed);
        self.values[loss.0 as usize].grad = Some(grad);
        loop {
            self.recall();
            let Some(node) = self.nodes.pop() else { break };
            let output = node.output();
            let _part = meter::part(self.values[output.0 as usize].part);
            if let Some(dy) = self.values[output.0 as usize].grad.take() {
                self.node(&node, dy);
            }
            self.release(output);
            node.saved().into_iter().for_each(|buffer| self.pool.give(buffer));
        }
    }

    /// Gives a consumed activation back.
    fn release(&mut self, v: Var) {
        if let Some(data) = self.values[v.0 as usize].data.take() {
            self.pool.give(data);
        }
    }

    fn node(&mut self, node: &Node<'a>, dy: Buffer) {
        match node {
            Node::Linear { x, w, b, .. } => {
                self.linear_backward(*x, *w, *b, &dy);
                self.pool.give(dy);
            }
            Node::Project { x, of, .. } => {
                self.project_backward(*x, *of, &dy);
                self.pool.give(dy);
            }
            Node::Gelu { x, .. } => self.gelu_backward(*x, dy),
            Node::Add { a, b, .. } => self.add_backward(*a, *b, dy),
            Node::LayerNorm {
                x, gamma, beta, stats, ..
            } => self.layer_norm_backward(*x, *gamma, *beta, stats.span(), dy),
            Node::Dropout { x, dropout, places, .. } => {
                self.dropout_backward(*x, dropout, places, &dy);
                self.pool.give(dy);
            }
            Node::DropPath {
                x, rows_of, factors, ..
            } => {
                self.drop_path_backward(*x, *rows_of, factors, &dy);
                self.pool.give(dy);
            }
            node @ Node::Attention { .. } => self.attention_backward(node, dy),
            Node::Embed {
                ids,
                positions,
                word,
                position,
                ..
            } => {
                for (id, index) in [(*word, ids), (*position, positions)] {
                    let cols = self.weights.layout.entry(id).shape[1];
                    self.param(id, |tape, d, fresh| tape.scatter_add(&dy, index, cols, d, fresh));
                }
                self.pool.give(dy);
            }
            Node::Rows { x, index, .. } => {
                let cols = self.dims(*x).1;
                self.contribute(*x, |tape, d, fresh| tape.scatter_add(&dy, index, cols, d, fresh));
                self.pool.give(dy);
            }
            Node::Stack { a, b, .. } => {
                let split = {
                    let (rows, cols) = self.dims(*a);
                    rows * cols
                };
                let (head, tail) = (dy.span().range(0..split), dy.span().range(split..dy.len()));
                self.contribute(*a, |tape, d, fresh| tape.device.put(head, d, fresh));
                self.contribute(*b, |tape, d, fresh| tape.device.put(tail, d, fresh));
                self.pool.give(dy);
            }
            Node::Tokens {
                x,
                class,
                position,
                samples,
                ..
            } => self.tokens_backward(*x, *class, *position, *samples, dy),
            Node::L2Norm { x, norms, y } => {
                let cols = self.dims(*x).1;
                self.contribute(*x, |tape, d, fresh| {
                    let y = tape.value(*y);
                    tape.device.l2_norm_backward(y, norms.span(), dy.span(), cols, d, fresh);
                });
                self.pool.give(dy);
            }
            Node::Logits {
                x,
                own,
                queue,
                temperature,
                y,
            } => self.logits_backward(*x, (*own, *queue), *temperature, *y, dy),
            Node::CrossEntropy {
                x,
                targets,
                smoothing,
                rows,
                ..
            } => {
                let cols = self.dims(*x).1;
                let mut logits = self.values[x.0 as usize].data.take().expect("logits are consumed once");
                let (d, rows) = (logits.span_mut(), rows.span());
                self.device
                    .smoothed_backward(d, rows, targets, *smoothing, cols, dy.span());
                self.pool.give(dy);
                self.pass(*x, logits);
            }
            Node::SoftCrossEntropy { x, targets, rows, .. } => {
                let cols = self.dims(*x).1;
                self.contribute(*x, |tape, d, fresh| {
                    let (x, targets) = (tape.value(*x), tape.value(*targets));
                    tape.device
                        .soft_backward(x, rows.span(), targets, cols, dy.span(), (d, fresh));
                });
                self.pool.give(dy);
            }
            Node::Sum { terms, .. } => {
                for (v, weight) in terms {
                    self.contribute(*v, |tape, d, fresh| tape.device.weighted(dy.span(), *weight, d, fresh));
                }
                self.pool.give(dy);
            }
        }
    }

    /// The slope, times what comes in place. Where that is all of the gradient of a product with a bias, the bias's is summed in
    /// the same pass.
    fn gelu_backward(&mut self, x: Var, mut dy: Buffer) {
        if let Some(b) = self.take_bias_of(x) {
            self.param(b, |tape, sums, fresh| {
                tape.device
                    .gelu_backward_columns(tape.value(x), dy.span_mut(), sums, fresh);
            });
        } else {
            self.device.gelu_backward(self.value(x), dy.span_mut());
        }
        self.pass(x, dy);
    }

    /// Takes the bias off the product that is next, if it trains and the product's result is `x`, which has no gradient yet. Such
    /// a product is not computed again: its result is just being read.
    fn take_bias_of(&mut self, x: Var) -> Option<ParamId> {
        let (first, sink) = (self.values[x.0 as usize].grad.is_none(), self.sink.as_ref()?);
        let Some(Node::Linear { b, y, .. }) = self.nodes.last_mut() else {
            return None;
        };
        b.take_if(|b| first && *y == x && sink.trainable[b.index()])
    }

    fn linear_backward(&mut self, x: Var, w: ParamId, b: Option<ParamId>, dy: &Buffer) {
        let inner = self.dims(x).1;
        let out = self.weights.layout.entry(w).len / inner;
        self.param(w, |tape, d, fresh| {
            let (dy, x) = (Factor::new(dy.span(), out), Factor::new(tape.value(x), inner));
            tape.device.gemm(dy.t(), x, d, start(fresh));
        });
        if let Some(b) = b {
            self.param(b, |tape, d, fresh| tape.device.sum_columns(dy.span(), d, fresh));
        }
        self.contribute(x, |tape, d, fresh| {
            let (dy, w) = (Factor::new(dy.span(), out), Factor::new(tape.weights.factor(w), inner));
            tape.device.gemm(dy, w, d, start(fresh));
        });
    }

    /// The gradient of a sum is that of both its terms. One of them, most often of a residual stream, is given what comes; the other
    /// a copy, or nothing, if it is a branch whose gradient is only read.
    fn add_backward(&mut self, a: Var, b: Var, dy: Buffer) {
        let [branch, stream] = if self.is_next(a) { [a, b] } else { [b, a] };
        if branch == stream || !self.read_by_next(branch, &dy) {
            self.contribute(branch, |tape, d, fresh| tape.device.put(dy.span(), d, fresh));
        }
        self.pass(stream, dy);
    }

    /// Whether the operation that is next has yielded this.
    fn is_next(&self, v: Var) -> bool {
        self.nodes.last().is_some_and(|node| node.output() == v)
    }

    /// Runs the operation that is next, if `v` is its result, `dy` is all of that's gradient and is only read. Returns whether that is
    /// so.
    fn read_by_next(&mut self, v: Var, dy: &Buffer) -> bool {
        let is_read = matches!(
            self.nodes.last(),
            Some(Node::Linear { .. } | Node::Dropout { .. } | Node::DropPath { .. })
        );
        let value = &self.values[v.0 as usize];
        if !is_read || !self.is_next(v) || value.grad.is_some() || self.is_forgotten() {
            return false;
        }
        let (_part, node) = (meter::part(value.part), self.nodes.pop());
        match node {
            Some(Node::Linear { x, w, b, .. }) => self.linear_backward(x, w, b, dy),
            Some(Node::Dropout { x, dropout, places, .. }) => self.dropout_backward(x, &dropout, &places, dy),
            Some(Node::DropPath {
                x, rows_of, factors, ..
            }) => self.drop_path_backward(x, rows_of, &factors, dy),
            _ => unreachable!("another operation than was looked at"),
        }
        self.release(v);
        true
    }

    /// The gradient, masked. Where that is all of the gradient of a product with a bias, the bias's is summed in the same pass.
    fn dropout_backward(&mut self, x: Var, dropout: &Dropout, places: &[Place], dy: &Buffer) {
        let (mut masked, cols) = (self.take_like(x), self.dims(x).1);
        if let Some(b) = self.take_bias_of(x) {
            self.param(b, |tape, sums, fresh| {
                tape.device
                    .dropout_of_columns(dropout, places, dy.span(), masked.span_mut(), (sums, fresh));
            });
        } else {
            self.device
                .dropout_of(dropout, places, dy.span(), masked.span_mut(), cols);
        }
        self.pass(x, masked);
    }

    fn drop_path_backward(&mut self, x: Var, rows_of: usize, factors: &[f32], dy: &Buffer) {
        let (mut scaled, cols) = (self.take_like(x), self.dims(x).1);
        self.device
            .scale_samples(dy.span(), scaled.span_mut(), cols, rows_of, factors);
        self.pass(x, scaled);
    }

    /// Adds rows to the rows of `d` that `index` names; what is there counts unless it is fresh.
    fn scatter_add(&mut self, dy: &Buffer, index: &[u32], cols: usize, mut d: SpanMut, fresh: bool) {
        if fresh {
            self.device.fill(d.reborrow(), 0.0);
        }
        self.device.scatter_add(dy.span(), index, cols, d);
    }

    /// The gradients of gain, offset and input, which counts beside what else the input is for, in one pass where all are wanted.
    fn layer_norm_backward(&mut self, x: Var, gamma: ParamId, beta: ParamId, stats: Span, dy: Buffer) {
        let (cols, gain) = (self.dims(x).1, self.weights.get(gamma));
        if self.trains(gamma) || self.trains(beta) {
            let mut both = self.take_exact(2 * cols);
            self.params(
                [gamma, beta],
                |tape, (of_gain, pair_fresh), (of_offset, other_fresh)| {
                    assert!(pair_fresh == other_fresh, "gain and offset train together");
                    let pair = [of_gain, of_offset];
                    if tape.needs(x) {
                        tape.contribute(x, |tape, d, fresh| {
                            let (x, both) = (tape.value(x), both.span_mut());
                            tape.device.layer_norm_gradients(
                                x,
                                stats,
                                gain,
                                dy.span(),
                                (d, fresh),
                                (pair, pair_fresh),
                                both,
                            );
                        });
                    } else {
                        let (x, both) = (tape.value(x), both.span_mut());
                        tape.device
                            .layer_norm_params(x, stats, dy.span(), (pair, pair_fresh), both);
                    }
                },
            );
            self.pool.give(both);
        } else {
            self.contribute(x, |tape, d, fresh| {
                tape.device
                    .layer_norm_backward(tape.value(x), stats, gain, dy.span(), d, fresh);
            });
        }
        self.pool.give(dy);
    }

    fn tokens_backward(&mut self, x: Var, class: ParamId, position: ParamId, samples: usize, dy: Buffer) {
        let cols = self.dims(x).1;
        let per_sample = dy.len() / samples;
        let mut table = self.take_exact(per_sample);
        self.device.sum_columns(dy.span(), table.span_mut(), true);
        let (first, all) = (table.span().range(0..cols), table.span());
        self.param(class, |tape, d, fresh| tape.device.put(first, d, fresh));
        self.param(position, |tape, d, fresh| tape.device.put(all, d, fresh));
        self.pool.give(table);
        let patches = per_sample - cols;
        self.contribute(x, |tape, d, fresh| {
            let from = (dy.span(), (cols, per_sample));
            tape.device
                .rectangle(from, (d, (0, patches)), (samples, patches), fresh);
        });
        self.pool.give(dy);
    }

    fn logits_backward(&mut self, x: Var, (own, queue): (Var, Span<'a>), temperature: ParamId, y: Var, dy: Buffer) {
        let (rows, width) = self.dims(x);
        let cols = dy.len() / rows;
        let t = self.weights.get(temperature);
        self.param(temperature, |tape, d, fresh| {
            tape.device.slope(dy.span(), tape.value(y), t, d, fresh);
        });
        self.contribute(x, |tape, mut d, fresh| {
            let mut offset = 0;
            for block in 0..2 {
                let n = if block == 0 {
                    tape.dims(own).0
                } else {
                    queue.len() / width
                };
                let mut part = tape.take_exact(rows * n);
                let from = (dy.span(), (offset, cols));
                tape.device.rectangle(from, (part.span_mut(), (0, n)), (rows, n), true);
                tape.device.cool(part.span_mut(), Temperature::Learned(t));
                let keys = if block == 0 { tape.value(own) } else { queue };
                let (left, right) = (Factor::new(part.span(), n), Factor::new(keys, width));
                tape.device.gemm(left, right, d.reborrow(), start(fresh && block == 0));
                tape.pool.give(part);
                offset += n;
            }
        });
        self.pool.give(dy);
    }

    /// Hands a gradient on: as it is if it is the first, else added to what is there.
    fn pass(&mut self, v: Var, d: Buffer) {
        if !self.needs(v) {
            self.pool.give(d);
            return;
        }
        let slot = &mut self.values[v.0 as usize].grad;
        if let Some(present) = slot {
            self.device.add(d.span(), present.span_mut());
            self.pool.give(d);
        } else {
            *slot = Some(d);
        }
    }

    /// Lets `f(tape, gradient, fresh)` overwrite (if fresh) or add to the gradient of a value that needs one.
    pub(super) fn contribute(&mut self, v: Var, f: impl FnOnce(&mut Self, SpanMut, bool)) {
        if !self.needs(v) {
            return;
        }
        let (rows, cols) = self.dims(v);
        let present = self.values[v.0 as usize].grad.take();
        let fresh = present.is_none();
        let purpose = self.values[v.0 as usize].purpose;
        let mut grad = present.unwrap_or_else(|| self.pool.take(rows * cols, purpose));
        f(self, grad.span_mut(), fresh);
        self.values[v.0 as usize].grad = Some(grad);
    }

    /// Lets `f(tape, gradient, fresh)` overwrite (if fresh) or add to the gradient of a trainable parameter.
    pub(super) fn param(&mut self, id: ParamId, f: impl FnOnce(&mut Self, SpanMut, bool)) {
        let range = self.weights.layout.entry(id).range();
        let Some(mut sink) = self.sink.take() else { return };
        if sink.trainable[id.index()] {
            let fresh = sink.writes[id.index()] == 0;
            f(self, sink.grad.reborrow().range(range), fresh);
            sink.wrote(id);
        }
        self.sink = Some(sink);
    }

    /// As [`param`](Self::param) for two different parameters at once, both of which train.
    fn params(&mut self, ids: [ParamId; 2], f: impl FnOnce(&mut Self, (SpanMut, bool), (SpanMut, bool))) {
        let [first, second] = ids.map(|id| self.weights.layout.entry(id).range());
        let Some(mut sink) = self.sink.take() else { return };
        let [fresh, second_fresh] = ids.map(|id| sink.writes[id.index()] == 0);
        let [one, other] = sink.grad.reborrow().two([first, second]);
        f(self, (one, fresh), (other, second_fresh));
        ids.into_iter().for_each(|id| sink.wrote(id));
        self.sink = Some(sink);
    }
}
