//! What a stage asks of devices besides their number.

use crate::plan::Needs;
use medley_protocol::estimate::Estimate;
use medley_protocol::spec::{Precision, Spec};
use medley_protocol::stage::StageKind;

/// What a rank of a stage needs: memory is foreseen where it trains, with as many ranks as it may have.
pub fn needs(spec: &Spec, kind: StageKind) -> Needs {
    let ranks = spec.cluster.max_ranks.clamp(1, spec.lanes.count);
    let estimate = Estimate::of(spec, kind, spec.lanes.count.div_ceil(ranks));
    Needs {
        bf16: spec.precision() == Precision::Bf16 && kind.computes(),
        gpu_bytes: estimate.map_or(0, |estimate| estimate.gpu_bytes),
        gpu_host_bytes: estimate.map_or(0, |estimate| estimate.gpu_host_bytes),
        host_bytes: estimate.and_then(|estimate| estimate.host_bytes).unwrap_or(0),
    }
}
