//! Digests of memory: [`ops::digest`](crate::ops::digest).

use super::Cuda;
use super::format::single;
use super::launch::{Kernel, THREADS, args};
use super::memory::Slice;

/// Words of a partial sum.
const UNIT: usize = 1 << 16;

impl Cuda {
    /// The digest of all these numbers, each run of them with the place of its first one. Waits; 0 after an error.
    pub fn digest(&self, runs: &[(Slice<'_>, u64)]) -> u64 {
        let units_of = |run: &(Slice<'_>, u64)| run.0.len().div_ceil(UNIT);
        let units: usize = runs.iter().map(units_of).sum();
        let partials = self.scratch((units + 1) * size_of::<u64>());
        let at = |unit: usize| partials.address() + (unit * size_of::<u64>()) as u64;
        let mut first = 0;
        for run in runs {
            let (x, place) = *run;
            single("digest", &[&x]);
            let args = args![x, x.len(), place, UNIT, at(first)];
            self.launch(Kernel::DigestPartials, (units_of(run) as u32, 1), THREADS, args);
            first += units_of(run);
        }
        self.launch(Kernel::SumDigests, (1, 1), THREADS, args![&partials, units, at(units)]);
        let mut sum = [0];
        self.fetch(at(units), &mut sum);
        sum[0]
    }
}
