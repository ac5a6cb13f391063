//! A lane's bits on several threads: large enough that every kernel shares its work, dropout and drop-path on.

#[path = "../benches/fixture/lane.rs"]
mod lane;

use lane::{Samples, lane_step, model};
use medley_model::blip::gradient_buffer;
use medley_model::device::Pool;
use medley_model::state::State;
use medley_protocol::spec::Spec;

#[test]
fn a_lane_has_the_same_bits_on_any_number_of_threads() {
    let document = serde_json::json!({
        "name": "t", "kind": "pretrain", "preset": "tiny", "data": {"root": "/d"},
        "model": {"text": {"dropout": 0.1}, "vision": {"drop_path": 0.2}},
    });
    let spec = Spec::from_document(&document).unwrap();
    let blip = model(&spec);
    let state = State::fresh(&blip, 1);
    let samples = Samples::new(&blip, (0..32).map(|i| 7 + i % 9));
    let step = lane_step(&spec, 4);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut gradient = gradient_buffer(&blip);
        let lane = || blip.lane(&state, samples.batch(), step, &mut Pool::default(), &mut gradient);
        let output = pool.install(lane).unwrap();
        (output, gradient.to_vec())
    };
    let one = run(1);
    assert!(one.1.iter().all(|g| g.is_finite()));
    for threads in [2, 3, 7] {
        assert!(run(threads) == one, "{threads} threads");
    }
}
