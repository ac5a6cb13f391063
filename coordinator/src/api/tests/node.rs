//! A played node: an agent that obeys, and ranks that work by the book.

use super::cluster::Api;
use crate::tokens::Role;
use medley_protocol::agent::{Assignment, Beat, Orders, RankReport, RankState, Register, Registered};
use medley_protocol::checkpoint::{CheckpointPart, ObjectRef, folder};
use medley_protocol::hardware::Hardware;
use medley_protocol::ids::{IncarnationId, NodeId, StageId};
use medley_protocol::metrics::{MetricsChunk, MetricsThrough, StepMetrics};
use medley_protocol::rest::{LeaseAnswer, LeaseRequest, PartHandedIn, TaskFinished};
use medley_protocol::spec::Length;
use medley_protocol::stage::StageKind;
use medley_protocol::tasks::{Counts, Evaluation, Interval, Lease, Recall, TaskOutput, TaskWork};
use std::collections::BTreeMap;

/// Steps that a played rank commits in a round.
const STEPS_PER_ROUND: u64 = 5;
/// Memory of a played rank, which grows with its number.
pub(super) const PEAK_BYTES: u64 = 5_000_000_000;
/// Size of a played state.
const STATE_BYTES: u64 = 1000;

/// A played node.
pub(super) struct Node {
    pub(super) api: Api,
    pub(super) name: String,
    pub(super) id: NodeId,
    pub(super) incarnation: IncarnationId,
    pub(super) orders: Orders,
    pub(super) ranks: BTreeMap<(StageId, u64, u32), RankState>,
    pub(super) is_alive: bool,
    pub(super) hardware: Hardware,
    /// What it counts in every dataset version besides the usual.
    pub(super) counts: Counts,
}

impl Node {
    pub(super) async fn register(api: Api, name: &str, devices: u32) -> Self {
        let incarnation = IncarnationId::generate();
        let register = Register {
            name: name.into(),
            incarnation,
            host: "127.0.0.1".into(),
            devices,
            threads: 1,
            fingerprint: "a".into(),
        };
        let registered: Registered = api.post(Role::Node, "/agent/register", &register).await.read();
        Self {
            api,
            name: name.into(),
            id: registered.node,
            incarnation,
            orders: Orders {
                revision: 0,
                assignments: Vec::new(),
                probes: Vec::new(),
            },
            ranks: BTreeMap::new(),
            is_alive: true,
            hardware: Hardware::default(),
            counts: Counts::new(),
        }
    }

    pub(super) fn beat_body(&self) -> Beat {
        let report = |(&(stage, generation, rank), state): (&(StageId, u64, u32), &RankState)| RankReport {
            stage,
            generation,
            rank,
            state: state.clone(),
            doing: None,
            quiet_ms: None,
            connecting: None,
        };
        Beat {
            node: self.id,
            incarnation: self.incarnation,
            revision: self.orders.revision,
            ranks: self.ranks.iter().map(report).collect(),
            leaves_in_ms: None,
            address: Some(format!("{}:1", self.name)),
            reached: self.orders.probes.iter().map(|probe| probe.node).collect(),
            hardware: self.hardware.clone(),
        }
    }

    /// Beats and obeys.
    pub(super) async fn beat(&mut self) {
        let orders: Orders = self.api.post(Role::Node, "/agent/beat", &self.beat_body()).await.read();
        self.orders.probes.clone_from(&orders.probes);
        if orders.revision <= self.orders.revision {
            return;
        }
        self.orders = orders;
        let listed = self.orders.assignments.iter().flat_map(|assignment| {
            let (stage, generation) = (assignment.stage, assignment.generation);
            assignment.ranks.iter().map(move |rank| (stage, generation, *rank))
        });
        let mut before = std::mem::take(&mut self.ranks);
        self.ranks = listed
            .map(|id| (id, before.remove(&id).unwrap_or(RankState::Starting)))
            .collect();
    }

    /// Every rank does what comes next for it.
    pub(super) async fn work(&mut self) {
        for assignment in self.orders.assignments.clone() {
            for rank in &assignment.ranks {
                let id = (assignment.stage, assignment.generation, *rank);
                let Some(state) = self.ranks.get(&id).cloned() else {
                    continue;
                };
                let next = if assignment.kind.is_training() {
                    self.train(&assignment, *rank, state).await
                } else {
                    self.do_task(&assignment, *rank, state).await
                };
                self.ranks.insert(id, next);
            }
        }
    }

    async fn train(&self, assignment: &Assignment, rank: u32, state: RankState) -> RankState {
        match state {
            RankState::Starting => {
                assert!(assignment.inputs.dataset.is_some() && assignment.inputs.vocab.is_some());
                assert_eq!(
                    assignment.inputs.start.is_some(),
                    assignment.kind != StageKind::Pretrain
                );
                let address = format!("{}:{rank}", self.name);
                RankState::Listening {
                    address,
                    committed: None,
                }
            }
            RankState::Listening { .. } if !assignment.members.is_empty() => {
                assert!(
                    assignment
                        .members
                        .iter()
                        .map(|member| member.rank)
                        .eq(0..assignment.world)
                );
                let committed = assignment.inputs.resume.as_ref().map_or(0, |manifest| manifest.step);
                RankState::Running { committed }
            }
            RankState::Running { committed } => {
                let total = total_steps(assignment);
                let through = (committed + STEPS_PER_ROUND).min(total);
                if rank == 0 {
                    self.report((assignment.stage, assignment.generation), through).await;
                }
                self.hand_in(assignment, rank, through).await;
                if through == total {
                    RankState::Finished { committed: total }
                } else {
                    RankState::Running { committed: through }
                }
            }
            other => other,
        }
    }

    /// Reports the metrics that are not stored yet.
    async fn report(&self, (stage, generation): (StageId, u64), through: u64) {
        let path = format!("/stages/{stage}/metrics");
        let stored = self
            .api
            .call(Role::Node, "GET", &format!("{path}/through"), None, None)
            .await;
        let stored: MetricsThrough = stored.read();
        let rows: Vec<StepMetrics> = (stored.next_step..through).map(metrics).collect();
        if !rows.is_empty() {
            let stored: MetricsThrough = self.api.post(Role::Node, &path, &chunk(generation, rows)).await.read();
            assert_eq!(stored.next_step, through);
        }
    }

    async fn hand_in(&self, assignment: &Assignment, rank: u32, step: u64) {
        let parts = u64::from(assignment.world);
        let cut = |i: u64| STATE_BYTES * i / parts;
        let (offset_bytes, end) = (cut(u64::from(rank)), cut(u64::from(rank) + 1));
        let part = CheckpointPart {
            step,
            part: rank,
            parts: assignment.world,
            offset_bytes,
            state_bytes: STATE_BYTES,
            object: own(
                assignment.stage,
                &format!("{step}-part-{rank}-of-{parts}"),
                end - offset_bytes,
            ),
            tensors: Some(own(assignment.stage, &format!("{step}-tensors-{rank}-of-{parts}"), 99)),
        };
        let handed = PartHandedIn {
            generation: assignment.generation,
            part,
            peak_bytes: Some(PEAK_BYTES + u64::from(rank)),
        };
        let path = format!("/stages/{}/checkpoints/parts", assignment.stage);
        let answer = self.api.post(Role::Node, &path, &handed).await;
        assert!(answer.status.is_success(), "{}", answer.body);
    }

    async fn do_task(&self, assignment: &Assignment, rank: u32, state: RankState) -> RankState {
        if state == RankState::Starting {
            return RankState::Running { committed: 0 };
        }
        if let Some(lease) = self.lease(assignment.stage, assignment.generation, rank).await {
            check_inputs(assignment);
            let mut output = output(&lease.work);
            if let TaskOutput::Dataset { counts, .. } = &mut output {
                counts.extend(self.counts.clone());
            }
            let finished = TaskFinished {
                token: lease.token,
                output,
                peak_bytes: Some(PEAK_BYTES + u64::from(rank)),
            };
            let answer = self
                .api
                .post(Role::Node, &format!("/tasks/{}/finish", lease.task), &finished)
                .await;
            assert!(answer.status.is_success(), "{}", answer.body);
        }
        state
    }

    pub(super) async fn lease(&self, stage: StageId, generation: u64, rank: u32) -> Option<Lease> {
        let request = LeaseRequest {
            node: self.id,
            incarnation: self.incarnation,
            generation,
            rank,
        };
        let answer = self
            .api
            .post(Role::Node, &format!("/stages/{stage}/tasks/lease"), &request)
            .await;
        // A rank that was replaced in this round is refused.
        if answer.refusal() == (409, "stale") {
            return None;
        }
        answer.read::<LeaseAnswer>().lease
    }
}

fn check_inputs(assignment: &Assignment) {
    let inputs = &assignment.inputs;
    let expected = match assignment.kind {
        StageKind::Capfilt => (true, false, true),
        StageKind::Evaluate => (true, true, false),
        _ => (false, false, false),
    };
    assert_eq!(
        (
            inputs.dataset.is_some(),
            inputs.start.is_some(),
            inputs.captioner.is_some()
        ),
        expected
    );
    assert_eq!(inputs.captioner.is_some(), inputs.filter.is_some());
}

pub(super) fn object(name: &str, size_bytes: u64) -> ObjectRef {
    let blake3 = blake3::hash(name.as_bytes()).to_hex().to_string();
    ObjectRef {
        key: format!("objects/{name}"),
        blake3,
        size_bytes,
    }
}

/// An object of a stage's checkpoints.
pub(super) fn own(stage: StageId, name: &str, size_bytes: u64) -> ObjectRef {
    ObjectRef {
        key: format!("{}{name}", folder(stage)),
        ..object(name, size_bytes)
    }
}

/// Rows of a generation, without a ledger.
pub(super) fn chunk(generation: u64, rows: Vec<StepMetrics>) -> MetricsChunk {
    MetricsChunk {
        generation,
        rows,
        ledger: Vec::new(),
    }
}

pub(super) fn metrics(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        epoch: 0,
        itc: 1.0,
        itm: 2.0,
        lm: step as f64,
        lr: 0.1,
        alpha: 0.4,
        temperature: 0.07,
        grad_norm: 1.0,
    }
}

pub(super) fn output(work: &TaskWork) -> TaskOutput {
    let counts = |pairs: u64| Counts::from([("pairs".to_owned(), pairs), ("pairs.human".to_owned(), 64)]);
    let dataset = |name, pairs| TaskOutput::Dataset {
        dataset: object(name, 10),
        vocab: object("vocab", 10),
        counts: counts(pairs),
    };
    match work {
        TaskWork::IndexShard { shard } | TaskWork::CapfiltShard { shard } => TaskOutput::Shard {
            object: object(&shard.file, 10),
            counts: Counts::new(),
        },
        TaskWork::IndexMerge { shards } => {
            assert_eq!(shards.len(), 4);
            dataset("version-0", 160)
        }
        TaskWork::CapfiltMerge { overlays } => {
            assert_eq!(overlays.len(), 2);
            dataset("version-1", 96)
        }
        TaskWork::Evaluate => TaskOutput::Evaluation {
            details: object("details", 10),
            figures: figures(),
        },
    }
}

fn figures() -> Evaluation {
    let interval = Interval {
        value: 0.5,
        low: 0.4,
        high: 0.6,
    };
    let recall = Recall {
        at_1: interval,
        at_5: interval,
        at_10: interval,
    };
    Evaluation {
        pairs: 10,
        text_to_image_itc: recall,
        image_to_text_itc: recall,
        text_to_image_itm: recall,
        image_to_text_itm: recall,
        bleu_4: 0.1,
    }
}

fn total_steps(assignment: &Assignment) -> u64 {
    let train = match assignment.kind {
        StageKind::Captioner => &assignment.spec.captioner,
        StageKind::Filter => &assignment.spec.filter,
        _ => &assignment.spec.pretrain,
    };
    match train.length {
        Length::Steps { count } => count,
        Length::Epochs { .. } => panic!("the played jobs have lengths in steps"),
    }
}
