//! Softmax and cross-entropy over rows of logits, without stored probabilities.

use super::blocks::{for_rows, for_rows2};
use super::math::exp;
use super::sum::{dot, max, sum};

/// `log Σ exp(x)` of a row.
fn log_sum_exp(x: &[f32], scratch: &mut Vec<f32>) -> f32 {
    let top = max(x);
    scratch.clear();
    scratch.extend(x.iter().map(|&v| exp(v - top)));
    top + libm::logf(sum(scratch))
}

/// Replaces each row by its softmax.
pub fn softmax(x: &mut [f32], cols: usize) {
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
/// `rows` receives (loss, log-sum-exp) of each row.
pub fn smoothed(x: &[f32], targets: &[u32], smoothing: f32, cols: usize, rows: &mut [f32]) {
    for_rows(rows, 2, |row, rows| {
        let mut scratch = Vec::with_capacity(cols);
        for (i, out) in rows.chunks_exact_mut(2).enumerate() {
            let x = &x[(row + i) * cols..][..cols];
            let lse = log_sum_exp(x, &mut scratch);
            let nll = lse - x[targets[row + i] as usize];
            let uniform = lse - sum(x) / cols as f32;
            out[0] = (1.0 - smoothing).mul_add(nll, smoothing * uniform);
            out[1] = lse;
        }
    });
}

/// Turns logits into their gradient in place: `weight · (p − (1 − s)·1_t − s/n)`.
pub fn smoothed_backward(x: &mut [f32], rows: &[f32], targets: &[u32], smoothing: f32, cols: usize, weight: f32) {
    let floor = smoothing / cols as f32;
    for_rows(x, cols, |row, x| {
        for (i, x) in x.chunks_exact_mut(cols).enumerate() {
            let lse = rows[2 * (row + i) + 1];
            for v in x.iter_mut() {
                *v = weight * (exp(*v - lse) - floor);
            }
            x[targets[row + i] as usize] -= weight * (1.0 - smoothing);
        }
    });
}

/// Cross-entropy of each row against a distribution: `−Σ t·log_softmax(x)`; `rows` receives (loss, log-sum-exp).
pub fn soft(x: &[f32], targets: &[f32], cols: usize, rows: &mut [f32]) {
    for_rows(rows, 2, |row, rows| {
        let mut scratch = Vec::with_capacity(cols);
        for (i, out) in rows.chunks_exact_mut(2).enumerate() {
            let at = (row + i) * cols;
            let (x, t) = (&x[at..at + cols], &targets[at..at + cols]);
            let lse = log_sum_exp(x, &mut scratch);
            out[0] = lse.mul_add(sum(t), -dot(t, x));
            out[1] = lse;
        }
    });
}

/// Turns logits into their gradient in place: `weight · (p·Σt − t)`.
pub fn soft_backward(x: &mut [f32], rows: &mut [f32], targets: &[f32], cols: usize, weight: f32) {
    for_rows2((x, cols), (rows, 2), |row, x, rows| {
        for (i, (x, stat)) in x.chunks_exact_mut(cols).zip(rows.chunks_exact(2)).enumerate() {
            let t = &targets[(row + i) * cols..][..cols];
            let (lse, mass) = (stat[1], sum(t));
            for (x, t) in x.iter_mut().zip(t) {
                *x = weight * exp(*x - lse).mul_add(mass, -t);
            }
        }
    });
}
