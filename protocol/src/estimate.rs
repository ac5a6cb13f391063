//! How much memory a rank of a training stage takes, before it has run.
//!
//! What is alive when a lane's backward pass begins is counted operation by operation, as the model runs them: every
//! intermediate result is kept until then, and little is added before the first are given back. Where a stage recomputes, little is
//! kept and something is added: what that is most, on the way back, is counted too. Beside it lie the state, one
//! gradient for each sum of the lane tree that waits, and what an exchange and a checkpoint copy: on a GPU all of it in the GPU's
//! memory, since the state is committed there. The machine besides has the state while it is loaded, a checkpoint's part while it
//! is written, and sums that do not go from GPU to GPU. Texts are taken for half as long as they may be. What the data sets' indexes take is not known before they are made.

mod sizes;

use crate::spec::{Kind, Precision, Spec, TrainSpec};
use crate::stage::StageKind;
use serde::{Deserialize, Serialize};
use sizes::{Passes, Sizes};

/// Bytes of a number in single precision. All is counted in floating point: a spec may name sizes whose product is beyond whole
/// numbers.
const EXACT: f64 = 4.0;
/// A process without a model: its program, its threads, a batch that is read ahead.
const PROCESS_BYTES: f64 = 32.0 * MIB;
/// What CUDA takes of a GPU for itself, its libraries and kernels. Not measured, and rather too much than too little.
const CUDA_BYTES: f64 = 768.0 * MIB;
const MIB: f64 = (1 << 20) as f64;

/// Memory of the rank of a training stage that runs the most lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// The stage's kind.
    pub stage: StageKind,
    /// Lanes that the rank runs, one after the other.
    pub lanes: u32,
    /// On a GPU, of that GPU.
    pub gpu_bytes: u64,
    /// On a GPU, of the machine besides.
    pub gpu_host_bytes: u64,
    /// On the processor, of the machine; none if the job's precision takes a GPU.
    pub host_bytes: Option<u64>,
}

impl Estimate {
    /// What ranks of a stage take that run at most so many lanes each; none for stages that do not train.
    pub fn of(spec: &Spec, stage: StageKind, lanes: u32) -> Option<Self> {
        let (train, passes) = section(spec, stage)?;
        Some(Self::count(spec, stage, lanes, (passes, &Sizes::of(spec, train))))
    }

    /// The same if the stage's section said `recompute`; none if it does.
    pub fn recomputing(spec: &Spec, stage: StageKind, lanes: u32) -> Option<Self> {
        let (train, passes) = section(spec, stage).filter(|(train, _)| !train.recompute)?;
        let mut sizes = Sizes::of(spec, train);
        sizes.recomputes = true;
        Some(Self::count(spec, stage, lanes, (passes, &sizes)))
    }

    fn count(spec: &Spec, stage: StageKind, lanes: u32, (passes, sizes): (Passes, &Sizes)) -> Self {
        let [student, momentum] = [sizes.student(), sizes.momentum()];
        let (gradient, state) = (student * EXACT, sizes.state_bytes());
        let ranks = f64::from(spec.lanes.count.div_ceil(lanes));
        // Sums that wait for others while lanes are added, and what is sent and received meanwhile.
        let sums = f64::from(lanes.ilog2() + 1) + if ranks > 1.0 { 2.0 } else { 0.0 };
        // Of the lane that is computed, the next one, and the one behind it while it is read or sent.
        let pixels = 3.0 * sizes.pixels() * EXACT;
        let process = PROCESS_BYTES + pixels + state + state / ranks;
        let precision = spec.precision();
        let rounded = match precision {
            Precision::Fp32 => 0.0,
            Precision::Bf16 => (student + momentum) * size(precision),
        };
        // Beside the lane as on the processor: the state, what a checkpoint copies, and sums.
        let committed = state + state / ranks + sums * gradient + rounded;
        let passing = if ranks > 1.0 { sums * gradient } else { 0.0 };
        let alive = |is_gpu| sizes.alive(passes, is_gpu).bytes(precision);
        Self {
            stage,
            lanes,
            gpu_bytes: (CUDA_BYTES + pixels + committed + alive(true)) as u64,
            gpu_host_bytes: (process + passing) as u64,
            host_bytes: (precision == Precision::Fp32).then(|| (process + sums * gradient + alive(false)) as u64),
        }
    }

    /// What ranks of each kind of stage take that trains in this job, on so many ranks.
    pub fn of_job(spec: &Spec, ranks: u32) -> Vec<Self> {
        let all = [StageKind::Pretrain, StageKind::Captioner, StageKind::Filter];
        let stages = if spec.kind == Kind::Bootstrap {
            &all[..]
        } else {
            &all[..1]
        };
        let lanes = spec.lanes.count.div_ceil(ranks.clamp(1, spec.lanes.count));
        stages
            .iter()
            .filter_map(|stage| Self::of(spec, *stage, lanes))
            .collect()
    }
}

/// What the spec says of a stage that trains, and what a lane's pass computes there.
fn section(spec: &Spec, stage: StageKind) -> Option<(&TrainSpec, Passes)> {
    let passes = |contrast, generate| Passes { contrast, generate };
    match stage {
        StageKind::Pretrain => Some((&spec.pretrain, passes(true, true))),
        StageKind::Captioner => Some((&spec.captioner, passes(false, true))),
        StageKind::Filter => Some((&spec.filter, passes(true, false))),
        StageKind::Index | StageKind::Capfilt | StageKind::Evaluate => None,
    }
}

/// Bytes of a number that is computed in this.
const fn size(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 => EXACT,
        Precision::Bf16 => 2.0,
    }
}

#[cfg(test)]
mod tests;
