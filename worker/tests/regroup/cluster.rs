//! Rank processes of one training stage, and what they have said.

use crate::link::Way;
use medley_data::synth::{SynthSpec, generate};
use medley_model::device::Device;
use medley_protocol::agent::{Assignment, FromRank, Member, RankState, StageInputs, ToRank};
use medley_protocol::checkpoint::CheckpointPart;
use medley_protocol::ids::{JobId, NodeId, StageId};
use medley_protocol::spec::Spec;
use medley_protocol::stage::StageKind;
use medley_protocol::tasks::{Set, ShardName, ShardObject, TaskOutput, TaskWork};
use medley_worker::objects::Objects;
use medley_worker::stage::tasks::{Desk, Given};
use medley_worker::supervise::{Event, RankProcess};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_mins(2);

/// A process.
struct Rank {
    process: RankProcess,
    /// Its state in the generation it speaks of.
    states: BTreeMap<u64, RankState>,
    /// Steps it has committed in its life.
    last: Option<u64>,
    alive: bool,
}

pub(crate) struct Cluster {
    template: Assignment,
    objects: Objects,
    generation: u64,
    nodes: [NodeId; 2],
    ranks: Vec<Rank>,
    say: Sender<(usize, Event)>,
    events: Receiver<(usize, Event)>,
    parts: BTreeMap<(u64, u32), BTreeMap<u32, CheckpointPart>>,
    committed: u64,
    broken: usize,
    from_zero: usize,
    jumps: usize,
    /// How a rank of the next generation reaches a lower one, if not directly.
    ways: BTreeMap<(u32, u32), Way>,
}

impl Cluster {
    /// A stage of eight lanes over a small corpus; dropout and augmentation are on.
    pub(crate) fn new(dir: &Path, steps: u64) -> Self {
        let corpus = SynthSpec {
            seed: 1,
            human: 24,
            web: 0,
            test: 0,
            shard: 24,
            other: 0.0,
            half_true: 0.0,
            boilerplate: 0.0,
        };
        generate(&corpus, &dir.join("data"), &mut |_, _| {}).unwrap();
        let document = serde_json::json!({
            "name": "t", "kind": "pretrain", "preset": "nano",
            "data": {"root": dir.join("data"), "web": "", "test": ""},
            "lanes": {"count": 8, "batch": 2},
            "model": {"text": {"dropout": 0.1}, "vision": {"drop_path": 0.1}},
            "pretrain": {"length": {"by": "steps", "count": steps}, "warmup_steps": 2},
            "checkpoint": {"every_steps": 0},
        });
        let spec = Spec::from_document(&document).unwrap();
        let store = format!("file://{}/store", dir.display());
        std::fs::create_dir_all(dir.join("store")).unwrap();
        let objects = Objects::open(&store).unwrap();
        let (say, events) = mpsc::channel();
        Self {
            template: Assignment {
                job: JobId::generate(),
                stage: StageId::generate(),
                stage_name: "pretrain-0".into(),
                kind: StageKind::Pretrain,
                generation: 0,
                ranks: Vec::new(),
                world: 0,
                members: Vec::new(),
                secret: "secret".into(),
                inputs: index(&spec, &objects),
                spec,
                store,
                checkpoint_after: None,
                without: Vec::new(),
                distrusts: 0,
                parting: None,
            },
            objects,
            generation: 0,
            nodes: [NodeId::generate(), NodeId::generate()],
            ranks: Vec::new(),
            say,
            events,
            parts: BTreeMap::new(),
            committed: 0,
            broken: 0,
            from_zero: 0,
            jumps: 0,
            ways: BTreeMap::new(),
        }
    }

    /// The next generation: `survivors` and so many fresh processes, half of them on each node. Returns its members once they
    /// know each other.
    pub(crate) fn regroup(&mut self, survivors: &[usize], fresh: usize, at_once: bool) -> Vec<usize> {
        self.generation += 1;
        let world = (survivors.len() + fresh) as u32;
        let mut members = survivors.to_vec();
        for rank in 0..world {
            let assignment = Box::new(Assignment {
                generation: self.generation,
                ranks: vec![rank],
                world,
                secret: format!("secret {}", self.generation),
                ..self.template.clone()
            });
            match survivors.get(rank as usize) {
                Some(survivor) => {
                    let order = ToRank::Regroup {
                        assignment,
                        rank,
                        at_once,
                    };
                    self.ranks[*survivor].process.tell(&order).unwrap();
                }
                None => members.push(self.start(assignment, rank)),
            }
        }
        self.until("everyone listens", |cluster| {
            members.iter().all(|member| cluster.address(*member).is_some())
        });
        let nodes = self.nodes;
        let member = |(rank, member): (u32, &usize)| Member {
            rank,
            node: nodes[usize::from(rank >= world / 2)],
            address: self.address(*member).unwrap(),
        };
        let known: Vec<Member> = (0..).zip(&members).map(member).collect();
        let mut ways = std::mem::take(&mut self.ways);
        for (rank, number) in (0..).zip(&members) {
            let mut members = known.clone();
            for member in &mut members {
                if let Some(way) = ways.remove(&(rank, member.rank)) {
                    member.address = way.to(&member.address).to_string();
                }
            }
            let generation = self.generation;
            let order = ToRank::Connect { generation, members };
            self.ranks[*number].process.tell(&order).unwrap();
        }
        members
    }

    /// Puts a way between a rank of the next generation and a lower one, which it calls.
    pub(crate) fn between(&mut self, rank: u32, lower: u32, way: Way) {
        self.ways.insert((rank, lower), way);
    }

    fn start(&mut self, assignment: Box<Assignment>, rank: u32) -> usize {
        let (say, number) = (self.say.clone(), self.ranks.len());
        let program = Path::new(env!("CARGO_BIN_EXE_medley-worker"));
        let process = RankProcess::spawn(program, None, Stdio::inherit(), move |event| {
            let _ = say.send((number, event));
        });
        let process = process.unwrap();
        let order = ToRank::Start {
            assignment,
            rank,
            host: "127.0.0.1".into(),
            threads: 1,
            device: "cpu".into(),
        };
        process.tell(&order).unwrap();
        self.ranks.push(Rank {
            process,
            states: BTreeMap::new(),
            last: None,
            alive: true,
        });
        number
    }

    fn address(&self, member: usize) -> Option<String> {
        match self.ranks[member].states.get(&self.generation) {
            Some(RankState::Listening { address, .. }) => Some(address.clone()),
            _ => None,
        }
    }

    /// Waits until so many steps are committed by somebody.
    pub(crate) fn run_until(&mut self, step: u64) {
        self.until("steps are committed", |cluster| cluster.committed >= step);
    }

    /// Most steps that anybody has committed.
    pub(crate) fn committed(&self) -> u64 {
        self.committed
    }

    /// Generations that ranks have found broken.
    pub(crate) fn broken(&self) -> usize {
        self.broken
    }

    /// Ranks that began at step 0 although others had gone on.
    pub(crate) fn loaded_from_store(&self) -> usize {
        self.from_zero
    }

    /// Steps that ranks did not commit themselves, because they were fed a later state.
    pub(crate) fn jumps(&self) -> usize {
        self.jumps
    }

    /// Waits until a process has committed just so many steps; others may be elsewhere.
    pub(crate) fn await_committed(&mut self, rank: usize, steps: u64) {
        self.until("it has committed", |cluster| {
            cluster.ranks[rank].last.is_some_and(|last| last + 1 >= steps)
        });
        assert_eq!(self.committed_by(rank), Some(steps));
    }

    /// Steps that a process has committed.
    pub(crate) fn committed_by(&self, rank: usize) -> Option<u64> {
        self.ranks[rank].last.map(|last| last + 1)
    }

    pub(crate) fn pid(&self, rank: usize) -> u32 {
        self.ranks[rank].process.pid()
    }

    pub(crate) fn kill(&mut self, rank: usize) {
        self.ranks[rank].process.kill();
        self.until("it is gone", |cluster| !cluster.ranks[rank].alive);
    }

    pub(crate) fn await_broken(&mut self, ranks: &[usize]) {
        self.until("survivors notice", |cluster| {
            let is_broken = |rank: &usize| {
                let state = cluster.ranks[*rank].states.get(&cluster.generation);
                matches!(state, Some(RankState::Broken { .. }))
            };
            ranks.iter().all(is_broken)
        });
    }

    pub(crate) fn await_finished(&mut self, ranks: &[usize]) {
        self.until("all are finished", |cluster| {
            let is_finished = |rank: &usize| {
                let state = cluster.ranks[*rank].states.get(&cluster.generation);
                matches!(state, Some(RankState::Finished { .. }))
            };
            ranks.iter().all(is_finished)
        });
    }

    /// Tells ranks that they have no part in the next generation, or that there is none, and waits until their processes have
    /// ended after all that they wrote was handed in.
    pub(crate) fn leave(&mut self, ranks: &[usize], all: bool) {
        let next = self.generation + u64::from(all);
        for rank in ranks {
            let order = ToRank::Leave { next, saves: all };
            self.ranks[*rank].process.tell(&order).unwrap();
        }
        self.until("ranks have left", |cluster| {
            ranks.iter().all(|rank| !cluster.ranks[*rank].alive)
        });
        for rank in ranks {
            let has_left = |state: &RankState| matches!(state, RankState::Left { .. });
            assert!(
                self.ranks[*rank].states.values().any(has_left),
                "process {rank} just ended"
            );
        }
    }

    /// Steps of the checkpoints of which all parts were handed in.
    pub(crate) fn whole_checkpoints(&self) -> Vec<u64> {
        let whole = self
            .parts
            .iter()
            .filter(|((_, parts), set)| set.len() == *parts as usize);
        whole.map(|((step, _), _)| *step).collect()
    }

    /// As if a part of the last checkpoint had never been written.
    pub(crate) fn forget_parts(&mut self) {
        self.parts.clear();
    }

    /// Waits for the last checkpoint and gives the digest of its state.
    pub(crate) fn finish(&mut self) -> String {
        let total = match self.template.spec.pretrain.length {
            medley_protocol::spec::Length::Steps { count } => count,
            medley_protocol::spec::Length::Epochs { .. } => unreachable!(),
        };
        let whole = move |cluster: &Self| {
            let mut sets = cluster.parts.iter().filter(|((step, _), _)| *step == total);
            sets.find(|((_, parts), set)| set.len() == *parts as usize)
                .map(|(_, set)| set.clone())
        };
        self.until("the last checkpoint is whole", |cluster| whole(cluster).is_some());
        let mut hasher = blake3::Hasher::new();
        for part in whole(self).unwrap().values() {
            hasher.update(&self.objects.get(&part.object).unwrap());
        }
        hasher.finalize().to_string()
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let (rank, event) = self
                .events
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("waited in vain until {what}"));
            self.hear(rank, event);
        }
    }

    fn hear(&mut self, number: usize, event: Event) {
        let rank = &mut self.ranks[number];
        match event {
            Event::Said(FromRank::State { generation, state }) => {
                if let RankState::Failed { reason, .. } = &state {
                    panic!("process {number} failed: {reason}");
                }
                if let RankState::Running { committed } = &state {
                    self.from_zero += usize::from(*committed == 0 && self.committed > 0);
                }
                self.broken += usize::from(matches!(state, RankState::Broken { .. }));
                rank.states.insert(generation, state);
            }
            Event::Said(FromRank::Pulse { .. }) => {}
            Event::Said(FromRank::Committed { metrics, .. }) => {
                let next = rank.last.map_or(metrics.step, |last| last + 1);
                let jumped = metrics.step > next && rank.states.len() > 1;
                assert!(
                    metrics.step == next || jumped,
                    "process {number} commits step {} after {:?}",
                    metrics.step,
                    rank.last
                );
                self.jumps += usize::from(metrics.step > next && rank.last.is_some());
                rank.last = Some(metrics.step);
                self.committed = self.committed.max(metrics.step + 1);
            }
            Event::Said(FromRank::Part { part, .. }) => {
                let set = self.parts.entry((part.step, part.parts)).or_default();
                set.insert(part.part, part);
            }
            Event::Said(other) => panic!("process {number} said {other:?}"),
            Event::Babbled(what) => panic!("process {number} said {what}"),
            Event::Exited(_) => rank.alive = false,
        }
    }
}

/// Dataset version and vocabulary.
fn index(spec: &Spec, objects: &Objects) -> StageInputs {
    let inputs = StageInputs::default();
    let mut desk = Desk::new(Given {
        spec,
        inputs: &inputs,
        objects,
        device: &Device::Cpu,
    });
    let shard = ShardName {
        set: Set::Human,
        file: "shard-000000.tar".into(),
    };
    let work = TaskWork::IndexShard { shard: shard.clone() };
    let TaskOutput::Shard { object, .. } = desk.perform(&work, &mut |_, _| {}).unwrap() else {
        panic!("a shard makes an object");
    };
    let merge = TaskWork::IndexMerge {
        shards: vec![ShardObject { shard, object }],
    };
    let TaskOutput::Dataset { dataset, vocab, .. } = desk.perform(&merge, &mut |_, _| {}).unwrap() else {
        panic!("the index makes a dataset version");
    };
    StageInputs {
        dataset: Some(dataset),
        vocab: Some(vocab),
        ..StageInputs::default()
    }
}
