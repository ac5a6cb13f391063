//! Why a stage waits, in words.

use super::needs::{Means, Memory, MemoryByRanks, Room};
use super::{Board, Request};

impl Board<'_> {
    /// Why a request gets nothing.
    pub(super) fn reason(&self, request: &Request) -> String {
        if self.nodes.is_empty() {
            return "waits for a node: none is alive; start agents with `medley-worker agent`".into();
        }
        let memory = &request.needs.memory;
        let could = self.could(request, memory);
        let Some(ranks) = could.or_else(|| self.fits_somewhere(request)) else {
            return self.unfit(request);
        };
        let devices = |i: usize| self.nodes[i].devices;
        let format = if request.needs.bf16 { " with bf16" } else { "" };
        let wanted = if ranks == 1 {
            format!("a free device{format}")
        } else {
            format!("{ranks} free devices{format}")
        };
        let of_each = self
            .groups(request)
            .map(|group| self.fitting(Room::with(ranks, &request.needs), group, devices));
        let (all, largest) = of_each.fold((0, 0), |(all, largest), room| (all + room, room.max(largest)));
        if could.is_none() {
            let there: u32 = (0..self.nodes.len()).map(devices).sum();
            let is_limited = all < there || ranks > request.min;
            let suffices = if is_limited { " whose memory suffices" } else { "" };
            let advice = self.advice(request, ranks, is_limited);
            return format!(
                "waits for {wanted} of one numerics fingerprint{suffices}: the nodes alive have {all} in all and at most \
                 {largest} of one; {advice}"
            );
        }
        let free = |i: usize| self.free_for(request, i);
        let free = self
            .groups(request)
            .map(|group| self.fitting(Room::with(ranks, &request.needs), group, free))
            .max();
        let fewer = if ranks > request.min {
            " (each of fewer needs more memory than there is)"
        } else {
            ""
        };
        let others = if request.avoids.is_empty() {
            "the others work for other stages"
        } else {
            "the others work for other stages or do not reach these"
        };
        format!(
            "waits for {wanted}{fewer}: {} of {all} are free for it, {others}",
            free.unwrap_or(0)
        )
    }

    /// The fewest ranks that a request could have with such memory, were all devices free.
    pub(super) fn could(&self, request: &Request, memory: &MemoryByRanks) -> Option<u32> {
        let devices = |i: usize| self.nodes[i].devices;
        let fewest = self
            .groups(request)
            .filter_map(|group| self.fewest(request, memory, group, devices));
        fewest.min()
    }

    /// The fewest ranks of which one fits somewhere.
    fn fits_somewhere(&self, request: &Request) -> Option<u32> {
        let memory = &request.needs.memory;
        let fits = |ranks: &u32| {
            let mut room = Room::with(*ranks, &request.needs);
            self.nodes.iter().any(|node| room.on(node.means) > 0)
        };
        memory.steps(request.min, request.max).find(fits)
    }

    /// What to do for a request that has to have more devices than there are for it.
    fn advice(&self, request: &Request, ranks: u32, is_limited: bool) -> String {
        let remedy = self.remedy(request);
        if ranks > request.min {
            let lacks = self.lacks(request, request.needs.memory.of(request.min));
            return format!("with fewer ranks, {lacks}; add nodes, or {remedy}");
        }
        if is_limited {
            return format!("add nodes, lower cluster.min_ranks, or {remedy}");
        }
        "add nodes, or lower cluster.min_ranks".into()
    }

    /// Why no node's devices are of use.
    fn unfit(&self, request: &Request) -> String {
        if request.needs.bf16 && self.most(|means| means.gpu_bytes).is_none() {
            return "waits for devices with bf16: pretrain.precision asks for it, GPUs alone compute in it, and no node alive \
                    has one; start an agent where there are GPUs, or set it to \"fp32\""
                .into();
        }
        let lacks = self.lacks(request, request.needs.memory.of(request.max));
        let remedy = self.remedy(request);
        format!("waits for devices with more memory: {lacks}; {remedy}, or add larger nodes")
    }

    /// What a rank needs, and what there is.
    fn lacks(&self, request: &Request, memory: Memory) -> String {
        let on_gpus = self.most(|means| means.gpu_bytes).map(|has| {
            let (gpu, host) = (size(memory.gpu_bytes), size(memory.gpu_host_bytes));
            let has = size(has);
            format!("a rank on a GPU needs about {gpu} of it and {host} of its machine, where the largest has {has} for a rank")
        });
        let machine = self.most(|means| means.gpu_bytes.is_none().then_some(means.host_bytes).flatten());
        let on_processors = machine.filter(|_| !request.needs.bf16).map(|has| {
            let host = size(memory.host_bytes);
            format!(
                "a rank on the processor needs about {host}, where the largest machine has {}",
                size(has)
            )
        });
        on_gpus
            .into_iter()
            .chain(on_processors)
            .collect::<Vec<String>>()
            .join("; ")
    }

    fn most(&self, bytes: impl Fn(&Means) -> Option<u64>) -> Option<u64> {
        self.nodes.iter().filter_map(|node| bytes(&node.means)).max()
    }

    /// What of the spec may be changed so that its ranks need less memory. That activations are computed again is
    /// advice where it would do.
    fn remedy(&self, request: &Request) -> String {
        let recomputing = request.needs.recomputing.as_ref();
        let helps = recomputing.filter(|(_, memory)| self.could(request, memory).is_some());
        let recompute = helps
            .map(|(field, _)| format!("set {field} to true, or "))
            .unwrap_or_default();
        format!("{recompute}lower lanes.batch (and raise lanes.count)")
    }
}

/// A size, for people.
fn size(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}
