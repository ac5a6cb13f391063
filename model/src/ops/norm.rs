//! Layer normalisation and L2 normalisation of rows, forward and backward.

use super::blocks::{for_rows, for_rows2, sum_rows};
use super::meter::{self, Kind};
use super::sum::{dot, squares_about, sum};

/// `y = (x − mean) · rstd · gamma + beta` for each row; `stats` receives (mean, rstd) of each.
pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32], stats: &mut [f32]) {
    let _kind = meter::kind(Kind::Norm);
    let cols = gamma.len();
    for_rows2((y, cols), (stats, 2), |row, y, stats| {
        let x = &x[row * cols..][..y.len()];
        for ((x, y), stat) in x
            .chunks_exact(cols)
            .zip(y.chunks_exact_mut(cols))
            .zip(stats.chunks_exact_mut(2))
        {
            let mean = sum(x) / cols as f32;
            let rstd = 1.0 / (squares_about(x, mean) / cols as f32 + eps).sqrt();
            stat[0] = mean;
            stat[1] = rstd;
            for (((y, x), g), b) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                *y = ((x - mean) * rstd).mul_add(*g, *b);
            }
        }
    });
}

/// The gradient of a layer norm's input, put into or added to `dx`.
pub fn layer_norm_backward(x: &[f32], stats: &[f32], gamma: &[f32], dy: &[f32], dx: &mut [f32], fresh: bool) {
    let _kind = meter::kind(Kind::Norm);
    let cols = gamma.len();
    for_rows(dx, cols, |row, dx| {
        let mut weighted = vec![0.0f32; cols];
        let mut normed = vec![0.0f32; cols];
        for (i, dx) in dx.chunks_exact_mut(cols).enumerate() {
            let at = (row + i) * cols;
            let (mean, rstd) = (stats[2 * (row + i)], stats[2 * (row + i) + 1]);
            let (x, dy) = (&x[at..at + cols], &dy[at..at + cols]);
            for j in 0..cols {
                weighted[j] = dy[j] * gamma[j];
                normed[j] = (x[j] - mean) * rstd;
            }
            let a = sum(&weighted) / cols as f32;
            let b = dot(&weighted, &normed) / cols as f32;
            for j in 0..cols {
                let d = rstd * (weighted[j] - a - normed[j] * b);
                dx[j] = if fresh { d } else { dx[j] + d };
            }
        }
    });
}

/// The gradients of a layer norm's gain and offset: `both` receives dγ then dβ.
pub fn layer_norm_params(x: &[f32], stats: &[f32], dy: &[f32], cols: usize, both: &mut [f32]) {
    let _kind = meter::kind(Kind::Norm);
    sum_rows(x.len() / cols, both, true, |rows, partial| {
        let (dgamma, dbeta) = partial.split_at_mut(cols);
        for r in rows {
            let (mean, rstd) = (stats[2 * r], stats[2 * r + 1]);
            let (x, dy) = (&x[r * cols..][..cols], &dy[r * cols..][..cols]);
            for j in 0..cols {
                dgamma[j] = (dy[j] * rstd).mul_add(x[j] - mean, dgamma[j]);
                dbeta[j] += dy[j];
            }
        }
    });
}

/// Norms below this are treated as this, as torch's `normalize` does.
const MIN_NORM: f32 = 1e-12;

/// `y = x / ‖x‖` for each row; `norms` receives ‖x‖.
pub fn l2_norm(x: &[f32], cols: usize, y: &mut [f32], norms: &mut [f32]) {
    for ((x, y), norm) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).zip(norms) {
        *norm = dot(x, x).sqrt().max(MIN_NORM);
        for (y, x) in y.iter_mut().zip(x) {
            *y = x / *norm;
        }
    }
}

/// The gradient of [`l2_norm`], put into or added to `dx`.
pub fn l2_norm_backward(y: &[f32], norms: &[f32], dy: &[f32], cols: usize, dx: &mut [f32], fresh: bool) {
    let rows = y
        .chunks_exact(cols)
        .zip(dy.chunks_exact(cols))
        .zip(dx.chunks_exact_mut(cols))
        .zip(norms);
    for (((y, dy), dx), norm) in rows {
        let along = dot(y, dy);
        for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
            let d = (dy - y * along) / norm;
            *dx = if fresh { d } else { *dx + d };
        }
    }
}
