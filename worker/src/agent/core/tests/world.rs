//! An agent under test, and what it is told.

use super::super::*;
use crate::supervise::Event;
use medley_protocol::agent::{Assignment, FromRank, RankReport, StageInputs};
use medley_protocol::checkpoint::{CheckpointPart, ObjectRef};
use medley_protocol::ids::{LeaseToken, StageId, TaskId};
use medley_protocol::metrics::StepMetrics;
use medley_protocol::spec::Spec;
use medley_protocol::stage::StageKind;
use medley_protocol::tasks::{Counts, Lease, TaskOutput, TaskWork};
use std::sync::OnceLock;

/// What a rank says that it has needed.
pub(super) const PEAK: Option<u64> = Some(7 << 20);

/// An id made of a number.
pub(super) fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(number: u64) -> T {
    format!("00000000-0000-7000-8000-{number:012}").parse().unwrap()
}

pub(super) fn registered(node: u64) -> Registered {
    Registered {
        node: id(node),
        beat_ms: 500,
        silence_ms: 5000,
    }
}

fn spec() -> Spec {
    static SPEC: OnceLock<Spec> = OnceLock::new();
    let make = || {
        let document = serde_json::json!({
            "name": "t", "kind": "bootstrap", "preset": "nano", "data": {"root": "/data"},
        });
        Spec::from_document(&document).unwrap()
    };
    SPEC.get_or_init(make).clone()
}

pub(super) fn assignment(stage: u64, generation: u64, ranks: &[u32], kind: StageKind) -> Assignment {
    Assignment {
        job: id(1),
        stage: id(stage),
        stage_name: format!("{kind}-0"),
        kind,
        generation,
        ranks: ranks.to_vec(),
        world: 2,
        members: Vec::new(),
        secret: "secret".into(),
        spec: spec(),
        store: "file:///store".into(),
        inputs: StageInputs::default(),
        checkpoint_after: None,
        without: Vec::new(),
        distrusts: 0,
        parting: None,
    }
}

pub(super) fn orders(revision: u64, assignments: Vec<Assignment>) -> Orders {
    Orders {
        revision,
        assignments,
        probes: Vec::new(),
    }
}

/// A rank says that it has committed a step.
pub(super) fn committed(step: u64) -> FromRank {
    FromRank::Committed {
        metrics: row(step),
        ledger: None,
    }
}

/// The row of a step: a function of it, as in truth.
pub(super) fn row(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        epoch: 0,
        itc: step as f64,
        itm: 0.0,
        lm: 0.0,
        lr: 1.0,
        alpha: 0.0,
        temperature: 0.07,
        grad_norm: 1.0,
    }
}

fn object(key: &str) -> ObjectRef {
    ObjectRef {
        key: key.into(),
        blake3: "00".into(),
        size_bytes: 1,
    }
}

pub(super) fn part(step: u64, part: u32) -> CheckpointPart {
    CheckpointPart {
        step,
        part,
        parts: 2,
        offset_bytes: 0,
        state_bytes: 2,
        object: object("part"),
        tensors: None,
    }
}

pub(super) fn lease(number: u64) -> Lease {
    Lease {
        task: id::<TaskId>(number),
        token: id::<LeaseToken>(number),
        lease_ms: 30_000,
        work: TaskWork::Evaluate,
    }
}

pub(super) fn shard_output() -> TaskOutput {
    TaskOutput::Shard {
        object: object("overlay"),
        counts: Counts::new(),
    }
}

/// First step, and the one after the last, of a chunk.
pub(super) fn steps(request: &Request) -> (u64, u64) {
    let Request::Metrics { chunk, .. } = request else {
        panic!("not metrics: {request:?}")
    };
    let steps: Vec<u64> = chunk.rows.iter().map(|row| row.step).collect();
    assert!(
        steps.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "consecutive: {steps:?}"
    );
    (steps[0], steps[steps.len() - 1] + 1)
}

/// The core with a clock.
pub(super) struct Agent {
    state: Option<State>,
    now: Duration,
    beating: bool,
}

impl Agent {
    pub(super) fn new(devices: u32) -> Self {
        let register = Register {
            name: "n1".into(),
            incarnation: id(1),
            host: "h".into(),
            devices,
            threads: 1,
            fingerprint: "f".into(),
        };
        Self {
            state: Some(State::new(register)),
            now: Duration::ZERO,
            beating: false,
        }
    }

    pub(super) fn registered(devices: u32) -> Self {
        let mut agent = Self::new(devices);
        assert!(matches!(agent.step(Input::Tick)[..], [Output::Register(_)]));
        agent.step(Input::Registered(Ok(registered(1))));
        agent
    }

    /// The same agent on this hardware.
    pub(super) fn equipped_with(mut self, hardware: Hardware) -> Self {
        self.state = self.state.map(|state| state.equipped_with(hardware));
        self
    }

    pub(super) fn now(&self) -> Duration {
        self.now
    }

    pub(super) fn state(&self) -> &State {
        self.state.as_ref().unwrap()
    }

    pub(super) fn step(&mut self, input: Input) -> Vec<Output> {
        let (state, outputs) = step(self.state.take().unwrap(), input, self.now);
        self.state = Some(state);
        let beats = outputs
            .iter()
            .filter(|output| matches!(output, Output::Beat { .. }))
            .count();
        assert!(beats == 0 || (beats == 1 && !self.beating), "one beat at a time");
        self.beating |= beats > 0;
        outputs
    }

    pub(super) fn pass(&mut self, time: Duration) -> Vec<Output> {
        self.now += time;
        self.step(Input::Tick)
    }

    pub(super) fn event(&mut self, process: ProcessId, event: Event) -> Vec<Output> {
        self.step(Input::Rank { process, event })
    }

    pub(super) fn say(&mut self, process: ProcessId, message: FromRank) -> Vec<Output> {
        self.event(process, Event::Said(message))
    }

    pub(super) fn exit(&mut self, process: ProcessId, how: &str) -> Vec<Output> {
        self.event(process, Event::Exited(how.into()))
    }

    pub(super) fn answer(&mut self, id: RequestId, answer: Result<Reply, Trouble>) -> Vec<Output> {
        self.step(Input::Answered { id, answer })
    }

    /// Answers the beat that is under way, or the next.
    pub(super) fn answer_beat(&mut self, answer: Result<Orders, Trouble>) -> Vec<Output> {
        while !self.beating {
            self.pass(Duration::from_millis(25));
        }
        self.beating = false;
        self.step(Input::Ordered(answer))
    }

    pub(super) fn obey(&mut self, orders: Orders) -> Vec<Output> {
        self.answer_beat(Ok(orders))
    }

    /// What a beat would say now.
    pub(super) fn reports(&self) -> Vec<RankReport> {
        self.state().ranks.reports(self.now)
    }

    /// The next beat; the one under way is answered without news.
    pub(super) fn beat(&mut self) -> Beat {
        self.answer_beat(Ok(orders(0, Vec::new())));
        for _ in 0..1000 {
            self.now += Duration::from_millis(25);
            for output in self.step(Input::Tick) {
                if let Output::Beat { beat, .. } = output {
                    return beat;
                }
            }
        }
        panic!("no beat within 25 s")
    }

    /// Lets time pass until a request is sent; beats are answered without news.
    pub(super) fn next_request(&mut self) -> (RequestId, Request) {
        self.request_within(Duration::from_secs(30))
            .expect("a request within 30 s")
    }

    /// Nothing is sent for a long time.
    pub(super) fn stays_silent(&mut self) {
        let request = self.request_within(Duration::from_secs(30));
        assert!(request.is_none(), "{request:?}");
    }

    fn request_within(&mut self, time: Duration) -> Option<(RequestId, Request)> {
        let deadline = self.now + time;
        while self.now < deadline {
            let mut outputs = self.pass(Duration::from_millis(25));
            if std::mem::take(&mut self.beating) {
                outputs.extend(self.step(Input::Ordered(Ok(orders(0, Vec::new())))));
            }
            for output in outputs {
                if let Output::Send { id, request } = output {
                    return Some((id, request));
                }
            }
        }
        None
    }
}

/// The stage of an assignment made by [`assignment`].
pub(super) fn stage(number: u64) -> StageId {
    id(number)
}
