//! Loops over elements, over rows of columns, and dropout: [`ops::elementwise`](crate::ops::elementwise) and
//! [`ops::dropout`](crate::ops::dropout).

use super::Cuda;
use super::format::{Format, common, single};
use super::launch::{Arg, Kernel, THREADS, args, loop_grid, rows_grid};
use super::memory::{Slice, SliceMut};
use crate::ops::dropout::{Dropout, Place};

impl Cuda {
    /// `y = value`.
    pub fn fill(&self, y: SliceMut<'_>, value: f32) {
        let args = args![&y, y.len(), y.is_aligned(), value];
        self.launch(
            Kernel::Fill.of(y.format()),
            loop_grid(y.len(), y.format()),
            THREADS,
            args,
        );
    }

    /// `y = x`, from any format to any.
    pub fn copy(&self, x: Slice<'_>, y: SliceMut<'_>) {
        assert_eq!(x.len(), y.len(), "a copy has the length of its source");
        if x.format() != y.format() {
            self.convert_into(x, y, false);
        } else if !y.is_empty() && !self.leaves_out() {
            self.note(self.recordable().copy(x.address(), y.address(), x.bytes()));
        }
    }

    /// `y += x`, from any format to any.
    pub fn add(&self, x: Slice<'_>, y: SliceMut<'_>) {
        assert!(y.len() <= x.len(), "every element has its addend");
        if x.format() != y.format() {
            return self.convert_into(x, y, true);
        }
        let aligned = x.is_aligned() && y.is_aligned();
        let args = args![x, &y, y.len(), aligned];
        self.launch(
            Kernel::Add.of(y.format()),
            loop_grid(y.len(), y.format()),
            THREADS,
            args,
        );
    }

    /// `y = x` or `y += x` between formats.
    fn convert_into(&self, x: Slice<'_>, y: SliceMut<'_>, add: bool) {
        let cols = y.len();
        self.copy_rows(x, (0, cols), y, (0, cols), (1, cols), add);
    }

    /// `y = a + b`.
    pub fn sum_of(&self, a: Slice<'_>, b: Slice<'_>, y: SliceMut<'_>) {
        assert!(y.len() <= a.len().min(b.len()), "every element has its addends");
        let format = common("sum_of", &[&a, &b, &y]);
        let aligned = a.is_aligned() && b.is_aligned() && y.is_aligned();
        let args = args![a, b, &y, y.len(), aligned];
        self.launch(Kernel::SumOf.of(format), loop_grid(y.len(), format), THREADS, args);
    }

    /// `y *= factor`.
    pub fn scale(&self, y: SliceMut<'_>, factor: f32) {
        let args = args![&y, y.len(), y.is_aligned(), factor];
        self.launch(
            Kernel::Scale.of(y.format()),
            loop_grid(y.len(), y.format()),
            THREADS,
            args,
        );
    }

    /// `y /= by[0]`.
    pub fn divide(&self, y: SliceMut<'_>, by: Slice<'_>) {
        assert!(!by.is_empty(), "there is a divisor");
        single("divide", &[&by]);
        let args = args![&y, y.len(), y.is_aligned(), by];
        self.launch(
            Kernel::Divide.of(y.format()),
            loop_grid(y.len(), y.format()),
            THREADS,
            args,
        );
    }

    /// `y /= by`.
    pub fn divide_by(&self, y: SliceMut<'_>, by: f32) {
        let args = args![&y, y.len(), y.is_aligned(), by];
        self.launch(
            Kernel::DivideBy.of(y.format()),
            loop_grid(y.len(), y.format()),
            THREADS,
            args,
        );
    }

    /// `y *= 1 / by[0]`, the inverse rounded before it multiplies.
    pub fn scale_by_inverse(&self, y: SliceMut<'_>, by: Slice<'_>) {
        assert!(!by.is_empty(), "there is a divisor");
        single("scale_by_inverse", &[&by]);
        let (kernel, grid) = (Kernel::ScaleByInverse.of(y.format()), loop_grid(y.len(), y.format()));
        self.launch(kernel, grid, THREADS, args![&y, y.len(), y.is_aligned(), by]);
    }

    /// Holds `y` between `min` and `max`; what is not a number stays so.
    pub fn clamp(&self, y: SliceMut<'_>, min: f32, max: f32) {
        let args = args![&y, y.len(), y.is_aligned(), min, max];
        self.launch(
            Kernel::Clamp.of(y.format()),
            loop_grid(y.len(), y.format()),
            THREADS,
            args,
        );
    }

    /// `y = gelu(x)`.
    pub fn gelu(&self, x: Slice<'_>, y: SliceMut<'_>) {
        assert!(y.len() <= x.len(), "every element has its argument");
        let format = common("gelu", &[&x, &y]);
        let args = args![x, &y, y.len(), x.is_aligned() && y.is_aligned()];
        self.launch(Kernel::Gelu.of(format), loop_grid(y.len(), format), THREADS, args);
    }

    /// `d *= gelu'(x)`: the gradient passes through in place.
    pub fn gelu_backward(&self, x: Slice<'_>, d: SliceMut<'_>) {
        assert!(d.len() <= x.len(), "every element has its argument");
        let format = common("gelu_backward", &[&x, &d]);
        let args = args![x, &d, d.len(), x.is_aligned() && d.is_aligned()];
        self.launch(
            Kernel::GeluBackward.of(format),
            loop_grid(d.len(), format),
            THREADS,
            args,
        );
    }

    /// Adds rows of `cols` to as many columns of `y` from `offset`, whose rows are `stride` apart.
    pub fn add_columns(&self, x: Slice<'_>, cols: usize, y: SliceMut<'_>, (offset, stride): (usize, usize)) {
        let rows = y.len() / stride;
        self.copy_rows(x, (0, cols), y, (offset, stride), (rows, cols), true);
    }

    /// Copies or adds `rows` × `cols` elements between matrices whose rows are a stride apart, from an offset in each and from any
    /// format to any.
    pub fn copy_rows(
        &self,
        x: Slice<'_>,
        (x_offset, x_stride): (usize, usize),
        y: SliceMut<'_>,
        (y_offset, y_stride): (usize, usize),
        (rows, cols): (usize, usize),
        add: bool,
    ) {
        if rows == 0 || cols == 0 {
            return;
        }
        assert!(
            x_offset + (rows - 1) * x_stride + cols <= x.len(),
            "the source leaves its slice"
        );
        assert!(
            y_offset + (rows - 1) * y_stride + cols <= y.len(),
            "the target leaves its slice"
        );
        assert!(rows == 1 || y_stride >= cols, "rows of the target are apart");
        let y_len = y.len();
        let (x, y) = (x.range(x_offset..x.len()), y.range(y_offset..y_len));
        let kernel = match (x.format(), y.format()) {
            (Format::Bf16, Format::F32) => Kernel::CopyRowsWiden.into(),
            (Format::F32, Format::Bf16) => Kernel::CopyRowsNarrow.into(),
            (format, _) => Kernel::CopyRows.of(format),
        };
        let smaller = if x.format() == y.format() {
            x.format()
        } else {
            Format::Bf16
        };
        let strides_fit = rows == 1 || [x_stride, y_stride].iter().all(|n| n.is_multiple_of(smaller.pack()));
        let args = args![
            x,
            x_stride,
            &y,
            y_stride,
            rows,
            cols,
            add,
            x.is_aligned() && y.is_aligned() && strides_fit
        ];
        self.launch(kernel, rows_grid(rows, cols, smaller), THREADS, args);
    }

    /// Multiplies the rows of each sample by its factor: drop-path and its backward. `rows_of` counts a sample's rows.
    pub fn scale_samples(&self, x: Slice<'_>, y: SliceMut<'_>, cols: usize, rows_of: usize, factors: &[f32]) {
        assert!(y.len() <= x.len(), "every element has its source");
        let rows = y.len() / cols;
        assert!(rows <= rows_of * factors.len(), "every sample has its factor");
        let format = common("scale_samples", &[&x, &y]);
        let aligned = x.has_aligned_rows(cols) && y.is_aligned();
        let factors = self.bring(factors);
        let args = args![x, &y, rows, cols, rows_of, &factors, aligned];
        self.launch(
            Kernel::ScaleSamples.of(format),
            rows_grid(rows, cols, format),
            THREADS,
            args,
        );
    }

    /// `y` = every row of `x` times its mask; forward and backward are the same.
    pub fn dropout_of(&self, dropout: &Dropout, places: &[Place], x: Slice<'_>, y: SliceMut<'_>, cols: usize) {
        let rows = y.len() / cols;
        assert!(
            rows == places.len() && y.len() <= x.len(),
            "every row has a source and a place"
        );
        let format = common("dropout", &[&x, &y]);
        let mask = self.mask(Some((dropout, places)));
        let aligned = x.has_aligned_rows(cols) && y.is_aligned();
        let args = [args![x, &y, rows, cols], &mask[..], args![aligned]].concat();
        self.launch(
            Kernel::Dropout.of(format),
            rows_grid(rows, cols, format),
            THREADS,
            &args,
        );
    }

    /// Arguments for the mask of a matrix: where the places of its rows are, the key, the threshold and what is left of a number.
    pub(super) fn mask(&self, dropout: Option<(&Dropout, &[Place])>) -> [Arg; 4] {
        let Some((dropout, places)) = dropout else {
            return [0u64.into(), 0u64.into(), 0u32.into(), 1.0f32.into()];
        };
        let (key, threshold, kept) = (dropout.stream.key(), dropout.threshold(), 1.0 / (1.0 - dropout.rate));
        [(&self.bring(places)).into(), key.into(), threshold.into(), kept.into()]
    }

    /// `y[index[i]] += values[i]`; no index twice.
    pub fn add_at(&self, y: SliceMut<'_>, index: &[u32], values: &[f32]) {
        assert_eq!(index.len(), values.len(), "every index has its value");
        assert!(
            index.iter().all(|&i| (i as usize) < y.len()),
            "an index leaves its slice"
        );
        single("add_at", &[&y]);
        let words: Vec<u32> = index
            .iter()
            .copied()
            .chain(values.iter().map(|v| v.to_bits()))
            .collect();
        let words = self.bring(&words);
        let grid = (index.len().div_ceil(THREADS as usize) as u32, 1);
        self.launch(Kernel::AddAt, grid, THREADS, args![&y, &words, index.len()]);
    }
}
