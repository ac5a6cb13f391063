//! A rank's part in one generation: connect, agree on what to go on from, feed those who join, and train.

use super::handover;
use super::line::Line;
use super::member::Speaker;
use super::place::Place;
use super::trainer::Trainer;
use super::{Left, Stop};
use crate::collective::deal::deal;
use crate::collective::nccl::{self, Refused};
use crate::collective::reduce::Plan;
use crate::collective::tcp::mesh::Limits;
use crate::collective::tcp::{Hello, Mesh, Timing};
use crate::rank::beginning::{Beginning, Path, begin};
use crate::rank::calls::Call;
use crate::rank::failure::Failure;
use medley_protocol::agent::Assignment;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

/// Time for the others' goodbyes.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(20);

/// Takes part in the generation of `call`.
///
/// # Errors
/// [`Stop`] when it ends before its time.
pub(super) fn take(
    trainer: &mut Trainer,
    call: Call,
    (listener, fingerprint): (&TcpListener, &str),
    line: &mut Line,
) -> Result<Left, Stop> {
    let ranks_of_nodes = call.ranks_of_nodes();
    let Call {
        assignment,
        rank,
        members,
    } = call;
    let deal = deal(assignment.spec.lanes.count, &ranks_of_nodes)?;
    let plan = Plan::new(&deal, rank, trainer.gradient_len());
    let hello = Hello {
        stage: assignment.stage,
        generation: assignment.generation,
        secret: assignment.secret.clone(),
        memory: trainer.memory(),
        rank,
        world: deal.ranks(),
        fingerprint: fingerprint.to_owned(),
    };
    let step = plan.limits(trainer.gradient_len(), trainer.largest_share(&deal));
    let limits = Limits {
        frame_bytes: step.frame_bytes.max(handover::LIMITS.frame_bytes),
        waiting_bytes: step.waiting_bytes + handover::LIMITS.waiting_bytes,
    };
    let addresses: Vec<String> = members.into_iter().map(|member| member.address).collect();
    let terms = (Timing::default(), limits);
    let activity = trainer.activity().clone();
    let told = |missing: &BTreeSet<u32>| activity.lacks(hello.generation, missing);
    let mesh = Mesh::connect(listener, &hello, &addresses, terms, line.fence(), &told)
        .map_err(|error| Stop::Broken(error.to_string()))?;
    let mut place = Place::new(deal, plan, &mesh);
    let ended = work(trainer, &assignment, &hello, &mut place, line);
    // What moves gradients between GPUs goes before the mesh.
    drop(place);
    match ended {
        Ok(left) => {
            mesh.leave(GOODBYE_PATIENCE);
            Ok(left)
        }
        Err(stop) => {
            // The cause is told before peers miss this rank: nobody goes on from a memory that is doubtful.
            if let Stop::Failed(failure) = &stop {
                trainer.say(failure);
            }
            // What was said last, such as why, still goes out.
            mesh.close();
            Err(stop)
        }
    }
}

/// Everything between the first and the last word to the other members.
fn work(
    trainer: &mut Trainer,
    assignment: &Assignment,
    hello: &Hello,
    place: &mut Place,
    line: &mut Line,
) -> Result<Left, Stop> {
    let stored = assignment.inputs.resume.as_ref().map(|manifest| manifest.step);
    let mut late = None;
    let mut joining = None;
    match begin(place.mesh.memories(), stored) {
        Beginning::Stored => trainer.load(assignment)?,
        Beginning::Memory { committed, paths } => {
            let joiners = paths.iter().filter(|path| **path == Path::Join).count();
            tracing::info!(committed, joiners, "goes on from memory");
            late = trainer.reach(paths[hello.rank as usize]);
            joining = (joiners > 0).then_some(paths);
        }
    }
    let group = nccl::agree(assignment.spec.cluster.collective, trainer.nccl(), place.mesh).map_err(refused)?;
    place.move_by(group);
    if let Some(paths) = joining {
        trainer.hand_over(&paths, place)?;
    }
    trainer.enter(hello.generation, stored, late, place)?;
    let committed = trainer.committed().unwrap_or(0);
    let speaker = Speaker::new(hello, committed, trainer.loaded());
    trainer.run(speaker, place, line)
}

/// What it means for this rank that gradients cannot travel as the job asks.
fn refused(refused: Refused) -> Stop {
    match refused {
        Refused::Lost(lost) => lost.into(),
        Refused::Impossible(_) => Failure::lasting(refused.to_string()).into(),
        // Every rank keeps its memory, and the next generation goes on from there.
        Refused::Failed(_) => Stop::Broken(refused.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_keeps_its_memory_when_nccl_fails_and_gives_up_where_it_cannot_be() {
        let why = || "rank 1: no network".to_owned();
        let broken = refused(Refused::Failed(why()));
        assert!(matches!(broken, Stop::Broken(reason) if reason.contains(&why())));
        let failed = refused(Refused::Impossible(why()));
        assert!(matches!(failed, Stop::Failed(failure) if !failure.retry && failure.reason.contains(&why())));
    }
}
