//! Samples per second of one lane's training step and its commit, on one thread.
//!
//! `cargo bench -p medley-model --bench step -- [PRESET] [BATCH]` (defaults: `tiny`, the preset's batch). Texts have 12 tokens on
//! average, pixels are random. The median of the runs is reported, with the least and the most.

#![allow(missing_docs, reason = "a program")]

use medley_model::blip::{Blip, LaneBatch, LaneStep, gradient_buffer};
use medley_model::flat::{Flat, Pool};
use medley_model::loss::itc::Distillation;
use medley_model::ops::keep_freed_memory;
use medley_model::params::{Objective, Vocabulary};
use medley_model::random::{Purpose, Stream};
use medley_model::state::{Commit, State};
use medley_protocol::spec::{SameImage, Spec};
use std::time::Instant;

fn main() {
    // Cargo passes `--bench`.
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let preset = args.next().unwrap_or_else(|| "tiny".into());
    let document =
        serde_json::json!({"name": "bench", "kind": "pretrain", "preset": preset, "data": {"root": "/nowhere"}});
    let spec = Spec::from_document(&document).unwrap_or_else(|problems| panic!("{problems}"));
    let batch = args
        .next()
        .map_or(spec.lanes.batch as usize, |arg| arg.parse().expect("BATCH is a number"));
    keep_freed_memory();
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build_global()
        .expect("the first pool");
    Bench::new(spec, batch).run();
}

struct Bench {
    spec: Spec,
    blip: Blip,
    state: State,
    pixels: Vec<f32>,
    texts: Vec<Vec<u32>>,
    pool: Pool,
    gradient: Flat,
}

impl Bench {
    fn new(spec: Spec, batch: usize) -> Self {
        let size = spec.vocab.max_size;
        let special = |back: u32| size - back;
        let vocab = Vocabulary {
            size,
            pad: 0,
            cls: special(4),
            sep: special(3),
            dec: special(2),
            enc: special(1),
        };
        let blip = Blip::new(&spec.model, spec.pretrain.image_size, vocab);
        let side = spec.pretrain.image_size as usize;
        let stream = Stream::new(1, Purpose::Init);
        let pixels = (0..batch * 3 * side * side).map(|i| stream.normals([i as u32, 0, 0, 0])[0]);
        // 8, 10, 12, 14, 16 tokens: 12 on average.
        let lengths = [12, 8, 16, 10, 14].into_iter().cycle().take(batch);
        let text = |(i, length): (usize, u32)| {
            let words = (0..length - 2).map(|t| 5 + (i as u32 * 31 + t * 7) % (size - 10));
            std::iter::once(vocab.cls)
                .chain(words)
                .chain(std::iter::once(vocab.sep))
                .collect()
        };
        Self {
            pixels: pixels.collect(),
            texts: lengths.enumerate().map(text).collect(),
            state: State::fresh(&blip, spec.seed),
            gradient: gradient_buffer(&blip),
            pool: Pool::default(),
            blip,
            spec,
        }
    }

    fn run(mut self) {
        self.step();
        let budget = Instant::now();
        let mut seconds = Vec::new();
        while seconds.len() < 5 || (budget.elapsed().as_secs() < 20 && seconds.len() < 200) {
            let began = Instant::now();
            self.step();
            seconds.push(began.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let (batch, median) = (self.texts.len(), seconds[seconds.len() / 2]);
        println!(
            "{} batch {batch}, {} px, {} runs: {:.1} ms a step (least {:.1}, most {:.1}), {:.2} samples/s on one thread; activations at most {:.2} GiB",
            self.spec.preset.name(),
            self.blip.image_size,
            seconds.len(),
            median * 1e3,
            seconds[0] * 1e3,
            seconds[seconds.len() - 1] * 1e3,
            batch as f64 / median,
            self.pool.peak_bytes() as f64 / f64::from(1 << 30),
        );
    }

    fn step(&mut self) {
        let lane = LaneStep {
            objective: Objective::Pretrain,
            seed: self.spec.seed,
            step: self.state.step,
            lane: 0,
            distillation: Distillation {
                alpha: 0.4,
                temperature: None,
            },
            same_image: SameImage::Negative,
            prompt_tokens: 0,
        };
        let identities: Vec<u64> = (1..=self.texts.len() as u64).collect();
        let batch = LaneBatch {
            pixels: &self.pixels,
            texts: &self.texts,
            identities: &identities,
            guests: &[],
        };
        let output = self
            .blip
            .lane(&self.state, batch, lane, &mut self.pool, &mut self.gradient)
            .expect("the model writes every gradient");
        let commit = Commit {
            gradient: &self.gradient,
            lanes: 1,
            image_features: &output.image_features,
            text_features: &output.text_features,
            identities: &identities,
            lr: 1e-4,
        };
        self.state
            .commit(&self.blip, Objective::Pretrain, &self.spec.pretrain, commit);
    }
}
