//! Who runs where: a pure function from free devices and waiting stages to placements.
//!
//! Stages of a higher priority are served first. Stages of one priority share: each first gets the fewest ranks it can
//! work with, older ones first, then the rest is dealt one device at a time. A training stage is a gang, all or nothing,
//! of one numerics fingerprint; it takes no rank that would not make it faster, because a step takes
//! ⌈lanes / ranks⌉ lanes of time. A stage whose ranks hold its state in memory keeps them where it can; one that begins
//! prefers GPUs. Ranks are put only where they can compute in what the job asks for, and where they would find enough
//! memory. For every stage that has to wait the planner says why in words.

use medley_protocol::hardware::Hardware;
use medley_protocol::ids::{NodeId, StageId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A node that can take ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node.
    pub id: NodeId,
    /// Numerics fingerprint of its ranks.
    pub fingerprint: String,
    /// Ranks it can run at once.
    pub devices: u32,
    /// Devices that no stage has.
    pub free: u32,
    /// What they are.
    pub means: Means,
}

/// What the devices of a node are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Means {
    /// Memory of its smallest GPU for each rank on it; none if ranks compute on the processor.
    pub gpu_bytes: Option<u64>,
    /// Memory of the machine for all its ranks, if it is known.
    pub host_bytes: Option<u64>,
}

/// What a rank needs of a device. Memory that is not known is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// It computes in bf16, which GPUs alone do.
    pub bf16: bool,
    /// Of a GPU.
    pub gpu_bytes: u64,
    /// Of the machine, if it is on a GPU.
    pub gpu_host_bytes: u64,
    /// Of the machine, if it is on the processor.
    pub host_bytes: u64,
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

    /// How many ranks that need this fit on a node.
    fn room(&self, needs: &Needs) -> u32 {
        let needed = match self.gpu_bytes {
            Some(bytes) if needs.gpu_bytes > bytes => return 0,
            Some(_) => needs.gpu_host_bytes,
            None if needs.bf16 => return 0,
            None => needs.host_bytes,
        };
        let fit = self.host_bytes.and_then(|bytes| bytes.checked_div(needed));
        fit.map_or(u32::MAX, |ranks| u32::try_from(ranks).unwrap_or(u32::MAX))
    }
}

/// A stage that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The stage.
    pub stage: StageId,
    /// Higher ones are served first.
    pub priority: i32,
    /// Fewest ranks it can work with; at least 1.
    pub min: u32,
    /// Most ranks it can use; at least `min`.
    pub max: u32,
    /// Lanes that its ranks share in lock-step; none for ranks that work alone.
    pub lanes: Option<u32>,
    /// Ranks that hold its state in memory, by node: better kept than replaced.
    pub keeps: BTreeMap<NodeId, u32>,
    /// Nodes that cannot work with others that it has, or would have.
    pub avoids: BTreeSet<NodeId>,
    /// What each rank needs.
    pub needs: Needs,
}

impl Request {
    fn kept_on(&self, node: &Node) -> u32 {
        self.keeps.get(&node.id).copied().unwrap_or(0)
    }

    /// Most ranks that it could have of a node.
    fn room(&self, node: &Node) -> u32 {
        if self.avoids.contains(&node.id) {
            0
        } else {
            node.means.room(&self.needs)
        }
    }
}

/// Ranks of a stage by node, in rank order.
pub type Placement = Vec<(NodeId, u32)>;

/// What became of the requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Stages that can start.
    pub placements: BTreeMap<StageId, Placement>,
    /// Why the others wait, in words.
    pub waits: BTreeMap<StageId, String>,
}

/// Places `requests`, given oldest first.
pub fn plan(nodes: &[Node], requests: &[Request]) -> Plan {
    let mut board = Board {
        nodes,
        free: nodes.iter().map(|node| node.free).collect(),
    };
    let mut by_priority: BTreeMap<i32, Vec<&Request>> = BTreeMap::new();
    for request in requests {
        by_priority.entry(request.priority).or_default().push(request);
    }
    let mut plan = Plan::default();
    for equals in by_priority.into_values().rev() {
        let mut hands = Vec::new();
        for request in equals {
            match board.gang(request) {
                Ok(hand) => hands.push(hand),
                Err(reason) => {
                    plan.waits.insert(request.stage, reason);
                }
            }
        }
        board.share(&mut hands);
        plan.placements.extend(
            hands
                .into_iter()
                .map(|hand| (hand.request.stage, board.placement(&hand))),
        );
    }
    plan
}

/// The devices as they are being dealt.
struct Board<'a> {
    nodes: &'a [Node],
    /// Free devices of each node.
    free: Vec<u32>,
}

/// What a request has got so far.
struct Hand<'a> {
    request: &'a Request,
    /// The only fingerprint it may have.
    fingerprint: Option<&'a str>,
    /// Most ranks of use to it.
    limit: u32,
    /// Ranks by node.
    ranks: Vec<u32>,
    /// The node of its last device: the next one is taken there too, unless something was given back since.
    last: Option<usize>,
}

impl Hand<'_> {
    fn num_ranks(&self) -> u32 {
        self.ranks.iter().sum()
    }

    /// Whether it may have another rank of the node with this number.
    fn may_use(&self, i: usize, node: &Node) -> bool {
        let fits = self
            .fingerprint
            .is_none_or(|fingerprint| fingerprint == node.fingerprint);
        fits && self.ranks[i] < self.request.room(node)
    }
}

impl<'a> Board<'a> {
    /// Takes the fewest ranks that `request` can work with, or says why that is not possible.
    fn gang(&mut self, request: &'a Request) -> Result<Hand<'a>, String> {
        let free = |i: usize| self.free[i].min(request.room(&self.nodes[i]));
        let free_by_fingerprint = self.sum_by_fingerprint(free);
        let free_in_all: u32 = (0..self.nodes.len()).map(free).sum();
        let (fingerprint, free) = if request.lanes.is_some() {
            let kept = self.sum_by_fingerprint(|i| request.kept_on(&self.nodes[i]));
            let on_gpus = self.sum_by_fingerprint(|i| u32::from(self.nodes[i].means.gpu_bytes.is_some()));
            let best = free_by_fingerprint.iter().max_by_key(|(fingerprint, free)| {
                let is_gpu = on_gpus.get(*fingerprint) > Some(&0);
                (**free >= request.min, kept.get(*fingerprint), is_gpu, **free)
            });
            best.map_or((None, 0), |(fingerprint, free)| (Some(*fingerprint), *free))
        } else {
            (None, free_in_all)
        };
        if free < request.min {
            return Err(self.reason(request, free));
        }
        let mut hand = Hand {
            request,
            fingerprint,
            limit: request.max,
            ranks: vec![0; self.nodes.len()],
            last: None,
        };
        while hand.num_ranks() < request.min && self.take(&mut hand) {}
        Ok(hand)
    }

    /// Deals what is left in turns, then takes back ranks that make nobody faster and deals those.
    fn share(&mut self, hands: &mut [Hand<'_>]) {
        // Each pass lowers some limit for good, or is the last.
        loop {
            let mut dealt = true;
            while dealt {
                dealt = false;
                for hand in hands.iter_mut().filter(|hand| hand.num_ranks() < hand.limit) {
                    dealt |= self.take(hand);
                }
            }
            let mut gave_back = false;
            for hand in hands.iter_mut() {
                gave_back |= self.give_back(hand);
            }
            if !gave_back {
                return;
            }
            hands.iter_mut().for_each(|hand| hand.last = None);
        }
    }

    /// Takes one more device: one whose rank is there already, else on the node where the hand has most, else where most are
    /// free.
    fn take(&mut self, hand: &mut Hand<'_>) -> bool {
        // Where it took last, it has more than anywhere else that devices are free.
        let again = hand
            .last
            .filter(|i| self.free[*i] > 0 && hand.request.keeps.is_empty() && hand.may_use(*i, &self.nodes[*i]));
        let Some(node) = again.or_else(|| self.best(hand)) else {
            return false;
        };
        self.free[node] -= 1;
        hand.ranks[node] += 1;
        hand.last = Some(node);
        true
    }

    fn best(&self, hand: &Hand<'_>) -> Option<usize> {
        let usable = (0..self.nodes.len()).filter(|i| self.free[*i] > 0 && hand.may_use(*i, &self.nodes[*i]));
        usable.max_by_key(|i| {
            let is_there = hand.ranks[*i] < hand.request.kept_on(&self.nodes[*i]);
            (is_there, hand.ranks[*i], self.free[*i], Reverse(*i))
        })
    }

    /// Gives back the ranks without which a step takes no longer, but none that holds the state: it would soon be missed.
    fn give_back(&mut self, hand: &mut Hand<'_>) -> bool {
        let Some(lanes) = hand.request.lanes else { return false };
        let ranks = hand.num_ranks();
        let kept = (0..self.nodes.len()).map(|i| hand.ranks[i].min(hand.request.kept_on(&self.nodes[i])));
        let enough = kept.sum::<u32>().max(hand.request.min);
        let useful = lanes.div_ceil(lanes.div_ceil(ranks)).max(enough);
        for _ in useful..ranks {
            let smallest = (0..self.nodes.len())
                .filter(|i| hand.ranks[*i] > 0)
                .min_by_key(|i| (hand.ranks[*i] <= hand.request.kept_on(&self.nodes[*i]), hand.ranks[*i]));
            let Some(node) = smallest else { break };
            hand.ranks[node] -= 1;
            self.free[node] += 1;
        }
        hand.limit = hand.limit.min(useful.min(ranks));
        useful < ranks
    }

    fn placement(&self, hand: &Hand<'_>) -> Placement {
        let counts = hand.ranks.iter().enumerate().filter(|(_, ranks)| **ranks > 0);
        counts.map(|(i, ranks)| (self.nodes[i].id, *ranks)).collect()
    }

    fn sum_by_fingerprint(&self, value: impl Fn(usize) -> u32) -> BTreeMap<&'a str, u32> {
        let mut sums = BTreeMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            *sums.entry(node.fingerprint.as_str()).or_default() += value(i);
        }
        sums
    }

    fn reason(&self, request: &Request, free: u32) -> String {
        if self.nodes.is_empty() {
            return "waits for a node: none is alive; start agents with `medley-worker agent`".into();
        }
        let needs = &request.needs;
        let room = |i: usize| self.nodes[i].means.room(needs);
        if (0..self.nodes.len()).all(|i| room(i) == 0) {
            return self.unfit(needs);
        }
        let fitting = |i: usize| self.nodes[i].devices.min(room(i));
        let devices: u32 = (0..self.nodes.len()).map(fitting).sum();
        let by_fingerprint = self.sum_by_fingerprint(fitting);
        let largest = by_fingerprint.values().copied().max().unwrap_or(0);
        let min = request.min;
        let format = if needs.bf16 { " with bf16" } else { "" };
        let needs = if min == 1 {
            format!("a free device{format}")
        } else {
            format!("{min} free devices{format}")
        };
        if request.lanes.is_some() && largest < min {
            let limited = (0..self.nodes.len()).any(|i| fitting(i) < self.nodes[i].devices);
            let memory = if limited { " whose memory suffices" } else { "" };
            return format!(
                "waits for {needs} of one numerics fingerprint{memory}: the nodes alive have {devices} in all and at most \
                 {largest} of one; add nodes, or lower cluster.min_ranks"
            );
        }
        let others = if request.avoids.is_empty() {
            "the others work for other stages"
        } else {
            "the others work for other stages or do not reach these"
        };
        format!("waits for {needs}: {free} of {devices} are free for it, {others}")
    }

    /// Why no node's devices are of use.
    fn unfit(&self, needs: &Needs) -> String {
        let largest =
            |bytes: &dyn Fn(&Means) -> Option<u64>| self.nodes.iter().filter_map(|node| bytes(&node.means)).max();
        let gpu = largest(&|means: &Means| means.gpu_bytes);
        if needs.bf16 && gpu.is_none() {
            return "waits for devices with bf16: pretrain.precision asks for it, GPUs alone compute in it, and no node alive \
                    has one; start an agent where there are GPUs, or set it to \"fp32\""
                .into();
        }
        let on_gpus = gpu.map(|has| {
            let (gpu, host) = (size(needs.gpu_bytes), size(needs.gpu_host_bytes));
            let has = size(has);
            format!("a rank on a GPU needs about {gpu} of it and {host} of its machine, where the largest has {has} for a rank")
        });
        let machine = largest(&|means: &Means| means.gpu_bytes.is_none().then_some(means.host_bytes).flatten());
        let on_processors = machine.filter(|_| !needs.bf16).map(|has| {
            let host = size(needs.host_bytes);
            format!(
                "a rank on the processor needs about {host}, where the largest machine has {}",
                size(has)
            )
        });
        let why: Vec<String> = on_gpus.into_iter().chain(on_processors).collect();
        format!(
            "waits for devices with more memory: {}; lower lanes.batch (and raise lanes.count), or add larger nodes",
            why.join("; ")
        )
    }
}

/// A size, for people.
fn size(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests;
