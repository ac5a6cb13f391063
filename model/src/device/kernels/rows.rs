//! Norms of rows, and rows by number.

use super::{Device, Span, SpanMut};
use crate::ops::{embedding, norm, patches};

/// Norms.
impl Device {
    pub(crate) fn layer_norm(&self, x: Span, gamma: Span, beta: Span, eps: f32, y: SpanMut, stats: SpanMut) {
        on!(self, norm::layer_norm(x.host(), gamma.host(), beta.host(), eps, y.host(), stats.host()),
            cuda => cuda.layer_norm(x.cuda(), gamma.cuda(), beta.cuda(), eps, y.cuda(), stats.cuda()));
    }

    /// `sum = a + b`, and its layer norm, in one pass.
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
            cuda.add_norm([a.cuda(), b.cuda()], affine, sum.cuda(), y.cuda(), stats.cuda());
        });
    }

    pub(crate) fn layer_norm_backward(&self, x: Span, stats: Span, gamma: Span, dy: Span, dx: SpanMut, fresh: bool) {
        on!(self, norm::layer_norm_backward(x.host(), stats.host(), gamma.host(), dy.host(), dx.host(), fresh),
            cuda => cuda.layer_norm_backward(x.cuda(), stats.cuda(), gamma.cuda(), dy.cuda(), dx.cuda(), fresh));
    }

    /// The gradients of gain and offset, put into or added to these. `both` is scratch for them.
    pub(crate) fn layer_norm_params(
        &self,
        x: Span,
        stats: Span,
        dy: Span,
        ([gain, offset], fresh): ([SpanMut; 2], bool),
        mut both: SpanMut,
    ) {
        let cols = gain.len();
        on!(self, {
            norm::layer_norm_params(x.host(), stats.host(), dy.host(), cols, both.reborrow().host());
            self.put_both(both.as_span(), [gain, offset], fresh);
        }, cuda => cuda.layer_norm_params_to(x.cuda(), stats.cuda(), dy.cuda(), [gain.cuda(), offset.cuda()], fresh));
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
        (params, params_fresh): ([SpanMut; 2], bool),
        mut both: SpanMut,
    ) {
        on!(self, {
            let dx = (dx.host(), fresh);
            norm::layer_norm_gradients(x.host(), stats.host(), gamma.host(), dy.host(), dx, both.reborrow().host());
            self.put_both(both.as_span(), params, params_fresh);
        }, cuda => {
            let (x, stats, gamma, dy) = (x.cuda(), stats.cuda(), gamma.cuda(), dy.cuda());
            cuda.layer_norm_params_to(x, stats, dy, params.map(SpanMut::cuda), params_fresh);
            cuda.layer_norm_backward(x, stats, gamma, dy, dx.cuda(), fresh);
        });
    }

    fn put_both(&self, both: Span, [gain, offset]: [SpanMut; 2], fresh: bool) {
        let (cols, all) = (gain.len(), both.len());
        self.put(both.range(0..cols), gain, fresh);
        self.put(both.range(cols..all), offset, fresh);
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

    /// Patches of images that lie in the memory of the process, or were sent to the device.
    pub(crate) fn patches(&self, pixels: Span, images: usize, patch: usize, y: SpanMut) {
        on!(self, patches::patches(pixels.host(), images, patch, y.host()), cuda => match pixels {
            Span::Cuda(pixels) => cuda.patches(pixels, images, patch, y.cuda()),
            Span::Host(pixels) => {
                let mut there = cuda.memory(pixels.len());
                cuda.upload(pixels, there.slice_mut());
                cuda.patches(there.slice(), images, patch, y.cuda());
            }
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
