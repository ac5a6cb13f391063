//! Who runs where: a pure function from free devices and waiting stages to placements.
//!
//! Stages of a higher priority are served first. Stages of one priority share: each first gets the fewest ranks it can
//! work with, older ones first, then the rest is dealt in turns, to each the fewest that are of use to it. A training stage is
//! a gang, all or nothing, of one numerics fingerprint; it takes no rank that would not make it faster, because a step takes
//! ⌈lanes / ranks⌉ lanes of time. A stage whose ranks hold its state in memory keeps them where it can; one that begins
//! prefers GPUs. Ranks are put only where they can compute in what the job asks for, and where they would find enough
//! memory, all of them, with as many lanes as they get ([`needs`]). For every stage that has to wait the planner says why in
//! words ([`reason`]).

mod needs;
mod reason;

pub use needs::{Means, Memory, MemoryByRanks, Needs};

use medley_protocol::ids::{NodeId, StageId};
use medley_protocol::staircase::next_useful;
use needs::Room;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::iter;

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
    let mut board = Board::new(nodes);
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

/// Whether `request` could be placed if no stage had any device of these nodes.
pub fn could_place(nodes: &[Node], request: &Request) -> bool {
    Board::new(nodes).could(request, &request.needs.memory).is_some()
}

/// The devices as they are being dealt.
struct Board<'a> {
    nodes: &'a [Node],
    /// Free devices of each node.
    free: Vec<u32>,
    /// Numbers of the nodes of each fingerprint.
    alike: Vec<Vec<usize>>,
    /// Numbers of all nodes.
    all: Vec<usize>,
}

/// What a request has got so far.
struct Hand<'a> {
    request: &'a Request,
    /// The only nodes that it may have ranks of, as a number among those alike; none for all.
    group: Option<usize>,
    /// Ranks by node.
    ranks: Vec<u32>,
    /// How many that are.
    num_ranks: u32,
    /// The node of its last device: the next one is taken there too, as long as ranks need the same.
    last: Option<usize>,
}

impl<'a> Board<'a> {
    fn new(nodes: &'a [Node]) -> Self {
        let mut alike: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, node) in nodes.iter().enumerate() {
            alike.entry(&node.fingerprint).or_default().push(i);
        }
        Self {
            nodes,
            free: nodes.iter().map(|node| node.free).collect(),
            alike: alike.into_values().collect(),
            all: (0..nodes.len()).collect(),
        }
    }

    /// Nodes that a request may have ranks of together.
    fn groups(&self, request: &Request) -> impl Iterator<Item = &[usize]> {
        let groups = if request.lanes.is_some() {
            &self.alike[..]
        } else {
            std::slice::from_ref(&self.all)
        };
        groups.iter().map(Vec::as_slice)
    }

    /// Free devices of a node, as far as a request does not avoid it.
    fn free_for(&self, request: &Request, i: usize) -> u32 {
        if request.avoids.contains(&self.nodes[i].id) {
            0
        } else {
            self.free[i]
        }
    }

    /// How many ranks fit on so many devices of the nodes of a group.
    fn fitting(&self, mut room: Room, group: &[usize], devices: impl Fn(usize) -> u32) -> u32 {
        group
            .iter()
            .map(|i| devices(*i).min(room.on(self.nodes[*i].means)))
            .sum()
    }

    /// The fewest ranks that `request` can work with and that fit, with this memory, on so many devices of the nodes of a group.
    fn fewest(
        &self,
        request: &Request,
        memory: &MemoryByRanks,
        group: &[usize],
        devices: impl Fn(usize) -> u32,
    ) -> Option<u32> {
        let all: u32 = group.iter().map(|i| devices(*i)).sum();
        let mut steps = memory.steps(request.min, request.max).take_while(|ranks| *ranks <= all);
        let room = |ranks| Room::of(request.needs.bf16, memory.of(ranks));
        steps.find(|ranks| self.fitting(room(*ranks), group, &devices) >= *ranks)
    }

    /// Takes the fewest ranks that `request` can work with, or says why that is not possible.
    fn gang(&mut self, request: &'a Request) -> Result<Hand<'a>, String> {
        let memory = &request.needs.memory;
        let free = |i: usize| self.free_for(request, i);
        let fitting = self
            .groups(request)
            .enumerate()
            .filter_map(|(number, group)| Some((number, group, self.fewest(request, memory, group, free)?)));
        let best = fitting.max_by_key(|(_, group, ranks)| {
            let kept: u32 = group.iter().map(|i| request.kept_on(&self.nodes[*i])).sum();
            let is_gpu = group.iter().any(|i| self.nodes[*i].means.gpu_bytes.is_some());
            (
                kept,
                is_gpu,
                self.fitting(Room::with(*ranks, &request.needs), group, free),
            )
        });
        let Some((number, _, ranks)) = best else {
            return Err(self.reason(request));
        };
        let mut hand = Hand {
            request,
            group: request.lanes.map(|_| number),
            ranks: vec![0; self.nodes.len()],
            num_ranks: 0,
            last: None,
        };
        self.fill(&mut hand, ranks);
        Ok(hand)
    }

    /// Deals what is left in turns, to each the fewest ranks more that are of use to it.
    fn share(&mut self, hands: &mut [Hand<'_>]) {
        let mut dealt = true;
        while dealt {
            dealt = false;
            for hand in hands.iter_mut() {
                if let Some(ranks) = self.more(hand) {
                    dealt |= self.fill(hand, ranks);
                }
            }
        }
    }

    /// The fewest ranks more than a hand has that make its stage faster, or that hold its state, and that fit.
    fn more(&self, hand: &Hand<'_>) -> Option<u32> {
        let (request, members) = (hand.request, self.members(hand));
        let Some(lanes) = request.lanes else {
            return (hand.num_ranks < request.max).then_some(hand.num_ranks + 1);
        };
        let mine = |i: usize| hand.ranks[i] + self.free_for(request, i);
        let most: u32 = members.iter().map(|i| mine(*i)).sum();
        let held = |i: &usize| mine(*i).min(request.kept_on(&self.nodes[*i]));
        let held: u32 = members.iter().map(held).sum();
        let next = |ranks: &u32| {
            let useful = next_useful(lanes, *ranks);
            useful.into_iter().chain(Some(held).filter(|held| held > ranks)).min()
        };
        let fits = |ranks: &u32| {
            let mut room = Room::with(*ranks, &request.needs);
            let mut on = |i: usize| Some(room.on(self.nodes[i].means)).filter(|room| hand.ranks[i] <= *room);
            let fitting: Option<u32> = members.iter().map(|i| on(*i).map(|room| room.min(mine(*i)))).sum();
            fitting >= Some(*ranks)
        };
        let mut numbers =
            iter::successors(next(&hand.num_ranks), next).take_while(|ranks| *ranks <= most.min(request.max));
        numbers.find(fits)
    }

    /// Takes devices until a hand has so many ranks, each with the memory that it then needs. Returns whether there was one.
    fn fill(&mut self, hand: &mut Hand<'_>, ranks: u32) -> bool {
        let memory = &hand.request.needs.memory;
        let (before, memory) = (memory.of(hand.num_ranks), memory.of(ranks));
        // Less memory makes room where there was none.
        hand.last = hand.last.filter(|_| memory == before);
        let had = hand.num_ranks;
        while hand.num_ranks < ranks && self.take(hand, memory) {}
        hand.num_ranks > had
    }

    /// Takes one more device, for a rank of this memory: one whose rank is there already, else on the node where the hand has
    /// most, else where most are free.
    fn take(&mut self, hand: &mut Hand<'_>, memory: Memory) -> bool {
        // Where it took last, it has more than anywhere else that devices are free.
        let again = hand.last.filter(|_| hand.request.keeps.is_empty());
        let again = again.filter(|i| self.is_open(hand, *i, &mut Room::of(hand.request.needs.bf16, memory)));
        let Some(node) = again.or_else(|| self.best(hand, memory)) else {
            return false;
        };
        self.free[node] -= 1;
        hand.ranks[node] += 1;
        hand.num_ranks += 1;
        hand.last = Some(node);
        true
    }

    /// Numbers of the nodes that a hand may have ranks of.
    fn members(&self, hand: &Hand<'_>) -> &[usize] {
        hand.group.map_or(&self.all, |group| &self.alike[group])
    }

    fn best(&self, hand: &Hand<'_>, memory: Memory) -> Option<usize> {
        let mut room = Room::of(hand.request.needs.bf16, memory);
        let members = self.members(hand).iter().copied();
        let usable = members.filter(|i| self.is_open(hand, *i, &mut room));
        usable.max_by_key(|i| {
            let is_there = hand.ranks[*i] < hand.request.kept_on(&self.nodes[*i]);
            (is_there, hand.ranks[*i], self.free[*i], Reverse(*i))
        })
    }

    /// Whether a hand may take another device of a node.
    fn is_open(&self, hand: &Hand<'_>, i: usize, room: &mut Room) -> bool {
        self.free_for(hand.request, i) > 0 && hand.ranks[i] < room.on(self.nodes[i].means)
    }

    fn placement(&self, hand: &Hand<'_>) -> Placement {
        let counts = hand.ranks.iter().enumerate().filter(|(_, ranks)| **ranks > 0);
        counts.map(|(i, ranks)| (self.nodes[i].id, *ranks)).collect()
    }
}

#[cfg(test)]
mod tests;
