//! Negatives from all lanes, against one process that holds the samples of all lanes at once.
//!
//! What ranks do in two passes, each reading what its lanes draw from others, is written here as plainly as can be: every
//! sample lies in memory, and a lane takes its negatives from there. Two lanes, so that their gradients' sum has one order.

#![allow(clippy::unwrap_used, reason = "a test")]

mod training;

use medley_data::dataset::{Corpus, CorpusShard, shard_path};
use medley_data::index;
use medley_data::loader::{Batch, Loader, Settings};
use medley_data::text::{Tokenizer, Vocabulary};
use medley_model::blip::{Blip, Candidates, Guest, LaneBatch, LaneOutput, LaneStep, gradient_buffer};
use medley_model::device::Pool;
use medley_model::flat::Flat;
use medley_model::loss::itc::Distillation;
use medley_model::loss::itm::Negatives;
use medley_model::params::Objective;
use medley_model::schedule::Schedule;
use medley_model::state::{Commit, State};
use medley_protocol::checkpoint::Manifest;
use medley_protocol::spec::Spec;
use medley_protocol::tasks::{Set, ShardName};
use medley_worker::objects::Objects;
use medley_worker::stage::inputs;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use training::{corpus, describe_again, final_state, train};

const LANES: u32 = 2;
const BATCH: u32 = 6;
const STEPS: u64 = 4;

/// Everything random is on, and images have several texts: what a lane makes of another's sample depends on all of it.
fn spec(data: &Path) -> Spec {
    let augment = json!({"by": "reference", "min_crop": 0.5});
    let document = json!({
        "name": "negatives", "kind": "bootstrap", "preset": "nano", "data": {"root": data},
        "lanes": {"count": LANES, "batch": BATCH}, "cluster": {"max_ranks": LANES},
        "model": {"text": {"dropout": 0.1}, "vision": {"drop_path": 0.3}},
        "pretrain": {"length": {"by": "steps", "count": 2}, "warmup_steps": 0},
        "filter": {
            "length": {"by": "steps", "count": STEPS}, "warmup_steps": 0, "image_size": 16, "augment": augment,
            "negatives": "all", "same_image": "positive",
        },
    });
    Spec::from_document(&document).unwrap()
}

fn human_set(data: &Path) -> Corpus {
    let shard = |file: String| {
        let name = ShardName { set: Set::Human, file };
        let path = shard_path(data, "human", &name);
        let index = index::build(&path, &mut |_, _| {}).unwrap();
        CorpusShard {
            name,
            path,
            index,
            overlay: None,
        }
    };
    let files = medley_data::shards::list(&data.join("human")).unwrap();
    Corpus::new(files.into_iter().map(shard).collect(), None).unwrap()
}

/// The vocabulary that the training made.
fn vocabulary(out: &Path) -> Vocabulary {
    let folder = out.join("store/vocabularies");
    let path = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    Vocabulary::parse(&fs::read_to_string(path).unwrap()).unwrap()
}

/// All that a step reads, the samples of all lanes among it.
struct World {
    spec: Spec,
    blip: Blip,
    state: State,
    schedule: Schedule,
    loader: Loader,
    seed: u64,
    pool: Pool,
    /// Negatives of another lane: images and texts.
    foreign: [usize; 2],
}

impl World {
    /// The filter's begin, from the pre-training under `out`.
    fn new(spec: Spec, data: &Path, out: &Path) -> Self {
        let vocabulary = vocabulary(out);
        let objects = Objects::open(&format!("file://{}/store", out.display())).unwrap();
        let manifest: Manifest = serde_json::from_slice(&fs::read(out.join("checkpoint.json")).unwrap()).unwrap();
        let [blip, pretrained] =
            [&spec.filter, &spec.pretrain].map(|stage| inputs::blip(&spec, stage.image_size, &vocabulary));
        let state = inputs::state(&objects, &pretrained, Some(&manifest), "pre-training").unwrap();
        let mut state = state.at_image_size(&pretrained, &blip);
        state.begin_stage();
        let corpus = human_set(data);
        let pairs = corpus.training_pairs(true);
        let seed = seed(spec.seed, "filter-0");
        let settings = Settings {
            seed,
            lanes: LANES,
            batch: BATCH,
            image_size: spec.filter.image_size,
            augment: spec.filter.augment,
            max_tokens: spec.max_tokens(&spec.filter),
            prompt: String::new(),
        };
        Self {
            schedule: Schedule::new(&spec.filter, pairs.len() as u64, spec.global_batch()).unwrap(),
            loader: Loader::new(
                Arc::new(corpus),
                pairs,
                Arc::new(Tokenizer::new(vocabulary, spec.vocab.specials)),
                settings,
            ),
            spec,
            blip,
            state,
            seed,
            pool: Pool::default(),
            foreign: [0; 2],
        }
    }

    fn step(&mut self) {
        let batches: Vec<Batch> = (0..LANES)
            .map(|lane| self.loader.batch(self.state.step, lane).unwrap())
            .collect();
        let identities: Vec<u64> = batches.iter().flat_map(|batch| batch.identities.clone()).collect();
        let (mut images, mut texts) = (Vec::new(), Vec::new());
        for (batch, lane) in batches.iter().zip(0..) {
            let own = lane_batch(batch, &batch.pixels, &batch.texts, &[]);
            let seen = self
                .blip
                .student_features(&self.state, own, self.lane_step(lane), &mut self.pool)
                .wait();
            images.extend(seen.0);
            texts.extend(seen.1);
        }
        let candidates = Candidates {
            image_features: &images,
            text_features: &texts,
            identities: &identities,
        };
        let lanes: Vec<(LaneOutput, Flat)> = (0..LANES).map(|lane| self.lane(&batches, candidates, lane)).collect();
        let mut gradient = gradient_buffer(&self.blip);
        for (i, sum) in gradient.iter_mut().enumerate() {
            *sum = lanes[0].1[i] + lanes[1].1[i];
        }
        let all = |features: fn(&LaneOutput) -> &[f32]| -> Vec<f32> {
            lanes.iter().flat_map(|(output, _)| features(output).to_vec()).collect()
        };
        let commit = Commit {
            gradient: (&gradient).into(),
            lanes: LANES,
            image_features: &all(|output| &output.image_features),
            text_features: &all(|output| &output.text_features),
            identities: &identities,
            lr: self.schedule.lr(self.state.step),
        };
        self.state
            .commit(&self.blip, Objective::Filter, &self.spec.filter, commit);
    }

    /// One lane, its negatives taken from the batches of all.
    fn lane(&mut self, batches: &[Batch], candidates: Candidates, lane: u32) -> (LaneOutput, Flat) {
        let step = self.lane_step(lane);
        let drawn = self
            .blip
            .draw(self.state.temperature(&self.blip), candidates, step, BATCH as usize);
        let own = &batches[lane as usize];
        let (mut pixels, mut texts, mut guests) = (own.pixels.clone(), own.texts.clone(), Vec::new());
        let of = |candidate: u32| ((candidate / BATCH) as usize, (candidate % BATCH) as usize);
        let per_image = own.pixels.len() / BATCH as usize;
        let (image_of_text, images) = seats(&drawn.image_of_text, lane, |candidate| {
            let (lane, at) = of(candidate);
            pixels.extend(&batches[lane].pixels[at * per_image..][..per_image]);
            guests.push(Guest {
                lane: lane as u32,
                image: at as u32,
            });
        });
        let (text_of_image, other_texts) = seats(&drawn.text_of_image, lane, |candidate| {
            let (lane, at) = of(candidate);
            texts.push(batches[lane].texts[at].clone());
        });
        self.foreign[0] += images;
        self.foreign[1] += other_texts;
        let negatives = Negatives {
            image_of_text,
            text_of_image,
        };
        let mut gradient = gradient_buffer(&self.blip);
        let batch = lane_batch(own, &pixels, &texts, &guests);
        let output = self
            .blip
            .lane_with(
                &self.state,
                batch,
                step,
                Some(&negatives),
                &mut self.pool,
                &mut gradient,
            )
            .unwrap();
        (output, gradient)
    }

    fn lane_step(&self, lane: u32) -> LaneStep {
        LaneStep {
            objective: Objective::Filter,
            seed: self.seed,
            step: self.state.step,
            lane,
            distillation: Distillation {
                alpha: self.schedule.alpha(self.state.step) as f32,
                temperature: None,
            },
            same_image: self.spec.filter.same_image,
            prompt_tokens: 0,
        }
    }
}

/// Numbers of negatives within a lane: its own samples, then each other candidate once, told to `visit`. Also their count.
fn seats(drawn: &[u32], lane: u32, mut visit: impl FnMut(u32)) -> (Vec<u32>, usize) {
    let mut visited: Vec<u32> = Vec::new();
    let mut seated = Vec::new();
    for candidate in drawn {
        if candidate / BATCH == lane {
            seated.push(candidate % BATCH);
            continue;
        }
        if !visited.contains(candidate) {
            visited.push(*candidate);
            visit(*candidate);
        }
        let at = visited.iter().position(|other| other == candidate).unwrap();
        seated.push(BATCH + at as u32);
    }
    (seated, visited.len())
}

fn lane_batch<'a>(own: &'a Batch, pixels: &'a [f32], texts: &'a [Vec<u32>], guests: &'a [Guest]) -> LaneBatch<'a> {
    LaneBatch {
        pixels: pixels.into(),
        texts,
        identities: &own.identities,
        guests,
    }
}

/// Seed of a stage, as its ranks make it.
fn seed(seed: u64, stage_name: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(stage_name.as_bytes());
    u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().unwrap())
}

#[test]
fn ranks_find_what_a_process_finds_that_holds_all_samples() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    corpus(&data);
    describe_again(&data, 3, false);
    let spec = spec(&data);
    let (file, out) = (dir.path().join("spec.json"), dir.path().join("out"));
    fs::write(&file, serde_json::to_vec(&spec).unwrap()).unwrap();
    final_state(train(&file, &out, 1, 1));
    let mut world = World::new(spec, &data, &out);
    for _ in 0..STEPS {
        world.step();
    }
    assert!(
        world.foreign.iter().all(|drawn| *drawn > 10),
        "too few negatives of other lanes: {:?}",
        world.foreign
    );
    let mut filter = train(&file, &out, 2, 1);
    filter.args(["--stage", "filter"]);
    let expected = format!("step {STEPS} state {}", world.state.digest());
    assert_eq!(final_state(filter), expected);
}
