//! Training steps on somebody else's tensors: weights, a batch and its negatives come from safetensors files, and losses,
//! gradients and the state after the step go back into such files.
//!
//! This is how anyone compares Medley with another implementation of BLIP without reading either: nothing is drawn at
//! random (no dropout, no drop-path, negatives given), every tensor has the name it has in the reference's `state_dict`, and
//! any dimensions will do. [`Config`] says which model it is and what is trained, [`document`] reads and writes the state, [`Batch`] is a step's
//! input, [`step`] runs it, and [`Outcome`] is what it yields.
//!
//! Whatever does not fit is refused, with every missing, odd or unknown tensor named.

mod batch;
mod config;
pub mod document;
mod source;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Lane};
pub use config::{Config, Ids, Optimiser, Order, TextDims, VisionDims};
pub use source::{Error, Problem};

use crate::blip::{Blip, LaneError, LaneOutput, gradient_buffer};
use crate::device::Pool;
use crate::flat::Flat;
use crate::layout::Entry;
use crate::params::{self, Objective};
use crate::state::{Commit, State};
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

/// What one step yields, besides the state that it leaves.
#[derive(Debug)]
pub struct Outcome {
    /// What was trained.
    pub objective: Objective,
    /// Mean of the lanes' losses, and the momentum features that were put into the queues, in lane order.
    pub output: LaneOutput,
    /// Gradient of the sum of the losses, laid out like the parameters.
    pub gradient: Flat,
}

/// Runs one step of the configuration's objective and leaves the state after it.
///
/// # Errors
/// [`LaneError`] for a fault of the model's code.
pub fn step(blip: &Blip, config: &Config, state: &mut State, batch: &Batch) -> Result<Outcome, LaneError> {
    let (train, objective) = (config.train(), config.objective);
    if config.order == Order::Reference {
        state.settle(blip, objective, &train);
    }
    let (output, mut gradient) = lanes(blip, config, state, batch)?;
    let commit = Commit {
        gradient: (&gradient).into(),
        lanes: config.lanes,
        image_features: &output.image_features,
        text_features: &output.text_features,
        identities: &batch.identities,
        lr: batch.lr,
    };
    state.optimise(blip, objective, &train, commit);
    if config.order == Order::Medley {
        state.settle(blip, objective, &train);
    }
    state.advance(blip, objective, commit);
    gradient.iter_mut().for_each(|g| *g /= config.lanes as f32);
    Ok(Outcome {
        objective,
        output,
        gradient,
    })
}

/// Mean losses and all features of the lanes, and the sum of their gradients.
fn lanes(blip: &Blip, config: &Config, state: &State, batch: &Batch) -> Result<(LaneOutput, Flat), LaneError> {
    let mut pool = Pool::default();
    let (mut total, mut gradient) = (gradient_buffer(blip), gradient_buffer(blip));
    let mut output = LaneOutput {
        losses: [0.0; 3],
        image_features: Vec::new(),
        text_features: Vec::new(),
    };
    for lane in 0..config.lanes {
        let part = batch.lane(lane, config.lanes);
        let step = config.lane_step(state.step, lane, batch.alpha);
        let found = blip.lane_with(
            state,
            part.batch(),
            step,
            Some(&part.negatives),
            &mut pool,
            &mut gradient,
        )?;
        total.iter_mut().zip(gradient.iter()).for_each(|(sum, g)| *sum += g);
        output
            .losses
            .iter_mut()
            .zip(found.losses)
            .for_each(|(sum, loss)| *sum += loss);
        output.image_features.extend(found.image_features);
        output.text_features.extend(found.text_features);
    }
    output.losses.iter_mut().for_each(|loss| *loss /= config.lanes as f32);
    Ok((output, total))
}

impl Outcome {
    /// The losses that the objective has, by name.
    pub fn losses(&self) -> impl Iterator<Item = (&'static str, &f32)> {
        let (understands, generates) = (self.objective.understands(), self.objective.generates());
        let present = [understands, understands, generates];
        let named = ["itc", "itm", "lm"].into_iter().zip(&self.output.losses);
        named.zip(present).filter_map(|(loss, present)| present.then_some(loss))
    }

    /// Writes `loss.itc`, `loss.itm`, `loss.lm`, `image_feat_m`, `text_feat_m` and a `grad.` tensor for every parameter, as far
    /// as the objective has them.
    ///
    /// # Errors
    /// [`Error::Write`] with the path.
    pub fn write(&self, blip: &Blip, path: &Path) -> Result<(), Error> {
        let output = &self.output;
        let width = blip.model.embed_dim as usize;
        let mut tensors = Vec::new();
        if self.objective.understands() {
            for (name, values) in [
                ("image_feat_m", &output.image_features),
                ("text_feat_m", &output.text_features),
            ] {
                tensors.push((name.to_owned(), view(vec![values.len() / width, width], values)));
            }
        }
        for (name, loss) in self.losses() {
            tensors.push((format!("loss.{name}"), view(Vec::new(), std::slice::from_ref(loss))));
        }
        for entry in trained(blip, self.objective) {
            let gradient = view(entry.shape.clone(), &self.gradient[entry.range()]);
            tensors.push((format!("grad.{}", entry.name), gradient));
        }
        document::save(tensors, path)
    }
}

/// Parameters that an objective trains.
fn trained(blip: &Blip, objective: Objective) -> impl Iterator<Item = &Entry> {
    let writes = params::declared_writes(&blip.student_layout, objective);
    let entries = blip.student_layout.entries().iter().zip(writes);
    entries.filter_map(|(entry, writes)| (writes > 0).then_some(entry))
}

fn view(shape: Vec<usize>, values: &[f32]) -> TensorView<'_> {
    TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values)).expect("a tensor has as many values as its shape")
}
