//! Layer normalisation and L2 normalisation of rows, forward and backward.

use super::blocks::{BLOCK_ROWS, for_blocks, for_rows, sum_rows, write_and_sum_rows};
use super::meter::{self, Kind};
use super::sum::{dot, squares_about, sum};

/// `y = (x − mean) · rstd · gamma + beta` for each row; `stats` receives (mean, rstd) of each.
pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32], stats: &mut [f32]) {
    let _kind = meter::kind(Kind::Norm);
    let cols = gamma.len();
    let shape = (y.len() / cols, cols);
    let blocks = y.chunks_mut(BLOCK_ROWS * cols).zip(stats.chunks_mut(BLOCK_ROWS * 2));
    for_blocks(blocks, shape, |row, (y, stats)| {
        let x = &x[row * cols..][..y.len()];
        let rows = y.chunks_exact_mut(cols).zip(stats.chunks_exact_mut(2));
        for ((y, stat), x) in rows.zip(x.chunks_exact(cols)) {
            norm_row(x, gamma, beta, eps, y, stat);
        }
    });
}

/// `sum = a + b` and its [`layer_norm`], row by row while the sum is in the cache.
pub fn add_norm(
    (a, b): (&[f32], &[f32]),
    (gamma, beta, eps): (&[f32], &[f32], f32),
    sum: &mut [f32],
    y: &mut [f32],
    stats: &mut [f32],
) {
    let _kind = meter::kind(Kind::Norm);
    let cols = gamma.len();
    let (block, shape) = (BLOCK_ROWS * cols, (y.len() / cols, cols));
    let outputs = sum.chunks_mut(block).zip(y.chunks_mut(block));
    let blocks = outputs.zip(stats.chunks_mut(BLOCK_ROWS * 2));
    for_blocks(blocks, shape, |row, ((sum, y), stats)| {
        let [a, b] = [a, b].map(|input| input[row * cols..][..y.len()].chunks_exact(cols));
        let outputs = sum.chunks_exact_mut(cols).zip(y.chunks_exact_mut(cols));
        for (((sum, y), stat), (a, b)) in outputs.zip(stats.chunks_exact_mut(2)).zip(a.zip(b)) {
            for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
                *sum = a + b;
            }
            norm_row(sum, gamma, beta, eps, y, stat);
        }
    });
}

#[inline]
fn norm_row(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32], stat: &mut [f32]) {
    let cols = gamma.len() as f32;
    let mean = sum(x) / cols;
    let rstd = 1.0 / (squares_about(x, mean) / cols + eps).sqrt();
    stat[0] = mean;
    stat[1] = rstd;
    for (((y, x), g), b) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
        *y = ((x - mean) * rstd).mul_add(*g, *b);
    }
}

/// The gradient of a layer norm's input, put into or added to `dx`.
pub fn layer_norm_backward(x: &[f32], stats: &[f32], gamma: &[f32], dy: &[f32], dx: &mut [f32], fresh: bool) {
    let _kind = meter::kind(Kind::Norm);
    let cols = gamma.len();
    for_rows(dx, cols, |row, dx| {
        let mut scratch = vec![0.0f32; 2 * cols];
        for (r, dx) in (row..).zip(dx.chunks_exact_mut(cols)) {
            let row = Row::of(x, stats, dy, r, cols);
            row.backward(gamma, dx, fresh, &mut scratch);
        }
    });
}

/// The gradients of a layer norm's gain and offset: `both` receives dγ then dβ.
pub fn layer_norm_params(x: &[f32], stats: &[f32], dy: &[f32], cols: usize, both: &mut [f32]) {
    let _kind = meter::kind(Kind::Norm);
    sum_rows(x.len() / cols, both, true, |rows, partial| {
        rows.for_each(|r| Row::of(x, stats, dy, r, cols).add_to_params(partial));
    });
}

/// [`layer_norm_backward`] and [`layer_norm_params`] in one pass over rows.
pub fn layer_norm_gradients(
    x: &[f32],
    stats: &[f32],
    gamma: &[f32],
    dy: &[f32],
    (dx, fresh): (&mut [f32], bool),
    both: &mut [f32],
) {
    let _kind = meter::kind(Kind::Norm);
    let cols = gamma.len();
    write_and_sum_rows((dx, cols), both, true, |row, dx, partial| {
        let mut scratch = vec![0.0f32; 2 * cols];
        for (r, dx) in (row..).zip(dx.chunks_exact_mut(cols)) {
            let row = Row::of(x, stats, dy, r, cols);
            row.add_to_params(partial);
            row.backward(gamma, dx, fresh, &mut scratch);
        }
    });
}

/// What the backward pass of a layer norm reads of one row.
struct Row<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    mean: f32,
    rstd: f32,
}

impl<'a> Row<'a> {
    #[inline]
    fn of(x: &'a [f32], stats: &[f32], dy: &'a [f32], row: usize, cols: usize) -> Self {
        let at = row * cols;
        Self {
            x: &x[at..at + cols],
            dy: &dy[at..at + cols],
            mean: stats[2 * row],
            rstd: stats[2 * row + 1],
        }
    }

    /// The gradient of the row, put into or added to `dx`. `scratch` has room for two rows.
    #[inline]
    fn backward(&self, gamma: &[f32], dx: &mut [f32], fresh: bool, scratch: &mut [f32]) {
        let Self { x, dy, mean, rstd } = *self;
        let cols = x.len();
        let (weighted, normed) = scratch.split_at_mut(cols);
        // Of lengths that the compiler sees to be one.
        let (dy, gamma, dx, normed) = (&dy[..cols], &gamma[..cols], &mut dx[..cols], &mut normed[..cols]);
        for j in 0..cols {
            weighted[j] = dy[j] * gamma[j];
            normed[j] = (x[j] - mean) * rstd;
        }
        let a = sum(weighted) / cols as f32;
        let b = dot(weighted, normed) / cols as f32;
        for j in 0..cols {
            let d = rstd * (weighted[j] - a - normed[j] * b);
            dx[j] = if fresh { d } else { dx[j] + d };
        }
    }

    /// Adds the row's share to dγ, then dβ.
    #[inline]
    fn add_to_params(&self, both: &mut [f32]) {
        let Self { x, dy, mean, rstd } = *self;
        let (dgamma, dbeta) = both.split_at_mut(x.len());
        for (((dgamma, dbeta), x), dy) in dgamma.iter_mut().zip(dbeta).zip(x).zip(dy) {
            *dgamma = (dy * rstd).mul_add(x - mean, *dgamma);
            *dbeta += dy;
        }
    }
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
