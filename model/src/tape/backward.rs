//! The record in reverse.

use super::{Head, Node, Tape, Var};
use crate::flat::Flat;
use crate::layout::ParamId;
use crate::ops::attention;
use crate::ops::blocks::sum_columns;
use crate::ops::gemm::{Mat, Start, gemm};
use crate::ops::meter;
use crate::ops::{cross_entropy, dropout, elementwise, embedding, norm, sum};

fn start(fresh: bool) -> Start<'static> {
    if fresh { Start::Zero } else { Start::Add }
}

impl<'a> Tape<'a> {
    /// Runs the record in reverse from a scalar with gradient `seed`, consuming activations on the way.
    pub fn backward(&mut self, loss: Var, seed: f32) {
        assert!(self.needs(loss), "the loss depends on no trainable parameter");
        let mut grad = self.pool.take(1);
        grad[0] = seed;
        self.values[loss.0 as usize].grad = Some(grad);
        while let Some(node) = self.nodes.pop() {
            let output = node.output();
            let _part = meter::part(self.values[output.0 as usize].part);
            if let Some(dy) = self.values[output.0 as usize].grad.take() {
                self.node(&node, dy);
            }
            self.release(output);
            node.saved().into_iter().for_each(|flat| self.pool.give(flat));
        }
    }

    /// Gives a consumed activation back.
    fn release(&mut self, v: Var) {
        if let Some(flat) = self.values[v.0 as usize].data.take() {
            self.pool.give(flat);
        }
    }

    fn node(&mut self, node: &Node<'a>, dy: Flat) {
        match node {
            Node::Linear { x, w, b, .. } => self.linear_backward(*x, *w, *b, dy),
            Node::Gelu { x, .. } => {
                let mut dy = dy;
                elementwise::gelu_backward(self.value(*x), &mut dy);
                self.pass(*x, dy);
            }
            Node::Add { a, b, .. } => {
                // The second contribution copies; the first, most often of a residual stream, is moved.
                if self.needs(*b) {
                    self.contribute(*b, |_, d, fresh| elementwise::put(&dy, d, fresh));
                }
                self.pass(*a, dy);
            }
            Node::LayerNorm {
                x, gamma, beta, stats, ..
            } => self.layer_norm_backward(*x, *gamma, *beta, stats, dy),
            Node::Dropout { x, dropout, places, .. } => {
                let (mut dy, cols) = (dy, self.dims(*x).1);
                dropout::apply(dropout, places, &mut dy, cols);
                self.pass(*x, dy);
            }
            Node::DropPath {
                x, rows_of, factors, ..
            } => {
                let cols = self.dims(*x).1;
                self.contribute(*x, |tape, d, fresh| {
                    let mut scaled = tape.pool.take(d.len());
                    elementwise::scale_samples(&dy, &mut scaled, cols, *rows_of, factors);
                    elementwise::put(&scaled, d, fresh);
                    tape.pool.give(scaled);
                });
                self.pool.give(dy);
            }
            Node::Attention { .. } => self.attention_backward(node, dy),
            Node::Embed {
                ids,
                positions,
                word,
                position,
                ..
            } => {
                for (id, index) in [(*word, ids), (*position, positions)] {
                    let cols = self.weights.layout.entry(id).shape[1];
                    self.param(id, |_, d, fresh| {
                        if fresh {
                            d.fill(0.0);
                        }
                        embedding::scatter_add(&dy, index, cols, d);
                    });
                }
                self.pool.give(dy);
            }
            Node::Rows { x, index, .. } => {
                let cols = self.dims(*x).1;
                self.contribute(*x, |_, d, fresh| {
                    if fresh {
                        d.fill(0.0);
                    }
                    embedding::scatter_add(&dy, index, cols, d);
                });
                self.pool.give(dy);
            }
            Node::Stack { a, b, .. } => {
                let split = {
                    let (rows, cols) = self.dims(*a);
                    rows * cols
                };
                self.contribute(*a, |_, d, fresh| elementwise::put(&dy[..split], d, fresh));
                self.contribute(*b, |_, d, fresh| elementwise::put(&dy[split..], d, fresh));
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
                    norm::l2_norm_backward(tape.value(*y), norms, &dy, cols, d, fresh);
                });
                self.pool.give(dy);
            }
            Node::Logits {
                x,
                keys,
                temperature,
                y,
            } => self.logits_backward(*x, keys, *temperature, *y, dy),
            Node::CrossEntropy {
                x,
                targets,
                smoothing,
                rows,
                ..
            } => {
                let (count, cols) = self.dims(*x);
                let mut logits = self.values[x.0 as usize].data.take().expect("logits are consumed once");
                let weight = dy[0] / count as f32;
                cross_entropy::smoothed_backward(&mut logits, rows, targets, *smoothing, cols, weight);
                self.pool.give(dy);
                self.pass(*x, logits);
            }
            Node::SoftCrossEntropy { x, targets, rows, .. } => {
                let (count, cols) = self.dims(*x);
                let weight = dy[0] / count as f32;
                self.contribute(*x, |tape, d, fresh| {
                    let mut logits = tape.pool.take(d.len());
                    logits.copy_from_slice(tape.value(*x));
                    cross_entropy::soft_backward(&mut logits, rows, targets, cols, weight);
                    elementwise::put(&logits, d, fresh);
                    tape.pool.give(logits);
                });
                self.pool.give(dy);
            }
            Node::Sum { terms, .. } => {
                for (v, weight) in terms {
                    self.contribute(*v, |_, d, fresh| {
                        d[0] = if fresh {
                            weight * dy[0]
                        } else {
                            weight.mul_add(dy[0], d[0])
                        }
                    });
                }
                self.pool.give(dy);
            }
        }
    }

    fn linear_backward(&mut self, x: Var, w: ParamId, b: Option<ParamId>, dy: Flat) {
        let inner = self.dims(x).1;
        let out = self.weights.layout.entry(w).len / inner;
        self.param(w, |tape, d, fresh| {
            gemm(Mat::new(&dy, out).t(), Mat::new(tape.value(x), inner), d, start(fresh));
        });
        if let Some(b) = b {
            self.param(b, |_, d, fresh| sum_columns(&dy, d, fresh));
        }
        self.contribute(x, |tape, d, fresh| {
            gemm(
                Mat::new(&dy, out),
                Mat::new(tape.weights.get(w), inner),
                d,
                start(fresh),
            );
        });
        self.pool.give(dy);
    }

    fn layer_norm_backward(&mut self, x: Var, gamma: ParamId, beta: ParamId, stats: &[f32], dy: Flat) {
        let cols = self.dims(x).1;
        if self.trains(gamma) || self.trains(beta) {
            let mut both = self.pool.take(2 * cols);
            norm::layer_norm_params(self.value(x), stats, &dy, cols, &mut both);
            self.param(gamma, |_, d, fresh| elementwise::put(&both[..cols], d, fresh));
            self.param(beta, |_, d, fresh| elementwise::put(&both[cols..], d, fresh));
            self.pool.give(both);
        }
        self.contribute(x, |tape, d, fresh| {
            norm::layer_norm_backward(tape.value(x), stats, tape.weights.get(gamma), &dy, d, fresh);
        });
        self.pool.give(dy);
    }

    fn attention_backward(&mut self, node: &Node<'a>, dy: Flat) {
        let Node::Attention {
            q,
            k,
            v,
            heads,
            dim,
            seqs,
            dropout,
            ..
        } = node
        else {
            unreachable!("called for attention only");
        };
        let (width, query_rows, key_rows) = (heads * dim, self.dims(q.var).0, self.dims(k.var).0);
        let [mut dq, mut dk, mut dv] = [query_rows, key_rows, key_rows].map(|rows| self.pool.take(rows * width));
        let grads = attention::Gradients {
            q: &mut dq,
            k: &mut dk,
            v: &mut dv,
        };
        let inputs = self.attention_inputs(*q, *k, *v, *heads, *dim);
        attention::backward(&inputs, seqs, dropout.as_ref(), &dy, grads);
        for (head, grad) in [(*q, dq), (*k, dk), (*v, dv)] {
            self.pass_columns(head, width, grad);
        }
        self.pool.give(dy);
    }

    /// Hands on the gradient of some columns of a value.
    fn pass_columns(&mut self, head: Head, width: usize, grad: Flat) {
        let stride = self.dims(head.var).1;
        if stride == width {
            return self.pass(head.var, grad);
        }
        self.contribute(head.var, |_, d, fresh| {
            if fresh {
                // Other columns belong to the other heads' gradients, which are added later.
                d.fill(0.0);
            }
            elementwise::add_columns(&grad, width, d, (head.offset, stride));
        });
        self.pool.give(grad);
    }

    fn tokens_backward(&mut self, x: Var, class: ParamId, position: ParamId, samples: usize, dy: Flat) {
        let cols = self.dims(x).1;
        let per_sample = dy.len() / samples;
        let mut table = self.pool.take(per_sample);
        sum_columns(&dy, &mut table, true);
        self.param(class, |_, d, fresh| elementwise::put(&table[..cols], d, fresh));
        self.param(position, |_, d, fresh| elementwise::put(&table, d, fresh));
        self.pool.give(table);
        let patches = per_sample - cols;
        self.contribute(x, |_, d, fresh| {
            for (d, dy) in d.chunks_exact_mut(patches).zip(dy.chunks_exact(per_sample)) {
                elementwise::put(&dy[cols..], d, fresh);
            }
        });
        self.pool.give(dy);
    }

    fn logits_backward(&mut self, x: Var, keys: &[&'a [f32]], temperature: ParamId, y: Var, dy: Flat) {
        let (rows, width) = self.dims(x);
        let cols = dy.len() / rows;
        let t = self.weights.get(temperature)[0];
        self.param(temperature, |tape, d, fresh| {
            // ∂(s/t)/∂t = −(s/t)/t
            let slope = -sum::dot(&dy, tape.value(y)) / t;
            d[0] = if fresh { slope } else { d[0] + slope };
        });
        self.contribute(x, |tape, d, fresh| {
            let (mut offset, mut fresh) = (0, fresh);
            for keys in keys {
                let n = keys.len() / width;
                let mut block = tape.pool.take(rows * n);
                for (block, dy) in block.chunks_exact_mut(n).zip(dy.chunks_exact(cols)) {
                    for (b, d) in block.iter_mut().zip(&dy[offset..offset + n]) {
                        *b = d / t;
                    }
                }
                gemm(Mat::new(&block, n), Mat::new(keys, width), d, start(fresh));
                tape.pool.give(block);
                offset += n;
                fresh = false;
            }
        });
        self.pool.give(dy);
    }

    /// Hands a gradient on: as it is if it is the first, else added to what is there.
    fn pass(&mut self, v: Var, d: Flat) {
        if !self.needs(v) {
            self.pool.give(d);
            return;
        }
        let slot = &mut self.values[v.0 as usize].grad;
        if let Some(present) = slot {
            elementwise::add(&d, present);
            self.pool.give(d);
        } else {
            *slot = Some(d);
        }
    }

    /// Lets `f(tape, gradient, fresh)` overwrite (if fresh) or add to the gradient of a value that needs one.
    fn contribute(&mut self, v: Var, f: impl FnOnce(&mut Self, &mut [f32], bool)) {
        if !self.needs(v) {
            return;
        }
        let (rows, cols) = self.dims(v);
        let present = self.values[v.0 as usize].grad.take();
        let fresh = present.is_none();
        let mut grad = present.unwrap_or_else(|| self.pool.take(rows * cols));
        f(self, &mut grad, fresh);
        self.values[v.0 as usize].grad = Some(grad);
    }

    /// Lets `f(tape, gradient, fresh)` overwrite (if fresh) or add to the gradient of a trainable parameter.
    fn param(&mut self, id: ParamId, f: impl FnOnce(&mut Self, &mut [f32], bool)) {
        let range = self.weights.layout.entry(id).range();
        let Some(mut sink) = self.sink.take() else { return };
        if sink.trainable[id.index()] {
            let fresh = sink.writes[id.index()] == 0;
            sink.writes[id.index()] += 1;
            f(self, &mut sink.grad[range], fresh);
        }
        self.sink = Some(sink);
    }
}
