//! Layer normalisation, L2 normalisation and sums of columns: [`ops::norm`](crate::ops::norm) and
//! [`ops::blocks`](crate::ops::blocks).
//!
//! A row is a warp's, whose 32 partial sums are added in one order. A sum over rows has a partial sum for each block of rows; the
//! partial sums are added in one order. The blocks are a function of the format and the shape, not of the device.

use super::Cuda;
use super::format::{Format, common, single};
use super::launch::{Arg, Kernel, THREADS, Variant, WARPS, args, warps_grid};
use super::memory::{Slice, SliceMut};
use crate::ops::blocks::BLOCK_ROWS;

/// Most blocks of rows of a sum over rows of single precision: beyond, blocks grow.
const MAX_BLOCKS: usize = 512;

/// Blocks that keep the memory of any device busy with a sum over rows.
const BUSY_BLOCKS: usize = 528;

impl Cuda {
    /// `y = (x − mean) · rstd · gamma + beta` for each row; `stats` receives (mean, rstd) of each.
    pub fn layer_norm(
        &self,
        x: Slice<'_>,
        gamma: Slice<'_>,
        beta: Slice<'_>,
        eps: f32,
        y: SliceMut<'_>,
        stats: SliceMut<'_>,
    ) {
        let cols = gamma.len();
        let rows = y.len() / cols;
        assert!(
            y.len() <= x.len() && 2 * rows <= stats.len() && beta.len() == cols,
            "the norm's shapes fit"
        );
        let format = common("layer_norm", &[&x, &y]);
        single("layer_norm", &[&gamma, &beta, &stats]);
        let aligned = x.has_aligned_rows(cols) && [gamma, beta].iter().all(Slice::is_aligned) && y.is_aligned();
        let args = args![x, gamma, beta, eps, &y, &stats, rows, cols, aligned];
        self.launch(Kernel::LayerNorm.of(format), warps_grid(rows), THREADS, args);
    }

    /// The gradient of a layer norm's input, put into or added to `dx`.
    pub fn layer_norm_backward(
        &self,
        x: Slice<'_>,
        stats: Slice<'_>,
        gamma: Slice<'_>,
        dy: Slice<'_>,
        dx: SliceMut<'_>,
        fresh: bool,
    ) {
        let cols = gamma.len();
        let rows = dx.len() / cols;
        assert!(
            dx.len() <= x.len().min(dy.len()) && 2 * rows <= stats.len(),
            "the norm's shapes fit"
        );
        let format = common("layer_norm_backward", &[&x, &dy, &dx]);
        single("layer_norm_backward", &[&stats, &gamma]);
        let aligned = dx.has_aligned_rows(cols) && [x, gamma, dy].iter().all(Slice::is_aligned);
        let args = args![x, stats, gamma, dy, &dx, rows, cols, fresh, aligned];
        self.launch(Kernel::LayerNormBackward.of(format), warps_grid(rows), THREADS, args);
    }

    /// The gradients of a layer norm's gain and offset: `both` receives dγ then dβ.
    pub fn layer_norm_params(&self, x: Slice<'_>, stats: Slice<'_>, dy: Slice<'_>, cols: usize, both: SliceMut<'_>) {
        assert_eq!(both.len(), 2 * cols, "the norm's shapes fit");
        let (gain, offset) = both.split_at(cols);
        self.layer_norm_params_to(x, stats, dy, [gain, offset], true);
    }

    /// The gradients of a layer norm's gain and offset, put into or added to these.
    pub fn layer_norm_params_to(
        &self,
        x: Slice<'_>,
        stats: Slice<'_>,
        dy: Slice<'_>,
        [gain, offset]: [SliceMut<'_>; 2],
        fresh: bool,
    ) {
        let cols = gain.len();
        let rows = x.len() / cols;
        assert!(
            rows * cols <= dy.len() && 2 * rows <= stats.len() && offset.len() == cols,
            "the norm's shapes fit"
        );
        let format = common("layer_norm_params", &[&x, &dy]);
        single("layer_norm_params", &[&stats, &gain, &offset]);
        let aligned = x.has_aligned_rows(cols) && dy.is_aligned();
        let (kernel, inputs) = (Kernel::LayerNormParams.of(format), args![x, stats, dy]);
        self.sum_over_rows((kernel, format, aligned), inputs, (rows, cols), [gain, offset], fresh);
    }

    /// `y = x / ‖x‖` for each row; `norms` receives ‖x‖.
    pub fn l2_norm(&self, x: Slice<'_>, cols: usize, y: SliceMut<'_>, norms: SliceMut<'_>) {
        let rows = x.len() / cols;
        assert!(rows * cols <= y.len() && rows <= norms.len(), "the norm's shapes fit");
        single("l2_norm", &[&y, &norms]);
        let args = args![x, &y, &norms, rows, cols, x.has_aligned_rows(cols) && y.is_aligned()];
        self.launch(Kernel::L2Norm.of(x.format()), warps_grid(rows), THREADS, args);
    }

    /// The gradient of [`l2_norm`](Self::l2_norm), put into or added to `dx`.
    pub fn l2_norm_backward(
        &self,
        y: Slice<'_>,
        norms: Slice<'_>,
        dy: Slice<'_>,
        cols: usize,
        dx: SliceMut<'_>,
        fresh: bool,
    ) {
        let rows = dx.len() / cols;
        assert!(
            dx.len() <= y.len().min(dy.len()) && rows <= norms.len(),
            "the norm's shapes fit"
        );
        single("l2_norm_backward", &[&y, &norms, &dy]);
        let aligned = dx.has_aligned_rows(cols) && y.is_aligned() && dy.is_aligned();
        let args = args![y, norms, dy, &dx, rows, cols, fresh, aligned];
        self.launch(Kernel::L2NormBackward.of(dx.format()), warps_grid(rows), THREADS, args);
    }

    /// Column sums of `x` (rows × `out.len()`), put into or added to `out`.
    pub fn sum_columns(&self, x: Slice<'_>, out: SliceMut<'_>, fresh: bool) {
        let cols = out.len();
        let rows = x.len().checked_div(cols).unwrap_or(0);
        let aligned = x.has_aligned_rows(cols);
        let kernel = (Kernel::SumColumns.of(x.format()), x.format(), aligned);
        let (out, none) = out.split_at(cols);
        self.sum_over_rows(kernel, args![x], (rows, cols), [out, none], fresh);
    }

    /// Sums over blocks of rows by a kernel, which reads `inputs` of a format that may be aligned, then over the blocks; the sums fill
    /// one slice and then the other.
    fn sum_over_rows(
        &self,
        (kernel, format, aligned): (Variant, Format, bool),
        inputs: &[Arg],
        (rows, cols): (usize, usize),
        out: [SliceMut<'_>; 2],
        fresh: bool,
    ) {
        if rows == 0 || cols == 0 {
            if fresh {
                for out in out {
                    self.fill(out, 0.0);
                }
            }
            return;
        }
        let [first, rest] = out;
        let sums = first.len() + rest.len();
        let groups = cols.div_ceil(32 * format.pack());
        let (block, warps) = row_blocks(format, rows, groups);
        let blocks = rows.div_ceil(block);
        let partials = self.scratch(blocks * sums * size_of::<f32>());
        let args = [inputs, args![&partials, rows, cols, block, aligned]].concat();
        self.launch(kernel, (groups as u32, blocks as u32), 32 * warps, &args);
        // 32 columns a block, their partial sums shared by 16 warps.
        let grid = (sums.div_ceil(32) as u32, 1);
        let args = args![&partials, blocks, &first, &rest, first.len(), sums, fresh];
        self.launch(Kernel::SumPartials.of(first.format()), grid, 512, args);
    }
}

/// Rows of a block of a sum over rows, and the warps that share them, where the columns are in so many groups.
fn row_blocks(format: Format, rows: usize, groups: usize) -> (usize, u32) {
    match format {
        // The order of the processor's sums within a block.
        Format::F32 => (BLOCK_ROWS * rows.div_ceil(BLOCK_ROWS * MAX_BLOCKS), 1),
        Format::Bf16 => {
            let blocks = BUSY_BLOCKS.div_ceil(groups);
            (rows.div_ceil(blocks).next_multiple_of(WARPS as usize), WARPS)
        }
    }
}
