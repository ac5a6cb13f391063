//! What a rank needs of a node, and what a node has.
//!
//! A rank's memory depends on how many share the lanes, and how many there may be on the memory of each. So it is known here
//! for every number of ranks, and a placement counts as fitting only with the memory of as many as it has.

use medley_protocol::hardware::Hardware;
use std::iter;

/// What the devices of a node are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Means {
    /// Memory of its smallest GPU for each rank on it; none if ranks compute on the processor.
    pub gpu_bytes: Option<u64>,
    /// Memory of the machine for all its ranks, if it is known.
    pub host_bytes: Option<u64>,
}

/// Memory of a rank. What is not known is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Of a GPU.
    pub gpu_bytes: u64,
    /// Of the machine, if it is on a GPU.
    pub gpu_host_bytes: u64,
    /// Of the machine, if it is on the processor.
    pub host_bytes: u64,
}

/// Memory of each rank by their number: what is true from so many ranks on, in ascending order from 1. Nothing where it is not
/// known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryByRanks(pub Vec<(u32, Memory)>);

/// What the ranks of a stage need of devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// They compute in bf16, which GPUs alone do.
    pub bf16: bool,
    /// Memory.
    pub memory: MemoryByRanks,
    /// Memory if activations were computed again, and the field of the spec that asks for it; none where it is asked for.
    pub recomputing: Option<(String, MemoryByRanks)>,
}

impl MemoryByRanks {
    /// With so many ranks.
    pub fn of(&self, ranks: u32) -> Memory {
        let smaller = self.0.partition_point(|(from, _)| *from <= ranks);
        smaller.checked_sub(1).map(|i| self.0[i].1).unwrap_or_default()
    }

    /// Of the numbers from `min` to `max` the least of each memory.
    pub(super) fn steps(&self, min: u32, max: u32) -> impl Iterator<Item = u32> {
        let numbers = self.0.iter().map(|(from, _)| *from);
        iter::once(min).chain(numbers.filter(move |from| min < *from && *from <= max))
    }
}

impl Needs {
    /// Whether so many ranks on each of these nodes fit there, all of them together being the stage's.
    pub fn fit(&self, nodes: &[(Means, u32)]) -> bool {
        let memory = self.memory.of(nodes.iter().map(|(_, ranks)| ranks).sum());
        nodes
            .iter()
            .all(|(means, ranks)| *ranks <= means.room(self.bf16, memory))
    }
}

impl Means {
    /// Those of a node that says this of itself, and runs a rank on each of so many devices.
    pub fn of(hardware: &Hardware, devices: u32) -> Self {
        let gpus = hardware.gpus.len() as u64;
        let smallest = hardware.gpus.iter().map(|gpu| gpu.memory_bytes).min();
        Self {
            gpu_bytes: smallest.map(|bytes| bytes / u64::from(devices).div_ceil(gpus).max(1)),
            host_bytes: hardware.memory_bytes,
        }
    }

    /// How many ranks of this memory fit on a node.
    fn room(&self, bf16: bool, memory: Memory) -> u32 {
        let needed = match self.gpu_bytes {
            Some(bytes) if memory.gpu_bytes > bytes => return 0,
            Some(_) => memory.gpu_host_bytes,
            None if bf16 => return 0,
            None => memory.host_bytes,
        };
        let fit = self.host_bytes.and_then(|bytes| bytes.checked_div(needed));
        fit.map_or(u32::MAX, |ranks| u32::try_from(ranks).unwrap_or(u32::MAX))
    }
}

/// How many ranks of a stage and of one memory fit on one node after the other. Nodes that are alike stand beside each other more
/// often than not.
pub(super) struct Room {
    bf16: bool,
    memory: Memory,
    /// What was found last.
    last: Option<(Means, u32)>,
}

impl Room {
    /// With so many ranks in all.
    pub(super) fn with(ranks: u32, needs: &Needs) -> Self {
        Self::of(needs.bf16, needs.memory.of(ranks))
    }

    /// For ranks of this memory.
    pub(super) const fn of(bf16: bool, memory: Memory) -> Self {
        Self {
            bf16,
            memory,
            last: None,
        }
    }

    /// On a node of these means.
    pub(super) fn on(&mut self, means: Means) -> u32 {
        let known = self.last.filter(|(last, _)| *last == means);
        let (_, room) = *self
            .last
            .insert(known.unwrap_or_else(|| (means, means.room(self.bf16, self.memory))));
        room
    }
}
