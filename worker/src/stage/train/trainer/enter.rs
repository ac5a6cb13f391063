//! How a rank comes to the state that its generation goes on from.

use super::super::place::Place;
use super::super::setup::stored_state;
use super::super::{Stop, handover};
use super::{Report, Trainer};
use crate::checkpoint::placed::Placed;
use crate::rank::beginning::{Memory, Path};
use crate::rank::failure::Failure;
use medley_model::device::Device;
use medley_model::state::State;
use medley_protocol::agent::{Assignment, FromRank, RankState};
use std::time::Instant;

impl Trainer {
    /// Steps committed by the state in memory, if there is one.
    pub(in super::super) fn committed(&self) -> Option<u64> {
        self.holds_state.then_some(self.state.step())
    }

    /// Steps committed by the stored state that this rank's has come of, as far as it knows.
    pub(in super::super) fn loaded(&self) -> u64 {
        self.loaded
    }

    /// What this rank brings along to its next generation.
    pub(in super::super) fn memory(&self) -> Option<Memory> {
        self.committed().map(|committed| Memory {
            committed,
            prepared: self.prepared.is_some(),
        })
    }

    /// Takes the state from the last checkpoint, or from the stage's start.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be read or does not fit.
    pub(in super::super) fn load(&mut self, assignment: &Assignment) -> Result<(), Failure> {
        self.drop_prepared();
        self.holds_state = false;
        if let Placed::Here(_) = &*self.state {
            // What was claimed to be fed is given back first: two states would not fit everywhere.
            self.state = State::zeros(&self.blip).into();
        }
        let stored = stored_state(assignment, &self.objects, &self.blip, &self.schedule.train)?;
        self.state.change().load(stored)?;
        self.holds_state = true;
        self.loaded = self.state.step();
        tracing::info!("trains from step {}", self.state.step());
        Ok(())
    }

    /// Takes the path to the generation's common step, as far as this rank can alone. Returns the report of a step that
    /// was committed late.
    pub(in super::super) fn reach(&mut self, path: Path) -> Option<Report> {
        let late = self.prepared.take_if(|_| path == Path::CommitPrepared);
        self.drop_prepared();
        late.map(|prepared| self.commit(prepared))
    }

    /// Feeds those who join, or is fed.
    ///
    /// # Errors
    /// [`Stop`] when a peer does not deliver, or a device fails.
    pub(in super::super) fn hand_over(&mut self, paths: &[Path], place: &mut Place) -> Result<(), Stop> {
        let joins = paths[place.mesh.rank() as usize] == Path::Join;
        self.holds_state &= !joins;
        if joins {
            self.loaded = 0;
        }
        let began = Instant::now();
        let group = place.devices.as_mut().map(|(_, group)| &mut **group);
        let over = if group.is_some() { "NCCL" } else { "TCP" };
        handover::feed(&mut self.state, paths, &place.deal.nodes, (place.mesh, group))?;
        self.holds_state = true;
        let (bytes, ms) = (self.state.num_bytes(), began.elapsed().as_millis() as u64);
        let joiners = paths.iter().filter(|path| **path == Path::Join).count();
        tracing::info!(
            bytes,
            ms,
            joiners,
            "{} the state over {over}",
            if joins { "was fed" } else { "fed" }
        );
        Ok(())
    }

    /// Is ready for the generation's first step.
    ///
    /// A checkpoint that was due at this step may have been lost with the generation before; unless it is the one that is
    /// `stored`, it is taken again.
    ///
    /// # Errors
    /// [`Failure`] when reading or writing cannot begin.
    pub(in super::super) fn enter(
        &mut self,
        generation: u64,
        stored: Option<u64>,
        late: Option<Report>,
        place: &Place,
    ) -> Result<(), Failure> {
        let committed = self.state.step();
        self.samples.begin(place.lanes().collect(), committed)?;
        self.gradients.lie_on(if place.sums_on_devices() {
            self.device.clone()
        } else {
            Device::Cpu
        });
        self.voice.activity().begin(place.lanes().count() as u32);
        self.voice.enter(generation);
        self.voice.state(RankState::Running { committed });
        if let Some((metrics, ledger)) = late {
            self.voice.say(&FromRank::Committed { metrics, ledger });
        }
        if committed > 0 && stored != Some(committed) && self.is_planned(committed) {
            self.take_checkpoint(place)?;
        }
        Ok(())
    }
}
