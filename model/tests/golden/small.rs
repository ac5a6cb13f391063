//! Two whole steps at a small shape in which no two dimensions are equal.

use crate::support::{FORWARD, Golden, below, difference, forward, key_biases, norm, path};
use medley_model::blip::Blip;
use medley_model::params::Objective;
use medley_model::replay::{Batch, Config, document, step};
use medley_model::state::State;
use std::path::Path;

/// Sum of the learning rates of both steps.
const LR_SUM: f64 = 6e-4;

fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(&format!("small/{name}"))).unwrap()
}

pub(crate) fn start() -> (Config, Blip, State, [Batch; 2]) {
    let config = Config::read("config.json", std::str::from_utf8(&read("config.json")).unwrap()).unwrap();
    let blip = config.blip();
    let state = document::read("state", &read("state.safetensors"), &blip).unwrap();
    let batch = |name| Batch::read(name, &read(name), &blip).unwrap();
    let batches = [batch("batch-0.safetensors"), batch("batch-1.safetensors")];
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
    let (config, blip, mut state, [batch, _]) = start();
    let golden = Golden::open(&path("small/step-0.safetensors"));
    let found = step(&blip, &config, &mut state, &batch).unwrap();
    golden.check_losses(found.output.losses);
    golden.check_forward("image_feat_m", &found.output.image_features);
    golden.check_forward("text_feat_m", &found.output.text_features);
    golden.check_gradients(&blip.student_layout, &found.gradient);
}

/// State under its official names.
fn written(blip: &Blip, state: &State) -> Golden {
    let file = tempfile::NamedTempFile::new().unwrap();
    document::write(state, blip, file.path()).unwrap();
    Golden::open(file.path())
}

#[test]
fn parameters_momentum_encoders_and_queues_agree_after_two_steps() {
    let (config, blip, mut state, batches) = start();
    for batch in &batches {
        step(&blip, &config, &mut state, batch).unwrap();
    }
    let (before, after) = (path("small/state.safetensors"), path("small/after.safetensors"));
    check_after(&written(&blip, &state), &before, &after, &blip);
}

fn check_after(ours: &Golden, before: &Path, after: &Path, blip: &Blip) {
    let (before, after) = (Golden::open(before), Golden::open(after));
    for entry in blip.student_layout.entries() {
        let name = entry.name.as_str();
        let exact = after.get(name);
        let mut delta = difference(&ours.singles(name), exact);
        for i in key_biases(name, entry.len) {
            below(name, delta[i].abs(), 2.0 * LR_SUM);
            delta[i] = 0.0;
        }
        let update = norm(&difference(&before.singles(name), exact));
        below(name, norm(&delta), 3e-5 * norm(exact));
        below(&format!("{name}, its update"), norm(&delta), 1e-2 * update);
    }
    let averaged = blip.momentum_layout.entries().iter();
    let averaged = averaged.map(|entry| document::momentum_name(&entry.name));
    for name in averaged.chain(["image_queue".into(), "text_queue".into()]) {
        let exact = after.get(&name);
        below(
            &name,
            norm(&difference(&ours.singles(&name), exact)),
            1e-5 * norm(exact),
        );
    }
}
