//! Checkpoints: when one is due, and who copies and writes this rank's part.

use super::super::place::Place;
use super::Trainer;
use crate::checkpoint::is_planned;
use crate::checkpoint::writer::{Outcome, Part, Writer};
use crate::rank::failure::Failure;
use crate::rank::memory::peak_bytes;
use medley_model::state::State;
use medley_protocol::agent::{FromRank, RankState, StepPhase};
use medley_protocol::spec::Length;
use std::io;
use std::time::Duration;

/// Longest wait for the store to take the last checkpoint.
const LAST_PATIENCE: Duration = Duration::from_mins(10);

impl Trainer {
    pub(super) fn is_planned(&self, committed: u64) -> bool {
        let epoch = match self.schedule.train.length {
            Length::Epochs { .. } => Some(self.schedule.steps_per_epoch),
            Length::Steps { .. } => None,
        };
        is_planned(self.checkpoint, committed, self.schedule.total_steps(), epoch)
    }

    /// Hands this rank's part to the threads that copy and write it.
    pub(super) fn take_checkpoint(&mut self, place: &Place) -> Result<(), Failure> {
        self.note(StepPhase::Saving, place.exchange);
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.start_writer()?,
        };
        let (part, parts) = (place.mesh.rank(), place.deal.ranks());
        let range = writer.range(self.state.num_bytes(), part, parts);
        let state = self.state.still(range)?;
        self.writer.insert(writer).write(Part { state, part, parts });
        Ok(())
    }

    fn start_writer(&self) -> io::Result<Writer> {
        let voice = self.voice.clone();
        let report = move |outcome| {
            voice.say(&match outcome {
                Outcome::Written(part) => FromRank::Part {
                    part,
                    peak_bytes: peak_bytes(),
                },
                Outcome::Refused { step, reason } => FromRank::PartRefused { step, reason },
            });
        };
        Writer::start(self.objects.clone(), self.stage, State::tensors_of(&self.blip), report)
    }

    /// Says that this rank has left for good, once all that it wrote is in the store.
    ///
    /// # Errors
    /// [`Failure`] when the store does not take it.
    pub(in super::super) fn part(&mut self) -> Result<(), Failure> {
        self.finish_writing()?;
        let committed = self.state.step();
        self.voice.state(RankState::Left { committed });
        Ok(())
    }

    pub(super) fn finish_writing(&mut self) -> Result<(), Failure> {
        match self.writer.take() {
            Some(writer) => writer.finish(LAST_PATIENCE).map_err(Failure::passing),
            None => Ok(()),
        }
    }
}
