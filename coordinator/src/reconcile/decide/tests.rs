//! The core without a database: a world of jobs, nodes that beat or do not, and a clock.

use super::*;
use crate::domain::CountingMint;
use crate::domain::graph::{Shards, new_job};
use crate::domain::job::Dataset;
use crate::domain::node::KnownNode;
use crate::reconcile::orders;
use crate::reconcile::placing::busy;
use chrono::DateTime;
use medley_protocol::agent::{Beat, RankReport};
use medley_protocol::checkpoint::{Manifest, ObjectRef};
use medley_protocol::ids::{CheckpointId, IncarnationId};
use medley_protocol::spec::Spec;
use medley_protocol::stage::JobState;
use medley_protocol::tasks::Counts;
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

const BEAT: Duration = Duration::from_millis(500);

/// A played world. Ranks start as they are told and do what `play` says.
struct World {
    memory: Memory,
    sight: Sight,
    jobs: Vec<Job>,
    settings: Settings,
    mint: CountingMint,
    now: Duration,
    /// Nodes that beat.
    alive: BTreeSet<NodeId>,
    /// What ranks do, where it is not what they were told to.
    odd: BTreeMap<(StageId, u64, u32), RankState>,
    revision: u64,
    events: Vec<Event>,
}

impl World {
    fn new(devices: &[u32]) -> Self {
        let mut world = Self {
            memory: Memory::default(),
            sight: Sight::default(),
            jobs: Vec::new(),
            settings: Settings::default(),
            mint: CountingMint(1000),
            now: Duration::from_secs(1000),
            alive: BTreeSet::new(),
            odd: BTreeMap::new(),
            revision: 0,
            events: Vec::new(),
        };
        for (i, devices) in (1..).zip(devices) {
            world.join(i, *devices, i);
        }
        world
    }

    fn join(&mut self, node: u128, devices: u32, life: u128) {
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
    fn training_job(&mut self) {
        let document = json!({"name": "j", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"}});
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

    fn stage(&self) -> &Stage {
        &self.jobs[0].stages[1]
    }

    fn commit_checkpoint(&mut self, step: u64) {
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
        match stage.map(|stage| stage.state.label()) {
            Some(StageState::Running) => RankState::Running { committed: 1 },
            _ => RankState::Listening {
                address: format!("a:{}", id.2),
            },
        }
    }

    fn beat(&mut self) {
        for node in self.alive.clone() {
            let told = self.memory.told.orders.get(&node).cloned();
            let mut ranks = Vec::new();
            for assignment in told.iter().flat_map(|orders| &orders.assignments) {
                for rank in &assignment.ranks {
                    let id = (assignment.stage, assignment.generation, *rank);
                    let state = self.odd.get(&id).cloned().unwrap_or_else(|| self.obedient(id));
                    let (stage, generation, rank) = id;
                    ranks.push(RankReport {
                        stage,
                        generation,
                        rank,
                        state,
                    });
                }
            }
            let beat = Beat {
                node,
                incarnation: self.sight.nodes[&node].node.incarnation,
                revision: told.map_or(0, |orders| orders.revision),
                ranks,
            };
            self.sight.beat(beat, self.now).unwrap();
        }
    }

    fn decide(&mut self) {
        let jobs = std::mem::take(&mut self.jobs);
        let (active, done): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| !job.state.label().is_final());
        let memory = std::mem::take(&mut self.memory);
        let (mut memory, decision) =
            decide(memory, &self.sight, active, self.now, &self.settings, &mut self.mint).unwrap();
        let desired = orders::desired(&decision.jobs, "memory:///");
        let mut revisions = BTreeMap::new();
        for node in memory.told.changed(&desired) {
            self.revision += 1;
            revisions.insert(node, self.revision);
        }
        memory.told.tell(desired, &revisions);
        self.memory = memory;
        self.events.extend(decision.events);
        self.jobs = decision.jobs;
        self.jobs.extend(done);
    }

    fn round(&mut self) {
        self.now += BEAT;
        self.beat();
        self.decide();
    }

    fn rounds(&mut self, count: u32) {
        for _ in 0..count {
            self.round();
        }
    }

    fn running() -> Self {
        let mut world = Self::new(&[2, 2]);
        world.training_job();
        world.rounds(4);
        assert_eq!(world.stage().state.label(), StageState::Running);
        world
    }

    /// Coordinator, agents and ranks are gone, and a coordinator is back that knows what the job table knows.
    fn stop_everything(&mut self) {
        let before = std::mem::take(&mut self.sight);
        for seen in before.nodes.into_values() {
            self.sight.meet(seen.node, self.now);
        }
        self.memory = Memory::default();
        self.alive.clear();
    }

    fn num_ranks(&self) -> usize {
        self.stage().present().map_or(0, |generation| generation.seats.len())
    }

    fn fail_rank(&mut self, rank: u32, reason: &str, retry: bool) {
        let id = (self.stage().id, self.stage().generation, rank);
        let reason = reason.into();
        self.odd.insert(id, RankState::Failed { reason, retry });
    }

    fn story(&self, kind: &str) -> Vec<&str> {
        let of_kind = self.events.iter().filter(|event| event.kind == kind);
        of_kind.map(|event| event.message.as_str()).collect()
    }
}

fn node(id: u128) -> NodeId {
    NodeId::from_uuid(Uuid::from_u128(id))
}

#[test]
fn a_node_is_lost_only_after_the_whole_silence() {
    let mut world = World::running();
    world.alive.remove(&node(2));
    world.rounds(10);
    assert_eq!(world.stage().generation, 1, "silent for exactly 5 s");
    world.round();
    assert_eq!(world.stage().generation, 2);
    let seats = &world.stage().present().unwrap().seats;
    assert!(seats.iter().all(|seat| seat.node == node(1)));
    assert!(world.story("generation-over")[0].contains("node n2 has been silent for 5.5 s"));
    assert_eq!(world.story("node-lost").len(), 1);
}

#[test]
fn a_failed_rank_is_replaced_after_a_pause_and_not_on_a_node_that_just_fell_silent() {
    let mut world = World::running();
    world.alive.remove(&node(2));
    world.fail_rank(0, "lost rank 2: connection reset", true);
    world.round();
    assert_eq!(world.stage().state.label(), StageState::Waiting);
    world.rounds(2);
    assert_eq!(
        world.stage().state.label(),
        StageState::Waiting,
        "the pause is not over"
    );
    world.round();
    let generation = world.stage().present().unwrap();
    assert_eq!(generation.number, 2);
    assert!(
        generation.seats.iter().all(|seat| seat.node == node(1)),
        "n2 was not heard for 2 s"
    );
}

#[test]
fn a_lasting_failure_that_is_heard_late_still_fails_the_stage() {
    let mut world = World::running();
    world.fail_rank(3, "a sample changed", false);
    world.fail_rank(0, "lost rank 3", true);
    // Only the node of rank 0 beats in time.
    world.alive.remove(&node(2));
    world.round();
    assert_eq!(world.stage().state.label(), StageState::Waiting);
    // The other node beats once more with what it last knew.
    let id = (world.stage().id, 1, 3);
    let late = Beat {
        node: node(2),
        incarnation: world.sight.nodes[&node(2)].node.incarnation,
        revision: 1,
        ranks: vec![RankReport {
            stage: id.0,
            generation: id.1,
            rank: id.2,
            state: world.odd[&id].clone(),
        }],
    };
    world.sight.beat(late, world.now).unwrap();
    world.decide();
    assert_eq!(world.jobs[0].state.label(), JobState::Failed);
    assert!(world.story("job-failed")[0].contains("a sample changed"));
}

#[test]
fn a_stage_that_never_gets_anywhere_fails_in_the_end() {
    let mut world = World::running();
    for _ in 0..400 {
        if world.stage().present().is_some() {
            world.fail_rank(0, "out of memory", true);
        }
        world.round();
    }
    assert_eq!(world.jobs[0].state.label(), JobState::Failed);
    assert_eq!(world.stage().generation, 8);
    assert!(world.story("stage-failed")[0].contains("8 generations in a row"));
}

#[test]
fn a_stage_whose_last_checkpoint_is_whole_is_done_even_if_its_ranks_are_lost() {
    let mut world = World::running();
    world.commit_checkpoint(20);
    world.alive.clear();
    world.rounds(12);
    assert_eq!(world.stage().state.label(), StageState::Done);
    assert_eq!(world.jobs[0].state.label(), JobState::Succeeded);
}

#[test]
fn finished_ranks_wait_a_moment_for_their_last_metrics() {
    let mut world = World::running();
    world.commit_checkpoint(20);
    let seats = world.stage().present().unwrap().seats.clone();
    for seat in seats {
        let id = (world.stage().id, 1, seat.rank);
        world.odd.insert(id, RankState::Finished { committed: 20 });
    }
    world.rounds(2);
    assert_eq!(world.stage().state.label(), StageState::Running);
    world.jobs[0].stages[1].facts.metrics_through = 20;
    world.round();
    assert_eq!(world.stage().state.label(), StageState::Done);
}

#[test]
fn after_a_full_stop_a_stage_waits_for_the_nodes_that_were_there_before() {
    let mut world = World::running();
    world.stop_everything();
    world.join(1, 2, 11);
    world.rounds(3);
    assert_eq!(world.stage().state.label(), StageState::Waiting);
    let said = "pretrain-0 waits to hear from n2, for at most 5 s";
    assert_eq!(world.story("stage-waits"), [said], "it is said once");
    world.join(2, 2, 12);
    world.round();
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 4));
}

#[test]
fn a_node_that_is_gone_for_good_delays_placing_once_and_no_longer_than_the_grace() {
    let mut world = World::running();
    world.stop_everything();
    world.join(1, 2, 11);
    world.rounds(9);
    assert_eq!(world.num_ranks(), 0, "4.5 s are not 5 s");
    world.round();
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 2));
    world.fail_rank(0, "it broke", true);
    world.rounds(4);
    assert_eq!((world.stage().generation, world.num_ranks()), (3, 2));
    assert_eq!(world.story("stage-waits").len(), 1);
}

#[test]
fn an_agent_that_registers_anew_is_waited_for_until_it_beats() {
    let mut world = World::running();
    world.join(1, 2, 11);
    world.decide();
    assert_eq!(world.stage().state.label(), StageState::Waiting);
    world.round();
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 4));
}

#[test]
fn a_decision_repeated_decides_nothing_more() {
    let mut world = World::running();
    let (before, events) = (world.jobs.clone(), world.events.len());
    world.decide();
    assert_eq!((world.jobs, world.events.len()), (before, events));
}

/// What may go wrong in a round.
#[derive(Debug, Clone)]
enum Fault {
    Nothing,
    Silence(u128),
    Return(u128),
    Restart(u128),
    RankFails(u32),
    Checkpoint,
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        6 => Just(Fault::Nothing),
        1 => (1..4u128).prop_map(Fault::Silence),
        2 => (1..4u128).prop_map(Fault::Return),
        1 => (1..4u128).prop_map(Fault::Restart),
        1 => (0..4u32).prop_map(Fault::RankFails),
        2 => Just(Fault::Checkpoint),
    ];
    prop::collection::vec(fault, 1..120)
}

impl World {
    fn suffer(&mut self, fault: &Fault, round: u128) {
        match *fault {
            Fault::Nothing => {}
            Fault::Silence(id) => drop(self.alive.remove(&node(id))),
            Fault::Return(id) => drop(self.alive.insert(node(id))),
            Fault::Restart(id) => self.join(id, 2, 1000 + round),
            Fault::RankFails(rank) => self.fail_rank(rank, "it broke", true),
            Fault::Checkpoint => {
                let step = (self.stage().progress() + 1).min(19);
                self.commit_checkpoint(step);
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_fails_generations_grow_devices_suffice_and_the_job_ends_when_faults_do(faults in faults()) {
        let mut world = World::new(&[2, 2, 2]);
        world.training_job();
        let mut generation = 0;
        for (round, fault) in (1..).zip(&faults) {
            world.suffer(fault, round);
            world.round();
            prop_assert!(world.stage().generation >= generation);
            generation = world.stage().generation;
            prop_assert!(busy(&world.jobs).values().all(|busy| *busy <= 2));
            if let Some(present) = world.stage().present() {
                prop_assert_eq!(present.number, generation);
                prop_assert!(present.seats.iter().map(|seat| seat.rank).eq(0..present.seats.len() as u32));
                let resumed = present.resume.as_ref().map_or(0, |manifest| manifest.step);
                prop_assert!(resumed <= world.stage().progress());
            }
        }
        world.alive.extend([node(1), node(2), node(3)]);
        world.odd.clear();
        world.rounds(80);
        let label = world.stage().state.label();
        let gave_up = world.stage().setbacks.in_a_row >= 8;
        prop_assert!(label == StageState::Running || (label == StageState::Failed && gave_up), "{label:?}");
    }
}
