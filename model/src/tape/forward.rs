//! The operations of the towers: what a model's forward is written in.

use super::node::Head;
use super::{Node, Tape, Var};
use crate::device::{Buffer, Factor, Span, SpanMut};
use crate::layout::ParamId;
use crate::ops::attention::{Columns, Inputs, Sequence};
use crate::ops::dropout::{Dropout, Place};
use crate::ops::gemm::Start;
use std::rc::Rc;

impl Tape<'_> {
    /// A constant matrix with `cols` columns.
    pub fn input(&mut self, data: &[f32], cols: usize) -> Var {
        let mut x = self.take(data.len());
        self.device.write(data, x.span_mut());
        self.push(data.len() / cols, cols, x, false)
    }

    /// A constant matrix with `cols` columns, in single precision on every device.
    pub fn constant(&mut self, data: &[f32], cols: usize) -> Var {
        let mut x = self.take_exact(data.len());
        self.device.write(data, x.span_mut());
        self.push_exact(data.len() / cols, cols, x, false)
    }

    /// Images cut into patches, row by row, each flattened as (channel, y, x). They lie in the memory of the process, or were sent to
    /// the tape's device.
    ///
    /// # Shapes
    /// b × 3 × s × s → b·(s/patch)² × 3·patch²
    pub fn patches<'p>(&mut self, pixels: impl Into<Span<'p>>, b: usize, patch: usize) -> Var {
        let (pixels, cols) = (pixels.into(), 3 * patch * patch);
        let mut y = self.take(pixels.len());
        self.device.patches(pixels, b, patch, y.span_mut());
        self.push(pixels.len() / cols, cols, y, false)
    }

    /// `x·wᵀ + b`, with `w` stored (out, in) as everybody does.
    ///
    /// # Shapes
    /// x: rows × in → rows × out
    pub fn linear(&mut self, x: Var, w: ParamId, b: Option<ParamId>) -> Var {
        let (y, (rows, inner)) = (self.linear_of(x, w, b), self.dims(x));
        let out = self.weights.layout.entry(w).len / inner;
        let trains = self.needs(x) || self.trains(w) || b.is_some_and(|b| self.trains(b));
        let y = self.push(rows, out, y, trains);
        self.record(y, || Node::Linear { x, w, b, y });
        y
    }

    pub(super) fn linear_of(&mut self, x: Var, w: ParamId, b: Option<ParamId>) -> Buffer {
        let (rows, inner) = self.dims(x);
        let mut y = self.take(rows * self.weights.layout.entry(w).len / inner);
        let start = b.map_or(Start::Zero, |b| Start::Bias(self.weights.factor(b)));
        let (left, right) = (Factor::new(self.value(x), inner), self.weights.right(w, inner));
        self.device.gemm(left, right, y.span_mut(), start);
        y
    }

    /// The exact GELU.
    pub fn gelu(&mut self, x: Var) -> Var {
        let (y, (rows, cols)) = (self.gelu_of(x), self.dims(x));
        let y = self.push(rows, cols, y, self.needs(x));
        self.record(y, || Node::Gelu { x, y });
        y
    }

    pub(super) fn gelu_of(&mut self, x: Var) -> Buffer {
        let mut y = self.take_like(x);
        self.device.gelu(self.value(x), y.span_mut());
        y
    }

    /// `a + b`, of equal shapes.
    pub fn add(&mut self, a: Var, b: Var) -> Var {
        let (y, (rows, cols)) = (self.sum_of(a, b), self.dims(a));
        let y = self.push(rows, cols, y, self.needs(a) || self.needs(b));
        self.record(y, || Node::Add { a, b, y });
        y
    }

    pub(super) fn sum_of(&mut self, a: Var, b: Var) -> Buffer {
        let mut y = self.take_like(a);
        self.device.sum_of(self.value(a), self.value(b), y.span_mut());
        y
    }

    /// Layer normalisation of each row.
    pub fn layer_norm(&mut self, x: Var, gamma: ParamId, beta: ParamId, eps: f32) -> Var {
        let mut stats = self.take_exact(2 * self.dims(x).0);
        let y = self.layer_norm_of(x, (gamma, beta), eps, stats.span_mut());
        self.normed(x, (gamma, beta), eps, y, stats)
    }

    /// `a + b`, of equal shapes, and the layer normalisation of its rows: the same as [`add`](Self::add) and
    /// [`layer_norm`](Self::layer_norm), which it is recorded as, in one pass over rows.
    pub fn add_norm(&mut self, a: Var, b: Var, gamma: ParamId, beta: ParamId, eps: f32) -> (Var, Var) {
        let (rows, cols) = self.dims(a);
        let (mut sum, mut y, mut stats) = (self.take_like(a), self.take_like(a), self.take_exact(2 * rows));
        let (gain, offset) = (self.weights.get(gamma), self.weights.get(beta));
        self.device.add_norm(
            (self.value(a), self.value(b)),
            (gain, offset, eps),
            sum.span_mut(),
            y.span_mut(),
            stats.span_mut(),
        );
        let sum = self.push(rows, cols, sum, self.needs(a) || self.needs(b));
        self.record(sum, || Node::Add { a, b, y: sum });
        (sum, self.normed(sum, (gamma, beta), eps, y, stats))
    }

    /// The norm `y` of `x`, on record.
    fn normed(&mut self, x: Var, (gamma, beta): (ParamId, ParamId), eps: f32, y: Buffer, stats: Buffer) -> Var {
        let (rows, cols) = self.dims(x);
        let needs = self.needs(x) || self.trains(gamma) || self.trains(beta);
        let y = self.push(rows, cols, y, needs);
        if self.needs(y) {
            self.nodes.push(Node::LayerNorm {
                x,
                gamma,
                beta,
                eps,
                stats,
                y,
            });
        } else {
            self.pool.give(stats);
        }
        y
    }

    pub(super) fn layer_norm_of(
        &mut self,
        x: Var,
        (gamma, beta): (ParamId, ParamId),
        eps: f32,
        stats: SpanMut,
    ) -> Buffer {
        let mut y = self.take_like(x);
        let (gain, offset) = (self.weights.get(gamma), self.weights.get(beta));
        self.device
            .layer_norm(self.value(x), gain, offset, eps, y.span_mut(), stats);
        y
    }

    /// Dropout by logical place of each row; `x` itself when the rate is 0.
    pub fn dropout(&mut self, x: Var, dropout: Option<Dropout>, places: &Rc<[Place]>) -> Var {
        let Some(dropout) = dropout else { return x };
        let (rows, cols) = self.dims(x);
        assert_eq!(rows, places.len(), "every row has a place");
        let y = self.dropout_of(x, &dropout, places);
        let y = self.push(rows, cols, y, self.needs(x));
        self.record(y, || Node::Dropout {
            x,
            dropout,
            places: places.clone(),
            y,
        });
        y
    }

    pub(super) fn dropout_of(&mut self, x: Var, dropout: &Dropout, places: &[Place]) -> Buffer {
        let (mut y, cols) = (self.take_like(x), self.dims(x).1);
        self.device
            .dropout_of(dropout, places, self.value(x), y.span_mut(), cols);
        y
    }

    /// Multiplies the rows of each sample by its factor: 0 or 1 / (1 − rate).
    pub fn drop_path(&mut self, x: Var, factors: &Rc<[f32]>) -> Var {
        let (rows, cols) = self.dims(x);
        let rows_of = rows / factors.len();
        let y = self.drop_path_of(x, rows_of, factors);
        let y = self.push(rows, cols, y, self.needs(x));
        self.record(y, || Node::DropPath {
            x,
            rows_of,
            factors: factors.clone(),
            y,
        });
        y
    }

    pub(super) fn drop_path_of(&mut self, x: Var, rows_of: usize, factors: &[f32]) -> Buffer {
        let (mut y, cols) = (self.take_like(x), self.dims(x).1);
        self.device
            .scale_samples(self.value(x), y.span_mut(), cols, rows_of, factors);
        y
    }

    /// Multi-head attention over packed sequences: softmax(q·kᵀ / √dim)·v.
    ///
    /// # Shapes
    /// q: query rows × (heads·dim from its offset); k, v: key rows × the same → query rows × (heads·dim)
    pub fn attention(
        &mut self,
        (q, k, v): (Head, Head, Head),
        (heads, dim): (usize, usize),
        seqs: &Rc<[Sequence]>,
        dropout: Option<Dropout>,
    ) -> Var {
        let rows = self.dims(q.var).0;
        let needs = [q, k, v].iter().any(|h| self.needs(h.var));
        let kept = self.device.kept_by_attention() * heads * rows;
        let mut kept = (needs && kept > 0).then(|| self.take_exact(kept));
        let y = self.attention_of((q, k, v), (heads, dim), seqs, dropout.as_ref(), kept.as_mut());
        let y = self.push(rows, heads * dim, y, needs);
        self.record(y, || Node::Attention {
            q,
            k,
            v,
            heads,
            dim,
            seqs: seqs.clone(),
            dropout,
            kept,
            y,
        });
        y
    }

    pub(super) fn attention_of(
        &mut self,
        qkv: (Head, Head, Head),
        (heads, dim): (usize, usize),
        seqs: &[Sequence],
        dropout: Option<&Dropout>,
        kept: Option<&mut Buffer>,
    ) -> Buffer {
        let mut y = self.take(self.dims(qkv.0.var).0 * heads * dim);
        let inputs = self.attention_inputs(qkv, (heads, dim));
        self.device
            .attention(inputs, seqs, dropout, y.span_mut(), kept.map(Buffer::span_mut));
        y
    }

    pub(super) fn attention_inputs(
        &self,
        (q, k, v): (Head, Head, Head),
        (heads, dim): (usize, usize),
    ) -> Inputs<Span<'_>> {
        let columns = |h: Head| Columns {
            data: self.value(h.var),
            stride: self.dims(h.var).1,
            offset: h.offset,
        };
        Inputs {
            q: columns(q),
            k: columns(k),
            v: columns(v),
            heads,
            dim,
        }
    }

    /// Word plus position embedding of each token.
    pub fn embed(&mut self, ids: &Rc<[u32]>, positions: &Rc<[u32]>, word: ParamId, position: ParamId) -> Var {
        let cols = self.weights.layout.entry(word).shape[1];
        let (words, table) = (self.weights.get(word), self.weights.get(position));
        let mut y = self.take(ids.len() * cols);
        self.device.embed(ids, positions, words, table, cols, y.span_mut());
        let y = self.push(ids.len(), cols, y, self.trains(word) || self.trains(position));
        self.record(y, || Node::Embed {
            ids: ids.clone(),
            positions: positions.clone(),
            word,
            position,
            y,
        });
        y
    }

    /// `y[i] = x[index[i]]`.
    pub fn rows(&mut self, x: Var, index: &Rc<[u32]>) -> Var {
        let (y, cols) = (self.rows_of(x, index), self.dims(x).1);
        let y = self.push(index.len(), cols, y, self.needs(x));
        self.record(y, || Node::Rows {
            x,
            index: index.clone(),
            y,
        });
        y
    }

    pub(super) fn rows_of(&mut self, x: Var, index: &[u32]) -> Buffer {
        let cols = self.dims(x).1;
        let mut y = self.take(index.len() * cols);
        self.device.gather(self.value(x), index, cols, y.span_mut());
        y
    }

    /// The rows of `a`, then those of `b`.
    pub fn stack(&mut self, a: Var, b: Var) -> Var {
        let (y, cols) = (self.stack_of(a, b), self.dims(a).1);
        let y = self.push(y.len() / cols, cols, y, self.needs(a) || self.needs(b));
        self.record(y, || Node::Stack { a, b, y });
        y
    }

    pub(super) fn stack_of(&mut self, a: Var, b: Var) -> Buffer {
        let ((rows_a, cols), (rows_b, _)) = (self.dims(a), self.dims(b));
        let (split, len) = (rows_a * cols, (rows_a + rows_b) * cols);
        let mut y = self.take(len);
        self.device.copy(self.value(a), y.span_mut().range(0..split));
        self.device.copy(self.value(b), y.span_mut().range(split..len));
        y
    }

    /// Image tokens: the class token before the patches of each sample, plus the position table.
    ///
    /// # Shapes
    /// x: (samples·patches) × width → (samples·(1 + patches)) × width
    pub fn tokens(&mut self, x: Var, samples: usize, class: ParamId, position: ParamId) -> Var {
        let (rows, cols) = self.dims(x);
        let mut y = self.take((rows + samples) * cols);
        let (class_row, table) = (self.weights.get(class), self.weights.get(position));
        self.device
            .tokens(self.value(x), samples, class_row, table, cols, y.span_mut());
        let needs = self.needs(x) || self.trains(class) || self.trains(position);
        let y = self.push(rows + samples, cols, y, needs);
        self.record(y, || Node::Tokens {
            x,
            class,
            position,
            samples,
            y,
        });
        y
    }
}
