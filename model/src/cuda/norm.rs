//! Layer normalisation and L2 normalisation: [`ops::norm`](crate::ops::norm).
//!
//! A row is a warp's, whose 32 partial sums are added in one order; for sums over rows see `sums`.

use super::Cuda;
use super::format::{common, single};
use super::launch::{Kernel, THREADS, args, warps_grid};
use super::memory::{Slice, SliceMut};
use super::sums::Totals;

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

    /// `sum = a + b`, and its [`layer_norm`](Self::layer_norm) with gain and offset.
    pub fn add_norm(
        &self,
        [a, b]: [Slice<'_>; 2],
        (gamma, beta, eps): (Slice<'_>, Slice<'_>, f32),
        sum: SliceMut<'_>,
        y: SliceMut<'_>,
        stats: SliceMut<'_>,
    ) {
        let cols = gamma.len();
        let rows = y.len() / cols;
        assert!(
            y.len() <= a.len().min(b.len()).min(sum.len()) && 2 * rows <= stats.len() && beta.len() == cols,
            "the norm's shapes fit"
        );
        let format = common("add_norm", &[&a, &b, &sum, &y]);
        single("add_norm", &[&gamma, &beta, &stats]);
        let whole = [a, b, gamma, beta].iter().all(Slice::is_aligned);
        let aligned = whole && sum.has_aligned_rows(cols) && y.is_aligned();
        let args = args![a, b, gamma, beta, eps, &sum, &y, &stats, rows, cols, aligned];
        self.launch(Kernel::AddNorm.of(format), warps_grid(rows), THREADS, args);
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
        let out = Totals::two([gain, offset]);
        self.sum_over_rows((kernel, format, aligned), inputs, (rows, cols), &out, fresh);
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
}
