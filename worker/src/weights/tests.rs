//! A checkpoint goes out for other programs and comes back as the start of a stage.

use super::*;
use crate::checkpoint::shared::Shared;
use crate::checkpoint::writer::{Outcome, Part, Writer};
use medley_protocol::ids::StageId;
use std::sync::mpsc;
use std::time::Duration;

const VOCABULARY: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[DEC]\n[ENC]\na\nred\nring\n";

/// A store with a vocabulary and one checkpoint of a fresh model, and the spec it was trained by.
struct World {
    dir: tempfile::TempDir,
    stage: StageId,
    state: State,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let spec = json!({"name": "t", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"}});
    fs::write(dir.path().join("spec.json"), spec.to_string()).unwrap();
    let spec = read_spec(&dir.path().join("spec.json")).unwrap();
    let objects = Objects::open(&format!("file://{}/store", dir.path().display())).unwrap();
    objects.put("vocabularies/wordpiece", VOCABULARY).unwrap();
    let blip = inputs::blip(&spec, 32, &Vocabulary::parse(VOCABULARY).unwrap());
    let mut state = State::fresh(&blip, 5);
    state.step = 7;
    let stage = StageId::generate();
    let (said, heard) = mpsc::channel();
    let tensors = State::tensors_of(&blip);
    let writer = Writer::start(objects, stage, tensors, move |outcome| said.send(outcome).unwrap()).unwrap();
    let mut shared = Shared::from(state.clone());
    for part in 0..2 {
        let state = shared.view().unwrap().into();
        writer.write(Part { state, part, parts: 2 });
    }
    writer.finish(Duration::from_mins(1)).unwrap();
    let written = |outcome: &Outcome| matches!(outcome, Outcome::Written(_));
    assert_eq!(heard.iter().filter(written).count(), 2);
    World { dir, stage, state }
}

impl World {
    fn export(&self, to: To, out: &str) -> anyhow::Result<()> {
        let path = |name: &str| self.dir.path().join(name);
        export(&ExportArgs {
            checkpoint: path("store/checkpoints").join(self.stage.to_string()),
            spec: path("spec.json"),
            vocab: None,
            store: None,
            to,
            out: path(out),
        })
    }
}

#[test]
fn an_export_is_the_start_of_another_training() {
    let world = world();
    world.export(To::Pth, "out").unwrap();
    let file = world.dir.path().join("out/model.pth");
    let document = json!({
        "name": "t", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"}, "start": {"initial": [&file]},
    });
    let spec = Spec::from_document(&document).unwrap();
    let blip = inputs::blip(&spec, 32, &Vocabulary::parse(VOCABULARY).unwrap());
    let started = inputs::begun(&spec, &blip, &spec.start.initial, 1.0).unwrap();
    assert_eq!(started.params[..], world.state.params[..]);
    assert_eq!(started.ema[..], world.state.ema[..]);
    assert_eq!(started.step, 0);
    let start = Start {
        files: &[file],
        seed: 0,
        momentum: 1.0,
    };
    let (params, report) = start.load_params(&blip).unwrap();
    assert_eq!(params[..], world.state.params[..]);
    assert!(report.initialised.is_empty());
}

#[test]
fn a_start_that_does_not_fit_fails_for_good_and_names_file_and_tensor() {
    let world = world();
    world.export(To::Safetensors, "out").unwrap();
    let file = world.dir.path().join("out/model.safetensors").display().to_string();
    let document = json!({
        "name": "t", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"}, "model": {"text": {"ffn": 64}},
    });
    let spec = Spec::from_document(&document).unwrap();
    let blip = inputs::blip(&spec, 32, &Vocabulary::parse(VOCABULARY).unwrap());
    let failure = inputs::begun(&spec, &blip, &[file], 1.0).unwrap_err();
    assert!(!failure.retry);
    assert!(
        failure
            .reason
            .contains("model.safetensors: tensor text_encoder.encoder.layer.0.intermediate.dense")
    );
    let nowhere = inputs::begun(&spec, &blip, &["/nowhere.pth".into()], 1.0).unwrap_err();
    assert!(
        !nowhere.retry && nowhere.reason.contains("/nowhere.pth"),
        "{}",
        nowhere.reason
    );
}

#[test]
fn a_checkpoint_of_another_spec_or_vocabulary_is_refused() {
    let world = world();
    let spec = world.dir.path().join("spec.json");
    let other = json!({"name": "t", "kind": "pretrain", "preset": "tiny", "data": {"root": "/d"}});
    fs::write(spec, other.to_string()).unwrap();
    let error = world.export(To::HfCaption, "out").unwrap_err().to_string();
    assert!(error.contains("check --spec and --vocab"), "{error}");
    assert!(!world.dir.path().join("out").exists());
}

#[test]
fn the_spec_is_found_in_what_is_shown_of_a_job() {
    let world = world();
    let path = world.dir.path().join("spec.json");
    let spec = read_spec(&path).unwrap();
    let shown = json!({"job": {"id": "0", "spec": spec}, "datasets": []});
    fs::write(&path, shown.to_string()).unwrap();
    assert_eq!(read_spec(&path).unwrap(), spec);
}
