//! A node: lives of its agent, one after the other, around the product's core.

use super::process::Pid;
use medley_protocol::agent::Register;
use medley_protocol::ids::IncarnationId;
use medley_worker::agent::core::{Input, Output, ProcessId, State, step};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

pub(super) struct Node {
    number: usize,
    devices: u32,
    /// Number of the present or last life.
    pub(super) life: u64,
    pub(super) agent: Option<Agent>,
    /// For how long it is away once its agent has left.
    away: Option<Duration>,
}

pub(super) struct Agent {
    core: State,
    began: Duration,
    pub(super) processes: BTreeMap<ProcessId, Pid>,
}

impl Node {
    /// A node whose agent does not run.
    pub(super) fn new(number: usize, devices: u32) -> Self {
        Self {
            number,
            devices,
            life: 0,
            agent: None,
            away: None,
        }
    }

    /// Its agent starts, as a new life.
    pub(super) fn start(&mut self, now: Duration) {
        self.away = None;
        self.life += 1;
        let life = u128::from(self.life);
        let register = Register {
            name: format!("n{}", self.number),
            incarnation: IncarnationId::from_uuid(Uuid::from_u128(((self.number as u128 + 1) << 64) | life)),
            host: "host".into(),
            devices: self.devices,
            threads: 1,
            fingerprint: "same".into(),
        };
        self.agent = Some(Agent {
            core: State::new(register).reachable_at(self.number.to_string()),
            began: now,
            processes: BTreeMap::new(),
        });
    }

    /// Its agent is asked to leave, and starts again after a while.
    pub(super) fn leaves(&mut self, down: Duration) {
        self.away = self.agent.is_some().then_some(down);
    }

    /// Whether its agent was asked to leave and has nothing left to do.
    pub(super) fn has_left(&self) -> bool {
        let is_done = |agent: &Agent| agent.core.stops() && agent.core.is_done();
        self.away.is_some() && self.agent.as_ref().is_some_and(is_done)
    }

    /// The end of an agent that was asked to leave: for how long.
    pub(super) fn left(&mut self) -> Option<Duration> {
        self.away.take()
    }

    /// The agent takes a step, if it runs.
    pub(super) fn step(&mut self, input: Input, now: Duration) -> Vec<Output> {
        let Some(agent) = self.agent.take() else {
            return Vec::new();
        };
        let (core, outputs) = step(agent.core, input, now.saturating_sub(agent.began));
        self.agent = Some(Agent { core, ..agent });
        outputs
    }

    /// How the agent's world calls one of its processes.
    pub(super) fn pid(&self, process: ProcessId) -> Option<Pid> {
        self.agent.as_ref()?.processes.get(&process).copied()
    }
}
