//! A played world.

use super::super::*;
use crate::domain::CountingMint;
use crate::domain::decision::Effect;
use crate::domain::graph::{Shards, new_job};
use crate::domain::job::Dataset;
use crate::domain::node::KnownNode;
use crate::reconcile::apart::{Pair, pair};
use crate::reconcile::orders;
use chrono::DateTime;
use medley_protocol::agent::{Assignment, Beat, Connecting, Doing, RankReport, StepPhase};
use medley_protocol::checkpoint::{Manifest, ObjectRef};
use medley_protocol::hardware::Hardware;
use medley_protocol::ids::{CheckpointId, IncarnationId};
use medley_protocol::spec::Spec;
use medley_protocol::tasks::Counts;
use serde_json::{Value, json};
use uuid::Uuid;

/// Time between two beats.
const BEAT: Duration = Duration::from_millis(500);

/// A played world. Ranks start as they are told and do what `play` says.
pub(super) struct World {
    pub(super) memory: Memory,
    pub(super) sight: Sight,
    pub(super) jobs: Vec<Job>,
    pub(super) settings: Settings,
    pub(super) mint: CountingMint,
    pub(super) now: Duration,
    /// Nodes that beat.
    pub(super) alive: BTreeSet<NodeId>,
    /// What ranks do, where it is not what they were told to.
    pub(super) odd: BTreeMap<(StageId, u64, u32), RankState>,
    /// Where in a step ranks are, and for how long they have said nothing.
    pub(super) looks: BTreeMap<(StageId, u64, u32), (Doing, u64)>,
    /// Nodes that do not reach each other.
    pub(super) cuts: BTreeSet<Pair>,
    /// Since when the ranks of a generation connect; none once all have.
    connecting: BTreeMap<(StageId, u64), Option<Duration>>,
    /// What ranks say of their connections, where it does not follow from the cuts.
    pub(super) lacks: BTreeMap<(StageId, u64, u32), Vec<u32>>,
    /// What every node says of its machine.
    pub(super) hardware: Hardware,
    pub(super) revision: u64,
    pub(super) events: Vec<Event>,
    pub(super) effects: Vec<Effect>,
}

impl World {
    pub(super) fn new(devices: &[u32]) -> Self {
        let mut world = Self {
            memory: Memory::default(),
            sight: Sight::default(),
            jobs: Vec::new(),
            settings: Settings::default(),
            mint: CountingMint(1000),
            now: Duration::from_secs(1000),
            alive: BTreeSet::new(),
            odd: BTreeMap::new(),
            looks: BTreeMap::new(),
            cuts: BTreeSet::new(),
            connecting: BTreeMap::new(),
            lacks: BTreeMap::new(),
            hardware: Hardware::default(),
            revision: 0,
            events: Vec::new(),
            effects: Vec::new(),
        };
        for (i, devices) in (1..).zip(devices) {
            world.join(i, *devices, i);
        }
        world
    }

    pub(super) fn join(&mut self, node: u128, devices: u32, life: u128) {
        let id = NodeId::from_uuid(Uuid::from_u128(node));
        let known = KnownNode {
            id,
            name: format!("n{node}"),
            incarnation: IncarnationId::from_uuid(Uuid::from_u128(life)),
            devices,
            fingerprint: "a".into(),
        };
        self.sight.meet(known, self.now);
        self.alive.insert(id);
    }

    /// A job whose index is done, so that its pre-training comes next.
    pub(super) fn training_job(&mut self) {
        self.training_job_of(json!({}));
    }

    /// One with this in its section `cluster`.
    pub(super) fn training_job_of(&mut self, cluster: Value) {
        let document = json!({
            "name": "j", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"}, "cluster": cluster,
        });
        let spec = Spec::from_document(&document).unwrap();
        let shards = Shards {
            human: vec!["h.tar".into()],
            ..Shards::default()
        };
        let (mut job, _) = new_job(spec, &shards, DateTime::UNIX_EPOCH, &mut self.mint);
        job.stages[0].state = State::Done;
        let object = ObjectRef {
            key: "o".into(),
            blake3: String::new(),
            size_bytes: 1,
        };
        job.datasets.push(Dataset {
            version: 0,
            object: object.clone(),
            vocab: object,
            counts: Counts::from([("pairs".into(), 160)]),
        });
        self.jobs.push(job);
    }

    pub(super) fn stage(&self) -> &Stage {
        &self.jobs[0].stages[1]
    }

    pub(super) fn commit_checkpoint(&mut self, step: u64) {
        let id = CheckpointId::from_uuid(self.mint.uuid());
        let stage = &mut self.jobs[0].stages[1];
        stage.facts.checkpoint = Some(Manifest {
            id,
            stage: stage.id,
            step,
            state_bytes: 1,
            parts: Vec::new(),
        });
    }

    /// What a rank reports that does as it is told.
    fn obedient(&self, id: (StageId, u64, u32)) -> RankState {
        let stage = self.jobs.iter().find_map(|job| job.stage(id.0));
        match stage.map(|stage| &stage.state) {
            Some(State::Running { generation, .. }) if generation.number == id.1 => RankState::Running { committed: 1 },
            Some(State::Running {
                generation,
                former: Some(former),
                ..
            }) if former.number == id.1 => {
                let leaves = former.beyond(generation).iter().any(|seat| seat.rank == id.2);
                if leaves {
                    RankState::Left { committed: 1 }
                } else {
                    RankState::Running { committed: 1 }
                }
            }
            _ => listening(id),
        }
    }

    /// How far a rank is with its connections, if it makes them.
    fn connecting(&mut self, node: NodeId, assignment: &Assignment, rank: u32) -> Option<Connecting> {
        if assignment.members.is_empty() {
            return None;
        }
        let (stage, generation) = (assignment.stage, assignment.generation);
        let is_cut = |one, other| self.cuts.contains(&pair(one, other));
        let members = assignment.members.iter();
        let lacked = members
            .filter(|member| is_cut(node, member.node))
            .map(|member| member.rank);
        let lacks = self.lacks.get(&(stage, generation, rank)).cloned();
        let lacks = lacks.unwrap_or_else(|| lacked.collect());
        let mut all = assignment.members.iter();
        let is_whole = !all.any(|one| assignment.members.iter().any(|other| is_cut(one.node, other.node)));
        let is_odd = self
            .lacks
            .keys()
            .any(|(of, number, _)| (*of, *number) == (stage, generation));
        let since = self.connecting.entry((stage, generation)).or_insert(Some(self.now));
        if is_whole && !is_odd {
            *since = None;
        }
        if is_odd && lacks.is_empty() {
            return None;
        }
        let since = (*since)?;
        Some(Connecting {
            generation,
            lacks,
            for_ms: self.now.saturating_sub(since).as_millis() as u64,
        })
    }

    /// The nodes that an agent would reach if it were asked to try.
    fn reached(&self, node: NodeId) -> Vec<NodeId> {
        let others = self.alive.iter().copied();
        others
            .filter(|other| !self.cuts.contains(&pair(node, *other)))
            .collect()
    }

    /// All ranks connect once more.
    pub(super) fn reconnect(&mut self) {
        self.connecting.clear();
    }

    /// Two nodes do not reach each other any more.
    pub(super) fn cut(&mut self, one: u128, other: u128) {
        self.cuts.insert(pair(node(one), node(other)));
    }

    pub(super) fn beat(&mut self) {
        for node in self.alive.clone() {
            let told = self.memory.told.orders.get(&node).cloned();
            let mut ranks = Vec::new();
            for assignment in told.iter().flat_map(|orders| &orders.assignments) {
                for rank in &assignment.ranks {
                    let id = (assignment.stage, assignment.generation, *rank);
                    let connecting = self.connecting(node, assignment, *rank);
                    let obedient = match &connecting {
                        Some(connecting) if !connecting.lacks.is_empty() => listening(id),
                        _ => self.obedient(id),
                    };
                    let state = self.odd.get(&id).cloned().unwrap_or(obedient);
                    let look = self.looks.get(&id).copied();
                    let (stage, generation, rank) = id;
                    ranks.push(RankReport {
                        stage,
                        generation,
                        rank,
                        state,
                        doing: look.map(|(doing, _)| doing),
                        quiet_ms: look.map(|(_, quiet_ms)| quiet_ms),
                        connecting,
                    });
                }
            }
            let beat = Beat {
                node,
                incarnation: self.sight.nodes[&node].node.incarnation,
                revision: told.map_or(0, |orders| orders.revision),
                ranks,
                leaves_in_ms: None,
                address: Some(format!("{node}:1")),
                reached: self.reached(node),
                hardware: self.hardware.clone(),
            };
            self.sight.beat(beat, self.now).unwrap();
        }
    }

    pub(super) fn decide(&mut self) {
        let jobs = std::mem::take(&mut self.jobs);
        let (active, done): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| !job.state.label().is_final());
        let memory = std::mem::take(&mut self.memory);
        let (mut memory, decision) =
            decide(memory, &self.sight, active, self.now, &self.settings, &mut self.mint).unwrap();
        let desired = orders::desired(&decision.jobs, &self.sight, "memory:///");
        let mut revisions = BTreeMap::new();
        for node in memory.told.changed(&desired) {
            self.revision += 1;
            revisions.insert(node, self.revision);
        }
        memory.told.tell(desired, &revisions);
        self.memory = memory;
        self.events.extend(decision.events);
        self.effects.extend(decision.effects);
        self.jobs = decision.jobs;
        self.jobs.extend(done);
    }

    pub(super) fn round(&mut self) {
        self.now += BEAT;
        self.beat();
        self.decide();
    }

    pub(super) fn rounds(&mut self, count: u32) {
        for _ in 0..count {
            self.round();
        }
    }

    pub(super) fn running() -> Self {
        Self::running_of(json!({}))
    }

    /// Four ranks on two nodes that train, of a job with this in its section `cluster`.
    pub(super) fn running_of(cluster: Value) -> Self {
        let mut world = Self::new(&[2, 2]);
        world.training_job_of(cluster);
        world.rounds(4);
        assert_eq!(world.stage().state.label(), StageState::Running);
        world
    }

    /// Coordinator, agents and ranks are gone, and a coordinator is back that knows what the job table knows.
    pub(super) fn stop_everything(&mut self) {
        let before = std::mem::take(&mut self.sight);
        for seen in before.nodes.into_values() {
            self.sight.meet(seen.node, self.now);
        }
        self.memory = Memory::default();
        self.alive.clear();
    }

    pub(super) fn num_ranks(&self) -> usize {
        self.stage().present().map_or(0, |generation| generation.seats.len())
    }

    /// A rank lost a peer.
    pub(super) fn break_rank(&mut self, rank: u32, committed: u64) {
        let id = self.present(rank);
        let reason = "lost a peer: connection reset".into();
        self.odd.insert(id, RankState::Broken { committed, reason });
    }

    /// A rank of the present generation is in this part of a step for so long; a step takes 100 ms.
    pub(super) fn look_at(&mut self, rank: u32, phase: StepPhase, for_ms: u64, quiet_ms: u64) {
        let doing = Doing {
            step: 8,
            phase,
            collective: 3,
            for_ms,
            usual_step_ms: Some(100),
            lane_us: Some(10_000),
        };
        self.looks.insert(self.present(rank), (doing, quiet_ms));
    }

    /// The nodes of the present generation in rank order.
    pub(super) fn seats(&self) -> Vec<NodeId> {
        let seats = self.stage().present().map(|generation| &generation.seats);
        seats.into_iter().flatten().map(|seat| seat.node).collect()
    }

    /// A rank of the present generation.
    pub(super) fn present(&self, rank: u32) -> (StageId, u64, u32) {
        let stage = self.stage();
        let number = stage.present().map_or(stage.generation, |generation| generation.number);
        (stage.id, number, rank)
    }

    pub(super) fn fail_rank(&mut self, rank: u32, reason: &str, retry: bool) {
        let id = self.present(rank);
        let reason = reason.into();
        self.odd.insert(id, RankState::Failed { reason, retry });
    }

    /// What was said of this kind.
    pub(super) fn story(&self, kind: &str) -> Vec<&str> {
        let of_kind = self.events.iter().filter(|event| event.kind == kind);
        of_kind.map(|event| event.message.as_str()).collect()
    }

    /// The kinds of what was said since there were so many events.
    pub(super) fn kinds_since(&self, events: usize) -> Vec<&str> {
        self.events[events..].iter().map(|event| event.kind).collect()
    }
}

/// The node of this number.
pub(super) fn node(id: u128) -> NodeId {
    NodeId::from_uuid(Uuid::from_u128(id))
}

fn listening(id: (StageId, u64, u32)) -> RankState {
    RankState::Listening {
        address: format!("a:{}", id.2),
        // Survivors hold what they trained in the first generation.
        committed: (id.1 > 1).then_some(1),
    }
}
