//! A training stage as one rank runs it: load, listen, and then one generation after the other until all steps are committed.
//!
//! A rank outlives its generation. When a peer is lost it keeps its state, and the step that it is prepared for, in memory, and
//! waits to be called to the next generation ([`line`]); when the stage grows or shrinks by plan it leaves between two steps,
//! for the next generation or for good. In each generation ([`part`]) the members connect, agree on what they go on from, and feed those that hold no state ([`handover`]).
//!
//! A step is computed ([`trainer`]) from the batches of the rank's lanes ([`samples`]) on its device ([`lanes`]); the lanes' gradients are summed
//! along the lane tree, over the mesh or between GPUs ([`nccl`](crate::collective::nccl)), as the rank's [`place`] says, features and losses are gathered ([`shares`]), before that, where negatives come from all lanes, what
//! they are drawn from ([`negatives`]); once every member is prepared ([`member`]) the state
//! moves as one local act. What a stage trains, on which pairs and by which schedule, is settled at its start ([`setup`]).

pub mod handover;
mod lanes;
mod line;
mod member;
mod negatives;
mod part;
mod place;
mod samples;
mod setup;
mod shares;
mod trainer;

use crate::collective::tcp::Lost;
use crate::listen::{address, listen};
use crate::rank::failure::Failure;
use crate::rank::process::Context;
use line::Line;
use medley_protocol::agent::RankState;
use setup::Setup;
use trainer::Trainer;

/// How a rank's part in a generation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// All steps are committed.
    Finished,
    /// Another generation follows.
    ForNext,
    /// Another generation follows, in which this rank has no part.
    ForGood,
}

/// Why a rank's part in a generation ends before its time.
#[derive(Debug)]
enum Stop {
    /// The generation broke; what this rank holds in memory is sound.
    Broken(String),
    /// This rank cannot go on.
    Failed(Failure),
}

impl From<Lost> for Stop {
    fn from(lost: Lost) -> Self {
        Self::Broken(lost.to_string())
    }
}

impl From<handover::Error> for Stop {
    fn from(error: handover::Error) -> Self {
        match error {
            handover::Error::Lost(lost) => lost.into(),
            handover::Error::Device(error) => error.into(),
        }
    }
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Trains until the rank is stopped, or has left by plan; it stays after the last step, in case that the last checkpoint has to
/// be written again.
///
/// # Errors
/// [`Failure`]: a file is gone (passing), or spec and data do not fit (lasting). Peers notice at once.
pub fn run(context: Context) -> Result<(), Failure> {
    let Context {
        assignment,
        rank,
        host,
        orders,
        voice,
        objects,
        device,
        fingerprint,
    } = context;
    let setup = Setup::load(&assignment, &objects)?;
    let mut trainer = Trainer::new(setup, &assignment, device, (objects, voice.clone()))?;
    let listener = listen(&host)?;
    let address = address(&host, listener.local_addr()?.port());
    let mut line = Line::new((orders, voice.clone()), address, (Box::new(assignment), rank));
    line.listen(trainer.committed());
    loop {
        let call = line.await_members(trainer.committed())?;
        let ended = part::take(&mut trainer, call, (&listener, &fingerprint), &mut line);
        voice.activity().rest();
        match ended {
            Ok(Left::Finished) => tracing::info!("all steps are committed"),
            Ok(Left::ForNext) => tracing::info!("leaves for the next generation"),
            Ok(Left::ForGood) => {
                tracing::info!("leaves for good");
                return trainer.part();
            }
            Err(Stop::Failed(failure)) => return Err(failure),
            Err(Stop::Broken(reason)) => {
                tracing::warn!("the generation is over: {reason}");
                let committed = trainer.committed().unwrap_or(0);
                voice.state(RankState::Broken { committed, reason });
            }
        }
    }
}
