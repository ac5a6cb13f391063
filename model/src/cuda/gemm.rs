//! Matrix products.
//!
//! The library thinks in columns where everything here thinks in rows: a row-major matrix is its transpose to the library, so
//! `c = a·b` is asked for as `cᵀ = bᵀ·aᵀ`, with no copy.
//!
//! The library proposes an algorithm for a shape; the proposal is kept. It depends on the shape and on the alignment of the
//! operands up to 16 bytes, never on where they lie: memory starts at multiples of 256 bytes, so the alignment of a part is a
//! function of its place in the whole.
//!
//! The rows of texts change from lane to lane. A choice is made for rows that are rounded up, so that few shapes occur, and used for
//! all rows below; only where the library takes it for some of them not is one made for exactly those.
//!
//! Factors of bf16 are summed in single precision and rounded once if the result is of bf16 too. Where the library has no algorithm
//! for them, copies of single precision are multiplied.

use super::Cuda;
use super::account::Work;
use super::blas::{Plan, Stored, is_refusal};
use super::device::locked;
use super::error::CudaError;
use super::format::{Format, common};
use super::memory::{Scratch, Slice, SliceMut};
use crate::ops::gemm::Start;
use cudarc::cublaslt::result::CublasError;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

/// A factor of a product: a dense row-major matrix.
#[derive(Debug, Clone, Copy)]
pub struct Factor<'a> {
    /// Its elements.
    pub data: Slice<'a>,
    /// Rows as stored.
    pub rows: usize,
    /// Columns as stored.
    pub cols: usize,
    /// Whether the factor is the transpose of what is stored.
    pub turned: bool,
}

impl<'a> Factor<'a> {
    /// The matrix with `cols` columns that fills `data`.
    pub fn new(data: Slice<'a>, cols: usize) -> Self {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        Self {
            data,
            rows,
            cols,
            turned: false,
        }
    }

    /// The transpose.
    pub const fn t(self) -> Self {
        Self {
            turned: !self.turned,
            ..self
        }
    }

    /// Rows and columns of what is meant.
    const fn shape(&self) -> (usize, usize) {
        if self.turned {
            (self.cols, self.rows)
        } else {
            (self.rows, self.cols)
        }
    }

    /// The same factor, of which this is a copy of single precision.
    fn widened<'b>(&self, copy: &'b Scratch<'_>) -> Factor<'b> {
        Factor {
            data: copy.slice(self.data.len(), Format::F32),
            ..*self
        }
    }

    fn stored(&self) -> Stored {
        Stored {
            rows: self.cols,
            cols: self.rows,
            stride: self.cols,
            format: self.data.format(),
            turned: self.turned,
            alignment: alignment(self.data.address()),
        }
    }
}

/// Operands and whether a bias is added.
type Shape = ([Stored; 3], bool);

/// What was chosen for each shape; nothing where the library has no algorithm.
#[derive(Default)]
pub(super) struct Plans {
    known: HashMap<Shape, Option<Plan>>,
    /// Shapes that are not computed as the rounded ones are.
    exact: HashSet<Shape>,
}

impl Plans {
    /// The shape that is planned for this one.
    fn planned(&self, shape: Shape) -> Shape {
        if self.exact.is_empty() || !self.exact.contains(&shape) {
            rounded(shape)
        } else {
            shape
        }
    }
}

/// Rows from which on they are rounded up.
const MANY_ROWS: usize = 512;
/// What they are rounded up to a multiple of.
const GRAIN: usize = 64;

/// The same product with more rows, of the result or of both factors. To the library they are columns, which lie a stride apart
/// however many there are.
fn rounded(([b, a, d], bias): Shape) -> Shape {
    let grown = |stored: Stored| Stored {
        cols: if stored.cols < MANY_ROWS {
            stored.cols
        } else {
            stored.cols.next_multiple_of(GRAIN)
        },
        ..stored
    };
    match (b.turned, a.turned) {
        // Summed over rows.
        (false, true) => ([grown(b), grown(a), d], bias),
        (_, false) => ([b, grown(a), grown(d)], bias),
        (true, true) => ([b, a, d], bias),
    }
}

/// The largest power of two up to 16 that divides an address.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(4)
}

impl Cuda {
    /// `c = start + a·b` with `c` row-major, its rows `stride` elements apart. The factors have one format, and `c` the same or
    /// single precision.
    ///
    /// # Panics
    /// If the shapes or formats do not fit; they are fixed by the model.
    pub fn gemm(&self, a: Factor<'_>, b: Factor<'_>, mut c: SliceMut<'_>, stride: usize, start: Start<Slice<'_>>) {
        let ((m, k), (inner, n)) = (a.shape(), b.shape());
        assert_eq!(k, inner, "inner dimensions differ");
        assert!(
            a.rows * a.cols <= a.data.len() && b.rows * b.cols <= b.data.len(),
            "a factor leaves its slice"
        );
        let format = common("gemm", &[&a.data, &b.data]);
        assert!(
            c.format() == format || c.format() == Format::F32,
            "a product of single precision is not rounded"
        );
        if m == 0 || n == 0 {
            return;
        }
        assert!(
            stride >= n && (m - 1) * stride + n <= c.len(),
            "the result leaves its slice"
        );
        if k == 0 {
            return self.start_rows((m, n), c, stride, start);
        }
        let shapes = [b.stored(), a.stored(), stored_result(&c, (m, n), stride)];
        if format == Format::Bf16 && !self.has_plan((shapes, false)) {
            return self.single_gemm(a, b, c, stride, start);
        }
        let addresses = (b.data.address(), a.data.address(), c.address());
        match start {
            Start::Zero => self.product(shapes, addresses, None, 0.0),
            Start::Add => self.product(shapes, addresses, None, 1.0),
            Start::Bias(bias) => {
                assert_eq!(bias.len(), n, "a bias has an element for every column");
                let copy = (bias.format() != c.format()).then(|| self.converted(bias, c.format()));
                let bias = copy.as_ref().map_or(bias, |copy| copy.slice(n, c.format()));
                if bias.is_aligned() && self.has_plan((shapes, true)) {
                    return self.product(shapes, addresses, Some(bias.address()), 0.0);
                }
                self.start_rows((m, n), c.reborrow(), stride, Start::Bias(bias));
                self.product(shapes, addresses, None, 1.0);
            }
        }
    }

    /// The product of factors of bf16 by way of single precision.
    fn single_gemm(&self, a: Factor<'_>, b: Factor<'_>, mut c: SliceMut<'_>, stride: usize, start: Start<Slice<'_>>) {
        let [a_copy, b_copy] = [a, b].map(|factor| self.converted(factor.data, Format::F32));
        let (a, b) = (a.widened(&a_copy), b.widened(&b_copy));
        if c.format() == Format::F32 {
            return self.gemm(a, b, c, stride, start);
        }
        let (m, n) = (a.shape().0, b.shape().1);
        let mut sum = self.scratch(m * n * size_of::<f32>());
        if matches!(start, Start::Add) {
            let sum = sum.slice_mut(m * n, Format::F32);
            self.copy_rows(c.as_slice(), (0, stride), sum, (0, n), (m, n), false);
        }
        self.gemm(a, b, sum.slice_mut(m * n, Format::F32), n, start);
        let sum = sum.slice(m * n, Format::F32);
        self.copy_rows(sum, (0, n), c.reborrow(), (0, stride), (m, n), false);
    }

    /// Puts what a product starts from into its rows.
    fn start_rows(&self, (m, n): (usize, usize), c: SliceMut<'_>, stride: usize, start: Start<Slice<'_>>) {
        let mut zeros;
        let row = match start {
            Start::Add => return,
            Start::Bias(bias) => bias,
            Start::Zero => {
                zeros = self.scratch(n * size_of::<f32>());
                self.fill(zeros.slice_mut(n, Format::F32), 0.0);
                zeros.slice(n, Format::F32)
            }
        };
        self.copy_rows(row, (0, 0), c, (0, stride), (m, n), false);
    }

    fn has_plan(&self, shape: Shape) -> bool {
        self.with_plan(shape, |_| Ok(())).is_some()
    }

    fn product(&self, shapes: [Stored; 3], addresses: (u64, u64, u64), bias: Option<u64>, beta: f32) {
        let shape = (shapes, bias.is_some());
        let columns = shapes.map(|stored| stored.cols);
        if self.leaves_out() {
            return;
        }
        let run = |plan: &mut Plan| {
            let run = || plan.run(&self.blas, columns, addresses, bias, beta);
            self.noting(
                || named(&shapes, bias.is_some(), beta),
                || self.account.of(Work::Products, run),
            )
        };
        let mut ran = self.with_plan(shape, run);
        if ran == Some(false) {
            // What the library refuses to record it does not refuse to do.
            if self.interrupt() {
                return;
            }
            locked(&self.plans).exact.insert(shape);
            ran = self.with_plan(shape, run);
        }
        if ran != Some(true) && !self.leaves_out() {
            let what = format!("find an algorithm for {shapes:?}");
            let code = "CUBLAS_STATUS_NOT_SUPPORTED".to_owned();
            self.note(Err(CudaError::Cublas { what, code }));
        }
    }

    /// Calls `f` with the plan for a shape, if there is one and nothing has failed. Returns whether the library takes it.
    fn with_plan(&self, shape: Shape, f: impl FnOnce(&mut Plan) -> Result<(), CublasError>) -> Option<bool> {
        if self.has_failed() {
            return None;
        }
        let mut plans = locked(&self.plans);
        self.note(self.enter());
        let planned = plans.planned(shape);
        let plan = match plans.known.entry(planned) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let ([a, b, d], bias) = planned;
                let plan = self.account.of(Work::Plans, || Plan::new(&self.blas, a, b, d, bias));
                match plan {
                    Ok(plan) => place.insert(plan),
                    Err(error) => {
                        self.note(Err(CudaError::cublas(format!("plan the product {planned:?}"), error)));
                        return None;
                    }
                }
            }
        };
        match f(plan.as_mut()?) {
            Ok(()) => Some(true),
            Err(error) if planned != shape && is_refusal(error) => Some(false),
            Err(error) => {
                self.note(Err(CudaError::cublas(format!("compute the product {shape:?}"), error)));
                Some(true)
            }
        }
    }
}

/// A product for people: rows, columns and inner dimension of the row-major result, which factors are turned, formats.
fn named([b, a, c]: &[Stored; 3], bias: bool, beta: f32) -> String {
    let inner = if a.turned { a.cols } else { a.rows };
    let turned = |stored: &Stored| if stored.turned { "ᵀ" } else { "" };
    let (rows, cols) = (c.cols, c.rows);
    let adds = if beta == 0.0 { "" } else { " added" };
    let bias = if bias { " + bias" } else { "" };
    let (at, bt, of, to) = (turned(a), turned(b), a.format, c.format);
    format!("product a{at}·b{bt} {rows} × {inner} × {cols} {of:?} → {to:?}{bias}{adds}")
}

fn stored_result(c: &SliceMut<'_>, (m, n): (usize, usize), stride: usize) -> Stored {
    Stored {
        rows: n,
        cols: m,
        stride,
        format: c.format(),
        turned: false,
        alignment: alignment(c.address()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is planned for `a` (rows × cols) by `b`, as the rows and columns of `a`, `b` and the result.
    fn planned(a: (usize, usize, bool), b: (usize, usize, bool)) -> [(usize, usize); 3] {
        let factor = |(rows, cols, turned): (usize, usize, bool)| Factor {
            rows,
            cols,
            turned,
            data: Slice::nowhere(rows * cols),
        };
        let (a, b) = (factor(a), factor(b));
        let (m, n) = (a.shape().0, b.shape().1);
        let result = Stored {
            rows: n,
            cols: m,
            stride: n,
            turned: false,
            ..a.stored()
        };
        let ([b, a, d], _) = rounded(([b.stored(), a.stored(), result], false));
        [a, b, d].map(|stored| (stored.cols, stored.rows))
    }

    #[test]
    fn many_rows_of_activations_are_planned_as_a_multiple() {
        let (x, w) = ((4311, 768, false), (3072, 768, false));
        let forward = planned(x, (3072, 768, true));
        assert_eq!(forward, [(4352, 768), (3072, 768), (4352, 3072)]);
        let back = planned((4311, 3072, false), w);
        assert_eq!(back, [(4352, 3072), (3072, 768), (4352, 768)]);
        let of_weights = planned((4311, 3072, true), x);
        assert_eq!(of_weights, [(4352, 3072), (4352, 768), (3072, 768)]);
    }

    #[test]
    fn few_rows_are_planned_as_they_are() {
        assert_eq!(
            planned((511, 8, false), (700, 8, true)),
            [(511, 8), (700, 8), (511, 700)]
        );
        assert_eq!(
            planned((8, 511, true), (8, 700, false)),
            [(8, 511), (8, 700), (511, 700)]
        );
        assert_eq!(
            planned((576, 8, false), (8, 700, false)),
            [(576, 8), (8, 700), (576, 700)]
        );
    }
}
