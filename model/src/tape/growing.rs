//! The operations of a decoder that keeps keys and values while its texts grow: for tapes that record nothing.

use super::{Projections, Tape, Var};
use crate::device::{Buffer, Device, Factor, Texts};
use crate::generate::beam::{Continuation, Open, Wanted};
use crate::layout::ParamId;
use crate::ops::decode::Blocks;
use crate::ops::gemm::Start;
use crate::text::ImageKeys;

impl Tape<'_> {
    /// Where this tape computes.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// A value of unspecified contents, to be written row by row.
    pub(crate) fn room(&mut self, rows: usize, cols: usize) -> Var {
        let data = self.take(rows * cols);
        self.push(rows, cols, data, false)
    }

    /// The buffer of a value that changes in place.
    fn lift(&mut self, v: Var) -> Buffer {
        let data = self.values[v.0 as usize].data.take();
        data.expect("what is kept lies on the tape")
    }

    /// Puts the rows of `x` into those of `to` from `first` on.
    pub(crate) fn put_rows(&mut self, x: Var, to: Var, first: usize) {
        let ((rows, cols), mut data) = (self.dims(x), self.lift(to));
        let part = data.span_mut().range(first * cols..(first + rows) * cols);
        self.device.copy(self.value(x), part);
        self.values[to.0 as usize].data = Some(data);
    }

    /// Puts keys and values of rows of `x` behind those that are `kept`, and attends to all of them; see [`Device::attend_kept`].
    ///
    /// # Shapes
    /// x: (texts·per) × in; kept: (texts·every) × (heads·dim) each → (texts·per) × (heads·dim)
    pub(crate) fn attend_kept(
        &mut self,
        (x, of): (Var, Projections),
        kept: [Var; 2],
        (blocks, texts): (&Blocks, Option<&Texts>),
        (heads, dim): (usize, usize),
    ) -> Var {
        assert!(self.sink.is_none(), "what is kept has no backward");
        let width = heads * dim;
        let len = blocks.queries() * width;
        let (mut y, mut qkv) = (self.take(len), self.take(3 * len));
        self.multiply(x, of, qkv.span_mut(), (len, width));
        let [mut keys, mut values] = kept.map(|v| self.lift(v));
        let to = [keys.span_mut(), values.span_mut()];
        let qkv_of = [0, 1, 2].map(|i| qkv.span().range(i * len..(i + 1) * len));
        self.device
            .attend_kept(qkv_of, to, (blocks, texts), (heads, dim), y.span_mut());
        self.pool.give(qkv);
        for (v, data) in kept.into_iter().zip([keys, values]) {
            self.values[v.0 as usize].data = Some(data);
        }
        self.push(blocks.queries(), width, y, false)
    }

    /// Attends to the images' keys.
    ///
    /// # Shapes
    /// q: (texts·per) × (heads·dim) → the same
    pub(crate) fn attend_blocks(
        &mut self,
        q: Var,
        images: ImageKeys,
        blocks: &Blocks,
        (heads, dim): (usize, usize),
    ) -> Var {
        assert!(self.sink.is_none(), "what is kept has no backward");
        let mut y = self.take_like(q);
        let x = [q, images.keys, images.values].map(|v| self.value(v));
        self.device.attend_blocks(x, blocks, (heads, dim), y.span_mut());
        self.push(blocks.queries(), heads * dim, y, false)
    }

    /// Puts the blocks that `parents` names in place of all, as far as they are `taken`.
    pub(crate) fn pick(&mut self, kept: Var, parents: &[u32], (every, taken): (usize, usize)) {
        let width = self.dims(kept).1;
        let mut picked = self.take(parents.len() * every * width);
        let from = self.lift(kept);
        self.device
            .pick(from.span(), parents, (every, taken), width, picked.span_mut());
        self.pool.give(from);
        let value = &mut self.values[kept.0 as usize];
        value.rows = parents.len() * every;
        value.data = Some(picked);
    }

    /// `x·wᵀ + b` in single precision, whatever the format of activations.
    ///
    /// # Shapes
    /// x: rows × in → rows × out
    pub(crate) fn linear_exactly(&mut self, x: Var, w: ParamId, b: ParamId) -> Var {
        let (rows, inner) = self.dims(x);
        let out = self.weights.layout.entry(w).len / inner;
        let mut y = self.take_exact(rows * out);
        let (left, right) = (Factor::new(self.value(x), inner), self.weights.right(w, inner));
        self.device
            .gemm(left, right, y.span_mut(), Start::Bias(self.weights.get(b)));
        self.push_exact(rows, out, y, false)
    }

    /// Word plus position embedding of the last token of each text that goes on.
    pub(crate) fn embed_last(&mut self, texts: &Texts, word: ParamId, position: ParamId) -> Var {
        let (rows, cols) = (texts.open(), self.weights.layout.entry(word).shape[1]);
        let mut y = self.take(rows * cols);
        texts.embed_last(self.weights.get(word), self.weights.get(position), cols, y.span_mut());
        self.push(rows, cols, y, false)
    }

    /// Chooses the next token of each text that goes on; the logits are spent.
    pub(crate) fn choose(&mut self, logits: Var, texts: &mut Texts) {
        let data = self.values[logits.0 as usize].data.as_mut();
        texts.choose(data.expect("logits lie on the tape").span_mut());
    }

    /// The best continuations of each open text; the logits are spent.
    pub(crate) fn continuations(&mut self, logits: Var, open: &[Open], wanted: &Wanted) -> Vec<Vec<Continuation>> {
        let data = self.values[logits.0 as usize].data.as_mut();
        let logits = data.expect("logits lie on the tape").span_mut();
        self.device.continuations(logits, open, wanted)
    }
}
