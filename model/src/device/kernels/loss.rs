//! Losses. A gradient `dy` of a loss is one element.

use super::{Device, Span, SpanMut};
use crate::ops::{cross_entropy, sum};

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
