//! Two whole steps at a small shape in which no two dimensions are equal.

use crate::support::{FORWARD, Golden, TwoSteps, forward, path};
use medley_model::blip::Blip;
use medley_model::params::Objective;
use medley_model::replay::{Batch, Config};
use medley_model::state::State;

pub(crate) fn start() -> (Config, Blip, State, [Batch; 2]) {
    let TwoSteps {
        config,
        blip,
        state,
        batches,
        ..
    } = TwoSteps::open("small");
    (config, blip, state, batches)
}

#[test]
fn every_layer_of_the_forward_pass_agrees() {
    let (config, blip, mut state, [batch, _]) = start();
    let golden = Golden::open(&path("small/step-0.safetensors"));
    state.settle(&blip, Objective::Pretrain, &config.train());
    for (name, ours) in FORWARD.into_iter().zip(forward(&blip, &state.params, &batch)) {
        golden.check_forward(name, &ours);
    }
}

#[test]
fn losses_and_every_gradient_agree() {
    TwoSteps::open("small").check_first();
}

#[test]
fn parameters_momentum_encoders_and_queues_agree_after_two_steps() {
    TwoSteps::open("small").check_after();
}
