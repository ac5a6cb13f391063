//! Softmax and cross-entropy over rows of logits, without stored probabilities.
//!
//! What is kept of a row is its largest logit and log Σ exp of the distances from it, not their sum: rounded to the size of
//! the logits, that would blur the gradient of a row the model is sure of.

use super::blocks::for_rows;
use super::math::exp;
use super::meter::{self, Kind};
use super::sum::{dot, max, sum};

/// Numbers kept of a row: its loss, its largest logit, and log Σ exp(x − largest).
pub const KEPT: usize = 3;

/// The largest logit of a row, and log Σ exp(x − largest).
fn log_sum_exp(x: &[f32], scratch: &mut Vec<f32>) -> (f32, f32) {
    let top = max(x);
    scratch.clear();
    scratch.extend(x.iter().map(|&v| exp(v - top)));
    (top, libm::logf(sum(scratch)))
}

/// Replaces each row by its softmax.
pub fn softmax(x: &mut [f32], cols: usize) {
    let _kind = meter::kind(Kind::Loss);
    for_rows(x, cols, |_, x| x.chunks_exact_mut(cols).for_each(softmax_row));
}

/// Replaces a row by its softmax.
#[inline]
pub fn softmax_row(x: &mut [f32]) {
    let top = max(x);
    for v in x.iter_mut() {
        *v = exp(*v - top);
    }
    let inverse = 1.0 / sum(x);
    for v in x.iter_mut() {
        *v *= inverse;
    }
}

/// Cross-entropy with label smoothing of each row against its target: `(1 − s)·(−log p_t) + s/n · Σ −log p`.
///
/// `rows` receives what is [`KEPT`] of each row.
pub fn smoothed(x: &[f32], targets: &[u32], smoothing: f32, cols: usize, rows: &mut [f32]) {
    let _kind = meter::kind(Kind::Loss);
    for_rows(rows, KEPT, |row, rows| {
        let mut scratch = Vec::with_capacity(cols);
        for (i, out) in rows.chunks_exact_mut(KEPT).enumerate() {
            let x = &x[(row + i) * cols..][..cols];
            let (top, log_sum) = log_sum_exp(x, &mut scratch);
            let nll = log_sum - (x[targets[row + i] as usize] - top);
            let uniform = log_sum - (sum(x) / cols as f32 - top);
            let loss = (1.0 - smoothing).mul_add(nll, smoothing * uniform);
            out.copy_from_slice(&[loss, top, log_sum]);
        }
    });
}

/// Turns logits into their gradient in place: `weight · (p − (1 − s)·1_t − s/n)`.
pub fn smoothed_backward(x: &mut [f32], rows: &[f32], targets: &[u32], smoothing: f32, cols: usize, weight: f32) {
    let _kind = meter::kind(Kind::Loss);
    let floor = smoothing / cols as f32;
    for_rows(x, cols, |row, x| {
        let kept = rows[KEPT * row..].chunks_exact(KEPT);
        for ((x, kept), target) in x.chunks_exact_mut(cols).zip(kept).zip(&targets[row..]) {
            for v in x.iter_mut() {
                *v = weight * (exp(*v - kept[1] - kept[2]) - floor);
            }
            x[*target as usize] -= weight * (1.0 - smoothing);
        }
    });
}

/// Cross-entropy of each row against a distribution: `−Σ t·log_softmax(x)`; `rows` receives what is [`KEPT`] of each row.
pub fn soft(x: &[f32], targets: &[f32], cols: usize, rows: &mut [f32]) {
    let _kind = meter::kind(Kind::Loss);
    for_rows(rows, KEPT, |row, rows| {
        let mut scratch = Vec::with_capacity(cols);
        for (i, out) in rows.chunks_exact_mut(KEPT).enumerate() {
            let at = (row + i) * cols;
            let (x, t) = (&x[at..at + cols], &targets[at..at + cols]);
            let (top, log_sum) = log_sum_exp(x, &mut scratch);
            let loss = (top + log_sum).mul_add(sum(t), -dot(t, x));
            out.copy_from_slice(&[loss, top, log_sum]);
        }
    });
}

/// The gradient of the logits, `weight · (p·Σt − t)`, put into or added to `d`.
pub fn soft_backward(
    x: &[f32],
    rows: &[f32],
    targets: &[f32],
    cols: usize,
    weight: f32,
    (d, fresh): (&mut [f32], bool),
) {
    let _kind = meter::kind(Kind::Loss);
    for_rows(d, cols, |row, d| {
        let (x, kept, targets) = (&x[row * cols..], &rows[KEPT * row..], &targets[row * cols..]);
        let rows = d.chunks_exact_mut(cols).zip(x.chunks_exact(cols));
        let rows = rows.zip(kept.chunks_exact(KEPT)).zip(targets.chunks_exact(cols));
        for (((d, x), kept), t) in rows {
            let mass = sum(t);
            for ((d, x), t) in d.iter_mut().zip(x).zip(t) {
                let slope = weight * exp(*x - kept[1] - kept[2]).mul_add(mass, -t);
                *d = if fresh { slope } else { *d + slope };
            }
        }
    });
}

/// Mean of the losses in what is [`KEPT`] of rows, in order.
pub fn mean(rows: &[f32]) -> f32 {
    let losses = rows.chunks_exact(KEPT).map(|row| row[0]);
    losses.fold(0.0, |a, b| a + b) / (rows.len() / KEPT) as f32
}
