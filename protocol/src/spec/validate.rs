//! The checks of a completed spec that need no file system.

mod report;

use super::{AugmentSpec, Decay, Kind, Length, Negatives, OnLoss, Precision, Problem, Problems, Spec, TrainSpec};
use crate::ledger::MAX_STEP_SAMPLES;
use report::Report;
use std::path::Path;

/// Most tokens of a text: on a GPU, those of one that grows lie in the memory of a block.
const MAX_POSITIONS: u32 = 1 << 13;
/// Longest side of an input image in pixels: bounds what a spec can make a rank allocate.
const MAX_IMAGE: u32 = 1024;
/// Bound on widths, queue and vocabulary.
const MAX_DIM: u32 = 1 << 20;
/// Most lanes of a step.
const MAX_LANES: u32 = 4096;
/// Largest learning rate.
const MAX_LR: f64 = 10.0;
/// Most files of weights laid over each other.
const MAX_FILES: usize = 16;

pub(super) fn validate(spec: &Spec) -> Result<(), Problems> {
    let problems = more(spec, Vec::new());
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Problems(problems))
    }
}

/// The problems that are known already, and those of all other fields.
pub(super) fn more(spec: &Spec, known: Vec<Problem>) -> Vec<Problem> {
    let mut report = Report::new(known);
    general(spec, &mut report);
    lanes(spec, &mut report);
    model(spec, &mut report);
    start(spec, &mut report);
    train("pretrain", &spec.pretrain, spec, &mut report);
    report.require(spec.pretrain.negatives == Negatives::Lane, "pretrain.negatives", || {
        "is \"all\": pre-training draws by the momentum encoders' keys of the lane; use \"lane\"".into()
    });
    if spec.kind == Kind::Bootstrap {
        train("captioner", &spec.captioner, spec, &mut report);
        train("filter", &spec.filter, spec, &mut report);
        capfilt(spec, &mut report);
    }
    report.end()
}

fn general(spec: &Spec, report: &mut Report) {
    let name_ok = !spec.name.trim().is_empty() && spec.name.len() <= 200 && !spec.name.contains(char::is_control);
    report.require(name_ok, "name", || "must have 1 to 200 printable characters".into());
    report.require(Path::new(&spec.data.root).is_absolute(), "data.root", || {
        format!("is {:?}: give an absolute path, the same on every node", spec.data.root)
    });
    for (field, value) in [
        ("human", &spec.data.human),
        ("web", &spec.data.web),
        ("test", &spec.data.test),
    ] {
        let path = format!("data.{field}");
        let simple = value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        report.require(simple && value != ".." && value != ".", &path, || {
            "must be the name of one sub-directory of data.root".into()
        });
    }
    report.require(
        !spec.data.human.is_empty() || spec.kind == Kind::Pretrain,
        "data.human",
        || "missing: captioner and filter are trained on the human set".into(),
    );
    report.require(
        !spec.data.web.is_empty() || spec.kind == Kind::Pretrain,
        "data.web",
        || "missing: a bootstrap job captions and filters the web set; set kind = \"pretrain\" to do without".into(),
    );
    report.require(
        !spec.data.test.is_empty() || spec.kind == Kind::Pretrain,
        "data.test",
        || "missing: a bootstrap job ends with an evaluation on the held-out set".into(),
    );
    report.require(
        !(spec.data.human.is_empty() && spec.data.web.is_empty()),
        "data.human",
        || "data.human and data.web are both empty: there is nothing to train on".into(),
    );
    report.within(spec.data.max_broken, 0.0, 1.0, "data.max_broken");
    report.count(spec.rounds, 16, "rounds");
    report.require(
        spec.vocab.file.is_empty() || Path::new(&spec.vocab.file).is_absolute(),
        "vocab.file",
        || "give an absolute path, or leave it empty to train a vocabulary".into(),
    );
    report.require((64..=MAX_DIM).contains(&spec.vocab.max_size), "vocab.max_size", || {
        format!("is {}: use a whole number from 64 to {MAX_DIM}", spec.vocab.max_size)
    });
    checkpoint(spec, report);
}

fn checkpoint(spec: &Spec, report: &mut Report) {
    let checkpoint = spec.checkpoint;
    let (every, kept, best) = (
        checkpoint.every_steps,
        checkpoint.keep_every_steps,
        checkpoint.keep_best,
    );
    report.count(checkpoint.keep, 1000, "checkpoint.keep");
    report.relate(
        every == 0 || kept.is_multiple_of(every),
        "checkpoint.keep_every_steps",
        &["checkpoint.every_steps"],
        || {
            format!(
                "is {kept}: checkpoints are taken every {every} steps (checkpoint.every_steps); use a multiple of that, or 0"
            )
        },
    );
    report.require(best <= 1000, "checkpoint.keep_best", || {
        format!("is {best}: use a whole number from 0 to 1000")
    });
}

fn lanes(spec: &Spec, report: &mut Report) {
    report.count(spec.lanes.count, MAX_LANES, "lanes.count");
    report.require((2..=4096).contains(&spec.lanes.batch), "lanes.batch", || {
        format!(
            "is {}: use 2 to 4096; with one sample a lane has no negatives to match against",
            spec.lanes.batch
        )
    });
    let (low, high) = (spec.cluster.min_ranks, spec.cluster.max_ranks);
    let lanes = report.bound("lanes.count", spec.lanes.count, MAX_LANES);
    report.count(low, lanes, "cluster.min_ranks");
    let low = report.bound("cluster.min_ranks", low, 1);
    report.require((low..=lanes).contains(&high), "cluster.max_ranks", || {
        format!(
            "is {high}: use a number from cluster.min_ranks ({low}) to lanes.count ({lanes}); a rank without a lane would idle"
        )
    });
    if let OnLoss::Wait(seconds) = spec.cluster.on_loss {
        report.require((1..=60).contains(&seconds), "cluster.on_loss.wait_s", || {
            format!("is {seconds}: use 1 to 60; a broken generation is kept for a minute, and \"go-on\" does not wait at all")
        });
    }
    let batch = spec.global_batch();
    let of_step = ["lanes.count", "lanes.batch"];
    report.relate(u64::from(spec.model.queue) >= batch, "model.queue", &of_step, || {
        format!(
            "is {}: not usable, a step enqueues lanes.count × lanes.batch = {batch} features; make the queue at least that long",
            spec.model.queue
        )
    });
    report.relate(!spec.ledger || batch <= MAX_STEP_SAMPLES, "ledger", &of_step, || {
        format!("a step of {batch} samples is too long to be written down: at most {MAX_STEP_SAMPLES} are possible")
    });
    report.require(spec.model.queue <= MAX_DIM, "model.queue", || {
        format!("must be at most {MAX_DIM}")
    });
}

fn model(spec: &Spec, report: &mut Report) {
    let (vision, text) = (&spec.model.vision, &spec.model.text);
    report.count(vision.patch, MAX_IMAGE, "model.vision.patch");
    image_size(vision.image_size, vision.patch, "model.vision.image_size", report);
    for (path, value) in [
        ("model.vision.width", vision.width),
        ("model.vision.depth", vision.depth),
        ("model.vision.mlp", vision.mlp),
        ("model.text.width", text.width),
        ("model.text.depth", text.depth),
        ("model.text.ffn", text.ffn),
        ("model.embed_dim", spec.model.embed_dim),
    ] {
        report.count(value, 1 << 16, path);
    }
    for (tower, width, heads) in [
        ("model.vision", vision.width, vision.heads),
        ("model.text", text.width, text.heads),
    ] {
        let (path, of_width) = (format!("{tower}.heads"), format!("{tower}.width"));
        report.relate(heads > 0 && width.is_multiple_of(heads), &path, &[&of_width], || {
            format!("is {heads}: must divide the width, {width}")
        });
    }
    if spec.precision() == Precision::Bf16 {
        for Problem { path, message } in spec.model.not_for_gpus() {
            let of_width = path.replace("heads", "width");
            report.relate(false, &path, &[&of_width], || message);
        }
    }
    report.count(text.positions, MAX_POSITIONS, "model.text.positions");
    report.within(text.dropout, 0.0, 0.9, "model.text.dropout");
    report.within(vision.drop_path, 0.0, 0.9, "model.vision.drop_path");
    report.within(spec.model.label_smoothing, 0.0, 0.9, "model.label_smoothing");
    let t = &spec.model.temperature;
    report.require(t.min > 0.0 && t.min <= t.max, "model.temperature.min", || {
        format!(
            "is {}: must be above 0 and at most model.temperature.max ({})",
            t.min, t.max
        )
    });
    report.relate(
        (t.min..=t.max).contains(&t.initial),
        "model.temperature.initial",
        &["model.temperature.min", "model.temperature.max"],
        || format!("is {}: must lie between min ({}) and max ({})", t.initial, t.min, t.max),
    );
    let init = &spec.model.init;
    for (path, value) in [
        ("model.init.linear", init.linear),
        ("model.init.embedding", init.embedding),
        ("model.init.image_positions", init.image_positions),
    ] {
        report.within(value, 0.0, 10.0, path);
    }
}

/// Form only: the files are looked for when the job is submitted, and read when a stage starts.
fn start(spec: &Spec, report: &mut Report) {
    for (path, files) in spec.start.lists() {
        report.require(files.len() <= MAX_FILES, path, || {
            format!("at most {MAX_FILES} files are possible")
        });
        for file in files.iter().take(MAX_FILES) {
            report.require(Path::new(file).is_absolute(), path, || {
                format!("{file:?} is no absolute path; give one that is the same on every node")
            });
        }
        report.require(
            files.is_empty() || spec.kind == Kind::Bootstrap || path == "start.initial",
            path,
            || {
                "only a bootstrap job has a stage to take the place of: use start.initial, or set kind = \"bootstrap\""
                    .into()
            },
        );
    }
}

fn image_size(size: u32, patch: u32, path: &str, report: &mut Report) {
    report.relate(
        patch > 0 && size >= patch && size <= MAX_IMAGE && size.is_multiple_of(patch.max(1)),
        path,
        &["model.vision.patch"],
        || format!("is {size}: use a multiple of model.vision.patch ({patch}), at most {MAX_IMAGE}"),
    );
}

fn train(section: &str, train: &TrainSpec, spec: &Spec, report: &mut Report) {
    let path = |field: &str| format!("{section}.{field}");
    let (Length::Epochs { count } | Length::Steps { count }) = train.length;
    report.require((1..=1_000_000_000).contains(&count), &path("length.count"), || {
        "must be at least 1".into()
    });
    report.require(train.peak_lr > 0.0 && train.peak_lr <= MAX_LR, &path("peak_lr"), || {
        format!("is {}: use a number above 0, at most {MAX_LR}", train.peak_lr)
    });
    let peak_lr = report.bound(&path("peak_lr"), train.peak_lr, MAX_LR);
    report.within(train.min_lr, 0.0, peak_lr, &path("min_lr"));
    report.within(train.warmup_lr, 0.0, peak_lr, &path("warmup_lr"));
    report.within(train.weight_decay, 0.0, 1.0, &path("weight_decay"));
    report.within(train.beta1, 0.0, 0.9999, &path("beta1"));
    report.within(train.beta2, 0.0, 0.99999, &path("beta2"));
    report.require(train.eps > 0.0, &path("eps"), || "must be above 0".into());
    report.within(train.temperature_lr, 0.0, 100.0, &path("temperature_lr"));
    report.within(train.momentum, 0.0, 1.0, &path("momentum"));
    report.within(train.alpha, 0.0, 1.0, &path("alpha"));
    report.within(train.alpha_ramp_epochs, 0.0, 1e6, &path("alpha_ramp_epochs"));
    let t = train.teacher_temperature;
    report.require(
        t == 0.0 || (1e-3..=100.0).contains(&t),
        &path("teacher_temperature"),
        || format!("is {t}: use a number from 0.001 to 100, or 0 for the student's temperature"),
    );
    let vision = &spec.model.vision;
    if train.image_size != vision.image_size || report.is_sound("model.vision.image_size") {
        image_size(train.image_size, vision.patch, &path("image_size"), report);
    }
    // A word has at least one token; how many the prompt has is known once there is a vocabulary.
    let (shortest, longest) = (3 + train.prompt.split_whitespace().count(), spec.model.text.positions);
    report.relate(
        (shortest..=longest as usize).contains(&(train.max_tokens as usize)),
        &path("max_tokens"),
        &["model.text.positions", &path("prompt")],
        || {
            format!(
                "is {}: use at least {shortest}, for [CLS], {section}.prompt, a word and [SEP], and at most model.text.positions \
                 ({longest})",
                train.max_tokens
            )
        },
    );
    if let Length::Steps { count } = train.length {
        let (warmup, of_length) = (train.warmup_steps, path("length.count"));
        report.relate(warmup < count, &path("warmup_steps"), &[&of_length], || {
            format!("is {warmup}: contradicts {section}.length, which has only {count} steps")
        });
    }
    if let Decay::Epoch { factor } = train.decay {
        report.within(factor, 0.01, 1.0, &path("decay.factor"));
    }
    if let AugmentSpec::Reference { min_crop, .. } = train.augment {
        report.within(min_crop, 0.01, 1.0, &path("augment.min_crop"));
    }
}

fn capfilt(spec: &Spec, report: &mut Report) {
    let capfilt = &spec.capfilt;
    report.require(capfilt.top_p > 0.0 && capfilt.top_p <= 1.0, "capfilt.top_p", || {
        format!("is {}: use a number above 0, at most 1", capfilt.top_p)
    });
    report.within(capfilt.repetition_penalty, 0.1, 10.0, "capfilt.repetition_penalty");
    report.within(capfilt.threshold, 0.0, 1.0, "capfilt.threshold");
    report.count(capfilt.batch, 4096, "capfilt.batch");
    report.relate(
        capfilt.max_tokens <= spec.model.text.positions,
        "capfilt.max_tokens",
        &["model.text.positions"],
        || {
            format!(
                "is {}: at most model.text.positions ({})",
                capfilt.max_tokens, spec.model.text.positions
            )
        },
    );
    report.relate(
        capfilt.min_tokens >= 2 && capfilt.min_tokens < capfilt.max_tokens,
        "capfilt.min_tokens",
        &["capfilt.max_tokens", "model.text.positions"],
        || {
            format!(
                "is {}: use at least 2 and less than capfilt.max_tokens ({})",
                capfilt.min_tokens, capfilt.max_tokens
            )
        },
    );
    report.count(spec.evaluate.rerank, 4096, "evaluate.rerank");
    report.count(spec.evaluate.resamples, 100_000, "evaluate.resamples");
    report.count(spec.evaluate.batch, 4096, "evaluate.batch");
}

#[cfg(test)]
mod tests;
