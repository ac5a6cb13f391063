//! Losses: [`ops::cross_entropy`](crate::ops::cross_entropy), and arithmetic of scalars that stay on the device.
//!
//! A row of logits is a block's. What is kept of a row is as on the CPU: its loss, its largest logit, and log Σ exp(x − largest).

use super::Cuda;
use super::format::single;
use super::launch::{Kernel, THREADS, args};
use super::memory::{Slice, SliceMut};
use crate::ops::cross_entropy::KEPT;

/// Elements of a partial sum of [`Cuda::slope`].
const DOT_UNIT: usize = 1 << 14;

impl Cuda {
    /// Cross-entropy with label smoothing of each row against its target: `(1 − s)·(−log p_t) + s/n · Σ −log p`.
    ///
    /// `rows` receives what is [`KEPT`] of each row.
    pub fn smoothed(&self, x: Slice<'_>, targets: &[u32], smoothing: f32, cols: usize, rows: SliceMut<'_>) {
        let count = rows.len() / KEPT;
        assert!(
            count <= targets.len() && count * cols <= x.len(),
            "every row has a target"
        );
        assert!(targets.iter().all(|&t| (t as usize) < cols), "a target is a column");
        single("smoothed", &[&rows]);
        let targets = self.bring(targets);
        let aligned = rows_are_aligned(x, cols);
        let args = args![x, &targets, smoothing, 1.0 - smoothing, cols, &rows, aligned];
        self.launch(Kernel::Smoothed.of(x.format()), (count as u32, 1), THREADS, args);
    }

    /// Turns logits into their gradient in place: `weight · (p − (1 − s)·1_t − s/n)` with `weight = dy[0] / rows`.
    pub fn smoothed_backward(
        &self,
        x: SliceMut<'_>,
        rows: Slice<'_>,
        targets: &[u32],
        smoothing: f32,
        cols: usize,
        dy: Slice<'_>,
    ) {
        let count = x.len() / cols;
        assert!(
            count <= targets.len() && KEPT * count <= rows.len(),
            "every row has a target"
        );
        assert!(!dy.is_empty(), "the loss has a gradient");
        single("smoothed_backward", &[&rows, &dy]);
        let targets = self.bring(targets);
        let (floor, rest) = (smoothing / cols as f32, 1.0 - smoothing);
        let aligned = rows_are_aligned(x.as_slice(), cols);
        let args = args![&x, rows, &targets, floor, rest, cols, dy, count as f32, aligned];
        self.launch(
            Kernel::SmoothedBackward.of(x.format()),
            (count as u32, 1),
            THREADS,
            args,
        );
    }

    /// Cross-entropy of each row against a distribution: `−Σ t·log_softmax(x)`; `rows` receives what is [`KEPT`] of each row.
    pub fn soft(&self, x: Slice<'_>, targets: Slice<'_>, cols: usize, rows: SliceMut<'_>) {
        let count = rows.len() / KEPT;
        assert!(count * cols <= x.len().min(targets.len()), "every logit has a target");
        single("soft", &[&x, &targets, &rows]);
        self.launch(Kernel::Soft, (count as u32, 1), THREADS, args![x, targets, cols, &rows]);
    }

    /// The gradient of logits, put into or added to `d`: `weight · (p·Σt − t)` with `weight = dy[0] / rows`.
    pub fn soft_backward(
        &self,
        x: Slice<'_>,
        rows: Slice<'_>,
        targets: Slice<'_>,
        cols: usize,
        dy: Slice<'_>,
        d: SliceMut<'_>,
        fresh: bool,
    ) {
        let count = d.len() / cols;
        assert!(
            d.len() <= x.len().min(targets.len()) && KEPT * count <= rows.len() && !dy.is_empty(),
            "every logit has a target"
        );
        single("soft_backward", &[&x, &rows, &targets, &dy, &d]);
        let args = args![x, rows, targets, cols, dy, count as f32, &d, fresh];
        self.launch(Kernel::SoftBackward, (count as u32, 1), THREADS, args);
    }

    /// Replaces each row by its softmax.
    pub fn softmax(&self, x: SliceMut<'_>, cols: usize) {
        single("softmax", &[&x]);
        self.launch(Kernel::Softmax, ((x.len() / cols) as u32, 1), THREADS, args![&x, cols]);
    }

    /// Mean of the losses in a buffer of what is [`KEPT`] of each row: `y[0] = Σ rows[3i] / n`.
    pub fn mean_loss(&self, rows: Slice<'_>, y: SliceMut<'_>) {
        assert!(!y.is_empty(), "a scalar has its element");
        single("mean_loss", &[&rows, &y]);
        self.launch(Kernel::MeanLoss, (1, 1), THREADS, args![rows, rows.len() / KEPT, &y]);
    }

    /// A weighted sum of scalars.
    pub fn weighted_sum(&self, terms: &[(Slice<'_>, f32)], mut y: SliceMut<'_>) {
        if terms.is_empty() {
            return self.fill(y.range(0..1), 0.0);
        }
        for (i, (x, weight)) in terms.iter().enumerate() {
            self.weighted(*x, *weight, y.reborrow(), i == 0);
        }
    }

    /// `weight·dy[0]`, put into or added to `d[0]`.
    pub fn weighted(&self, dy: Slice<'_>, weight: f32, d: SliceMut<'_>, fresh: bool) {
        assert!(!dy.is_empty() && !d.is_empty(), "a scalar has its element");
        single("weighted", &[&dy, &d]);
        self.launch(Kernel::Weighted, (1, 1), 32, args![dy, weight, &d, fresh]);
    }

    /// `−(Σ dy·y) / t`, put into or added to `d[0]`: the slope of a loss in the temperature that divides its logits `y`.
    pub fn slope(&self, dy: Slice<'_>, y: Slice<'_>, temperature: Slice<'_>, d: SliceMut<'_>, fresh: bool) {
        assert!(dy.len() <= y.len(), "every gradient has its logit");
        assert!(!temperature.is_empty() && !d.is_empty(), "a scalar has its element");
        single("slope", &[&dy, &y, &temperature, &d]);
        let units = dy.len().div_ceil(DOT_UNIT);
        let partials = self.scratch(units * size_of::<f32>());
        self.launch(
            Kernel::DotPartials,
            (units as u32, 1),
            THREADS,
            args![dy, y, dy.len(), DOT_UNIT, &partials],
        );
        self.launch(
            Kernel::Slope,
            (1, 1),
            THREADS,
            args![&partials, units, temperature, &d, fresh],
        );
    }
}

/// Whether the columns of every row can be read four at a time.
const fn rows_are_aligned(x: Slice<'_>, cols: usize) -> bool {
    x.is_aligned() && cols.is_multiple_of(4)
}
