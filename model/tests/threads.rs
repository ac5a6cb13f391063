//! A lane's bits on several threads: large enough that every kernel shares its work, dropout and drop-path on.

use medley_model::blip::{Blip, LaneBatch, LaneStep, gradient_buffer};
use medley_model::device::Pool;
use medley_model::loss::itc::Distillation;
use medley_model::params::{Objective, Vocabulary};
use medley_model::random::{Purpose, Stream};
use medley_model::state::State;
use medley_protocol::spec::{SameImage, Spec};

const BATCH: usize = 32;

#[test]
fn a_lane_has_the_same_bits_on_any_number_of_threads() {
    let document = serde_json::json!({"name": "t", "kind": "pretrain", "preset": "tiny", "data": {"root": "/d"}});
    let mut model = Spec::from_document(&document).unwrap().model;
    (model.text.dropout, model.vision.drop_path) = (0.1, 0.2);
    let vocab = Vocabulary {
        size: 200,
        pad: 0,
        cls: 1,
        sep: 2,
        dec: 3,
        enc: 4,
    };
    let blip = Blip::new(&model, 32, vocab);
    let state = State::fresh(&blip, 1);
    let noise = Stream::new(2, Purpose::Init);
    let pixels: Vec<f32> = (0..BATCH * 3 * 32 * 32)
        .map(|i| noise.normals([i as u32, 0, 0, 0])[0])
        .collect();
    let text = |i: usize| -> Vec<u32> {
        let words = (0..5 + i % 9).map(|t| 5 + (i * 31 + t * 7) as u32 % 190);
        std::iter::once(1).chain(words).chain([2]).collect()
    };
    let texts: Vec<Vec<u32>> = (0..BATCH).map(text).collect();
    let identities: Vec<u64> = (1..=BATCH as u64).collect();
    let batch = LaneBatch {
        pixels: &pixels,
        texts: &texts,
        identities: &identities,
        guests: &[],
    };
    let step = LaneStep {
        objective: Objective::Pretrain,
        seed: 3,
        step: 4,
        lane: 1,
        distillation: Distillation {
            alpha: 0.4,
            temperature: None,
        },
        same_image: SameImage::Negative,
        prompt_tokens: 0,
    };
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut gradient = gradient_buffer(&blip);
        let lane = || blip.lane(&state, batch, step, &mut Pool::default(), &mut gradient);
        let output = pool.install(lane).unwrap();
        (output, gradient.to_vec())
    };
    let one = run(1);
    assert!(one.1.iter().all(|g| g.is_finite()));
    for threads in [2, 3, 7] {
        assert!(run(threads) == one, "{threads} threads");
    }
}
