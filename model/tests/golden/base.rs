//! One forward pass and one whole pre-training step of ViT-B/16 with BERT-base.
//!
//! Weights come from a seed on both sides, and the golden holds eight projections of every tensor on rows of random signs: the
//! mean square of their differences is an estimate of ‖Δ‖².

use crate::support::{FORWARD, Golden, below, forward, gradient_bar, key_biases, path};
use medley_model::blip::Blip;
use medley_model::layout::Layout;
use medley_model::loss::itm::Negatives;
use medley_model::params::Objective;
use medley_model::random::{Purpose, Stream};
use medley_model::replay::{Batch, Config, document, step};
use medley_model::state::State;

const PROJECTIONS: usize = 8;

/// Integers of 16 bits times a power of two, a function of seed and name.
fn seeded(name: &str, shift: i32, values: &mut [f32]) {
    let stream = Stream::new(1, Purpose::Init).named(name);
    let unit = (-f64::from(shift)).exp2() as f32;
    for (block, values) in values.chunks_mut(4).enumerate() {
        let words = stream.words([block as u32, 0, 0, 0]);
        for (value, word) in values.iter_mut().zip(words) {
            *value = ((word >> 16) as f32 - 32_768.0) * unit;
        }
    }
}

fn weights(layout: &Layout, rename: impl Fn(&str) -> String, values: &mut [f32]) {
    for entry in layout.entries() {
        let (name, values) = (rename(&entry.name), &mut values[entry.range()]);
        let is_gain = ["orm.weight", "norm1.weight", "norm2.weight"]
            .iter()
            .any(|end| name.ends_with(end));
        seeded(&name, if is_gain { 18 } else { 20 }, values);
        if is_gain {
            values.iter_mut().for_each(|v| *v += 1.0);
        } else if name == "temp" {
            values.fill(9.0 / 128.0);
        }
    }
}

fn state(blip: &Blip) -> State {
    let mut state = State::zeros(blip);
    weights(&blip.student_layout, str::to_owned, &mut state.params);
    weights(&blip.momentum_layout, document::momentum_name, &mut state.ema);
    let (width, len) = (blip.model.embed_dim as usize, blip.model.queue as usize);
    for (name, queue) in [
        ("image_queue", &mut state.image_queue),
        ("text_queue", &mut state.text_queue),
    ] {
        let mut columns = vec![0.0; width * len];
        seeded(name, 18, &mut columns);
        for (i, value) in queue.iter_mut().enumerate() {
            *value = columns[i % width * len + i / width];
        }
    }
    state
}

fn batch(blip: &Blip) -> Batch {
    let text = |words: u32| [&[101][..], &(2000..2000 + words).collect::<Vec<_>>(), &[102]].concat();
    let mut pixels = vec![0.0; 2 * 3 * (blip.image_size * blip.image_size) as usize];
    seeded("batch.0", 14, &mut pixels);
    Batch {
        pixels,
        texts: vec![text(9), text(14)],
        negatives: Negatives {
            image_of_text: vec![1, 0],
            text_of_image: vec![1, 0],
        },
        identities: Vec::new(),
        alpha: 0.4,
        lr: 3e-4,
    }
}

/// Estimate of the distance between ours and the golden's.
fn distance(golden: &Golden, name: &str, ours: &[f32]) -> f64 {
    let stream = Stream::new(0, Purpose::Init).named("signs").named(name);
    let mut sums = [0.0; PROJECTIONS];
    for (block, values) in ours.chunks(16).enumerate() {
        let words = stream.words([block as u32, 0, 0, 0]).map(u32::to_le_bytes);
        for (&value, byte) in values.iter().zip(words.as_flattened()) {
            for (p, sum) in sums.iter_mut().enumerate() {
                let value = f64::from(value);
                *sum += if byte >> p & 1 == 1 { -value } else { value };
            }
        }
    }
    let squares = sums.iter().zip(golden.get(name)).map(|(a, b)| (a - b).powi(2));
    (squares.sum::<f64>() / PROJECTIONS as f64).sqrt()
}

fn size(golden: &Golden, name: &str) -> f64 {
    golden.get(&format!("{name}#norm"))[0]
}

#[test]
fn a_step_of_the_base_model_agrees() {
    let golden = Golden::open(&path("base.safetensors"));
    let json = std::fs::read_to_string(path("base.json")).unwrap();
    let config = Config::read("base.json", &json).unwrap();
    let blip = config.blip();
    let (mut state, batch) = (state(&blip), batch(&blip));
    let mut settled = state.clone();
    settled.settle(&blip, Objective::Pretrain, &config.train());
    for (name, ours) in FORWARD.into_iter().zip(forward(&blip, &settled.params, &batch)) {
        below(name, distance(&golden, name, &ours), 5e-6 * size(&golden, name));
    }
    drop(settled);
    let found = step(&blip, &config, &mut state, &batch).unwrap();
    golden.check_losses(found.output.losses);
    let features = [&found.output.image_features, &found.output.text_features];
    for (name, ours) in ["image_feat_m", "text_feat_m"].into_iter().zip(features) {
        below(name, distance(&golden, name, ours), 5e-6 * size(&golden, name));
    }
    check_gradients(&golden, &blip.student_layout, &found.gradient);
    for entry in blip.student_layout.entries() {
        let name = format!("after.{}", entry.name);
        let ours = &mut state.params[entry.range()];
        ours[key_biases(&entry.name, entry.len)].fill(0.0);
        let error = distance(&golden, &name, ours);
        below(&name, error, 3e-5 * size(&golden, &name));
        let update = golden.get(&format!("{name}#update"))[0];
        below(&format!("{name}, its update"), error, 1e-2 * update);
    }
}

fn check_gradients(golden: &Golden, layout: &Layout, ours: &[f32]) {
    let of = |name: &str| size(golden, &format!("grad.{name}"));
    let squares: f64 = layout.entries().iter().map(|entry| of(&entry.name).powi(2)).sum();
    let rms = (squares / layout.num_params() as f64).sqrt();
    for entry in layout.entries() {
        let name = format!("grad.{}", entry.name);
        let bar = gradient_bar(of(&entry.name), rms, entry.len, golden.single_error(&name));
        below(&name, distance(golden, &name, &ours[entry.range()]), bar);
    }
}
