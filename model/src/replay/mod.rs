//! Training steps on somebody else's tensors: weights, a batch and its negatives come from safetensors files, and losses,
//! gradients and the state after the step go back into such files.
//!
//! This is how anyone compares Medley with another implementation of BLIP without reading either: nothing is drawn at
//! random (no dropout, no drop-path, negatives given), every tensor has the name it has in the reference's `state_dict`, and
//! any dimensions will do. [`Config`] says which model it is, [`document`] reads and writes the state, [`Batch`] is a step's
//! input, [`step`] runs it, and [`Outcome`] is what it yields.
//!
//! Whatever does not fit is refused, with every missing, odd or unknown tensor named.

mod batch;
mod config;
pub mod document;
mod source;
#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use config::{Config, Ids, Optimiser, Order, TextDims, VisionDims};
pub use source::{Error, Problem};

use crate::blip::{Blip, LaneOutput, LaneStep, gradient_buffer};
use crate::flat::{Flat, Pool};
use crate::loss::itc::Distillation;
use crate::params::Objective;
use crate::state::{Commit, State};
use crate::tape::WriteCount;
use medley_protocol::spec::SameImage;
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

/// What one step yields, besides the state that it leaves.
#[derive(Debug)]
pub struct Outcome {
    /// Losses, and the momentum features that were put into the queues.
    pub output: LaneOutput,
    /// Gradient of the sum of the losses, laid out like the parameters.
    pub gradient: Flat,
}

/// Runs one pre-training step and leaves the state after it.
///
/// # Errors
/// [`WriteCount`] for a fault of the model's code.
pub fn step(blip: &Blip, config: &Config, state: &mut State, batch: &Batch) -> Result<Outcome, WriteCount> {
    let train = config.train();
    let objective = Objective::Pretrain;
    if config.order == Order::Reference {
        state.settle(blip, objective, &train);
    }
    let lane_step = LaneStep {
        objective,
        seed: 0,
        step: state.step,
        lane: 0,
        distillation: Distillation {
            alpha: batch.alpha as f32,
            temperature: None,
        },
        same_image: SameImage::Negative,
        prompt_tokens: 0,
    };
    let mut gradient = gradient_buffer(blip);
    let mut pool = Pool::default();
    let negatives = Some(&batch.negatives);
    let output = blip.lane_with(state, batch.lane(), lane_step, negatives, &mut pool, &mut gradient)?;
    let commit = Commit {
        gradient: &gradient,
        lanes: 1,
        image_features: &output.image_features,
        text_features: &output.text_features,
        identities: &[],
        lr: batch.lr,
    };
    state.optimise(blip, objective, &train, commit);
    if config.order == Order::Medley {
        state.settle(blip, objective, &train);
    }
    state.advance(blip, objective, commit);
    Ok(Outcome { output, gradient })
}

impl Outcome {
    /// Writes `loss.itc`, `loss.itm`, `loss.lm`, `image_feat_m`, `text_feat_m` and a `grad.` tensor for every parameter.
    ///
    /// # Errors
    /// [`Error::Write`] with the path.
    pub fn write(&self, blip: &Blip, path: &Path) -> Result<(), Error> {
        let output = &self.output;
        let width = blip.model.embed_dim as usize;
        let feature = |values| view(vec![output.image_features.len() / width, width], values);
        let mut tensors = vec![
            ("image_feat_m".to_owned(), feature(&output.image_features)),
            ("text_feat_m".to_owned(), feature(&output.text_features)),
        ];
        for (name, loss) in ["loss.itc", "loss.itm", "loss.lm"].into_iter().zip(&output.losses) {
            tensors.push((name.to_owned(), view(Vec::new(), std::slice::from_ref(loss))));
        }
        for entry in blip.student_layout.entries() {
            let gradient = view(entry.shape.clone(), &self.gradient[entry.range()]);
            tensors.push((format!("grad.{}", entry.name), gradient));
        }
        document::save(tensors, path)
    }
}

fn view(shape: Vec<usize>, values: &[f32]) -> TensorView<'_> {
    TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values)).expect("a tensor has as many values as its shape")
}
