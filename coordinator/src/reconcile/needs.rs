//! What a stage asks of devices besides their number.

use crate::plan::{Memory, MemoryByRanks, Needs};
use medley_protocol::estimate::Estimate;
use medley_protocol::spec::{Precision, Spec};
use medley_protocol::stage::StageKind;
use medley_protocol::staircase::stairs;

/// What the ranks of a stage need: memory is foreseen where they train, for every number of ranks that lets the busiest of them
/// have fewer lanes.
pub fn needs(spec: &Spec, kind: StageKind) -> Needs {
    Needs {
        bf16: spec.precision() == Precision::Bf16 && kind.computes(),
        memory: by_ranks(spec, |lanes| Estimate::of(spec, kind, lanes)).unwrap_or_default(),
        recomputing: by_ranks(spec, |lanes| Estimate::recomputing(spec, kind, lanes))
            .map(|memory| (format!("{kind}.recompute"), memory)),
    }
}

/// Memory by the lanes that the busiest rank has; none if that is not foreseen.
fn by_ranks(spec: &Spec, estimate: impl Fn(u32) -> Option<Estimate>) -> Option<MemoryByRanks> {
    let useful = stairs(spec.lanes.count);
    let useful = useful.iter().take_while(|stair| stair.ranks <= spec.cluster.max_ranks);
    let memory = useful.map(|stair| estimate(stair.lanes).map(|estimate| (stair.ranks, memory(&estimate))));
    memory.collect::<Option<Vec<_>>>().map(MemoryByRanks)
}

fn memory(estimate: &Estimate) -> Memory {
    Memory {
        gpu_bytes: estimate.gpu_bytes,
        gpu_host_bytes: estimate.gpu_host_bytes,
        host_bytes: estimate.host_bytes.unwrap_or(0),
    }
}
