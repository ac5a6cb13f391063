//! One method for each kernel. What a kernel computes stands where the processor's is: see the modules of [`crate::ops`].

/// The processor's expression, or a GPU's.
macro_rules! on {
    ($device:expr, $cpu:expr, $cuda:ident => $on_cuda:expr) => {
        match $device {
            Device::Cpu => $cpu,
            #[cfg(feature = "cuda")]
            Device::Cuda($cuda, _) => $on_cuda,
        }
    };
}

mod elementwise;
mod growing;
mod loss;
mod optimiser;
mod rows;

use super::{Device, Span, SpanMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::ops::attention::{self, Inputs, Sequence};
use crate::ops::dropout::Dropout;
use crate::ops::gemm::{self, Batch, Mat, Start};
use crate::ops::{blocks, digest, sum};

/// A row-major factor of a matrix product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor<'a> {
    data: Span<'a>,
    rows: usize,
    cols: usize,
    stride: usize,
    turned: bool,
}

/// What divides similarities.
#[derive(Debug, Clone, Copy)]
pub enum Temperature<'a> {
    /// A number of the recipe.
    Given(f32),
    /// The learned one: one element.
    Learned(Span<'a>),
}

impl<'a> Factor<'a> {
    /// The matrix with `cols` columns that fills `data`.
    pub(crate) fn new(data: Span<'a>, cols: usize) -> Self {
        Self::apart(data, (data.len() / cols, cols), cols)
    }

    /// The first of `data`: `rows` × `cols` elements, rows `stride` apart.
    pub(crate) fn apart(data: Span<'a>, (rows, cols): (usize, usize), stride: usize) -> Self {
        Self {
            data,
            rows,
            cols,
            stride,
            turned: false,
        }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Self {
            turned: !self.turned,
            ..self
        }
    }

    /// The same so many elements further on.
    fn moved(self, by: usize) -> Self {
        Self {
            data: self.data.range(by..self.data.len()),
            ..self
        }
    }

    fn mat(self) -> Mat<'a> {
        let mat = Mat::apart(self.data.host(), (self.rows, self.cols), self.stride);
        if self.turned { mat.t() } else { mat }
    }

    /// Columns of the factor as it is used.
    fn width(self) -> usize {
        if self.turned { self.rows } else { self.cols }
    }
}

#[cfg(feature = "cuda")]
impl<'a> From<Factor<'a>> for cuda::Factor<'a> {
    fn from(factor: Factor<'a>) -> Self {
        Self {
            data: factor.data.cuda(),
            rows: factor.rows,
            cols: factor.cols,
            stride: factor.stride,
            turned: factor.turned,
        }
    }
}

/// Products and sums.
impl Device {
    /// `c = start + a·b` with `c` row-major, its rows `stride` elements apart.
    pub(crate) fn gemm_strided(&self, a: Factor, b: Factor, c: SpanMut, stride: usize, start: Start<Span>) {
        on!(self, gemm::gemm_strided(a.mat(), b.mat(), c.host(), stride, start.map(Span::host)),
            cuda => cuda.gemm(a.into(), b.into(), c.cuda(), stride, start.map(Span::cuda)));
    }

    /// `c = start + a·b` with `c` row-major and dense.
    pub(crate) fn gemm(&self, a: Factor, b: Factor, c: SpanMut, start: Start<Span>) {
        let stride = b.width();
        self.gemm_strided(a, b, c, stride, start);
    }

    /// Products of one shape, `c = start + a·b` each, with the rows of `c` `stride` elements apart. On a GPU they are computed at
    /// once.
    pub(crate) fn gemm_batch(
        &self,
        a: Factor,
        b: Factor,
        mut c: SpanMut,
        stride: usize,
        start: Start<Span>,
        batch: Batch,
    ) {
        on!(self, {
            for i in 0..batch.count {
                let len = c.len();
                let (a, b, c) = (a.moved(i * batch.a), b.moved(i * batch.b), c.reborrow().range(i * batch.c..len));
                let start = start.map(|bias| bias.range(i * batch.bias..i * batch.bias + b.width()));
                self.gemm_strided(a, b, c, stride, start);
            }
        }, cuda => {
            cuda.gemm_batch(a.into(), b.into(), c.reborrow().cuda(), stride, start.map(Span::cuda), batch);
        });
    }

    /// Column sums of `x`, those of as many columns as `width` says `distance` elements behind those of the columns before.
    pub(crate) fn sum_columns_apart(
        &self,
        x: Span,
        (out, count): (SpanMut, usize),
        (width, distance): (usize, usize),
        fresh: bool,
    ) {
        on!(self, {
            let (mut sums, mut out) = (vec![0.0; count], out);
            blocks::sum_columns(x.host(), &mut sums, true);
            for (i, sums) in sums.chunks(width).enumerate() {
                let out = out.reborrow().range(i * distance..i * distance + width);
                self.put(sums.into(), out, fresh);
            }
        }, cuda => cuda.sum_columns(x.cuda(), cuda::Totals::apart(out.cuda(), count, width, distance), fresh));
    }

    pub(crate) fn sum_columns(&self, x: Span, out: SpanMut, fresh: bool) {
        on!(self, blocks::sum_columns(x.host(), out.host(), fresh),
            cuda => cuda.sum_columns(x.cuda(), out.cuda(), fresh));
    }

    /// Σ x² in double precision, in an order of its own.
    pub(crate) fn squares(&self, x: Span) -> f64 {
        on!(self, sum::squares_f64(x.host()), cuda => cuda.squares(x.cuda()))
    }

    /// [`digest`](digest::digest) of runs of numbers, each with the place of its first one. Waits.
    pub(crate) fn digest(&self, runs: &[(Span, u64)]) -> u64 {
        on!(self, {
            let of = |(x, place): &(Span, u64)| digest::digest(x.host().iter().map(|x| x.to_bits()), *place);
            runs.iter().map(of).fold(0, u64::wrapping_add)
        }, cuda => {
            let runs: Vec<_> = runs.iter().map(|(x, place)| (x.cuda(), *place)).collect();
            cuda.digest(&runs)
        })
    }

    pub(crate) fn attention(
        &self,
        x: Inputs<Span>,
        seqs: &[Sequence],
        dropout: Option<&Dropout>,
        out: SpanMut,
        kept: Option<SpanMut>,
    ) {
        on!(self, {
            let _ = kept;
            attention::forward(&x.map(Span::host), seqs, dropout, out.host());
        }, cuda => cuda.attention(&x.map(Span::cuda), seqs, dropout, out.cuda(), kept.map(SpanMut::cuda)));
    }

    /// Gradients of queries, keys and values, `grads`, are overwritten. `y` and `kept` are what the forward pass yielded.
    pub(crate) fn attention_backward(
        &self,
        x: Inputs<Span>,
        seqs: &[Sequence],
        dropout: Option<&Dropout>,
        (y, kept): (Span, Option<Span>),
        dy: Span,
        [dq, dk, dv]: [SpanMut; 3],
    ) {
        on!(self, {
            let _ = (y, kept);
            let (q, k, v) = (dq.host(), dk.host(), dv.host());
            attention::backward(&x.map(Span::host), seqs, dropout, dy.host(), attention::Gradients { q, k, v });
        }, cuda => {
            let kept = kept.expect("a recorded attention keeps what its backward pass needs").cuda();
            let (dq, dk, dv) = (dq.cuda(), dk.cuda(), dv.cuda());
            cuda.attention_backward(&x.map(Span::cuda), seqs, dropout, y.cuda(), kept, dy.cuda(), dq, dk, dv);
        });
    }

    /// Whether queries, keys and values of the same rows are best computed at once, side by side, and so their gradients: whether
    /// [`attention_backward_within`](Self::attention_backward_within) may do anything.
    pub(crate) fn attends_within(&self) -> bool {
        on!(self, false, _cuda => self.rounds())
    }

    /// [`attention_backward`](Self::attention_backward) of columns of one matrix, into the same columns of its gradient, which is
    /// overwritten. Returns whether that was done: not every device does it.
    pub(crate) fn attention_backward_within(
        &self,
        x: Inputs<Span>,
        seqs: &[Sequence],
        dropout: Option<&Dropout>,
        (y, kept): (Span, Option<Span>),
        dy: Span,
        d: SpanMut,
    ) -> bool {
        on!(self, {
            let _ = (x, seqs, dropout, y, kept, dy, d);
            false
        }, cuda => {
            let kept = kept.expect("a recorded attention keeps what its backward pass needs").cuda();
            let x = x.map(Span::cuda);
            cuda.attention_backward_within(&x, seqs, dropout, (y.cuda(), kept), dy.cuda(), d.cuda())
        })
    }
}
