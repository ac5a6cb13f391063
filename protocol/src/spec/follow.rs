//! Fields that were not set follow those that were.
//!
//! What a preset says of one field may not go with what a user says of another: `nano` asks for up to 8 ranks, and of 2 lanes
//! no more than 2 can be used. A preset's value is brought within the bounds that other fields give; a value that the user has
//! set is never changed, but refused if it contradicts another.

use super::{Length, Spec, TrainSpec};
use serde_json::Value;

/// Brings what `document` does not set within the bounds of what it sets.
pub(super) fn follow(spec: &mut Spec, document: &Value) {
    let is_open = |path: &str| document.pointer(path).is_none();
    // What is wrong itself bounds nothing: a bound of 0 would be blamed on what follows it.
    let lanes = spec.lanes.count.max(1);
    if is_open("/cluster/max_ranks") {
        spec.cluster.max_ranks = spec.cluster.max_ranks.max(spec.cluster.min_ranks).min(lanes);
    }
    let batch = u32::try_from(spec.global_batch()).unwrap_or(u32::MAX);
    if is_open("/model/queue") {
        spec.model.queue = spec.model.queue.max(batch);
    }
    let temperature = &mut spec.model.temperature;
    if is_open("/model/temperature/initial") {
        temperature.initial = temperature.initial.min(temperature.max).max(temperature.min);
    }
    let positions = spec.model.text.positions;
    if is_open("/capfilt/max_tokens") {
        spec.capfilt.max_tokens = spec.capfilt.max_tokens.min(positions);
    }
    if is_open("/capfilt/min_tokens") {
        spec.capfilt.min_tokens = spec.capfilt.min_tokens.min(spec.capfilt.max_tokens.saturating_sub(1));
    }
    for (section, stage) in [
        ("pretrain", &mut spec.pretrain),
        ("captioner", &mut spec.captioner),
        ("filter", &mut spec.filter),
    ] {
        train(stage, positions, |field| is_open(&format!("/{section}/{field}")));
    }
}

fn train(stage: &mut TrainSpec, positions: u32, is_open: impl Fn(&str) -> bool) {
    let peak_lr = stage.peak_lr.max(0.0);
    if is_open("min_lr") {
        stage.min_lr = stage.min_lr.min(peak_lr);
    }
    if is_open("warmup_lr") {
        stage.warmup_lr = stage.warmup_lr.min(peak_lr);
    }
    if let Length::Steps { count } = stage.length
        && is_open("warmup_steps")
        && stage.warmup_steps >= count
    {
        // The small presets take half of a short stage.
        stage.warmup_steps = count / 2;
    }
    if is_open("max_tokens") {
        stage.max_tokens = stage.max_tokens.min(positions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{PRESETS, Problems};
    use serde_json::json;

    fn complete(preset: &str, change: &Value) -> Result<Spec, Problems> {
        let mut document = json!({"name": "j", "kind": "bootstrap", "preset": preset, "data": {"root": "/d"}});
        for (name, value) in change.as_object().into_iter().flatten() {
            document[name] = value.clone();
        }
        Spec::from_document(&document)
    }

    #[test]
    fn nothing_of_a_preset_changes_by_itself() {
        for preset in PRESETS {
            let mut document = preset.document();
            document["data"]["root"] = json!("/d");
            let spec: Spec = serde_json::from_value(document).unwrap();
            let mut followed = spec.clone();
            follow(&mut followed, &json!({}));
            assert_eq!(followed, spec);
        }
    }

    #[test]
    fn what_was_not_set_follows_what_was() {
        let spec = complete("nano", &json!({"lanes": {"count": 2}})).unwrap();
        assert_eq!(spec.cluster.max_ranks, 2);
        let spec = complete("nano", &json!({"lanes": {"count": 64}, "cluster": {"min_ranks": 9}})).unwrap();
        assert_eq!((spec.cluster.max_ranks, spec.model.queue), (9, 128));
        let spec = complete("vit-b", &json!({"pretrain": {"peak_lr": 1e-7}})).unwrap();
        assert_eq!((spec.pretrain.min_lr, spec.pretrain.warmup_lr), (1e-7, 1e-7));
        let length = json!({"by": "steps", "count": 100});
        let spec = complete("tiny", &json!({"pretrain": {"length": length}})).unwrap();
        assert_eq!(spec.pretrain.warmup_steps, 50);
        let spec = complete("tiny", &json!({"model": {"text": {"positions": 16}}})).unwrap();
        assert_eq!((spec.filter.max_tokens, spec.capfilt.max_tokens), (16, 16));
        let spec = complete("tiny", &json!({"model": {"temperature": {"min": 0.1}}})).unwrap();
        assert_eq!(spec.model.temperature.initial, 0.1);
    }

    #[test]
    fn what_was_set_is_refused_and_never_changed() {
        for (change, path) in [
            (
                json!({"lanes": {"count": 2}, "cluster": {"max_ranks": 4}}),
                "cluster.max_ranks",
            ),
            (json!({"lanes": {"count": 64}, "model": {"queue": 64}}), "model.queue"),
            (
                json!({"pretrain": {"peak_lr": 1e-4, "min_lr": 1e-3}}),
                "pretrain.min_lr",
            ),
            (
                json!({"pretrain": {"length": {"by": "steps", "count": 10}, "warmup_steps": 10}}),
                "pretrain.warmup_steps",
            ),
        ] {
            let problems = complete("nano", &change).unwrap_err();
            let paths: Vec<&str> = problems.0.iter().map(|problem| problem.path.as_str()).collect();
            assert_eq!(paths, [path]);
        }
    }
}
