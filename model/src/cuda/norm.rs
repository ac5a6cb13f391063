//! Layer normalisation, L2 normalisation and sums of columns: [`ops::norm`](crate::ops::norm) and
//! [`ops::blocks`](crate::ops::blocks).
//!
//! A row is a warp's, whose 32 partial sums are added in one order. A sum over rows has a partial sum for each block of rows; the
//! partial sums are added in one order.

use super::Cuda;
use super::launch::{Arg, Kernel, THREADS, args, warps_grid};
use super::memory::{Slice, SliceMut};
use crate::ops::blocks::BLOCK_ROWS;

/// Most blocks of rows of a sum over rows: beyond, blocks grow.
const MAX_BLOCKS: usize = 512;

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
        let aligned = cols.is_multiple_of(4) && [x, gamma, beta].iter().all(Slice::is_aligned) && y.is_aligned();
        let args = args![x, gamma, beta, eps, &y, &stats, rows, cols, aligned];
        self.launch(Kernel::LayerNorm, warps_grid(rows), THREADS, args);
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
        let aligned = cols.is_multiple_of(4) && [x, gamma, dy].iter().all(Slice::is_aligned) && dx.is_aligned();
        let args = args![x, stats, gamma, dy, &dx, rows, cols, fresh, aligned];
        self.launch(Kernel::LayerNormBackward, warps_grid(rows), THREADS, args);
    }

    /// The gradients of a layer norm's gain and offset: `both` receives dγ then dβ.
    pub fn layer_norm_params(&self, x: Slice<'_>, stats: Slice<'_>, dy: Slice<'_>, cols: usize, both: SliceMut<'_>) {
        let rows = x.len() / cols;
        assert!(
            rows * cols <= dy.len() && 2 * rows <= stats.len() && both.len() == 2 * cols,
            "the norm's shapes fit"
        );
        self.sum_over_rows(
            Kernel::LayerNormParams,
            &[x.into(), stats.into(), dy.into()],
            (rows, cols),
            both,
            true,
        );
    }

    /// `y = x / ‖x‖` for each row; `norms` receives ‖x‖.
    pub fn l2_norm(&self, x: Slice<'_>, cols: usize, y: SliceMut<'_>, norms: SliceMut<'_>) {
        let rows = x.len() / cols;
        assert!(rows * cols <= y.len() && rows <= norms.len(), "the norm's shapes fit");
        let aligned = cols.is_multiple_of(4) && x.is_aligned() && y.is_aligned();
        self.launch(
            Kernel::L2Norm,
            warps_grid(rows),
            THREADS,
            args![x, &y, &norms, rows, cols, aligned],
        );
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
        let aligned = cols.is_multiple_of(4) && y.is_aligned() && dy.is_aligned() && dx.is_aligned();
        let args = args![y, norms, dy, &dx, rows, cols, fresh, aligned];
        self.launch(Kernel::L2NormBackward, warps_grid(rows), THREADS, args);
    }

    /// Column sums of `x` (rows × `out.len()`), put into or added to `out`.
    pub fn sum_columns(&self, x: Slice<'_>, out: SliceMut<'_>, fresh: bool) {
        let cols = out.len();
        let rows = x.len().checked_div(cols).unwrap_or(0);
        self.sum_over_rows(Kernel::SumColumns, &[x.into()], (rows, cols), out, fresh);
    }

    /// Sums over blocks of rows by `kernel`, which reads `inputs`, then over the blocks.
    fn sum_over_rows(
        &self,
        kernel: Kernel,
        inputs: &[Arg],
        (rows, cols): (usize, usize),
        out: SliceMut<'_>,
        fresh: bool,
    ) {
        if rows == 0 || cols == 0 {
            if fresh {
                self.fill(out, 0.0);
            }
            return;
        }
        let block = BLOCK_ROWS * rows.div_ceil(BLOCK_ROWS * MAX_BLOCKS);
        let blocks = rows.div_ceil(block);
        let partials = self.scratch(blocks * out.len() * size_of::<f32>());
        let threads = THREADS.min(cols.next_multiple_of(32) as u32);
        let grid = (cols.div_ceil(threads as usize) as u32, blocks as u32);
        let args = [inputs, args![&partials, rows, cols, block]].concat();
        self.launch(kernel, grid, threads, &args);
        // 32 columns a block, their partial sums shared by 16 warps.
        let grid = (out.len().div_ceil(32) as u32, 1);
        let args = args![&partials, blocks, &out, out.len(), fresh];
        self.launch(Kernel::SumPartials, grid, 512, args);
    }
}
