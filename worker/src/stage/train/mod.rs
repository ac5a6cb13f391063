//! A training stage as one rank runs it: load, listen, connect, then step after step until all are committed.
//!
//! A step is computed ([`trainer`]) from the batches of the rank's lanes ([`samples`]); the lanes' gradients are summed
//! along the lane tree, features and losses are gathered ([`shares`]), before that, where negatives come from all lanes, what
//! they are drawn from ([`negatives`]); once every member is prepared ([`member`]) the state
//! moves as one local act. What a stage trains, on which pairs and by which schedule, is settled at its start ([`setup`]).

mod member;
mod negatives;
mod samples;
mod setup;
mod shares;
mod trainer;

use crate::checkpoint::writer::Writer;
use crate::collective::deal::{Deal, deal};
use crate::collective::reduce::Plan;
use crate::collective::tcp::{Hello, Mesh, Timing};
use crate::rank::failure::Failure;
use crate::rank::fingerprint;
use crate::rank::memory::peak_bytes;
use crate::rank::pipes::Orders;
use crate::rank::process::Context;
use medley_protocol::agent::{CheckpointWanted, FromRank, Member, RankState, ToRank};
use medley_protocol::checkpoint::CheckpointPart;
use setup::Setup;
use std::io;
use std::net::TcpListener;
use std::time::{Duration, Instant};
use trainer::Trainer;

/// Time for all members to load and listen.
const MEMBERS_PATIENCE: Duration = Duration::from_mins(10);
/// Time for the others' goodbyes once all steps are committed.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(20);

/// Trains until all steps are committed.
///
/// # Errors
/// [`Failure`]: a peer or a file is gone (passing), or spec and data do not fit (lasting). Peers are told, or notice at once.
pub fn run(context: Context) -> Result<(), Failure> {
    let Context {
        assignment,
        rank,
        host,
        orders,
        voice,
        objects,
    } = context;
    let setup = Setup::load(&assignment, &objects)?;
    let listener = listen(&host)?;
    let address = address(&host, listener.local_addr()?.port());
    voice.state(RankState::Listening { address });
    let (members, wanted) = await_members(&orders, assignment.world)?;
    let deal = deal(assignment.spec.lanes.count, &ranks_of_nodes(&members))?;
    let plan = Plan::new(&deal, rank, setup.blip.student_layout.len());
    let hello = Hello {
        stage: assignment.stage,
        generation: assignment.generation,
        secret: assignment.secret.clone(),
        committed: setup.state.step,
        prepared: false,
        rank,
        world: deal.ranks(),
        fingerprint: fingerprint(),
    };
    let limits = plan.limits(setup.blip.student_layout.len(), largest_share(&setup, &deal));
    let addresses: Vec<String> = members.into_iter().map(|member| member.address).collect();
    let mesh = Mesh::connect(&listener, &hello, &addresses, Timing::default(), limits)?;
    tracing::info!("all ranks are connected; trains from step {}", hello.committed);
    let said = voice.clone();
    let written = move |part: CheckpointPart| {
        let peak_bytes = peak_bytes();
        said.say(&FromRank::Part { part, peak_bytes });
    };
    let writer = Writer::start(objects, assignment.stage, written)?;
    let speaker = member::Speaker::new(&hello, wanted);
    let trainer = Trainer::new(setup, assignment.spec.checkpoint, (deal, plan, rank), &mesh, writer)?;
    match trainer.run(speaker, &orders, &voice) {
        Ok(committed) => {
            voice.state(RankState::Finished { committed });
            mesh.leave(GOODBYE_PATIENCE);
            Ok(())
        }
        Err(failure) => {
            // What was said last, such as why, still goes out.
            mesh.close();
            Err(failure)
        }
    }
}

/// Listens on the rank's own host; on every address where the host's name is one that only others can use.
fn listen(host: &str) -> io::Result<TcpListener> {
    TcpListener::bind((host, 0)).or_else(|_| TcpListener::bind(("0.0.0.0", 0)))
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Waits until everyone listens; a checkpoint may be asked for meanwhile.
fn await_members(orders: &Orders, world: u32) -> Result<(Vec<Member>, Option<CheckpointWanted>), Failure> {
    let deadline = Instant::now() + MEMBERS_PATIENCE;
    let mut wanted = None;
    loop {
        match orders.next(deadline.saturating_duration_since(Instant::now())) {
            Some(ToRank::Connect { members }) if members.iter().map(|member| member.rank).eq(0..world) => {
                return Ok((members, wanted));
            }
            Some(ToRank::CheckpointAfter { wanted: asked }) => wanted = Some(asked),
            Some(other) => {
                return Err(Failure::passing(format!(
                    "expected the {world} members of the generation in order, not {other:?}"
                )));
            }
            None => {
                let minutes = MEMBERS_PATIENCE.as_secs() / 60;
                let reason = format!("the other members did not listen within {minutes} minutes");
                return Err(Failure::passing(reason));
            }
        }
    }
}

/// Ranks of each node, in order; members of one node follow each other.
fn ranks_of_nodes(members: &[Member]) -> Vec<u32> {
    let nodes = members.chunk_by(|a, b| a.node == b.node);
    nodes.map(|ranks| ranks.len() as u32).collect()
}

/// Most bytes that a rank shares with the others in a step.
fn largest_share(setup: &Setup, deal: &Deal) -> usize {
    let most_lanes = (0..deal.ranks()).map(|rank| deal.lanes(rank).count()).max();
    most_lanes.unwrap_or(0) * setup.lane_share().bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_protocol::ids::NodeId;

    #[test]
    fn members_are_counted_node_by_node() {
        let nodes: Vec<NodeId> = (0..3).map(|_| NodeId::generate()).collect();
        let members: Vec<Member> = [0, 0, 1, 2, 2, 2]
            .iter()
            .zip(0..)
            .map(|(node, rank)| Member {
                rank,
                node: nodes[*node],
                address: String::new(),
            })
            .collect();
        assert_eq!(ranks_of_nodes(&members), [2, 1, 3]);
    }

    #[test]
    fn addresses_of_both_kinds_can_be_connected_to() {
        assert_eq!(address("10.0.0.1", 5), "10.0.0.1:5");
        assert_eq!(address("::1", 5), "[::1]:5");
    }
}
