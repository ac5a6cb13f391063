//! The memory that is foreseen for a lane, against what its pass takes.

#[path = "../benches/fixture/lane.rs"]
mod lane;

use lane::{Samples, lane_step, model};
use medley_model::blip::{LaneStep, gradient_buffer};
use medley_model::device::Pool;
use medley_model::params::Objective;
use medley_model::state::State;
use medley_protocol::estimate::Estimate;
use medley_protocol::spec::Spec;
use medley_protocol::stage::StageKind;

/// Most bytes of activations that are in use at once in a lane, with texts of half the length that they may have.
fn taken(spec: &Spec, objective: Objective) -> usize {
    let mut blip = model(spec);
    blip.recomputes = spec.pretrain.recompute;
    let state = State::fresh(&blip, 1);
    let length = spec.pretrain.max_tokens.div_ceil(2);
    let samples = Samples::new(&blip, (0..spec.lanes.batch).map(|_| length));
    let step = LaneStep {
        objective,
        ..lane_step(spec, 0)
    };
    let mut pool = Pool::default();
    let mut gradient = gradient_buffer(&blip);
    let output = blip.lane(&state, samples.batch(), step, &mut pool, &mut gradient);
    output.expect("every declared gradient is written");
    pool.peak_bytes()
}

#[test]
fn a_lane_takes_the_memory_that_is_foreseen() {
    let lanes = [("nano", 0.0), ("tiny", 0.0), ("tiny", 0.1)];
    for ((preset, dropout), recompute) in lanes.into_iter().flat_map(|lane| [(lane, false), (lane, true)]) {
        // What is computed again is counted whole, though parts of it are given back before the last is there.
        let most = if recompute { 0.15 } else { 0.12 };
        let section = serde_json::json!({"recompute": recompute});
        let document = serde_json::json!({
            "name": "t", "kind": "bootstrap", "preset": preset, "data": {"root": "/d"},
            "lanes": {"batch": 16}, "model": {"queue": 1024, "text": {"dropout": dropout}},
            "pretrain": section, "captioner": section, "filter": section,
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
                off.abs() < most,
                "{preset} {stage}, dropout {dropout}, recompute {recompute}: {:+.1} %",
                100.0 * off
            );
        }
    }
}
