//! The step loop: compute, be prepared, commit on go, report, take checkpoints.

use super::batches::Batches;
use super::setup::Setup;
use super::step::{Reduced, Workshop};
use crate::checkpoint::writer::{Copied, Writer};
use crate::checkpoint::{is_planned, part_range};
use crate::collective::deal::Deal;
use crate::collective::reduce::Plan;
use crate::collective::tcp::{Kind, Mesh, Tag};
use crate::rank::failure::Failure;
use crate::rank::membership::{self, Input, Message, Output};
use crate::rank::process::Context;
use medley_model::flat::Pool;
use medley_model::state::Commit;
use medley_protocol::agent::{FromRank, RankState, ToRank};
use medley_protocol::metrics::StepMetrics;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait of a prepared rank for the others.
const PATIENCE: Duration = Duration::from_mins(10);
/// Time between two looks at the clock while waiting.
const TICK: Duration = Duration::from_millis(250);
/// Time for peers to say goodbye after the last step.
const GOODBYE: Duration = Duration::from_secs(20);
/// The state is compared in so many parts, one a step.
const DIGEST_PARTS: u32 = 64;

pub(super) struct Trainer {
    context: Context,
    setup: Setup,
    workshop: Workshop,
    member: membership::State,
    writer: Writer,
    started: Instant,
}

impl Trainer {
    pub(super) fn new(
        context: Context,
        mut setup: Setup,
        deal: Deal,
        plan: Plan,
        mesh: Mesh,
    ) -> Result<Self, Failure> {
        let assignment = &context.assignment;
        let (step, total) = (setup.state.step, setup.schedule.total_steps());
        let lanes = deal.lanes(context.rank).collect();
        let batches = Batches::start(setup.take_loader(), step..total, lanes)?;
        let voice = context.voice.clone();
        let writer = Writer::start(context.objects.clone(), assignment.stage, move |part| {
            voice.say(&FromRank::Part { part });
        })?;
        let (generation, world) = (assignment.generation, assignment.world);
        Ok(Self {
            member: membership::State::new(context.rank, world, generation, step, PATIENCE),
            workshop: Workshop {
                deal,
                plan,
                mesh,
                batches,
                pool: Pool::default(),
                gradients: Pool::default(),
            },
            context,
            setup,
            writer,
            started: Instant::now(),
        })
    }

    /// Trains to the end of the stage.
    pub(super) fn run(mut self) -> Result<(), Failure> {
        let total = self.setup.schedule.total_steps();
        let committed = self.setup.state.step;
        self.context.voice.state(RankState::Running { committed });
        while self.setup.state.step < total {
            self = match self.step() {
                Ok(next) => next,
                Err((this, failure)) => {
                    // What was said last, such as why, still goes out.
                    this.workshop.mesh.close();
                    return Err(failure);
                }
            };
        }
        self.writer.finish().map_err(Failure::passing)?;
        self.workshop.mesh.leave(GOODBYE);
        self.context.voice.state(RankState::Finished { committed: total });
        Ok(())
    }
}
