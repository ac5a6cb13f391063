//! BLIP, the multimodal mixture of encoder-decoder: what it consists of, and one lane of a training step of it.
//!
//! The model is two pairs of `towers` with heads over them. A lane's `pass` through them gives its losses and its gradient;
//! on the way hard `negatives` are drawn.

mod lane;
mod negatives;
mod pass;
mod towers;

pub use lane::{Candidates, Guest, LaneBatch, LaneError, LaneOutput, LaneStep, LaneUnderway, Seen, Sight};
pub(crate) use pass::unimodal;
pub use towers::Towers;

use crate::device::Pool;
use crate::flat::Flat;
use crate::layout::{Layout, ParamId};
use crate::loss::itm::Negatives;
use crate::ops::blocks::on_threads;
use crate::params::{self, Vocabulary};
use crate::tape::{Gradient, Tape, Weights};
use crate::vision::Pair;
use lane::Pass;
use medley_protocol::spec::ModelSpec;

/// BLIP at one image size.
pub struct Blip {
    /// Dimensions.
    pub model: ModelSpec,
    /// Special tokens.
    pub vocab: Vocabulary,
    /// Tokens of an image.
    pub image_tokens: usize,
    /// Side of an image in pixels.
    pub image_size: u32,
    /// What the trained parameters are.
    pub student_layout: Layout,
    /// What the momentum encoders are.
    pub momentum_layout: Layout,
    /// The trained towers.
    pub student: Towers,
    /// The momentum towers.
    pub teacher: Towers,
    /// Matching head.
    pub itm_head: Pair,
    /// Temperature.
    pub temperature: ParamId,
    /// Whether a lane keeps of a block's activations the input alone, and computes the others again on the way back: the same bits
    /// in less memory and more time. A new model keeps them.
    pub recomputes: bool,
}

impl Blip {
    /// The model at this image size.
    pub fn new(model: &ModelSpec, image_size: u32, vocab: Vocabulary) -> Self {
        let student_layout = params::student(model, image_size, vocab.size);
        let momentum_layout = params::momentum(model, image_size, vocab.size);
        Self {
            student: Towers::new(model, &student_layout),
            teacher: Towers::new(model, &momentum_layout),
            itm_head: Pair::of(&student_layout, "itm_head"),
            temperature: student_layout.id("temp"),
            image_tokens: params::num_patches(model, image_size) + 1,
            image_size,
            model: model.clone(),
            vocab,
            student_layout,
            momentum_layout,
            recomputes: false,
        }
    }

    /// Weights of the student that are factors of products and nothing else.
    pub(crate) fn factors(&self) -> Vec<ParamId> {
        self.student.factors().chain([self.itm_head.w]).collect()
    }

    /// Runs one lane: its losses and momentum features are returned, the gradient of its mean loss is written to `grad`. Entries
    /// that the objective does not train are zeroed. Negatives are drawn from the lane.
    ///
    /// State, pool and gradient are of one device. A gradient's [`Watch`](crate::tape::Watch) hears on the way what is final
    /// of it, which holds if the lane succeeds.
    ///
    /// # Errors
    /// [`LaneError`] if the device failed, or a parameter's gradient is incomplete, which would be a fault of the model's code.
    pub fn lane<'s, 'g>(
        &self,
        state: impl Into<Seen<'s>>,
        batch: LaneBatch,
        step: LaneStep,
        pool: &mut Pool,
        grad: impl Into<Gradient<'g>>,
    ) -> Result<LaneOutput, LaneError> {
        self.lane_with(state, batch, step, None, pool, grad)
    }

    /// [`Blip::lane`] with negatives that are given instead of drawn: from b on they are guests.
    ///
    /// # Errors
    /// As [`Blip::lane`].
    pub fn lane_with<'s, 'g>(
        &self,
        state: impl Into<Seen<'s>>,
        batch: LaneBatch,
        step: LaneStep,
        negatives: Option<&Negatives>,
        pool: &mut Pool,
        grad: impl Into<Gradient<'g>>,
    ) -> Result<LaneOutput, LaneError> {
        let underway = self.begin_lane(state, batch, step, negatives, pool, grad)?;
        let output = underway.finish()?;
        pool.check()?;
        Ok(output)
    }

    /// [`Blip::lane_with`] without waiting for its end: a GPU has all of the lane to do yet that comes behind the draw of
    /// negatives. Whether the gradient is right is known when the device was [checked](Pool::check).
    ///
    /// # Errors
    /// [`LaneError`] if a parameter's gradient is incomplete.
    pub fn begin_lane<'s, 'g>(
        &self,
        state: impl Into<Seen<'s>>,
        batch: LaneBatch,
        step: LaneStep,
        negatives: Option<&Negatives>,
        pool: &mut Pool,
        grad: impl Into<Gradient<'g>>,
    ) -> Result<LaneUnderway, LaneError> {
        let (state, grad) = (state.into(), grad.into());
        on_threads(|| self.run_lane(state, batch, step, negatives, pool, grad))
    }

    /// Unit features of the lane's images and texts by the student, those that its step will find: the first of two passes
    /// when negatives come from all lanes. Nothing is awaited.
    pub fn student_features<'s>(
        &self,
        state: impl Into<Seen<'s>>,
        batch: LaneBatch,
        step: LaneStep,
        pool: &mut Pool,
    ) -> Sight {
        let state = state.into();
        let weights = Weights::new(&self.student_layout, state.params);
        on_threads(|| {
            let tape = Tape::inference(weights, pool);
            let seen = self.features(&self.student, tape, batch.own(), step, Pass::Student);
            pool.give(seen.patches);
            let [image, text] = [seen.image, seen.text].map(|features| pool.spend(features));
            Sight { image, text }
        })
    }
}

/// A zeroed gradient buffer for one lane.
pub fn gradient_buffer(blip: &Blip) -> Flat {
    Flat::zeros(blip.student_layout.len())
}
