//! The memory that is foreseen for a lane, against what its pass takes.

use medley_model::blip::{Blip, LaneBatch, LaneStep, gradient_buffer};
use medley_model::device::Pool;
use medley_model::loss::itc::Distillation;
use medley_model::params::{Objective, Vocabulary};
use medley_model::random::{Purpose, Stream};
use medley_model::state::State;
use medley_protocol::estimate::Estimate;
use medley_protocol::spec::{SameImage, Spec};
use medley_protocol::stage::StageKind;

/// Most bytes of activations that are in use at once in a lane, with texts of half the length that they may have.
fn taken(spec: &Spec, objective: Objective) -> usize {
    let size = spec.vocab.max_size;
    let vocab = Vocabulary {
        size,
        pad: 0,
        cls: 1,
        sep: 2,
        dec: 3,
        enc: 4,
    };
    let blip = Blip::new(&spec.model, spec.pretrain.image_size, vocab);
    let state = State::fresh(&blip, 1);
    let (batch, side) = (spec.lanes.batch as usize, spec.pretrain.image_size as usize);
    let noise = Stream::new(1, Purpose::Init);
    let pixels: Vec<f32> = (0..batch * 3 * side * side)
        .map(|at| noise.normals([at as u32, 0, 0, 0])[0])
        .collect();
    let words = spec.pretrain.max_tokens.div_ceil(2) - 2;
    let text = |i: usize| {
        let words = (0..words).map(|word| 5 + (7 * i as u32 + word) % (size - 5));
        [1].into_iter().chain(words).chain([2]).collect()
    };
    let texts: Vec<Vec<u32>> = (0..batch).map(text).collect();
    let lane = LaneBatch {
        pixels: &pixels,
        texts: &texts,
        identities: &[],
        guests: &[],
    };
    let step = LaneStep {
        objective,
        seed: 1,
        step: 0,
        lane: 0,
        distillation: Distillation {
            alpha: 0.4,
            temperature: None,
        },
        same_image: SameImage::Negative,
        prompt_tokens: 0,
    };
    let mut pool = Pool::default();
    let mut gradient = gradient_buffer(&blip);
    let output = blip.lane(&state, lane, step, &mut pool, &mut gradient);
    output.expect("every declared gradient is written");
    pool.peak_bytes()
}

#[test]
fn a_lane_takes_the_memory_that_is_foreseen() {
    for (preset, dropout) in [("nano", 0.0), ("tiny", 0.0), ("tiny", 0.1)] {
        let document = serde_json::json!({
            "name": "t", "kind": "bootstrap", "preset": preset, "data": {"root": "/d"},
            "lanes": {"batch": 16}, "model": {"queue": 1024, "text": {"dropout": dropout}},
        });
        let spec = Spec::from_document(&document).unwrap();
        for (stage, objective) in [
            (StageKind::Pretrain, Objective::Pretrain),
            (StageKind::Captioner, Objective::Captioner),
            (StageKind::Filter, Objective::Filter),
        ] {
            let estimate = Estimate::of(&spec, stage, 1).unwrap();
            // What a rank on the processor has in its memory and one on a GPU has not.
            let foreseen = estimate.host_bytes.unwrap() - estimate.gpu_host_bytes;
            let off = foreseen as f64 / taken(&spec, objective) as f64 - 1.0;
            assert!(
                off.abs() < 0.12,
                "{preset} {stage}, dropout {dropout}: {:+.1} %",
                100.0 * off
            );
        }
    }
}
