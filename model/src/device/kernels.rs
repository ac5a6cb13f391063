//! One method for each kernel. What a kernel computes stands where the processor's is: see the modules of [`crate::ops`].

use super::{Device, Span, SpanMut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::ops::attention::{self, Inputs, Sequence};
use crate::ops::dropout::{self, Dropout, Place};
use crate::ops::gemm::{self, Mat, Start};
use crate::ops::optim::{self, AdamW};
use crate::ops::{blocks, cross_entropy, elementwise, embedding, norm, patches, sum};
use std::collections::BTreeMap;
use std::ops::Range;

/// A dense, row-major factor of a matrix product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor<'a> {
    data: Span<'a>,
    cols: usize,
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
    /// A matrix with `cols` columns.
    pub(crate) fn new(data: Span<'a>, cols: usize) -> Self {
        Self {
            data,
            cols,
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

    fn mat(self) -> Mat<'a> {
        let mat = Mat::new(self.data.host(), self.cols);
        if self.turned { mat.t() } else { mat }
    }

    /// Columns of the factor as it is used.
    fn width(self) -> usize {
        if self.turned {
            self.data.len() / self.cols
        } else {
            self.cols
        }
    }
}

#[cfg(feature = "cuda")]
impl<'a> From<Factor<'a>> for cuda::Factor<'a> {
    fn from(factor: Factor<'a>) -> Self {
        Self {
            data: factor.data.cuda(),
            rows: factor.data.len() / factor.cols,
            cols: factor.cols,
            turned: factor.turned,
        }
    }
}

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

/// Loops over elements.
impl Device {
    pub(crate) fn fill(&self, y: SpanMut, value: f32) {
        on!(self, y.host().fill(value), cuda => cuda.fill(y.cuda(), value));
    }

    /// `y = x`, from any format to any.
    pub fn copy(&self, x: Span, y: SpanMut) {
        on!(self, y.host().copy_from_slice(x.host()), cuda => cuda.copy(x.cuda(), y.cuda()));
    }

    /// `y += x`.
    pub fn add(&self, x: Span, y: SpanMut) {
        on!(self, elementwise::add(x.host(), y.host()), cuda => cuda.add(x.cuda(), y.cuda()));
    }

    /// `y = x`, or `y += x`.
    pub(crate) fn put(&self, x: Span, y: SpanMut, fresh: bool) {
        if fresh {
            self.copy(x, y);
        } else {
            self.add(x, y);
        }
    }

    pub(crate) fn sum_of(&self, a: Span, b: Span, y: SpanMut) {
        on!(self, elementwise::sum_of(a.host(), b.host(), y.host()),
            cuda => cuda.sum_of(a.cuda(), b.cuda(), y.cuda()));
    }

    pub(crate) fn scale(&self, y: SpanMut, factor: f32) {
        on!(self, elementwise::scale(y.host(), factor), cuda => cuda.scale(y.cuda(), factor));
    }

    /// `y /= temperature`.
    pub(crate) fn cool(&self, y: SpanMut, temperature: Temperature) {
        on!(self, {
            let t = match temperature {
                Temperature::Given(t) => t,
                Temperature::Learned(t) => t.host()[0],
            };
            y.host().iter_mut().for_each(|y| *y /= t);
        }, cuda => match temperature {
            Temperature::Given(t) => cuda.divide_by(y.cuda(), t),
            Temperature::Learned(t) => cuda.divide(y.cuda(), t.cuda()),
        });
    }

    /// `y *= 1 / by`, the inverse rounded.
    pub(crate) fn scale_by_inverse(&self, y: SpanMut, by: Span) {
        on!(self, elementwise::scale(y.host(), 1.0 / by.host()[0]), cuda => cuda.scale_by_inverse(y.cuda(), by.cuda()));
    }

    pub(crate) fn gelu(&self, x: Span, y: SpanMut) {
        on!(self, elementwise::gelu(x.host(), y.host()), cuda => cuda.gelu(x.cuda(), y.cuda()));
    }

    pub(crate) fn gelu_backward(&self, x: Span, d: SpanMut) {
        on!(self, elementwise::gelu_backward(x.host(), d.host()), cuda => cuda.gelu_backward(x.cuda(), d.cuda()));
    }

    /// [`gelu_backward`](Self::gelu_backward), and the column sums of what it yields; in one pass on the processor.
    pub(crate) fn gelu_backward_columns(&self, x: Span, d: SpanMut, sums: SpanMut, fresh: bool) {
        on!(self, elementwise::gelu_backward_columns(x.host(), d.host(), sums.host(), fresh), cuda => {
            let mut d = d.cuda();
            cuda.gelu_backward(x.cuda(), d.reborrow());
            cuda.sum_columns(d.as_slice(), sums.cuda(), fresh);
        });
    }

    pub(crate) fn add_columns(&self, x: Span, cols: usize, y: SpanMut, at: (usize, usize)) {
        on!(self, elementwise::add_columns(x.host(), cols, y.host(), at),
            cuda => cuda.add_columns(x.cuda(), cols, y.cuda(), at));
    }

    /// Copies, or adds, a rectangle of rows × cols; each side says the first element and the distance of rows.
    pub(crate) fn rectangle(
        &self,
        (x, x_at): (Span, (usize, usize)),
        (y, y_at): (SpanMut, (usize, usize)),
        size: (usize, usize),
        fresh: bool,
    ) {
        on!(self, elementwise::rectangle((x.host(), x_at), (y.host(), y_at), size, fresh),
            cuda => cuda.copy_rows(x.cuda(), x_at, y.cuda(), y_at, size, !fresh));
    }

    pub(crate) fn scale_samples(&self, x: Span, y: SpanMut, cols: usize, rows_of: usize, factors: &[f32]) {
        on!(self, elementwise::scale_samples(x.host(), y.host(), cols, rows_of, factors),
            cuda => cuda.scale_samples(x.cuda(), y.cuda(), cols, rows_of, factors));
    }

    /// `y` = every row of `x` times its mask.
    pub(crate) fn dropout_of(&self, dropout: &Dropout, places: &[Place], x: Span, y: SpanMut, cols: usize) {
        on!(self, {
            let y = y.host();
            y.copy_from_slice(x.host());
            dropout::apply(dropout, places, y, cols);
        }, cuda => cuda.dropout_of(dropout, places, x.cuda(), y.cuda(), cols));
    }

    pub(crate) fn dropout(&self, dropout: &Dropout, places: &[Place], y: SpanMut, cols: usize) {
        on!(self, dropout::apply(dropout, places, y.host(), cols),
            cuda => cuda.dropout(dropout, places, y.cuda(), cols));
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

    pub(crate) fn sum_columns(&self, x: Span, out: SpanMut, fresh: bool) {
        on!(self, blocks::sum_columns(x.host(), out.host(), fresh),
            cuda => cuda.sum_columns(x.cuda(), out.cuda(), fresh));
    }

    /// Σ x² in double precision, in an order of its own.
    pub(crate) fn squares(&self, x: Span) -> f64 {
        on!(self, sum::squares_f64(x.host()), cuda => cuda.squares(x.cuda()))
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
}

/// Norms.
impl Device {
    pub(crate) fn layer_norm(&self, x: Span, gamma: Span, beta: Span, eps: f32, y: SpanMut, stats: SpanMut) {
        on!(self, norm::layer_norm(x.host(), gamma.host(), beta.host(), eps, y.host(), stats.host()),
            cuda => cuda.layer_norm(x.cuda(), gamma.cuda(), beta.cuda(), eps, y.cuda(), stats.cuda()));
    }

    /// `sum = a + b`, and its layer norm.
    pub(crate) fn add_norm(
        &self,
        (a, b): (Span, Span),
        (gamma, beta, eps): (Span, Span, f32),
        sum: SpanMut,
        y: SpanMut,
        stats: SpanMut,
    ) {
        on!(self, {
            let affine = (gamma.host(), beta.host(), eps);
            norm::add_norm((a.host(), b.host()), affine, sum.host(), y.host(), stats.host());
        }, cuda => {
            let affine = (gamma.cuda(), beta.cuda(), eps);
            cuda.add_norm((a.cuda(), b.cuda()), None, affine, sum.cuda(), y.cuda(), stats.cuda());
        });
    }

    pub(crate) fn layer_norm_backward(&self, x: Span, stats: Span, gamma: Span, dy: Span, dx: SpanMut, fresh: bool) {
        on!(self, norm::layer_norm_backward(x.host(), stats.host(), gamma.host(), dy.host(), dx.host(), fresh),
            cuda => cuda.layer_norm_backward(x.cuda(), stats.cuda(), gamma.cuda(), dy.cuda(), dx.cuda(), fresh));
    }

    pub(crate) fn layer_norm_params(&self, x: Span, stats: Span, dy: Span, cols: usize, both: SpanMut) {
        on!(self, norm::layer_norm_params(x.host(), stats.host(), dy.host(), cols, both.host()),
            cuda => cuda.layer_norm_params(x.cuda(), stats.cuda(), dy.cuda(), cols, both.cuda()));
    }

    /// [`layer_norm_backward`](Self::layer_norm_backward) and [`layer_norm_params`](Self::layer_norm_params); in one pass on the
    /// processor.
    pub(crate) fn layer_norm_gradients(
        &self,
        x: Span,
        stats: Span,
        gamma: Span,
        dy: Span,
        (dx, fresh): (SpanMut, bool),
        both: SpanMut,
    ) {
        on!(self, {
            let dx = (dx.host(), fresh);
            norm::layer_norm_gradients(x.host(), stats.host(), gamma.host(), dy.host(), dx, both.host());
        }, cuda => {
            let (x, stats, gamma, dy) = (x.cuda(), stats.cuda(), gamma.cuda(), dy.cuda());
            cuda.layer_norm_params(x, stats, dy, gamma.len(), both.cuda());
            cuda.layer_norm_backward(x, stats, gamma, dy, dx.cuda(), fresh);
        });
    }

    pub(crate) fn l2_norm(&self, x: Span, cols: usize, y: SpanMut, norms: SpanMut) {
        on!(self, norm::l2_norm(x.host(), cols, y.host(), norms.host()),
            cuda => cuda.l2_norm(x.cuda(), cols, y.cuda(), norms.cuda()));
    }

    pub(crate) fn l2_norm_backward(&self, y: Span, norms: Span, dy: Span, cols: usize, dx: SpanMut, fresh: bool) {
        on!(self, norm::l2_norm_backward(y.host(), norms.host(), dy.host(), cols, dx.host(), fresh),
            cuda => cuda.l2_norm_backward(y.cuda(), norms.cuda(), dy.cuda(), cols, dx.cuda(), fresh));
    }
}

/// Rows by number.
impl Device {
    pub(crate) fn embed(&self, ids: &[u32], positions: &[u32], words: Span, table: Span, cols: usize, y: SpanMut) {
        on!(self, embedding::embed(ids, positions, words.host(), table.host(), cols, y.host()),
            cuda => cuda.embed(ids, positions, words.cuda(), table.cuda(), cols, y.cuda()));
    }

    pub(crate) fn gather(&self, x: Span, index: &[u32], cols: usize, y: SpanMut) {
        on!(self, embedding::gather(x.host(), index, cols, y.host()),
            cuda => cuda.gather(x.cuda(), index, cols, y.cuda()));
    }

    pub(crate) fn scatter_add(&self, dy: Span, index: &[u32], cols: usize, dx: SpanMut) {
        on!(self, embedding::scatter_add(dy.host(), index, cols, dx.host()),
            cuda => cuda.scatter_add(dy.cuda(), index, cols, dx.cuda()));
    }

    pub(crate) fn tokens(&self, x: Span, samples: usize, class: Span, table: Span, cols: usize, y: SpanMut) {
        on!(self, embedding::tokens(x.host(), samples, class.host(), table.host(), cols, y.host()),
            cuda => cuda.tokens(x.cuda(), samples, class.cuda(), table.cuda(), cols, y.cuda()));
    }

    /// Patches of images that lie in the memory of the process.
    pub(crate) fn patches(&self, pixels: &[f32], images: usize, patch: usize, y: SpanMut) {
        on!(self, patches::patches(pixels, images, patch, y.host()), cuda => {
            let mut there = cuda.memory(pixels.len());
            cuda.upload(pixels, there.slice_mut());
            cuda.patches(there.slice(), images, patch, y.cuda());
        });
    }

    /// `y[index[i]] += values[i]`; no number stands in `index` twice.
    pub(crate) fn add_at(&self, y: SpanMut, index: &[u32], values: &[f32]) {
        on!(self, {
            let y = y.host();
            index.iter().zip(values).for_each(|(i, v)| y[*i as usize] += v);
        }, cuda => cuda.add_at(y.cuda(), index, values));
    }
}

/// Losses. A gradient `dy` of a loss is one element.
impl Device {
    pub(crate) fn softmax(&self, x: SpanMut, cols: usize) {
        on!(self, cross_entropy::softmax(x.host(), cols), cuda => cuda.softmax(x.cuda(), cols));
    }

    pub(crate) fn smoothed(&self, x: Span, targets: &[u32], smoothing: f32, cols: usize, rows: SpanMut) {
        on!(self, cross_entropy::smoothed(x.host(), targets, smoothing, cols, rows.host()),
            cuda => cuda.smoothed(x.cuda(), targets, smoothing, cols, rows.cuda()));
    }

    /// Turns logits into their gradient, that of the mean over rows.
    pub(crate) fn smoothed_backward(
        &self,
        x: SpanMut,
        rows: Span,
        targets: &[u32],
        smoothing: f32,
        cols: usize,
        dy: Span,
    ) {
        on!(self, {
            let weight = dy.host()[0] / targets.len() as f32;
            cross_entropy::smoothed_backward(x.host(), rows.host(), targets, smoothing, cols, weight);
        }, cuda => cuda.smoothed_backward(x.cuda(), rows.cuda(), targets, smoothing, cols, dy.cuda()));
    }

    pub(crate) fn soft(&self, x: Span, targets: Span, cols: usize, rows: SpanMut) {
        on!(self, cross_entropy::soft(x.host(), targets.host(), cols, rows.host()),
            cuda => cuda.soft(x.cuda(), targets.cuda(), cols, rows.cuda()));
    }

    /// The gradient of the mean over rows.
    pub(crate) fn soft_backward(
        &self,
        x: Span,
        rows: Span,
        targets: Span,
        cols: usize,
        dy: Span,
        (d, fresh): (SpanMut, bool),
    ) {
        on!(self, {
            let weight = dy.host()[0] / (x.len() / cols) as f32;
            cross_entropy::soft_backward(x.host(), rows.host(), targets.host(), cols, weight, (d.host(), fresh));
        }, cuda => cuda.soft_backward(x.cuda(), rows.cuda(), targets.cuda(), cols, dy.cuda(), d.cuda(), fresh));
    }

    /// Mean of the losses in what is kept of rows.
    pub(crate) fn mean_loss(&self, rows: Span, y: SpanMut) {
        on!(self, y.host()[0] = cross_entropy::mean(rows.host()), cuda => cuda.mean_loss(rows.cuda(), y.cuda()));
    }

    /// `y = Σ weightᵢ·xᵢ` of scalars.
    pub(crate) fn weighted_sum(&self, terms: &[(Span, f32)], y: SpanMut) {
        on!(self, {
            let sum = |total, (x, weight): &(Span, f32)| weight.mul_add(x.host()[0], total);
            y.host()[0] = terms.iter().fold(0.0, sum);
        }, cuda => {
            let terms: Vec<_> = terms.iter().map(|(x, weight)| (x.cuda(), *weight)).collect();
            cuda.weighted_sum(&terms, y.cuda());
        });
    }

    /// `d = weight·dy`, or added to it, of scalars.
    pub(crate) fn weighted(&self, dy: Span, weight: f32, d: SpanMut, fresh: bool) {
        on!(self, {
            let (dy, d) = (dy.host()[0], d.host());
            d[0] = if fresh { weight * dy } else { weight.mul_add(dy, d[0]) };
        }, cuda => cuda.weighted(dy.cuda(), weight, d.cuda(), fresh));
    }

    /// The temperature's gradient from that of `y = s / t`: ∂(s/t)/∂t = −(s/t)/t.
    pub(crate) fn slope(&self, dy: Span, y: Span, t: Span, d: SpanMut, fresh: bool) {
        on!(self, {
            let slope = -sum::dot(dy.host(), y.host()) / t.host()[0];
            let d = d.host();
            d[0] = if fresh { slope } else { d[0] + slope };
        }, cuda => cuda.slope(dy.cuda(), y.cuda(), t.cuda(), d.cuda(), fresh));
    }
}

/// The optimiser.
impl Device {
    /// One step of AdamW on each range; what is rounded follows.
    pub(crate) fn adamw(
        &self,
        segments: &[(Range<usize>, AdamW)],
        (p, rounded): (SpanMut, Option<SpanMut>),
        (g, scale): (Span, f32),
        [m, v]: [SpanMut; 2],
    ) {
        on!(self, {
            let _ = rounded;
            let (p, g, m, v) = (p.host(), g.host(), m.host(), v.host());
            for (at, step) in segments {
                let (m, v) = (&mut m[at.clone()], &mut v[at.clone()]);
                step.apply(&mut p[at.clone()], &g[at.clone()], scale, m, v);
            }
        }, cuda => {
            let rounded = rounded.map(SpanMut::cuda);
            cuda.adamw_all(segments, p.cuda(), g.cuda(), scale, m.cuda(), v.cuda(), rounded);
        });
    }

    /// The momentum average of each segment: where it begins in `e` and in `p`, and its length; what is rounded follows.
    pub(crate) fn momentum_average(
        &self,
        segments: &[(usize, usize, usize)],
        (e, rounded): (SpanMut, Option<SpanMut>),
        p: Span,
        momentum: f64,
    ) {
        on!(self, {
            let _ = rounded;
            let (e, p) = (e.host(), p.host());
            for &(to, from, len) in segments {
                optim::momentum_average(&mut e[to..to + len], &p[from..from + len], momentum);
            }
        }, cuda => cuda.momentum_all(segments, e.cuda(), p.cuda(), momentum, rounded.map(SpanMut::cuda)));
    }

    /// [`adamw`](Self::adamw), and the [`momentum_average`](Self::momentum_average) of what it leaves; on the processor, a segment
    /// of averages that is a range of the step is made in the same pass over memory.
    pub(crate) fn adamw_and_average(
        &self,
        steps: &[(Range<usize>, AdamW)],
        (p, p_rounded): (SpanMut, Option<SpanMut>),
        (g, scale): (Span, f32),
        [m, v]: [SpanMut; 2],
        segments: &[(usize, usize, usize)],
        (e, e_rounded): (SpanMut, Option<SpanMut>),
        momentum: f64,
    ) {
        on!(self, {
            let _ = (p_rounded, e_rounded);
            let (p, g, m, v, e) = (p.host(), g.host(), m.host(), v.host(), e.host());
            let mut averages: BTreeMap<_, _> = segments.iter().map(|(to, from, len)| ((*from, *len), *to)).collect();
            for (at, step) in steps {
                let (m, v) = (&mut m[at.clone()], &mut v[at.clone()]);
                let (p, g) = (&mut p[at.clone()], &g[at.clone()]);
                if let Some(to) = averages.remove(&(at.start, at.len())) {
                    step.apply_and_average(p, g, scale, m, v, (&mut e[to..to + at.len()], momentum));
                } else {
                    step.apply(p, g, scale, m, v);
                }
            }
            for ((from, len), to) in averages {
                optim::momentum_average(&mut e[to..to + len], &p[from..from + len], momentum);
            }
        }, cuda => {
            let mut p = p.cuda();
            let rounded = p_rounded.map(SpanMut::cuda);
            cuda.adamw_all(steps, p.reborrow(), g.cuda(), scale, m.cuda(), v.cuda(), rounded);
            cuda.momentum_all(segments, e.cuda(), p.as_slice(), momentum, e_rounded.map(SpanMut::cuda));
        });
    }

    pub(crate) fn clamp(&self, y: SpanMut, min: f32, max: f32) {
        on!(self, y.host().iter_mut().for_each(|y| *y = y.clamp(min, max)), cuda => cuda.clamp(y.cuda(), min, max));
    }
}
