//! Writing, reading back and refusing, on a real model's state.

use super::shared::Shared;
use super::writer::{Part, Writer};
use super::*;
use medley_model::blip::Blip;
use medley_model::params::Vocabulary;
use medley_protocol::ids::{CheckpointId, StageId};
use medley_protocol::spec::Spec;
use std::sync::mpsc;

pub(super) fn blip() -> Blip {
    let document = serde_json::json!({"name": "t", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"}});
    let spec = Spec::from_document(&document).unwrap();
    let vocab = Vocabulary {
        size: 70,
        pad: 0,
        cls: 1,
        sep: 2,
        dec: 3,
        enc: 4,
    };
    Blip::new(&spec.model, 32, vocab)
}

/// A state at step 9, written by three ranks.
fn written(objects: &Objects, state: &State) -> Manifest {
    let stage = StageId::generate();
    let (tx, rx) = mpsc::channel();
    let mut writer = Writer::start(objects.clone(), stage, move |part| tx.send(part).unwrap()).unwrap();
    let mut shared = Shared::from(state.clone());
    for part in 0..3 {
        let state = shared.view();
        writer = writer.write(Part { state, part, parts: 3 }).unwrap();
    }
    shared.change().step += 1;
    writer.finish().unwrap();
    Manifest {
        id: CheckpointId::generate(),
        stage,
        step: state.step,
        state_bytes: state.num_bytes() as u64,
        parts: rx.iter().collect(),
    }
}

struct Case {
    dir: tempfile::TempDir,
    objects: Objects,
    blip: Blip,
    state: State,
    manifest: Manifest,
}

fn case() -> Case {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::open(&format!("file://{}", dir.path().display())).unwrap();
    let blip = blip();
    let mut state = State::fresh(&blip, 1);
    state.step = 9;
    let manifest = written(&objects, &state);
    Case {
        dir,
        objects,
        blip,
        state,
        manifest,
    }
}

#[test]
fn a_state_survives_its_checkpoint() {
    let case = case();
    let mut loaded = State::zeros(&case.blip);
    load(&case.objects, &case.manifest, &mut loaded).unwrap();
    assert_eq!(loaded.digest(), case.state.digest());
}

#[test]
fn parameters_are_read_from_the_parts_that_hold_them() {
    let case = case();
    let weights: Vec<u32> = case.manifest.weights().map(|part| part.part).collect();
    assert_eq!(
        weights,
        [0, 1],
        "the header moves the last parameters into the second part"
    );
    std::fs::remove_file(case.dir.path().join(&case.manifest.parts[2].object.key)).unwrap();
    let params = load_params(&case.objects, &case.manifest, &case.blip).unwrap();
    assert_eq!(params[..], case.state.params[..]);
    let later = Manifest {
        step: 10,
        ..case.manifest
    };
    let error = load_params(&case.objects, &later, &case.blip).unwrap_err();
    assert!(matches!(error, Error::Torn { .. }), "{error}");
}

#[test]
fn a_damaged_part_is_named() {
    let case = case();
    let file = case.dir.path().join(&case.manifest.parts[1].object.key);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[77] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    let error = load(&case.objects, &case.manifest, &mut State::zeros(&case.blip)).unwrap_err();
    assert!(
        error.to_string().starts_with("part 1 of the checkpoint at step 9"),
        "{error}"
    );
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[test]
fn parts_with_a_gap_are_refused_before_anything_is_read() {
    let mut case = case();
    case.manifest.parts.remove(1);
    let error = load(&case.objects, &case.manifest, &mut State::zeros(&case.blip)).unwrap_err();
    assert!(matches!(error, Error::Torn { .. }), "{error}");
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let mut case = case();
    case.manifest.state_bytes += 4;
    let error = load(&case.objects, &case.manifest, &mut State::zeros(&case.blip)).unwrap_err();
    assert!(matches!(error, Error::Other { .. }), "{error}");
}

#[test]
fn parts_cover_the_state_for_any_number_of_ranks() {
    for parts in 1..20 {
        let ranges: Vec<_> = (0..parts).map(|part| part_range(1003, part, parts)).collect();
        assert_eq!((ranges[0].start, ranges[parts as usize - 1].end), (0, 1003));
        assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
    }
}

#[test]
fn checkpoints_are_planned_periodically_at_epochs_ends_and_at_the_end() {
    let spec = |every_steps| CheckpointSpec { every_steps, keep: 2 };
    let planned = |every, epoch| -> Vec<u64> { (1..=10).filter(|s| is_planned(spec(every), *s, 10, epoch)).collect() };
    assert_eq!(planned(4, None), [4, 8, 10]);
    assert_eq!(planned(0, Some(3)), [3, 6, 9, 10]);
    assert_eq!(planned(0, None), [10]);
}
