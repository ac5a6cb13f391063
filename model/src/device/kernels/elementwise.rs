//! Loops over elements.

use super::{Device, Span, SpanMut, Temperature};
use crate::ops::dropout::{self, Dropout, Place};
use crate::ops::elementwise;

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

    /// [`gelu_backward`](Self::gelu_backward), and the column sums of what it yields, in one pass.
    pub(crate) fn gelu_backward_columns(&self, x: Span, d: SpanMut, sums: SpanMut, fresh: bool) {
        on!(self, elementwise::gelu_backward_columns(x.host(), d.host(), sums.host(), fresh),
            cuda => cuda.gelu_backward_columns(x.cuda(), d.cuda(), sums.cuda(), fresh));
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

    /// [`dropout_of`](Self::dropout_of), and the column sums of `y`; in one pass on a GPU.
    pub(crate) fn dropout_of_columns(
        &self,
        dropout: &Dropout,
        places: &[Place],
        x: Span,
        mut y: SpanMut,
        (sums, fresh): (SpanMut, bool),
    ) {
        on!(self, {
            self.dropout_of(dropout, places, x, y.reborrow(), sums.len());
            self.sum_columns(y.as_span(), sums, fresh);
        }, cuda => cuda.dropout_of_columns(dropout, places, x.cuda(), y.cuda(), sums.cuda(), fresh));
    }
}
