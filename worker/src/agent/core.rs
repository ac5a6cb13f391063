//! What an agent does: the pure core around which sockets, processes and clocks are a thin shell.
//!
//! [`step`] takes what happened ([`Input`]) with the time, and returns what is to be done ([`Output`]). There is no IO
//! here and no clock, so a simulation can run agents by the thousand. Its rules:
//!
//! - Of all orders the highest revision counts, whoever sends it and in whatever order they arrive.
//! - Ranks that are not listed are killed. Those of a training stage take the seats of its next generation; what is missing is
//!   started.
//! - A process that stands still is killed, and so is a rank that says nothing of its task for as long as the lease lasts.
//! - Every listed rank is reported in every beat, with the last state it told, or how it ended.
//! - An agent that is asked to leave says so in every beat, and ends once the orders list nothing more for it. If that takes
//!   longer than its grace, it stops as it is.
//! - Nodes that the coordinator asks for are tried, and every beat says which of them are reached.
//! - Facts (parts of checkpoints, results of tasks, metrics) are kept until the coordinator has accepted them. Its
//!   absence changes nothing else: ranks go on.
//!
//! `link` decides when the coordinator is called, `ranks` which processes run, `seating` in which places, `vigil` which of them stand still, `probing`
//! which nodes are reached, `leases` which tasks ranks hold, `rings` keeps metrics and `courier` everything else that has to arrive.

mod answers;
mod courier;
mod hearing;
mod leases;
mod link;
mod message;
mod probing;
mod ranks;
mod rings;
mod seating;
mod vigil;
mod words;

pub use message::{Input, Output, ProcessId, Reply, Request, RequestId, Trouble};

use courier::{Courier, Lane};
use link::{Call, Link};
use medley_protocol::agent::{Beat, Orders, Register, Registered};
use medley_protocol::hardware::Hardware;
use medley_protocol::rest::LeaseRequest;
use message::Meaning;
use probing::Probing;
use ranks::Ranks;
use rings::Rings;
use std::time::Duration;

/// An agent.
#[derive(Debug, Clone)]
pub struct State {
    phase: Phase,
    link: Link,
    ranks: Ranks,
    rings: Rings,
    courier: Courier,
    /// Where other agents try whether they reach this node.
    address: Option<String>,
    probing: Probing,
    hardware: Hardware,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Serves until nothing is left, or until this time.
    Leaving {
        until: Duration,
        notice: Notice,
    },
    /// Ranks are being killed; what has to arrive is still sent.
    Stopping,
    /// Nothing is sent any more.
    Halted,
}

/// Whether the coordinator knows that an agent leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notice {
    Due,
    Given,
    Heard,
}

impl Phase {
    /// Whether orders are obeyed.
    fn serves(self) -> bool {
        matches!(self, Self::Serving | Self::Leaving { .. })
    }

    /// What a beat says of it: in how many milliseconds the agent ends at the latest, if it leaves.
    fn give_notice(&mut self, now: Duration) -> Option<u64> {
        let Self::Leaving { until, notice } = self else {
            return None;
        };
        if *notice == Notice::Due {
            *notice = Notice::Given;
        }
        Some(until.saturating_sub(now).as_millis() as u64)
    }
}

impl State {
    /// An agent that has not yet registered. `register` says what it is; its incarnation is this life.
    pub fn new(register: Register) -> Self {
        Self {
            phase: Phase::Serving,
            ranks: Ranks::new(register.devices),
            link: Link::new(register),
            rings: Rings::default(),
            courier: Courier::default(),
            address: None,
            probing: Probing::default(),
            hardware: Hardware::default(),
        }
    }

    /// The same agent, whose ranks compute on this.
    #[must_use]
    pub fn equipped_with(mut self, hardware: Hardware) -> Self {
        self.ranks.on_gpus = !hardware.gpus.is_empty();
        self.hardware = hardware;
        self
    }

    /// The same agent, which listens under this address (`host:port`) for others that try to reach it.
    #[must_use]
    pub fn reachable_at(self, address: String) -> Self {
        let address = Some(address);
        Self { address, ..self }
    }

    /// Whether no orders are obeyed any more.
    pub fn stops(&self) -> bool {
        !self.phase.serves()
    }

    /// Whether an agent that stops has nothing left to do: no process runs, all facts have arrived.
    pub fn is_done(&self) -> bool {
        self.ranks.are_gone() && (self.phase == Phase::Halted || self.courier.has_delivered_facts())
    }
}

/// The transition function.
pub fn step(mut state: State, input: Input, now: Duration) -> (State, Vec<Output>) {
    let mut out = Vec::new();
    match input {
        Input::Registered(answer) => registered(&mut state, answer, now, &mut out),
        Input::Ordered(answer) => ordered(&mut state, answer, now, &mut out),
        Input::Rank { process, event } => hearing::hear(&mut state, process, event, now, &mut out),
        Input::Answered { id, answer } => answers::take(&mut state, id, answer, now, &mut out),
        Input::Leave { grace } => leave(&mut state, grace, now, &mut out),
        Input::Probed { node, reached } => state.ranks.news |= state.probing.tried(node, reached, now),
        Input::Gpus(gpus) => state.hardware.gpus = gpus,
        Input::Stop => stop(&mut state, &mut out),
        Input::Tick => {}
    }
    advance(&mut state, now, &mut out);
    (state, out)
}

fn registered(state: &mut State, answer: Result<Registered, Trouble>, now: Duration, out: &mut Vec<Output>) {
    let trouble = match answer {
        Ok(answer) => {
            if state.link.registered(&answer, now) {
                out.push(Output::Warn(
                    "the coordinator is another one than before; its orders alone count now".into(),
                ));
                state.ranks.abandon(out);
                state.courier.clear();
                state.rings = Rings::default();
            }
            out.push(Output::Info(format!("registered as node {}", answer.node)));
            return;
        }
        Err(trouble) => trouble,
    };
    let detail = trouble.detail();
    match trouble.meaning() {
        Meaning::Away | Meaning::Stumbled => {
            if state.link.failed(now) {
                out.push(Output::Warn(format!(
                    "waiting for the coordinator to register this node: {detail}"
                )));
            }
        }
        Meaning::Token => halt(state, token_refused(detail), out),
        Meaning::Outdated | Meaning::Unknown | Meaning::Wrong => {
            halt(
                state,
                format!("the coordinator refuses to register this node: {detail}"),
                out,
            );
        }
    }
}

fn ordered(state: &mut State, answer: Result<Orders, Trouble>, now: Duration, out: &mut Vec<Output>) {
    let trouble = match answer {
        Ok(mut orders) => {
            if state.link.beaten() {
                out.push(Output::Info("the coordinator answers again".into()));
            }
            if let Phase::Leaving { notice, .. } = &mut state.phase
                && *notice == Notice::Given
            {
                *notice = Notice::Heard;
            }
            state.probing.list(std::mem::take(&mut orders.probes), now);
            if state.phase.serves() && state.ranks.obey(orders, now, out) {
                state.link.enliven(now);
                state.rings.list(&state.ranks.training());
            }
            return;
        }
        Err(trouble) => trouble,
    };
    let detail = trouble.detail();
    match trouble.meaning() {
        Meaning::Outdated => {
            let name = &state.link.register.name;
            let reason = format!(
                "another agent has registered as node {name} since: stop one of the two, or give it another --name \
                 ({detail})"
            );
            halt(state, reason, out);
        }
        Meaning::Token => halt(state, token_refused(detail), out),
        Meaning::Unknown => {
            out.push(Output::Warn(format!(
                "the coordinator does not know this node, which registers again: {detail}"
            )));
            state.link.forgotten(now);
        }
        Meaning::Away | Meaning::Stumbled | Meaning::Wrong => {
            if state.link.failed(now) {
                out.push(Output::Warn(format!(
                    "a beat failed; ranks go on while the coordinator is away: {detail}"
                )));
            }
        }
    }
}

fn token_refused(detail: &str) -> String {
    format!("the coordinator refuses the token: check that --token-file holds its token for nodes ({detail})")
}

fn leave(state: &mut State, grace: Duration, now: Duration, out: &mut Vec<Output>) {
    if state.phase == Phase::Serving {
        state.phase = Phase::Leaving {
            until: now + grace,
            notice: Notice::Due,
        };
        out.push(Output::Info(format!(
            "this node is to be left: the coordinator has {} s to take its ranks out of their stages",
            grace.as_secs()
        )));
    }
}

fn stop(state: &mut State, out: &mut Vec<Output>) {
    if state.phase.serves() {
        state.phase = Phase::Stopping;
        state.ranks.abandon(out);
    }
}

/// An agent that leaves stops once the coordinator knows and nothing is left to do, or when its time is over.
fn end_leaving(state: &mut State, now: Duration, out: &mut Vec<Output>) {
    let Phase::Leaving { until, notice } = state.phase else {
        return;
    };
    let is_known = notice == Notice::Heard || state.link.is_away();
    let has_told_all = state.courier.has_delivered_facts() && !state.rings.have_due();
    if is_known && state.ranks.are_all_gone() && has_told_all {
        out.push(Output::Info("the node has nothing left to do".into()));
        stop(state, out);
    } else if now >= until {
        let left = "the time to leave is over: what is left of the ranks is killed".into();
        out.push(Output::Warn(left));
        stop(state, out);
    }
}

fn halt(state: &mut State, reason: String, out: &mut Vec<Output>) {
    if state.phase != Phase::Halted {
        state.phase = Phase::Halted;
        state.ranks.abandon(out);
        out.push(Output::Halt { reason });
    }
}

/// Does what time, or what has just happened, has made due.
fn advance(state: &mut State, now: Duration, out: &mut Vec<Output>) {
    end_leaving(state, now, out);
    if state.phase.serves() {
        state.ranks.end_silent(now, out);
        state.ranks.end_hung(now, out);
        state.ranks.advance(&state.link.register, out);
        state.probing.advance(now, out);
        call(state, now, out);
        ask_for_tasks(state, now);
    }
    if state.phase != Phase::Halted {
        report_metrics(state, now, out);
        let rings = &state.rings;
        let held = |request: &Request| match request {
            Request::Part { stage, body } => rings.hold(*stage, body.part.step),
            _ => false,
        };
        let sent = state.courier.dispatch(now, held).into_iter();
        out.extend(sent.map(|(id, request)| Output::Send { id, request }));
    }
}

fn call(state: &mut State, now: Duration, out: &mut Vec<Output>) {
    let is_due = matches!(
        state.phase,
        Phase::Leaving {
            notice: Notice::Due,
            ..
        }
    );
    match state.link.call(is_due || state.ranks.has_news(), now) {
        None => {}
        Some(Call::Register) => out.push(Output::Register(state.link.register.clone())),
        Some(Call::Beat { node, patience }) => {
            state.ranks.told();
            let leaves_in_ms = state.phase.give_notice(now);
            let beat = Beat {
                node,
                incarnation: state.link.register.incarnation,
                revision: state.ranks.revision(),
                ranks: state.ranks.reports(now),
                leaves_in_ms,
                address: state.address.clone(),
                reached: state.probing.reached(),
                hardware: state.hardware.clone(),
            };
            out.push(Output::Beat { beat, patience });
        }
    }
}

fn ask_for_tasks(state: &mut State, now: Duration) {
    let Some(node) = state.link.node() else { return };
    let incarnation = state.link.register.incarnation;
    for (process, stage, generation, rank) in state.ranks.ask(now) {
        let body = LeaseRequest {
            node,
            incarnation,
            generation,
            rank,
        };
        let request = Request::Lease { process, stage, body };
        state.courier.push(Lane::Rank(stage, rank), request);
    }
}

fn report_metrics(state: &mut State, now: Duration, out: &mut Vec<Output>) {
    for stage in state.rings.stages() {
        let lane = Lane::Metrics(stage);
        if !state.courier.is_clear(lane) {
            continue;
        }
        match state.rings.due(stage, now) {
            Ok(Some(request)) => state.courier.push(lane, request),
            Ok(None) => {}
            Err(lost) => out.push(Output::Warn(lost)),
        }
    }
}

#[cfg(test)]
mod tests;
