//! The optimiser and norms of whole buffers: [`ops::optim`](crate::ops::optim).

use super::Cuda;
use super::format::{Format, single};
use super::launch::{Kernel, THREADS, args, loop_grid};
use super::memory::{Slice, SliceMut};
use crate::ops::optim::AdamW;

/// Elements of a partial sum of [`Cuda::squares`].
const SQUARES_UNIT: usize = 1 << 16;

impl Cuda {
    /// Moves parameters `p` by gradient `g · scale` with moments `m` and `v`.
    pub fn adamw(&self, step: &AdamW, p: SliceMut<'_>, g: Slice<'_>, scale: f32, m: SliceMut<'_>, v: SliceMut<'_>) {
        let n = p.len();
        assert!(
            n <= g.len().min(m.len()).min(v.len()),
            "every parameter has its gradient and moments"
        );
        single("adamw", &[&p, &g, &m, &v]);
        let aligned = g.is_aligned() && [&p, &m, &v].iter().all(|slice| slice.is_aligned());
        let numbers = [
            step.step,
            step.keep,
            step.new1,
            step.beta2,
            step.new2,
            step.correction2_sqrt,
            step.eps,
        ];
        let [rate, keep, new1, beta2, new2, correction2_sqrt, eps] = numbers;
        let args = args![
            &p,
            g,
            scale,
            &m,
            &v,
            n,
            rate,
            keep,
            new1,
            beta2,
            new2,
            correction2_sqrt,
            eps,
            aligned
        ];
        self.launch(Kernel::AdamW, loop_grid(n, Format::F32), THREADS, args);
    }

    /// `e = momentum·e + (1 − momentum)·p`.
    pub fn momentum_average(&self, e: SliceMut<'_>, p: Slice<'_>, momentum: f64) {
        assert!(e.len() <= p.len(), "every element has its parameter");
        single("momentum_average", &[&e, &p]);
        let (old, new) = (momentum as f32, (1.0 - momentum) as f32);
        let aligned = e.is_aligned() && p.is_aligned();
        let args = args![&e, p, e.len(), old, new, aligned];
        self.launch(Kernel::MomentumAverage, loop_grid(e.len(), Format::F32), THREADS, args);
    }

    /// Σ x² in double precision. Waits; not a number after an error.
    pub fn squares(&self, x: Slice<'_>) -> f64 {
        single("squares", &[&x]);
        if x.is_empty() {
            return 0.0;
        }
        let units = x.len().div_ceil(SQUARES_UNIT);
        let partials = self.scratch((units + 1) * size_of::<f64>());
        let args = args![x, x.len(), SQUARES_UNIT, &partials];
        self.launch(Kernel::SquarePartials, (units as u32, 1), THREADS, args);
        let total = partials.address() + (units * size_of::<f64>()) as u64;
        self.launch(Kernel::SumSquares, (1, 1), THREADS, args![&partials, units, total]);
        let mut sum = [f64::NAN];
        self.fetch(total, &mut sum);
        sum[0]
    }
}
