//! Presets: complete documents that a submitted spec is laid over.
//!
//! `vit-b` and `vit-l` carry the paper's hyper-parameters. `tiny` is a real BLIP, only small, and has its own: a
//! momentum of 0.995 and a queue of 57,600 make no sense over a few hundred steps. `nano` is the smallest model with
//! every part, for tests and for many ranks on one machine.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A named set of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Smallest model with every part.
    Nano,
    /// A small BLIP that learns the generated corpus in minutes on a CPU.
    Tiny,
    /// ViT-B/16 and BERT-base, as in the paper.
    VitB,
    /// ViT-L/16 and BERT-base, as in the paper.
    VitL,
}

/// All presets, smallest first.
pub const PRESETS: &[Preset] = &[Preset::Nano, Preset::Tiny, Preset::VitB, Preset::VitL];

impl Preset {
    /// The name users write.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nano => "nano",
            Self::Tiny => "tiny",
            Self::VitB => "vit-b",
            Self::VitL => "vit-l",
        }
    }

    /// The complete document of this preset; only `name`, `kind` and `data.root` are for the user to fill.
    pub(super) fn document(self) -> Value {
        let mut document = match self {
            Self::Nano => small(&NANO),
            Self::Tiny => small(&TINY),
            Self::VitB => paper(&VIT_B),
            Self::VitL => paper(&VIT_L),
        };
        let common = common();
        for (name, value) in common.as_object().into_iter().flatten() {
            document[name] = value.clone();
        }
        document["preset"] = json!(self.name());
        document["pretrain"]["precision"] = json!("fp32");
        document
    }
}

fn common() -> Value {
    json!({
        "name": "",
        "kind": "bootstrap",
        "seed": 42,
        "rounds": 1,
        "data": { "root": "", "human": "human", "web": "web", "test": "test", "max_broken": 0.01 },
        "ledger": false,
        "start": { "initial": [], "pretrained": [], "captioner": [], "filter": [] },
    })
}

/// What differs between the small presets.
struct Small {
    width: u32,
    vision_depth: u32,
    text_depth: u32,
    embed_dim: u32,
    queue: u32,
    lanes: u32,
    lane_batch: u32,
    pretrain_steps: u64,
    captioner_steps: u64,
    filter_steps: u64,
}

const NANO: Small = Small {
    width: 32,
    vision_depth: 2,
    text_depth: 1,
    embed_dim: 16,
    queue: 64,
    lanes: 8,
    lane_batch: 2,
    pretrain_steps: 20,
    captioner_steps: 10,
    filter_steps: 10,
};

const TINY: Small = Small {
    width: 96,
    vision_depth: 4,
    text_depth: 2,
    embed_dim: 64,
    queue: 1024,
    lanes: 4,
    lane_batch: 8,
    pretrain_steps: 2000,
    captioner_steps: 1500,
    filter_steps: 450,
};

/// Settings found by experiment for the generated corpus: wide initial weights, short warm-up, cosine per step, and a
/// temperature held above 0.05, below which the contrastive loss of so small a model collapses. The captioner is trained
/// until it knows where things are, and sampled at p = 0.6: smoothed labels leave even a sure token no more than 0.9, so the
/// paper's p = 0.9 lets the tail in at every word, and what the captioner gets wrong the second model learns.
fn small(size: &Small) -> Value {
    let train = |steps: u64, peak_lr: f64, warmup_steps: u64, ramp: f64, same_image: &str| {
        json!({
            "length": { "by": "steps", "count": steps },
            "peak_lr": peak_lr, "min_lr": 0.0, "warmup_lr": 0.0, "warmup_steps": warmup_steps,
            "decay": { "by": "cosine-step" },
            "weight_decay": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "temperature_lr": 0.1,
            "momentum": 0.995, "alpha": 0.4, "alpha_ramp_epochs": ramp, "teacher_temperature": 0.0,
            "same_image": same_image, "negatives": "lane",
            "image_size": 32, "max_tokens": 20, "augment": { "by": "none" }, "prompt": "",
            "recompute": false,
        })
    };
    json!({
        "vocab": { "file": "", "max_size": 256, "specials": "fixed" },
        "lanes": { "count": size.lanes, "batch": size.lane_batch },
        "cluster": { "min_ranks": 1, "max_ranks": size.lanes, "priority": 0, "on_loss": "go-on", "collective": "auto" },
        "model": {
            "vision": { "image_size": 32, "patch": 8, "width": size.width, "depth": size.vision_depth, "heads": 4,
                        "mlp": 4 * size.width, "drop_path": 0.0 },
            "text": { "width": size.width, "depth": size.text_depth, "heads": 4, "ffn": 4 * size.width,
                      "positions": 32, "dropout": 0.0 },
            "embed_dim": size.embed_dim, "queue": size.queue, "label_smoothing": 0.1,
            "temperature": { "initial": 0.07, "min": 0.05, "max": 0.5 },
            "init": { "linear": 0.1, "embedding": 0.02, "image_positions": 0.4 },
        },
        "pretrain": train(size.pretrain_steps, 2e-3, (size.pretrain_steps / 15).max(2), 2.0, "negative"),
        "captioner": train(size.captioner_steps, 1e-3, 20.min(size.captioner_steps / 2), 0.0, "negative"),
        "filter": train(size.filter_steps, 1e-3, 20.min(size.filter_steps / 2), 1.0, "positive"),
        "capfilt": { "top_p": 0.6, "top_k": 0, "repetition_penalty": 1.0, "min_tokens": 3, "max_tokens": 20,
                     "threshold": 0.5, "batch": 50 },
        "evaluate": { "rerank": 16, "resamples": 1000, "batch": 50 },
        "checkpoint": { "every_steps": (size.pretrain_steps / 10).max(5), "keep": 2, "keep_every_steps": 0, "keep_best": 0 },
    })
}

/// What differs between the paper's two models.
struct Paper {
    width: u32,
    depth: u32,
    heads: u32,
    drop_path: f64,
    lane_batch: u32,
    peak_lr: f64,
    captioner_lr: f64,
    filter_lr: f64,
}

const VIT_B: Paper = Paper {
    width: 768,
    depth: 12,
    heads: 12,
    drop_path: 0.0,
    lane_batch: 90,
    peak_lr: 3e-4,
    captioner_lr: 1e-5,
    filter_lr: 1e-5,
};

const VIT_L: Paper = Paper {
    width: 1024,
    depth: 24,
    heads: 16,
    drop_path: 0.1,
    lane_batch: 75,
    peak_lr: 2e-4,
    captioner_lr: 2e-6,
    filter_lr: 5e-6,
};

/// The paper's recipe: 20 epochs, global batch 2880 (2400 for ViT-L) as 32 lanes, weight decay 0.05, decay 0.85. The filter is
/// fine-tuned by the reference's retrieval recipe for COCO: an image's texts match it all, negatives come from all lanes.
fn paper(size: &Paper) -> Value {
    let finetune = |epochs: u64, peak_lr: f64, ramp: f64, (same_image, negatives): (&str, &str), text: (u32, &str)| {
        json!({
            "length": { "by": "epochs", "count": epochs },
            "peak_lr": peak_lr, "min_lr": 0.0, "warmup_lr": 0.0, "warmup_steps": 0,
            "decay": { "by": "cosine-epoch" },
            "weight_decay": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "temperature_lr": 1.0,
            "momentum": 0.995, "alpha": 0.4, "alpha_ramp_epochs": ramp, "teacher_temperature": 0.0,
            "same_image": same_image, "negatives": negatives,
            "image_size": 384, "augment": { "by": "reference", "min_crop": 0.5 },
            "max_tokens": text.0, "prompt": text.1, "recompute": false,
        })
    };
    json!({
        "vocab": { "file": "", "max_size": 30524, "specials": "fixed" },
        "lanes": { "count": 32, "batch": size.lane_batch },
        "cluster": { "min_ranks": 1, "max_ranks": 32, "priority": 0, "on_loss": "go-on", "collective": "auto" },
        "model": {
            "vision": { "image_size": 224, "patch": 16, "width": size.width, "depth": size.depth, "heads": size.heads,
                        "mlp": 4 * size.width, "drop_path": size.drop_path },
            "text": { "width": 768, "depth": 12, "heads": 12, "ffn": 3072, "positions": 512, "dropout": 0.1 },
            "embed_dim": 256, "queue": 57600, "label_smoothing": 0.1,
            "temperature": { "initial": 0.07, "min": 0.001, "max": 0.5 },
            "init": { "linear": 0.02, "embedding": 0.02, "image_positions": 0.02 },
        },
        "pretrain": {
            "length": { "by": "epochs", "count": 20 },
            "peak_lr": size.peak_lr, "min_lr": 1e-6, "warmup_lr": 1e-6, "warmup_steps": 3000,
            "decay": { "by": "epoch", "factor": 0.85 },
            "weight_decay": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "temperature_lr": 1.0,
            "momentum": 0.995, "alpha": 0.4, "alpha_ramp_epochs": 2.0, "teacher_temperature": 0.0,
            "same_image": "negative", "negatives": "lane",
            "image_size": 224, "augment": { "by": "reference", "min_crop": 0.2 },
            "max_tokens": 30, "prompt": "", "recompute": false,
        },
        "captioner": finetune(5, size.captioner_lr, 0.0, ("negative", "lane"), (40, "a picture of ")),
        "filter": finetune(6, size.filter_lr, 1.0, ("positive", "all"), (35, "")),
        "capfilt": { "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1, "min_tokens": 5, "max_tokens": 20,
                     "threshold": 0.5, "batch": 16 },
        "evaluate": { "rerank": 256, "resamples": 1000, "batch": 64 },
        "checkpoint": { "every_steps": 1000, "keep": 3, "keep_every_steps": 0, "keep_best": 0 },
    })
}
