//! Rank processes on this machine, brought together and listened to.

use crate::rank::membership::LEADER;
use crate::supervise::{Event, RankProcess};
use anyhow::{Context as _, anyhow, bail};
use medley_protocol::agent::{Assignment, FromRank, Member, RankState, ToRank};
use medley_protocol::checkpoint::{CheckpointPart, Manifest};
use medley_protocol::ids::{CheckpointId, NodeId};
use medley_protocol::metrics::StepMetrics;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

/// Host that the ranks listen on.
const HOST: &str = "127.0.0.1";
/// Silence of all ranks after which this process gives up; their own deadlines are shorter.
const PATIENCE: Duration = Duration::from_mins(30);

/// What happened.
#[derive(Debug)]
pub(super) enum News {
    /// A step was committed.
    Committed(StepMetrics),
    /// A checkpoint is whole.
    Checkpoint(Manifest),
}

/// Runs the assignment's ranks to their end.
///
/// # Errors
/// Why the first rank gave up, or an error of `tell`.
pub(super) fn train(
    assignment: &Assignment,
    (threads, device): (u32, &str),
    mut tell: impl FnMut(News) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (ranks, events) = start(assignment, (threads, device))?;
    let mut gang = Gang {
        node: NodeId::generate(),
        addresses: BTreeMap::new(),
        parts: BTreeMap::new(),
        finished: 0,
    };
    while gang.finished < ranks.len() {
        let event = events.recv_timeout(PATIENCE);
        let (rank, event) = event.map_err(|_| anyhow!("no rank said anything for {} s", PATIENCE.as_secs()))?;
        match event {
            Event::Said(said) => gang.hear(assignment, &ranks, rank, said, &mut tell)?,
            Event::Babbled(what) => bail!("rank {rank} said {what}"),
            Event::Exited(how) => gang.check_end(rank, &how)?,
        }
    }
    Ok(())
}

type Started = (Vec<RankProcess>, Receiver<(u32, Event)>);

fn start(assignment: &Assignment, (threads, device): (u32, &str)) -> anyhow::Result<Started> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let (heard, events) = mpsc::channel();
    let mut ranks = Vec::new();
    for &rank in &assignment.ranks {
        let heard = heard.clone();
        let sink = move |event| {
            // Fails only when this process has given up.
            let _ = heard.send((rank, event));
        };
        let process = RankProcess::spawn(&program, None, Stdio::inherit(), sink).context("cannot start a rank")?;
        process.tell(&ToRank::Start {
            assignment: Box::new(assignment.clone()),
            rank,
            host: HOST.into(),
            threads,
            device: device.to_owned(),
        })?;
        ranks.push(process);
    }
    Ok((ranks, events))
}

struct Gang {
    node: NodeId,
    addresses: BTreeMap<u32, String>,
    /// Parts of checkpoints that are not whole yet, by step.
    parts: BTreeMap<u64, Vec<CheckpointPart>>,
    finished: usize,
}

impl Gang {
    fn hear(
        &mut self,
        assignment: &Assignment,
        ranks: &[RankProcess],
        rank: u32,
        said: FromRank,
        tell: &mut impl FnMut(News) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        match said {
            FromRank::State { state, .. } => self.hear_state((assignment, ranks), rank, state),
            FromRank::Committed { metrics, .. } if rank == LEADER => tell(News::Committed(metrics)),
            FromRank::Part { part, .. } => match self.take_part(assignment, part) {
                Some(manifest) => tell(News::Checkpoint(manifest)),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn hear_state(
        &mut self,
        (assignment, ranks): (&Assignment, &[RankProcess]),
        rank: u32,
        state: RankState,
    ) -> anyhow::Result<()> {
        match state {
            RankState::Listening { address, .. } => {
                self.addresses.insert(rank, address);
                if self.addresses.len() == ranks.len() {
                    self.connect(assignment, ranks)?;
                }
            }
            RankState::Finished { .. } => self.finished += 1,
            RankState::Failed { reason, .. } | RankState::Broken { reason, .. } => bail!("rank {rank}: {reason}"),
            RankState::Damaged { damage } => bail!("rank {rank}: {damage}"),
            RankState::Doubtful { doubt } => bail!("rank {rank}: {doubt}"),
            // Nobody tells these ranks to leave.
            RankState::Starting | RankState::Running { .. } | RankState::Left { .. } => {}
        }
        Ok(())
    }

    fn connect(&self, assignment: &Assignment, ranks: &[RankProcess]) -> anyhow::Result<()> {
        let member = |(rank, address): (&u32, &String)| Member {
            rank: *rank,
            node: self.node,
            address: address.clone(),
        };
        let members: Vec<Member> = self.addresses.iter().map(member).collect();
        for rank in ranks {
            let members = members.clone();
            rank.tell(&ToRank::Connect {
                generation: assignment.generation,
                members,
            })?;
        }
        Ok(())
    }

    /// Keeps a part; the manifest once all parts of its step are there.
    fn take_part(&mut self, assignment: &Assignment, part: CheckpointPart) -> Option<Manifest> {
        let (step, all) = (part.step, part.parts as usize);
        let parts = self.parts.entry(step).or_default();
        parts.push(part);
        if parts.len() < all {
            return None;
        }
        let mut parts = self.parts.remove(&step)?;
        parts.sort_by_key(|part| part.part);
        Some(Manifest {
            id: CheckpointId::generate(),
            stage: assignment.stage,
            step,
            state_bytes: parts.first()?.state_bytes,
            parts,
        })
    }

    /// A process may end only after it has said that it finished.
    fn check_end(&self, rank: u32, how: &str) -> anyhow::Result<()> {
        if self.finished == 0 {
            bail!("rank {rank} {how} before the last step");
        }
        Ok(())
    }
}
