//! Matrix products.
//!
//! The library thinks in columns where everything here thinks in rows: a row-major matrix is its transpose to the library, so
//! `c = a·b` is asked for as `cᵀ = bᵀ·aᵀ`, with no copy.
//!
//! The library proposes an algorithm for a shape; the proposal is kept. It depends on the shape and on the alignment of the
//! operands up to 16 bytes, never on where they lie: memory starts at multiples of 256 bytes, so the alignment of a part is a
//! function of its place in the whole.
//!
//! Factors of bf16 are summed in single precision and rounded once if the result is of bf16 too. Where the library has no algorithm
//! for them, copies of single precision are multiplied.

use super::Cuda;
use super::account::Work;
use super::blas::{Plan, Shape, Stored, is_refusal};
use super::device::locked;
use super::error::CudaError;
use super::format::{Format, common};
use super::memory::{Scratch, Slice, SliceMut};
use crate::ops::gemm::{Batch, Start};
use cudarc::cublaslt::result::CublasError;
use std::collections::hash_map::Entry;

/// A factor of a product: a row-major matrix.
#[derive(Debug, Clone, Copy)]
pub struct Factor<'a> {
    /// Its elements.
    pub data: Slice<'a>,
    /// Rows as stored.
    pub rows: usize,
    /// Columns as stored.
    pub cols: usize,
    /// Elements from one row to the next.
    pub stride: usize,
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
            stride: cols,
            turned: false,
        }
    }

    /// Elements from the first to the last.
    const fn extent(&self) -> usize {
        if self.rows == 0 || self.cols == 0 {
            0
        } else {
            (self.rows - 1) * self.stride + self.cols
        }
    }

    /// The same so many elements further on.
    fn moved(self, by: usize) -> Self {
        Self {
            data: self.data.range(by..by + self.extent()),
            ..self
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
    pub(super) const fn shape(&self) -> (usize, usize) {
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

    /// The factor of each of several products, `distance` elements from one to the next.
    pub(super) fn stored(&self, distance: usize) -> Stored {
        Stored {
            rows: self.cols,
            cols: self.rows,
            stride: self.stride,
            distance,
            format: self.data.format(),
            turned: self.turned,
            alignment: alignment(self.data.address(), distance * self.data.format().size()),
        }
    }
}

/// What is planned for products `c + a·b` without biases, the rows of `c` `stride` elements apart.
fn shape(a: &Factor<'_>, b: &Factor<'_>, c: &SliceMut<'_>, stride: usize, batch: &Batch) -> Shape {
    let result = Stored {
        rows: b.shape().1,
        cols: a.shape().0,
        stride,
        distance: batch.c,
        format: c.format(),
        turned: false,
        alignment: alignment(c.address(), batch.c * c.format().size()),
    };
    Shape {
        operands: [b.stored(batch.b), a.stored(batch.a), result],
        count: batch.count,
        bias: None,
    }
}

/// The largest power of two up to 16 that divides an address and all that are multiples of a distance from it.
fn alignment(address: u64, distance_bytes: usize) -> u32 {
    1 << (address | distance_bytes as u64).trailing_zeros().min(4)
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
            a.extent() <= a.data.len() && b.extent() <= b.data.len(),
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
        let shape = shape(&a, &b, &c, stride, &Batch::ONE);
        if format == Format::Bf16 && !self.has_plan(shape) {
            return self.single_gemm(a, b, c, stride, start);
        }
        let addresses = (b.data.address(), a.data.address(), c.address());
        match start {
            Start::Zero => self.product(shape, addresses, None, 0.0),
            Start::Add => self.product(shape, addresses, None, 1.0),
            Start::Bias(bias) => {
                assert_eq!(bias.len(), n, "a bias has an element for every column");
                let copy = (bias.format() != c.format()).then(|| self.converted(bias, c.format()));
                let bias = copy.as_ref().map_or(bias, |copy| copy.slice(n, c.format()));
                let with_bias = Shape { bias: Some(0), ..shape };
                if bias.is_aligned() && self.has_plan(with_bias) {
                    return self.product(with_bias, addresses, Some(bias.address()), 0.0);
                }
                self.start_rows((m, n), c.reborrow(), stride, Start::Bias(bias));
                self.product(shape, addresses, None, 1.0);
            }
        }
    }

    /// Products of one shape, each as [`gemm`](Self::gemm) has it: at once if the library does that, else one after the other.
    pub fn gemm_batch(
        &self,
        a: Factor<'_>,
        b: Factor<'_>,
        mut c: SliceMut<'_>,
        stride: usize,
        start: Start<Slice<'_>>,
        batch: Batch,
    ) {
        let (m, n) = (a.shape().0, b.shape().1);
        if m == 0 || n == 0 {
            return;
        }
        let last = batch.count.saturating_sub(1);
        let result = (m - 1) * stride + n;
        assert!(
            last * batch.a + a.extent() <= a.data.len()
                && last * batch.b + b.extent() <= b.data.len()
                && last * batch.c + result <= c.len(),
            "a product leaves its slices"
        );
        if self.gemm_at_once(a, b, &c, stride, start, batch) {
            return;
        }
        for i in 0..batch.count {
            let start = start.map(|bias| bias.range(i * batch.bias..i * batch.bias + n));
            let c = c.reborrow().range(i * batch.c..i * batch.c + result);
            self.gemm(a.moved(i * batch.a), b.moved(i * batch.b), c, stride, start);
        }
    }

    /// Whether the library takes these products at once; then they are under way.
    fn gemm_at_once(
        &self,
        a: Factor<'_>,
        b: Factor<'_>,
        c: &SliceMut<'_>,
        stride: usize,
        start: Start<Slice<'_>>,
        batch: Batch,
    ) -> bool {
        let (inner, n) = (a.shape().1, b.shape().1);
        if inner == 0 || a.data.format() != b.data.format() {
            return false;
        }
        let shape = shape(&a, &b, c, stride, &batch);
        let (shape, bias, beta) = match start {
            Start::Zero => (shape, None, 0.0),
            Start::Add => (shape, None, 1.0),
            Start::Bias(bias) => {
                let bytes = batch.bias * bias.format().size();
                if bias.format() != c.format() || alignment(bias.address(), bytes) < 16 {
                    return false;
                }
                assert!(
                    (batch.count - 1) * batch.bias + n <= bias.len(),
                    "a bias leaves its slice"
                );
                let shape = Shape {
                    bias: Some(batch.bias),
                    ..shape
                };
                (shape, Some(bias.address()), 0.0)
            }
        };
        let addresses = (b.data.address(), a.data.address(), c.address());
        self.has_plan(shape) && self.is_product(shape, addresses, bias, beta)
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

    fn product(&self, shape: Shape, addresses: (u64, u64, u64), bias: Option<u64>, beta: f32) {
        if !self.is_product(shape, addresses, bias, beta) && !self.leaves_out() {
            let what = format!("find an algorithm for {shape:?}");
            let code = "CUBLAS_STATUS_NOT_SUPPORTED".to_owned();
            self.note(Err(CudaError::Cublas { what, code }));
        }
    }

    /// Computes products; whether the library takes them, as far as one can know where operations are left out.
    fn is_product(&self, shape: Shape, addresses: (u64, u64, u64), bias: Option<u64>, beta: f32) -> bool {
        if self.leaves_out() {
            return true;
        }
        let columns = shape.operands.map(|stored| stored.cols);
        let run = |plan: &mut Plan| {
            let run = || plan.run(&self.blas, columns, addresses, bias, beta);
            self.noting(|| named(&shape, beta), || self.account.of(Work::Products, run))
        };
        let mut ran = self.with_plan(shape, run);
        if ran == Some(false) {
            // What the library refuses to record it does not refuse to do.
            if self.interrupt() {
                return true;
            }
            locked(&self.plans).exact.insert(shape);
            ran = self.with_plan(shape, run);
        }
        if ran == Some(false) {
            locked(&self.plans).known.insert(shape, None);
        }
        ran == Some(true)
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
                let plan = self.account.of(Work::Plans, || Plan::new(&self.blas, &planned));
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
            // There is another way: a plan for just this shape, or one product after the other.
            Err(error) if (planned != shape || shape.count > 1) && is_refusal(error) => Some(false),
            Err(error) => {
                self.note(Err(CudaError::cublas(format!("compute the product {shape:?}"), error)));
                Some(true)
            }
        }
    }
}

/// A product for people: rows, columns and inner dimension of the row-major result, which factors are turned, formats.
fn named(shape: &Shape, beta: f32) -> String {
    let [b, a, c] = &shape.operands;
    let inner = if a.turned { a.cols } else { a.rows };
    let turned = |stored: &Stored| if stored.turned { "ᵀ" } else { "" };
    let (rows, cols, count) = (c.cols, c.rows, shape.count);
    let times = if count == 1 {
        String::new()
    } else {
        format!(", {count} times")
    };
    let adds = if beta == 0.0 { "" } else { " added" };
    let bias = if shape.bias.is_some() { " + bias" } else { "" };
    let (at, bt, of, to) = (turned(a), turned(b), a.format, c.format);
    format!("product a{at}·b{bt} {rows} × {inner} × {cols} {of:?} → {to:?}{bias}{adds}{times}")
}
