//! The shell around [`membership`]: carries a rank's messages over the mesh and its agent's wishes into the decision.

use crate::collective::tcp::{Hello, Kind, Mesh, Tag};
use crate::rank::failure::Failure;
use crate::rank::membership::{self, Input, Message, Output, State};
use crate::rank::pipes::Orders;
use medley_protocol::agent::{CheckpointWanted, ToRank};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for the other members once this rank is prepared.
const PATIENCE: Duration = Duration::from_mins(10);
/// Time between two looks at the agent's orders while waiting.
const LOOK: Duration = Duration::from_millis(100);

/// Speaks for this rank in its generation.
pub(super) struct Speaker {
    state: State,
    began: Instant,
    wanted: Option<CheckpointWanted>,
}

impl Speaker {
    /// A member as it introduced itself; a checkpoint may have been asked for already.
    pub(super) fn new(hello: &Hello, wanted: Option<CheckpointWanted>) -> Self {
        Self {
            state: State::new(hello.rank, hello.world, hello.generation, hello.committed, PATIENCE),
            began: Instant::now(),
            wanted,
        }
    }

    /// Says that this rank is prepared and waits until the step may be committed: whether with a checkpoint.
    ///
    /// # Errors
    /// [`Failure`] when the generation is over.
    pub(super) fn agree(&mut self, mesh: &Mesh, orders: &Orders, digest: u64, planned: bool) -> Result<bool, Failure> {
        if let Some(wanted) = self.wanted.take() {
            self.feed(mesh, Input::CheckpointWanted { step: wanted.step })?;
        }
        self.hear_orders(mesh, orders)?;
        let mut decided = self.feed(mesh, Input::Prepared { digest, planned })?;
        while decided.is_none() {
            self.hear_orders(mesh, orders)?;
            let input = match mesh.receive_control(LOOK) {
                Ok(Some((from, bytes))) => said(from, &bytes),
                Ok(None) => Input::Tick,
                Err(lost) => Input::Lost {
                    rank: lost.rank,
                    why: lost.why,
                },
            };
            decided = self.feed(mesh, input)?;
        }
        Ok(decided.unwrap_or(false))
    }

    fn hear_orders(&mut self, mesh: &Mesh, orders: &Orders) -> Result<(), Failure> {
        for order in orders.waiting() {
            if let ToRank::CheckpointAfter { wanted } = order {
                self.feed(mesh, Input::CheckpointWanted { step: wanted.step })?;
            }
        }
        Ok(())
    }

    /// Feeds the core and carries out what it says; returns whether a checkpoint follows, once it says commit.
    fn feed(&mut self, mesh: &Mesh, input: Input) -> Result<Option<bool>, Failure> {
        let (state, outputs) = membership::step(self.state.clone(), input, self.began.elapsed());
        self.state = state;
        let mut decided = None;
        let mut failure = None;
        for output in outputs {
            match output {
                Output::Send { to, message } => {
                    let bytes = serde_json::to_vec(&message).expect("messages are plain data");
                    mesh.send(to, Tag::plain(Kind::Control), Arc::new(bytes));
                }
                Output::Commit { checkpoint } => decided = Some(checkpoint),
                Output::Fail { reason } => failure = Some(Failure::passing(reason)),
            }
        }
        failure.map_or(Ok(decided), Err)
    }
}

/// A control message as input; one that cannot be read is as good as a lost peer.
fn said(from: u32, bytes: &[u8]) -> Input {
    match serde_json::from_slice::<Message>(bytes) {
        Ok(message) => Input::Said { from, message },
        Err(e) => Input::Lost {
            rank: from,
            why: format!("it says what cannot be read: {e}"),
        },
    }
}
