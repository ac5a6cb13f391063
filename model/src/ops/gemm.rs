//! Matrix products: the one function that may call the `gemm` crate.
//!
//! Left to itself `gemm` chooses the order of additions from the host's cache sizes, and uses other kernels for a single
//! row or column and for tiny products, so that a row alone and the same row in a batch differ. Three rules repair that
//! at no measurable cost: k is cut into panels of 512 counted from 0, each later panel accumulating; a product never has
//! fewer than 2 rows or columns, nor rows·columns ≤ 256 (it is padded with zeros in scratch); and k is never split over
//! threads (`gemm` shares tiles of the result only).

use super::blocks::for_rows;
use super::meter::{self, Kind};

/// Panels of k.
const PANEL: usize = 512;
/// Multiply-adds below which handing tiles to another thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 21;
/// Products of at most this many elements run in other kernels.
const TINY: usize = 256;

/// A matrix within a slice.
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix that fills `data`.
    pub fn new(data: &'a [f32], cols: usize) -> Self {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        debug_assert_eq!(rows * cols, data.len());
        Self {
            data,
            rows,
            cols,
            row_stride: cols,
            col_stride: 1,
        }
    }

    /// `rows` × `cols` elements, rows `stride` apart.
    pub fn apart(data: &'a [f32], (rows, cols): (usize, usize), stride: usize) -> Self {
        Self {
            data,
            rows,
            cols,
            row_stride: stride,
            col_stride: 1,
        }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Index one past the last element.
    fn extent(&self) -> usize {
        if self.rows == 0 || self.cols == 0 {
            return 0;
        }
        (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride + 1
    }
}

/// How far the operands of several products of one shape lie apart, each from that of the product before: in elements.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Number of products.
    pub count: usize,
    /// Distance of left factors.
    pub a: usize,
    /// Distance of right factors.
    pub b: usize,
    /// Distance of results, which may lie in each other's gaps but have no element in common.
    pub c: usize,
    /// Distance of biases.
    pub bias: usize,
}

impl Batch {
    /// One product.
    pub const ONE: Self = Self {
        count: 1,
        a: 0,
        b: 0,
        c: 0,
        bias: 0,
    };
}

/// What the result starts from. `B` is where the row lies.
#[derive(Debug, Clone, Copy)]
pub enum Start<B> {
    /// Zero: the product overwrites.
    Zero,
    /// What is there: the product is added.
    Add,
    /// This row in every row, then the product is added.
    Bias(B),
}

impl<B> Start<B> {
    /// The same with a row that lies elsewhere, or is named otherwise.
    pub(crate) fn map<C>(self, f: impl FnOnce(B) -> C) -> Start<C> {
        match self {
            Self::Zero => Start::Zero,
            Self::Add => Start::Add,
            Self::Bias(bias) => Start::Bias(f(bias)),
        }
    }
}

/// `c = start + a·b` with `c` row-major, its rows `stride` elements apart.
///
/// # Panics
/// If the shapes do not fit; shapes are fixed by the model.
pub fn gemm_strided(a: Mat, b: Mat, c: &mut [f32], stride: usize, start: Start<&[f32]>) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "inner dimensions differ");
    assert!(
        a.extent() <= a.data.len() && b.extent() <= b.data.len(),
        "a factor leaves its slice"
    );
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        stride >= n && (m - 1) * stride + n <= c.len(),
        "the result leaves its slice"
    );
    let _kind = meter::kind(Kind::Gemm);
    meter::flops(2 * m * n * k);
    let overwrite = prepare(c, n, stride, start, k == 0);
    if m < 2 || n < 2 || m * n <= TINY {
        padded(a, b, c, stride, overwrite);
    } else {
        panels(a, b, c, stride, overwrite);
    }
}

/// `c = start + a·b` with `c` row-major and dense.
pub fn gemm(a: Mat, b: Mat, c: &mut [f32], start: Start<&[f32]>) {
    let stride = b.cols;
    gemm_strided(a, b, c, stride, start);
}

/// Puts the bias in place; returns whether the first panel overwrites.
fn prepare(c: &mut [f32], n: usize, stride: usize, start: Start<&[f32]>, empty_product: bool) -> bool {
    match start {
        Start::Zero if empty_product => {
            c.chunks_mut(stride).for_each(|row| row[..n].fill(0.0));
            false
        }
        Start::Zero => true,
        Start::Add => false,
        Start::Bias(bias) => {
            for_rows(c, stride, |_, rows| {
                rows.chunks_mut(stride).for_each(|row| row[..n].copy_from_slice(bias));
            });
            false
        }
    }
}

/// A small product in scratch with enough rows of zeros, added to or put in place of `c`.
fn padded(a: Mat, b: Mat, c: &mut [f32], stride: usize, overwrite: bool) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let cols = n.max(2);
    let rows = m.max(2).max(TINY / cols + 1);
    let mut left = vec![0.0; rows * k];
    let mut right = vec![0.0; k * cols];
    for (i, row) in left.chunks_mut(k.max(1)).enumerate().take(m) {
        for (p, v) in row.iter_mut().enumerate() {
            *v = a.data[i * a.row_stride + p * a.col_stride];
        }
    }
    for (p, row) in right.chunks_mut(cols).enumerate() {
        for (j, v) in row.iter_mut().enumerate().take(n) {
            *v = b.data[p * b.row_stride + j * b.col_stride];
        }
    }
    let mut result = vec![0.0; rows * cols];
    for (row, target) in c.chunks(stride).zip(result.chunks_mut(cols)) {
        target[..n].copy_from_slice(&row[..n]);
    }
    panels(Mat::new(&left, k), Mat::new(&right, cols), &mut result, cols, overwrite);
    for (row, target) in result.chunks(cols).zip(c.chunks_mut(stride)) {
        target[..n].copy_from_slice(&row[..n]);
    }
}

#[expect(
    unsafe_code,
    reason = "the gemm crate takes pointers; bounds are checked by the caller"
)]
fn panels(a: Mat, b: Mat, c: &mut [f32], stride: usize, overwrite: bool) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 && m * n * k >= WORTH_SHARING {
        gemm::Parallelism::Rayon(threads)
    } else {
        gemm::Parallelism::None
    };
    for first in (0..k).step_by(PANEL) {
        let depth = PANEL.min(k - first);
        // SAFETY: `gemm_strided` checked that every element of a (m×k), b (k×n) and c (m×n, rows `stride` apart) lies in its
        // slice; `padded` makes slices of just that size. `c` is borrowed mutably, so it overlaps neither factor.
        unsafe {
            gemm::gemm(
                m,
                n,
                depth,
                c.as_mut_ptr(),
                1,
                stride as isize,
                !overwrite || first > 0,
                a.data.as_ptr().add(first * a.col_stride),
                a.col_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr().add(first * b.row_stride),
                b.col_stride as isize,
                b.row_stride as isize,
                1.0f32,
                1.0f32,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64)
            .map(|i| (((i * 2_654_435_761 + seed * 97) % 1000) as f32 - 500.0) / 300.0)
            .collect()
    }

    fn plain(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f64> {
        let at = |i: usize, p: usize| f64::from(a[i * k + p]);
        (0..m * n)
            .map(|x| (0..k).map(|p| at(x / n, p) * f64::from(b[p * n + x % n])).sum())
            .collect()
    }

    #[test]
    fn products_agree_with_double_precision_in_every_layout() {
        for (m, n, k) in [(1, 1, 1), (1, 7, 5), (3, 2, 600), (40, 33, 1100), (64, 96, 96)] {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let exact = plain(&a, &b, m, n, k);
            let at: Vec<f32> = (0..k * m).map(|x| a[(x % m) * k + x / m]).collect();
            let bt: Vec<f32> = (0..n * k).map(|x| b[(x % k) * n + x / k]).collect();
            let lefts = [Mat::new(&a, k), Mat::new(&at, m).t()];
            let rights = [Mat::new(&b, n), Mat::new(&bt, k).t()];
            for left in lefts {
                for right in rights {
                    let mut c = vec![f32::NAN; m * n];
                    gemm(left, right, &mut c, Start::Zero);
                    gemm(left, right, &mut c, Start::Add);
                    let worst = c
                        .iter()
                        .zip(&exact)
                        .map(|(c, e)| (f64::from(*c) - 2.0 * e).abs())
                        .fold(0.0, f64::max);
                    assert!(worst < 1e-2, "{m}×{n}×{k}: {worst}");
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_any_batch() {
        for (n, k) in [(2, 96), (7, 30), (96, 384), (300, 768), (64, 1500)] {
            let (a, w, bias) = (values(197 * k, 3), values(n * k, 4), values(n, 5));
            let mut whole = vec![0.0; 197 * n];
            gemm(Mat::new(&a, k), Mat::new(&w, k).t(), &mut whole, Start::Bias(&bias));
            for rows in [1, 2, 4, 64, 65] {
                let mut part = vec![0.0; rows * n];
                gemm(
                    Mat::new(&a[..rows * k], k),
                    Mat::new(&w, k).t(),
                    &mut part,
                    Start::Bias(&bias),
                );
                assert_eq!(part, whole[..rows * n], "{rows} rows, n {n}, k {k}");
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_the_bits() {
        let (m, n, k) = (197, 300, 1500);
        let (a, b) = (values(m * k, 6), values(k * n, 7));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut c = vec![0.0; m * n];
            pool.install(|| gemm(Mat::new(&a, k), Mat::new(&b, n), &mut c, Start::Zero));
            c
        };
        let one = run(1);
        for threads in [2, 3, 7] {
            assert_eq!(run(threads), one, "{threads} threads");
        }
    }
}
