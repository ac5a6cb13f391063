//! Products of a head's small matrices, in registers.
//!
//! A tile of sums is 6 rows by 16 columns. The right factor lies in tiles of 16 columns, the rows of the left one are packed six at
//! a time, so the inner loop reads both on and on; a transposed factor is only packed another way. Every sum runs over ascending
//! k, one fused multiply-add after the other, whatever stands beside it.

use super::Columns;
use std::ops::Range;

/// Rows and columns of a tile of sums that fits the registers.
const ROWS: usize = 6;
const TILE: usize = 16;

/// Columns in whole tiles.
pub(super) fn padded(n: usize) -> usize {
    n.next_multiple_of(TILE)
}

/// The left factor of a product: element (i, p) at `i·row_stride + p·col_stride`, one of the strides 1.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    data: &'a [f32],
    rows: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Left<'a> {
    /// Rows of a head.
    pub(super) fn head(from: &Columns<&'a [f32]>, rows: &Range<usize>, head: usize, dim: usize) -> Self {
        Self {
            data: &from.data[rows.start * from.stride + from.offset + head * dim..],
            rows: rows.len(),
            row_stride: from.stride,
            col_stride: 1,
        }
    }

    /// The rows of `data`, `stride` apart.
    pub(super) fn rows(data: &'a [f32], rows: usize, stride: usize) -> Self {
        Self {
            data,
            rows,
            row_stride: stride,
            col_stride: 1,
        }
    }

    /// The first `cols` columns of `data`, whose rows are `stride` apart, as rows.
    pub(super) fn columns(data: &'a [f32], cols: usize, stride: usize) -> Self {
        Self {
            data,
            rows: cols,
            row_stride: 1,
            col_stride: stride,
        }
    }

    /// Copies up to [`ROWS`] rows from `first` on side by side: k × `ROWS`, zeros where there are no more.
    fn pack(&self, first: usize, k: usize, to: &mut Vec<f32>) {
        let height = ROWS.min(self.rows - first);
        to.resize(k * ROWS, 0.0);
        let (places, _) = to.as_chunks_mut::<ROWS>();
        if height < ROWS {
            places.fill([0.0; ROWS]);
        }
        if self.col_stride == 1 {
            for r in 0..height {
                let row = &self.data[(first + r) * self.row_stride..][..k];
                for (place, v) in places.iter_mut().zip(row) {
                    place[r] = *v;
                }
            }
        } else {
            for (p, place) in places.iter_mut().enumerate() {
                let column = &self.data[p * self.col_stride + first..][..height];
                place[..height].copy_from_slice(column);
            }
        }
    }
}

/// Rows of a head as a right factor: tile after tile of 16 columns, each with its rows one after the other.
pub(super) fn load(from: &Columns<&[f32]>, rows: &Range<usize>, head: usize, dim: usize, to: &mut Vec<f32>) {
    to.resize(rows.len() * padded(dim), 0.0);
    for (t, tile) in to.chunks_exact_mut(rows.len() * TILE).enumerate() {
        let width = TILE.min(dim - t * TILE);
        for (row, to) in rows.clone().zip(tile.as_chunks_mut::<TILE>().0) {
            to[..width].copy_from_slice(&from.row(row, head, dim)[t * TILE..][..width]);
            to[width..].fill(0.0);
        }
    }
}

/// As [`load`], with the rows as columns.
pub(super) fn load_transposed(from: &Columns<&[f32]>, rows: &Range<usize>, head: usize, dim: usize, to: &mut Vec<f32>) {
    to.resize(padded(rows.len()) * dim, 0.0);
    for (t, tile) in to.chunks_exact_mut(dim * TILE).enumerate() {
        let (places, _) = tile.as_chunks_mut::<TILE>();
        let first = rows.start + t * TILE;
        let width = TILE.min(rows.end - first);
        if width < TILE {
            places.fill([0.0; TILE]);
        }
        for l in 0..width {
            for (place, v) in places.iter_mut().zip(from.row(first + l, head, dim)) {
                place[l] = *v;
            }
        }
    }
}

/// Where a product goes: rows `stride` apart, of `cols` columns.
pub(super) struct Target<'a> {
    data: &'a mut [f32],
    stride: usize,
    cols: usize,
}

impl<'a> Target<'a> {
    /// All of a scratch matrix with rows of `cols`.
    pub(super) fn whole(data: &'a mut Vec<f32>, rows: usize, cols: usize) -> Self {
        data.resize(rows * cols, 0.0);
        Self {
            data,
            stride: cols,
            cols,
        }
    }

    /// The columns of a head.
    pub(super) fn head(data: &'a mut [f32], stride: usize, head: usize, dim: usize) -> Self {
        Self {
            data: data.get_mut(head * dim..).unwrap_or_default(),
            stride,
            cols: dim,
        }
    }
}

/// `target = left·right`, or `target += left·right`; `right` in tiles. Sums run over ascending k.
pub(super) fn multiply(left: Left, k: usize, right: &[f32], target: Target, add: bool, packed: &mut Vec<f32>) {
    if k == 0 {
        return;
    }
    for first in (0..left.rows).step_by(ROWS) {
        left.pack(first, k, packed);
        let height = ROWS.min(left.rows - first);
        for (t, tile) in right.chunks_exact(k * TILE).enumerate() {
            let sums = product(packed, tile);
            let width = TILE.min(target.cols - t * TILE);
            for (r, sums) in sums.iter().enumerate().take(height) {
                let to = &mut target.data[(first + r) * target.stride + t * TILE..][..width];
                if add {
                    to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
                } else {
                    to.copy_from_slice(&sums[..width]);
                }
            }
        }
    }
}

/// The product of packed rows and one tile of columns, in registers.
#[inline(always)]
fn product(left: &[f32], right: &[f32]) -> [[f32; TILE]; ROWS] {
    let mut sums = [[0.0f32; TILE]; ROWS];
    for (a, b) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<TILE>().0) {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = a.mul_add(*b, *sum);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + seed * 11) % 29) as f32 - 14.0).collect()
    }

    /// Whole numbers this small have exact sums.
    fn plain(
        m: usize,
        n: usize,
        k: usize,
        a: impl Fn(usize, usize) -> f32,
        b: impl Fn(usize, usize) -> f32,
    ) -> Vec<f32> {
        let sum = |i: usize, j: usize| (0..k).map(|p| a(i, p) * b(p, j)).sum();
        (0..m * n).map(|at| sum(at / n, at % n)).collect()
    }

    #[test]
    fn products_are_the_plain_sums_whichever_factor_is_transposed() {
        for (m, n, k) in [(1, 1, 1), (5, 16, 3), (6, 17, 24), (13, 40, 197)] {
            let (a, b) = (values(m * k, 1), values(n * k, 2));
            let (mut right, mut packed) = (Vec::new(), Vec::new());
            let columns = |stride| Columns {
                data: &b[..],
                stride,
                offset: 0,
            };
            for turned in [false, true] {
                let expected = if turned {
                    load_transposed(&columns(k), &(0..n), 0, k, &mut right);
                    plain(m, n, k, |i, p| a[p * m + i], |p, j| b[j * k + p])
                } else {
                    load(&columns(n), &(0..k), 0, n, &mut right);
                    plain(m, n, k, |i, p| a[i * k + p], |p, j| b[p * n + j])
                };
                let left = if turned {
                    Left::columns(&a, m, m)
                } else {
                    Left::rows(&a, m, k)
                };
                let mut c = Vec::new();
                for (add, times) in [(false, 1.0), (true, 2.0)] {
                    multiply(left, k, &right, Target::whole(&mut c, m, n), add, &mut packed);
                    let expected: Vec<f32> = expected.iter().map(|v| times * v).collect();
                    assert_eq!(c, expected, "{m} × {n} × {k}, turned {turned}");
                }
            }
        }
    }
}
