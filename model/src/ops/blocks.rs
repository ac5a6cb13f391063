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

/// Calls `f(first row, block)` for the parts of `blocks`, one for each block of rows, of work on rows × cols elements.
pub fn for_blocks<T: Send>(blocks: impl Iterator<Item = T>, (rows, cols): (usize, usize), f: impl Fn(usize, T) + Sync) {
    let one = |(i, block): (usize, T)| f(i * BLOCK_ROWS, block);
    if shares(rows, cols) {
        blocks.enumerate().collect::<Vec<_>>().into_par_iter().for_each(one);
    } else {
        blocks.enumerate().for_each(one);
    }
}

/// Calls `f(first row, rows of y)` for each block of rows of `y`.
pub fn for_rows(y: &mut [f32], cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if y.is_empty() {
        return;
    }
    let shape = (y.len() / cols, cols);
    for_blocks(y.chunks_mut(BLOCK_ROWS * cols), shape, f);
}

/// Sums over rows: `f(rows, partial)` adds a block of rows, in order, to a zeroed partial sum of `out.len()` elements; the
/// partial sums are added to `out` in block order. `out` is overwritten if `fresh`, else added to.
pub fn sum_rows(rows: usize, out: &mut [f32], fresh: bool, f: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync) {
    let (len, mut partials) = (out.len(), partials(rows, out));
    for_blocks(partials.chunks_mut(len), (rows, len), |first, partial| {
        f(first..(first + BLOCK_ROWS).min(rows), partial);
    });
    add_partials(&partials, out, fresh);
}

/// As [`sum_rows`], of what the same pass writes: `f(first row, rows of y, partial)`.
pub fn write_and_sum_rows(
    (y, cols): (&mut [f32], usize),
    out: &mut [f32],
    fresh: bool,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let rows = y.len() / cols;
    let (len, mut partials) = (out.len(), partials(rows, out));
    let blocks = y.chunks_mut(BLOCK_ROWS * cols).zip(partials.chunks_mut(len));
    for_blocks(blocks, (rows, cols), |first, (y, partial)| f(first, y, partial));
    add_partials(&partials, out, fresh);
}

/// A zeroed partial sum for each block of rows.
fn partials(rows: usize, out: &[f32]) -> Vec<f32> {
    vec![0.0; rows.div_ceil(BLOCK_ROWS) * out.len()]
}

fn add_partials(partials: &[f32], out: &mut [f32], fresh: bool) {
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
