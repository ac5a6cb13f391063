//! Rows in blocks of 64: the unit of work of a thread and of every sum over rows.

use super::meter::{self, Kind};
use rayon::prelude::*;

/// Rows of a block.
pub const BLOCK_ROWS: usize = 64;

/// Elements below which handing work to another thread costs more than doing it.
const WORTH_SHARING: usize = 1 << 15;

/// Whether work is worth sharing among the threads of the present pool.
fn shares(rows: usize, cols: usize) -> bool {
    rows > BLOCK_ROWS && rows * cols >= WORTH_SHARING && rayon::current_num_threads() > 1
}

/// Runs `f` where it can share its work: on a thread of the pool, if that has several. From outside, every kernel would wake the
/// pool and wait for it.
pub fn on_threads<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    if rayon::current_num_threads() > 1 {
        rayon::scope(|_| f())
    } else {
        f()
    }
}

/// Calls `f(first row, rows of y)` for each block of rows of `y`.
pub fn for_rows(y: &mut [f32], cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if y.is_empty() {
        return;
    }
    let block = BLOCK_ROWS * cols;
    if shares(y.len() / cols, cols) {
        y.par_chunks_mut(block)
            .enumerate()
            .for_each(|(i, y)| f(i * BLOCK_ROWS, y));
    } else {
        y.chunks_mut(block).enumerate().for_each(|(i, y)| f(i * BLOCK_ROWS, y));
    }
}

/// As [`for_rows`] for two outputs with the same rows.
pub fn for_rows2(
    (y, y_cols): (&mut [f32], usize),
    (z, z_cols): (&mut [f32], usize),
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    if y.is_empty() {
        return;
    }
    let (y_block, z_block) = (BLOCK_ROWS * y_cols, BLOCK_ROWS * z_cols);
    if shares(y.len() / y_cols, y_cols) {
        let pairs = y.par_chunks_mut(y_block).zip(z.par_chunks_mut(z_block)).enumerate();
        pairs.for_each(|(i, (y, z))| f(i * BLOCK_ROWS, y, z));
    } else {
        let pairs = y.chunks_mut(y_block).zip(z.chunks_mut(z_block)).enumerate();
        pairs.for_each(|(i, (y, z))| f(i * BLOCK_ROWS, y, z));
    }
}

/// Sums over rows: `f(rows, partial)` adds a block of rows, in order, to a zeroed partial sum of `out.len()` elements; the
/// partial sums are added to `out` in block order. `out` is overwritten if `fresh`, else added to.
pub fn sum_rows(rows: usize, out: &mut [f32], fresh: bool, f: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync) {
    let blocks = rows.div_ceil(BLOCK_ROWS);
    let mut partials = vec![0.0f32; blocks * out.len()];
    let one = |(i, partial): (usize, &mut [f32])| {
        let first = i * BLOCK_ROWS;
        f(first..(first + BLOCK_ROWS).min(rows), partial);
    };
    if shares(rows, out.len()) {
        partials.par_chunks_mut(out.len()).enumerate().for_each(one);
    } else {
        partials.chunks_mut(out.len()).enumerate().for_each(one);
    }
    if fresh {
        out.fill(0.0);
    }
    for partial in partials.chunks(out.len()) {
        for (o, p) in out.iter_mut().zip(partial) {
            *o += p;
        }
    }
}

/// Column sums of `x` (rows × `out.len()`).
pub fn sum_columns(x: &[f32], out: &mut [f32], fresh: bool) {
    let _kind = meter::kind(Kind::Bias);
    let cols = out.len();
    sum_rows(x.len() / cols, out, fresh, |rows, partial| {
        for row in x[rows.start * cols..rows.end * cols].chunks_exact(cols) {
            for (p, v) in partial.iter_mut().zip(row) {
                *p += v;
            }
        }
    });
}
