//! The shell around [`membership`]: carries a rank's messages over the mesh and its agent's wishes into the decision.

use super::Stop;
use super::line::Line;
use crate::collective::tcp::{Hello, Kind, Mesh, Tag};
use crate::rank::failure::Failure;
use crate::rank::membership::{self, Input, Message, Output, State};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// Longest wait for the other members once this rank is prepared.
const PATIENCE: Duration = Duration::from_mins(10);
/// Time between two looks at the agent's orders while waiting.
const LOOK: Duration = Duration::from_millis(100);

/// Speaks for this rank in its generation.
pub(super) struct Speaker {
    state: State,
    began: Instant,
}

/// What was agreed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Agreed {
    /// Whether a checkpoint is taken after the step.
    pub(super) checkpoint: bool,
    /// The generation that the next step belongs to, if it is another one.
    pub(super) then: Option<u64>,
}

impl Speaker {
    /// A member as it introduced itself, once `committed` steps are committed, on what all have `loaded`.
    pub(super) fn new(hello: &Hello, committed: u64, loaded: u64) -> Self {
        Self {
            state: State::new(hello.rank, hello.world, hello.generation, committed, PATIENCE).loaded(loaded),
            began: Instant::now(),
        }
    }

    /// Says that this rank is prepared and waits until the step may be committed.
    ///
    /// # Errors
    /// [`Stop`] when the generation is over.
    pub(super) fn agree(&mut self, mesh: &Mesh, line: &mut Line, digest: u64, planned: bool) -> Result<Agreed, Stop> {
        self.hear(mesh, line)?;
        let mut agreed = self.feed(mesh, Input::Prepared { digest, planned })?;
        loop {
            if let Some(agreed) = agreed {
                return Ok(agreed);
            }
            self.hear(mesh, line)?;
            let input = match mesh.receive_control(LOOK) {
                Ok(Some((from, bytes))) => said(from, &bytes),
                Ok(None) => Input::Tick,
                Err(lost) => Input::Lost {
                    rank: lost.rank,
                    why: lost.why,
                },
            };
            agreed = self.feed(mesh, input)?;
        }
    }

    fn hear(&mut self, mesh: &Mesh, line: &mut Line) -> Result<(), Stop> {
        line.catch_up(Some(self.state.committed()))?;
        let wanted = line.take_wanted().map(|step| Input::CheckpointWanted { step });
        let ready = line.next().map(|generation| Input::Ready { generation });
        for input in wanted.into_iter().chain(ready) {
            self.feed(mesh, input)?;
        }
        Ok(())
    }

    /// Feeds the core and carries out what it says; returns what was agreed on, once it says commit.
    fn feed(&mut self, mesh: &Mesh, input: Input) -> Result<Option<Agreed>, Stop> {
        let (state, outputs) = membership::step(self.state.clone(), input, self.began.elapsed());
        self.state = state;
        let mut agreed = None;
        let mut stop = None;
        for output in outputs {
            match output {
                Output::Send { to, message } => {
                    let bytes = serde_json::to_vec(&message).expect("messages are plain data");
                    mesh.send(to, Tag::plain(Kind::Control), Bytes::from(bytes));
                }
                Output::Commit { checkpoint, then } => agreed = Some(Agreed { checkpoint, then }),
                Output::Fail { reason, doubt: None } => stop = Some(Stop::Broken(reason)),
                // Another process will begin, with a state that is proven.
                Output::Fail {
                    reason,
                    doubt: Some(doubt),
                } => stop = Some(Stop::Failed(Failure::doubtful(reason, doubt))),
            }
        }
        stop.map_or(Ok(agreed), Err)
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
