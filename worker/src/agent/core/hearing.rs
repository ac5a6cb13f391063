//! What rank processes say, and how they end.

use super::State;
use super::courier::Lane;
use super::leases::Work;
use super::message::{Output, ProcessId, Request};
use super::ranks::{Process, Seat};
use super::rings::{Oddity, Rings, Row};
use super::words;
use crate::rank::membership::LEADER;
use crate::supervise::Event;
use medley_protocol::agent::{FromRank, RankState};
use medley_protocol::ids::StageId;
use medley_protocol::rest::{PartHandedIn, PartRefused, TaskFinished, TaskGivenUp, TaskRenewal};
use medley_protocol::text::{MAX_REASON, plain};
use std::time::Duration;

pub(super) fn hear(state: &mut State, id: ProcessId, event: Event, now: Duration, out: &mut Vec<Output>) {
    let Some(process) = state.ranks.process(id) else {
        return;
    };
    match event {
        Event::Said(message) => said(state, id, process, words::heard(message), now, out),
        Event::Babbled(what) => {
            let what = plain(&what, MAX_REASON);
            out.push(Output::Warn(format!("{} is killed: {what}", process.describe())));
            let reason = format!("it said something unreadable: {what}");
            state
                .ranks
                .reached(id, process.seat.generation, RankState::Failed { reason, retry: true });
        }
        Event::Exited(how) => exited(state, id, &how, out),
    }
}

/// Rows and results count whoever says them; everything else counts only from a rank that is still wanted.
fn said(state: &mut State, id: ProcessId, process: Process, message: FromRank, now: Duration, out: &mut Vec<Output>) {
    let Seat {
        stage,
        generation,
        rank,
    } = process.seat;
    match message {
        FromRank::State {
            generation,
            state: reached,
        } => {
            let step = match &reached {
                RankState::Running { committed } => Some(*committed),
                _ => None,
            };
            let works = state.ranks.reached(id, generation, reached);
            if let Some(step) = step.filter(|_| works) {
                state.rings.begins(stage, generation, step);
                let rings = &state.rings;
                state.courier.discard(|request| is_superseded(rings, request));
            }
        }
        FromRank::Pulse { doing, connecting } => state.ranks.pulses(id, doing, connecting.as_ref(), now),
        FromRank::Committed { metrics, ledger } => {
            let step = metrics.step;
            state.ranks.committed(id, step + 1);
            // All ranks say the same: whichever is lost, no row is.
            let row = Row { metrics, ledger };
            let odd = state.rings.push(stage, generation, rank == LEADER, row);
            out.extend(odd.map(|odd| Output::Warn(describe(odd, stage, step))));
        }
        FromRank::Part { part, peak_bytes } => {
            let body = PartHandedIn {
                generation,
                part,
                peak_bytes,
            };
            let request = Request::Part { stage, body };
            // What rows it rests on is known only while its stage is here.
            if !process.dying && !is_superseded(&state.rings, &request) {
                state.courier.push(Lane::Parts(stage), request);
            }
        }
        FromRank::PartRefused { step, reason } => {
            let what = process.describe();
            out.push(Output::Warn(format!(
                "{what} cannot write its part of the checkpoint at step {step}, and tries it again: {reason}"
            )));
            if let Some(node) = state.link.node() {
                let body = PartRefused { node, step, reason };
                state.courier.push(Lane::Parts(stage), Request::Refused { stage, body });
            }
        }
        FromRank::LeaseWanted => state.ranks.wants_task(id, now),
        FromRank::TaskDone {
            lease,
            output,
            peak_bytes,
        } => {
            let token = lease.token;
            state.ranks.settle(id, token);
            state.courier.forget_renewals(token);
            let body = TaskFinished {
                token,
                output,
                peak_bytes,
            };
            let task = lease.task;
            state
                .courier
                .push(Lane::Rank(stage, rank), Request::Finish { task, body });
        }
        FromRank::TaskFailed { lease, reason, retry } => {
            let token = lease.token;
            state.ranks.settle(id, token);
            state.courier.forget_renewals(token);
            let (task, body) = (lease.task, TaskGivenUp { token, reason, retry });
            state
                .courier
                .push(Lane::Rank(stage, rank), Request::Fail { task, body });
        }
        FromRank::TaskProgress { lease, .. } => {
            let (task, token) = (lease.task, lease.token);
            if state.ranks.renew(id, token, now) {
                state.courier.forget_renewals(token);
                let body = TaskRenewal { token };
                state
                    .courier
                    .push(Lane::Rank(stage, rank), Request::Renew { task, body });
            }
        }
    }
}

/// Whether a request hands in a part of a checkpoint whose step is computed again.
pub(super) fn is_superseded(rings: &Rings, request: &Request) -> bool {
    matches!(request, Request::Part { stage, body } if rings.is_superseded(*stage, body.generation, body.part.step))
}

fn exited(state: &mut State, id: ProcessId, how: &str, out: &mut Vec<Output>) {
    let Some((process, work)) = state.ranks.exited(id, how) else {
        return;
    };
    out.push(Output::Info(format!("{} {how}", process.describe())));
    state.courier.forget_process(id);
    let Work::Holds(held) = work else { return };
    // The coordinator takes the lease back when it hears that the rank has failed.
    state.courier.forget_renewals(held.token);
}

fn describe(odd: Oddity, stage: StageId, step: u64) -> String {
    match odd {
        Oddity::Overflow => {
            format!("too many metrics of stage {stage} wait for the coordinator: the oldest are dropped")
        }
        Oddity::Differs => format!("two ranks, or two tries, of stage {stage} have read other samples in step {step}"),
    }
}
