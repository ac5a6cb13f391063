//! How a rank comes into a generation: it listens, is connected to everyone, and has the state that they go on from.

use super::{Part, Phase, TICK, Trainee, later};
use crate::sim::process::{Alarm, Deed, How, Pid, Seat, Tools, Wire};
use crate::sim::toy::initial;
use medley_protocol::agent::{Assignment, FromRank, RankState};
use medley_worker::collective::deal::deal;
use medley_worker::rank::beginning::{Beginning, Memory, Path, begin};
use medley_worker::rank::calls::Call;
use medley_worker::rank::membership;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest wait of a prepared rank for the others; shorter than in truth, as everything here.
const PATIENCE: Duration = Duration::from_secs(10);

impl Trainee {
    pub(super) fn listen(&self, out: &mut Vec<Deed>) {
        let state = RankState::Listening {
            address: self.pid.to_string(),
            committed: self.committed(),
        };
        let generation = self.calls.generation();
        out.push(Deed::Say(FromRank::State { generation, state }));
    }

    /// Connects to the members of the generation that it is called to.
    pub(super) fn connect(&mut self, tools: &Tools, out: &mut Vec<Deed>) {
        let Some(call) = self.calls.ready_after(self.joined()).cloned() else {
            return;
        };
        let ranks_of_nodes = call.ranks_of_nodes();
        let Call {
            assignment,
            rank,
            members,
        } = call;
        let pids: Option<BTreeMap<u32, Pid>> = members
            .iter()
            .map(|member| Some((member.rank, member.address.parse().ok()?)))
            .collect();
        let (Some(mut peers), Ok(deal)) = (pids, deal(assignment.spec.lanes.count, &ranks_of_nodes)) else {
            out.push(Deed::Accuse(format!("these members cannot train: {members:?}")));
            return;
        };
        if peers.remove(&rank) != Some(self.pid) {
            out.push(Deed::Accuse(format!("rank {rank} has another address in {members:?}")));
        }
        let memory = self.committed().map(|committed| Memory {
            committed,
            prepared: self.prepared.is_some(),
        });
        let hello = Wire::Hello {
            stage: assignment.stage,
            secret: assignment.secret.clone(),
            memory,
        };
        let generation = assignment.generation;
        self.early = self.early.split_off(&generation);
        // A rank says hello to itself too, so that one alone begins like all others.
        self.early.entry(generation).or_default().push((rank, hello.clone()));
        self.part = Some(Part {
            seat: Seat { generation, rank },
            assignment,
            deal,
            peers,
            memories: BTreeMap::new(),
            left: BTreeSet::new(),
            member: None,
            shares: BTreeMap::new(),
        });
        self.phase = Phase::Connecting;
        self.since = tools.now;
        self.send_all(&hello, out);
    }

    /// Everyone is connected.
    pub(super) fn begin(&mut self, tools: &mut Tools, out: &mut Vec<Deed>) {
        let Some(part) = &self.part else { return };
        let memories: Vec<Option<Memory>> = part.memories.values().copied().collect();
        let stored = part.assignment.inputs.resume.as_ref().map(|manifest| manifest.step);
        let rank = part.seat.rank as usize;
        match begin(&memories, stored) {
            Beginning::Stored => {
                self.prepared = None;
                self.toy = initial(&part.assignment, tools.objects);
                if self.toy.is_none() {
                    out.push(Deed::Accuse("a checkpoint that is committed cannot be loaded".into()));
                }
                self.enter(How::Stored, tools, out);
            }
            Beginning::Memory { paths, .. } => {
                let own = paths[rank];
                if let Some(lanes) = self.prepared.take().filter(|_| own == Path::CommitPrepared) {
                    self.commit(lanes, out);
                }
                let source = paths.iter().position(|path| *path != Path::Join);
                if let Some(toy) = self.toy.filter(|_| source == Some(rank)) {
                    let joiners = (0..).zip(&paths).filter(|(_, path)| **path == Path::Join);
                    joiners.for_each(|(to, _)| self.send(to, Wire::State(toy), out));
                }
                if own == Path::Join {
                    self.toy = None;
                    self.phase = Phase::Joining;
                } else {
                    self.enter(How::Memory(own), tools, out);
                }
            }
        }
    }

    /// Has the state that its generation goes on from.
    pub(super) fn enter(&mut self, how: How, tools: &mut Tools, out: &mut Vec<Deed>) {
        let (Some(part), Some(toy)) = (&mut self.part, self.toy) else {
            return;
        };
        let (Assignment { world, .. }, committed) = (&*part.assignment, toy.step);
        let Seat { generation, rank } = part.seat;
        part.member = Some(membership::State::new(rank, *world, generation, committed, PATIENCE));
        let (seat, step) = (part.seat, committed);
        out.push(Deed::Began { seat, how, step });
        let stored = part.assignment.inputs.resume.as_ref().map(|manifest| manifest.step);
        self.phase = Phase::Training;
        self.say(RankState::Running { committed }, out);
        out.push(later(TICK, Alarm::Tick { seat }));
        if committed > 0 && stored != Some(committed) && self.is_planned(committed) {
            self.take_checkpoint(tools, out);
        }
        self.go_on(tools, out);
    }
}
