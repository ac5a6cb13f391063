//! What may have been meant by a field that nobody knows.

use serde_json::{Map, Value};

/// Longest name that may be a known one with a slip of the pen.
pub(super) const MAX_NAME: usize = 64;

/// Names that others use, and what is called so here.
const USUAL: &[(&str, &str)] = &[
    ("lr", "pretrain.peak_lr"),
    ("learning_rate", "pretrain.peak_lr"),
    ("max_lr", "pretrain.peak_lr"),
    ("init_lr", "pretrain.peak_lr"),
    ("wd", "pretrain.weight_decay"),
    ("epsilon", "pretrain.eps"),
    ("warmup", "pretrain.warmup_steps"),
    ("schedule", "pretrain.decay"),
    ("scheduler", "pretrain.decay"),
    ("steps", "pretrain.length"),
    ("max_steps", "pretrain.length"),
    ("num_steps", "pretrain.length"),
    ("epoch", "pretrain.length"),
    ("epochs", "pretrain.length"),
    ("max_epochs", "pretrain.length"),
    ("num_epochs", "pretrain.length"),
    ("dtype", "pretrain.precision"),
    ("precision", "pretrain.precision"),
    ("batch", "lanes.batch"),
    ("batch_size", "lanes.batch"),
    ("ranks", "cluster.max_ranks"),
    ("gpus", "cluster.max_ranks"),
    ("workers", "cluster.max_ranks"),
    ("world_size", "cluster.max_ranks"),
    ("max_ranks", "cluster.max_ranks"),
    ("min_ranks", "cluster.min_ranks"),
    ("priority", "cluster.priority"),
    ("queue", "model.queue"),
    ("queue_size", "model.queue"),
    ("temperature", "model.temperature"),
    ("dropout", "model.text.dropout"),
    ("layers", "model.vision.depth"),
    ("num_layers", "model.vision.depth"),
    ("num_heads", "model.vision.heads"),
    ("hidden_size", "model.vision.width"),
    ("image_size", "model.vision.image_size"),
    ("vocab_size", "vocab.max_size"),
    ("root", "data.root"),
    ("path", "data.root"),
    ("dir", "data.root"),
];

/// The field that may be meant by `name` among the fields `known`: its own name if it is one of them, or else its path.
pub(super) fn meant<'a>(name: &str, known: &'a Map<String, Value>) -> Option<&'a str> {
    if name.len() > MAX_NAME {
        return None;
    }
    let name = name.to_lowercase().replace('-', "_");
    let here = |name: &str| known.keys().map(String::as_str).find(|key| *key == name);
    let usual = USUAL.iter().find(|(usual, _)| *usual == name).map(|(_, path)| *path);
    let usual = usual.map(|path| path.rsplit('.').next().and_then(here).unwrap_or(path));
    here(&name).or(usual).or_else(|| nearest(&name, known))
}

/// The known name that differs by a slip or two.
fn nearest<'a>(name: &str, known: &'a Map<String, Value>) -> Option<&'a str> {
    let slips = if name.chars().count() < 6 { 1 } else { 2 };
    let known = known.keys().map(|key| (edit_distance(name, key), key.as_str()));
    known
        .min()
        .filter(|(distance, _)| *distance <= slips)
        .map(|(_, key)| key)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::PRESETS;

    fn meant_in(section: &str, name: &str) -> Option<String> {
        let document = PRESETS[0].document();
        let known = document.pointer(section).unwrap().as_object().unwrap();
        meant(name, known).map(str::to_owned)
    }

    #[test]
    fn usual_names_are_told_by_what_they_are_called_here() {
        for (section, name, expected) in [
            ("/pretrain", "lr", "peak_lr"),
            ("/pretrain", "steps", "length"),
            ("/pretrain", "epochs", "length"),
            ("/pretrain", "batch", "lanes.batch"),
            ("/pretrain", "Weight-Decay", "weight_decay"),
            ("", "batch", "lanes.batch"),
            ("", "lr", "pretrain.peak_lr"),
            ("/capfilt", "batch_size", "batch"),
            ("/model/text", "num_layers", "depth"),
        ] {
            assert_eq!(meant_in(section, name).as_deref(), Some(expected), "{section} {name}");
        }
    }

    #[test]
    fn what_is_called_so_here_is_a_field_of_every_preset() {
        for preset in PRESETS {
            for (usual, path) in USUAL {
                let pointer = format!("/{}", path.replace('.', "/"));
                assert!(preset.document().pointer(&pointer).is_some(), "{usual}: {path}");
            }
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_seen_and_another_word_is_not() {
        assert_eq!(meant_in("/pretrain", "weight_deacy").as_deref(), Some("weight_decay"));
        assert_eq!(meant_in("", "nam").as_deref(), Some("name"));
        for name in ["speed", "gamma", "colour", &"weight_decay".repeat(10)] {
            assert_eq!(meant_in("/pretrain", name), None, "{name}");
        }
    }
}
