//! Goldens, the bars they set, and what is compared with them.

use medley_model::blip::Blip;
use medley_model::device::{Device, Pool};
use medley_model::flat::Flat;
use medley_model::generate::Reader;
use medley_model::layout::Layout;
use medley_model::replay::{Batch, Config, document, step};
use medley_model::state::State;
use medley_model::tape::{Tape, Weights};
use medley_model::text::{Grounding, Packed};
use medley_model::vision::Tokens;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file beside this one.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

const COUNTERS: [&str; 3] = ["optimizer_step", "queue_ptr", "ptr_queue"];

/// Numbers of a safetensors file by name.
pub(crate) struct Golden(BTreeMap<String, Vec<f64>>);

impl Golden {
    pub(crate) fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        Self(tensors.into_iter().map(|(name, view)| (name, numbers(&view))).collect())
    }

    pub(crate) fn get(&self, name: &str) -> &[f64] {
        self.0.get(name).unwrap_or_else(|| panic!("the golden has no {name}"))
    }

    /// Names of tensors, but for PyTorch's errors, moments and counters.
    fn names(&self) -> impl Iterator<Item = &str> {
        let left_out = |name: &str| name.ends_with("#fp32") || name.starts_with("exp_avg") || COUNTERS.contains(&name);
        self.0.keys().map(String::as_str).filter(move |name| !left_out(name))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn singles(&self, name: &str) -> Vec<f32> {
        self.get(name).iter().map(|&v| v as f32).collect()
    }

    /// Norm of PyTorch's own error in single precision.
    pub(crate) fn single_error(&self, name: &str) -> f64 {
        self.get(&format!("{name}#fp32"))[0]
    }

    /// ‖Δ‖ ≤ 5e-6 ‖r‖ and max|Δ| ≤ 1e-5 max|r|.
    pub(crate) fn check_forward(&self, name: &str, ours: &[f32]) {
        let exact = self.get(name);
        let delta = difference(ours, exact);
        below(name, norm(&delta), 5e-6 * norm(exact));
        below(name, largest(&delta), 1e-5 * largest(exact));
    }

    /// A loss that the golden does not have must be zero.
    pub(crate) fn check_losses(&self, ours: [f32; 3]) {
        for (name, ours) in ["loss.itc", "loss.itm", "loss.lm"].into_iter().zip(ours) {
            let exact = if self.has(name) { self.get(name)[0] } else { 0.0 };
            below(name, (f64::from(ours) - exact).abs(), 1e-5 * exact);
        }
    }

    /// ‖Δ‖ ≤ 2e-5 ‖g‖ + 1e-6 · RMS(all gradients) · √n, or ten times PyTorch's error in single precision. A gradient that the
    /// golden does not have must be zero.
    pub(crate) fn check_gradients(&self, layout: &Layout, ours: &[f32]) {
        let of = |name: &str| self.get(&format!("grad.{name}"));
        let has = |name: &str| self.has(&format!("grad.{name}"));
        let (trained, others): (Vec<_>, Vec<_>) = layout.entries().iter().partition(|entry| has(&entry.name));
        for entry in others {
            assert!(ours[entry.range()].iter().all(|g| *g == 0.0), "{}", entry.name);
        }
        let squares: f64 = trained.iter().map(|e| norm(of(&e.name)).powi(2)).sum();
        let elements: usize = trained.iter().map(|e| e.len).sum();
        let rms = (squares / elements as f64).sqrt();
        for entry in trained {
            let exact = of(&entry.name);
            let delta = norm(&difference(&ours[entry.range()], exact));
            let torch = self.single_error(&format!("grad.{}", entry.name));
            below(&entry.name, delta, gradient_bar(norm(exact), rms, entry.len, torch));
        }
    }
}

/// Two steps from one state: what goes in, and what PyTorch found.
pub(crate) struct TwoSteps {
    pub(crate) config: Config,
    pub(crate) blip: Blip,
    pub(crate) state: State,
    pub(crate) batches: [Batch; 2],
    /// Losses, momentum features and gradients of the first step.
    pub(crate) first: Golden,
    before: Golden,
    after: Golden,
}

impl TwoSteps {
    pub(crate) fn open(folder: &str) -> Self {
        let at = |name: &str| path(&format!("{folder}/{name}"));
        let read = |name: &str| std::fs::read(at(name)).unwrap();
        let config = Config::read("config.json", std::str::from_utf8(&read("config.json")).unwrap()).unwrap();
        let blip = config.blip();
        let batch = |name| Batch::read(name, &read(name), &config).unwrap();
        Self {
            state: document::read("state", &read("state.safetensors"), &blip, config.objective).unwrap(),
            batches: [batch("batch-0.safetensors"), batch("batch-1.safetensors")],
            first: Golden::open(&at("step-0.safetensors")),
            before: Golden::open(&at("state.safetensors")),
            after: Golden::open(&at("after.safetensors")),
            config,
            blip,
        }
    }

    pub(crate) fn check_first(mut self) {
        let found = step(&self.blip, &self.config, &mut self.state, &self.batches[0]).unwrap();
        self.first.check_losses(found.output.losses);
        if self.config.objective.understands() {
            self.first.check_forward("image_feat_m", &found.output.image_features);
            self.first.check_forward("text_feat_m", &found.output.text_features);
        }
        self.first.check_gradients(&self.blip.student_layout, &found.gradient);
    }

    pub(crate) fn check_after(mut self) {
        for batch in &self.batches {
            step(&self.blip, &self.config, &mut self.state, batch).unwrap();
        }
        let ours = self.written();
        for name in ours.names() {
            let exact = self.after.get(name);
            let delta = difference(&ours.singles(name), exact);
            if name == "idx_queue" {
                assert!(delta.iter().all(|d| *d == 0.0), "{name}: {:?}", ours.get(name));
            } else if name.ends_with("_queue") || name.split('.').next().is_some_and(|root| root.ends_with("_m")) {
                below(name, norm(&delta), 1e-5 * norm(exact));
            } else {
                self.check_parameter(name, delta);
            }
        }
        assert!(self.after.names().all(|name| ours.has(name)));
    }

    fn check_parameter(&self, name: &str, mut delta: Vec<f64>) {
        let exact = self.after.get(name);
        let lr_sum: f64 = self.batches.iter().map(|batch| batch.lr).sum();
        for i in key_biases(name, delta.len()) {
            below(name, delta[i].abs(), 2.0 * lr_sum);
            delta[i] = 0.0;
        }
        let update = norm(&difference(&self.before.singles(name), exact));
        below(name, norm(&delta), 3e-5 * norm(exact));
        below(&format!("{name}, its update"), norm(&delta), 1e-2 * update);
    }

    /// The state under its official names.
    fn written(&self) -> Golden {
        let file = tempfile::NamedTempFile::new().unwrap();
        document::write(&self.state, &self.blip, self.config.objective, file.path()).unwrap();
        Golden::open(file.path())
    }
}

pub(crate) fn gradient_bar(size: f64, rms: f64, n: usize, torch: f64) -> f64 {
    (2e-5 * size + 1e-6 * rms * (n as f64).sqrt()).max(10.0 * torch)
}

/// Elements that AdamW moves by rounding noise over its own size: a key's bias shifts all scores of a query alike, so its
/// gradient is zero in exact arithmetic.
pub(crate) fn key_biases(name: &str, len: usize) -> std::ops::Range<usize> {
    if name.ends_with(".key.bias") {
        0..len
    } else if name.ends_with(".qkv.bias") {
        len / 3..2 * len / 3
    } else {
        0..0
    }
}

/// Fails, saying what, if an error is above its bar.
#[track_caller]
pub(crate) fn below(name: &str, error: f64, bar: f64) {
    assert!(error <= bar, "{name}: error {error:e} is above {bar:e}");
}

pub(crate) fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

pub(crate) fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |a, v| a.max(v.abs()))
}

pub(crate) fn difference(ours: &[f32], exact: &[f64]) -> Vec<f64> {
    assert_eq!(ours.len(), exact.len());
    ours.iter().zip(exact).map(|(a, b)| f64::from(*a) - b).collect()
}

fn numbers(view: &TensorView) -> Vec<f64> {
    let data = view.data();
    match view.dtype() {
        Dtype::F64 => words(data).map(f64::from_le_bytes).collect(),
        Dtype::F32 => words(data).map(|w| f64::from(f32::from_le_bytes(w))).collect(),
        Dtype::I64 => words(data).map(|w| i64::from_le_bytes(w) as f64).collect(),
        Dtype::I32 => words(data).map(|w| f64::from(i32::from_le_bytes(w))).collect(),
        other => panic!("{other:?}"),
    }
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.chunks_exact(N).map(|chunk| chunk.try_into().unwrap())
}

/// Names of [`forward`]'s results.
pub(crate) const FORWARD: [&str; 6] = [
    "image_embeds",
    "text_first",
    "image_feat",
    "text_feat",
    "itm_logits",
    "lm_logits",
];

/// The student's forward passes: image states, first states of texts, unit features of both, matching logits of pairs and
/// negatives, and language-modelling logits of every token.
pub(crate) fn forward(blip: &Blip, params: &[f32], batch: &Batch) -> [Vec<f32>; 6] {
    let (b, pool) = (batch.texts.len(), &mut Pool::default());
    let same = Blip::new(&blip.model, blip.image_size, blip.vocab);
    let mut reader = Reader::new(same, Flat::from_slice(params), &Device::Cpu);
    let image_feat = reader.image_features(&batch.pixels, b).unwrap();
    let text_feat = reader.text_features(&batch.texts).unwrap();
    let own = (0..b as u32).map(|i| (i, i));
    let foreign_images = batch.negatives.image_of_text.iter().copied().zip(0..);
    let foreign_texts = (0..).zip(batch.negatives.text_of_image.iter().copied());
    let pairs: Vec<(u32, u32)> = own.chain(foreign_images).chain(foreign_texts).collect();
    let itm = reader.match_logits(&batch.pixels, b, &batch.texts, &pairs).unwrap();
    let weights = Weights::new(&blip.student_layout, params);
    let mut tape = Tape::inference(weights, pool);
    let (unimodal, generated) = (packed(blip.vocab.cls, batch), packed(blip.vocab.dec, batch));
    let first = blip.student.text.encode(&mut tape, &unimodal, None);
    let images = blip
        .student
        .vision
        .forward(&mut tape, &batch.pixels, b, None, Tokens::All);
    let keys = blip.student.text.image_keys(&mut tape, images);
    let grounding = |image_of| Grounding {
        image_of,
        tokens: blip.image_tokens,
    };
    let (nothing, nowhere) = (Packed::new(), grounding(Vec::new()));
    let each = grounding((0..b as u32).collect());
    let passes = ((&nothing, &nowhere), (&generated, &each));
    let (_, states) = blip.student.text.multimodal(&mut tape, passes.0, passes.1, &keys, None);
    let logits = blip.student.text.predict(&mut tape, states.unwrap());
    let values = |v| tape.read(v);
    [
        values(images),
        values(first),
        image_feat,
        text_feat,
        itm.concat(),
        values(logits),
    ]
}

fn packed(first: u32, batch: &Batch) -> Packed {
    let mut packed = Packed::new();
    for (text, i) in batch.texts.iter().zip(0..) {
        packed.push(first, text, i);
    }
    packed
}
