//! What the coordinator answers to requests, and what becomes of a request that was not accepted.

use super::State;
use super::courier::Lane;
use super::hearing::is_superseded;
use super::leases::ASK_PAUSE;
use super::message::{Meaning, Output, Reply, Request, RequestId, Trouble};
use medley_protocol::agent::ToRank;
use std::time::Duration;

/// Pause after the coordinator failed at a request, or a part of a checkpoint does not fit its present state.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

pub(super) fn take(
    state: &mut State,
    id: RequestId,
    answer: Result<Reply, Trouble>,
    now: Duration,
    out: &mut Vec<Output>,
) {
    let Some((lane, request)) = state.courier.answered(id) else {
        return;
    };
    let trouble = match answer {
        Ok(reply) => {
            state.courier.reached();
            return accepted(state, request, reply, now, out);
        }
        Err(trouble) => trouble,
    };
    match trouble.meaning() {
        // A refused token is no fault of the request; the next beat meets it as well, and decides.
        Meaning::Away | Meaning::Token => {
            if still_wanted(state, &request) {
                state.courier.missed(lane, request, now);
            }
        }
        Meaning::Stumbled => {
            state.courier.reached();
            if still_wanted(state, &request) {
                let (what, detail) = (request.describe(), trouble.detail());
                out.push(Output::Warn(format!(
                    "the coordinator failed at {what}; it is sent again: {detail}"
                )));
                state.courier.push_later(lane, request, now + RETRY_PAUSE);
            }
        }
        Meaning::Outdated => {
            state.courier.reached();
            outdated(state, lane, request, trouble.detail(), now, out);
        }
        Meaning::Unknown | Meaning::Wrong => {
            state.courier.reached();
            refused(state, &request, trouble.detail(), now, out);
        }
    }
}

fn accepted(state: &mut State, request: Request, reply: Reply, now: Duration, out: &mut Vec<Output>) {
    match (request, reply) {
        (Request::MetricsThrough { stage } | Request::Metrics { stage, .. }, Reply::Through(through)) => {
            state.rings.stored(stage, through.next_step, now);
        }
        // A rank that is gone gets no answer; the lease ends by itself.
        (Request::Lease { process, .. }, Reply::Lease(lease)) if state.ranks.answer(process, lease.as_ref(), now) => {
            let order = ToRank::Lease { lease };
            out.push(Output::Tell { process, order });
        }
        _ => {}
    }
}

/// Whether a request is worth sending again: a fact while it is not superseded, a wish while somebody has it.
fn still_wanted(state: &State, request: &Request) -> bool {
    match request {
        Request::Lease { process, .. } => state.ranks.process(*process).is_some_and(|process| !process.dying),
        Request::Renew { body, .. } => state.ranks.holds(body.token),
        _ => !is_superseded(&state.rings, request),
    }
}

/// The request does not fit the coordinator's present state.
fn outdated(state: &mut State, lane: Lane, request: Request, detail: &str, now: Duration, out: &mut Vec<Output>) {
    match request {
        Request::MetricsThrough { stage } | Request::Metrics { stage, .. } => state.rings.conflicted(stage, now),
        Request::Lease { process, .. } => state.ranks.ask_again(process, now + ASK_PAUSE),
        Request::Part { stage, .. } if state.ranks.lists(stage) && !is_superseded(&state.rings, &request) => {
            out.push(Output::Warn(format!("{} is sent again: {detail}", request.describe())));
            state.courier.push_later(lane, request, now + RETRY_PAUSE);
        }
        Request::Part { .. } | Request::Refused { .. } => drop_with_warning(&request, detail, out),
        // The lease has ended: another rank has the task, or has finished it.
        Request::Renew { .. } | Request::Finish { .. } | Request::Fail { .. } => {
            out.push(Output::Info(format!("{} comes too late: {detail}", request.describe())));
        }
    }
}

/// The request will never be accepted.
fn refused(state: &mut State, request: &Request, detail: &str, now: Duration, out: &mut Vec<Output>) {
    drop_with_warning(request, detail, out);
    match request {
        Request::MetricsThrough { stage } | Request::Metrics { stage, .. } => state.rings.refused(*stage),
        Request::Lease { process, .. } => state.ranks.ask_again(*process, now + RETRY_PAUSE),
        _ => {}
    }
}

fn drop_with_warning(request: &Request, detail: &str, out: &mut Vec<Output>) {
    out.push(Output::Warn(format!(
        "the coordinator refuses {}, which is dropped: {detail}",
        request.describe()
    )));
}
