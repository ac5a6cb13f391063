//! The rules one by one; [`model`] tries them in any order.

mod calls;
mod facts;
mod hardware;
mod model;
mod orders;
mod tasks;
mod words;
mod world;

use super::*;
use crate::supervise::Event;
use medley_protocol::agent::{CheckpointWanted, Doing, FromRank, Member, Parting, RankState, ToRank};
use medley_protocol::error::Code;
use medley_protocol::ids::CheckpointRequestId;
use medley_protocol::metrics::MetricsThrough;
use medley_protocol::stage::StageKind;
use world::{Agent, PEAK, assignment, committed, id, lease, orders, part, shard_output};

const MS: Duration = Duration::from_millis(1);

fn running(committed: u64) -> FromRank {
    reached(1, RankState::Running { committed })
}

fn reached(generation: u64, state: RankState) -> FromRank {
    FromRank::State { generation, state }
}

fn listening(generation: u64) -> FromRank {
    let state = RankState::Listening {
        address: "h:1".into(),
        committed: None,
    };
    reached(generation, state)
}

fn pulse(doing: Option<Doing>) -> FromRank {
    FromRank::Pulse {
        doing,
        connecting: None,
    }
}

fn refused(code: Code) -> Trouble {
    let detail = "because".into();
    Trouble::Refused { code, detail }
}

fn away() -> Trouble {
    Trouble::Away("no answer".into())
}

fn members(world: u32) -> Vec<Member> {
    let member = |rank| Member {
        rank,
        node: id(1),
        address: format!("h:{rank}"),
    };
    (0..world).map(member).collect()
}

/// The ranks started by these outputs, as (process, generation, rank, device).
fn starts(outputs: &[Output]) -> Vec<(ProcessId, u64, u32, u32)> {
    let start = |output: &Output| match output {
        Output::Start {
            process,
            device,
            order: ToRank::Start { assignment, rank, .. },
        } => Some((*process, assignment.generation, *rank, *device)),
        _ => None,
    };
    outputs.iter().filter_map(start).collect()
}

/// The ranks called to another generation, as (process, generation, rank, at once).
fn calls_of(outputs: &[Output]) -> Vec<(ProcessId, u64, u32, bool)> {
    let call = |(process, order): (ProcessId, ToRank)| match order {
        ToRank::Regroup {
            assignment,
            rank,
            at_once,
        } => Some((process, assignment.generation, rank, at_once)),
        _ => None,
    };
    told(outputs).into_iter().filter_map(call).collect()
}

fn kills(outputs: &[Output]) -> Vec<ProcessId> {
    let kill = |output: &Output| match output {
        Output::Kill { process } => Some(*process),
        _ => None,
    };
    outputs.iter().filter_map(kill).collect()
}

fn told(outputs: &[Output]) -> Vec<(ProcessId, ToRank)> {
    let tell = |output: &Output| match output {
        Output::Tell { process, order } => Some((*process, order.clone())),
        _ => None,
    };
    outputs.iter().filter_map(tell).collect()
}

fn sent(outputs: &[Output]) -> Vec<(RequestId, Request)> {
    let send = |output: &Output| match output {
        Output::Send { id, request } => Some((*id, request.clone())),
        _ => None,
    };
    outputs.iter().filter_map(send).collect()
}

fn only_request(outputs: &[Output]) -> (RequestId, Request) {
    let mut requests = sent(outputs);
    assert_eq!(requests.len(), 1, "{outputs:?}");
    requests.remove(0)
}

fn halted(outputs: &[Output]) -> Option<&str> {
    outputs.iter().find_map(|output| match output {
        Output::Halt { reason } => Some(reason.as_str()),
        _ => None,
    })
}

fn states(agent: &Agent) -> Vec<RankState> {
    agent.reports().into_iter().map(|report| report.state).collect()
}
