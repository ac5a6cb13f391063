//! Writing, reading back and refusing, on a real model's state.

use super::placed::Placed;
use super::shared::Shared;
use super::writer::{Outcome, Part, Writer};
use super::*;
use medley_model::blip::Blip;
use medley_model::device::Device;
use medley_model::params::{Objective, Vocabulary};
use medley_model::state::{Commit, Resident};
use medley_protocol::checkpoint::TensorHash;
use medley_protocol::ids::{CheckpointId, StageId};
use medley_protocol::spec::Spec;
use std::sync::mpsc;

/// A small model.
pub(crate) fn blip() -> Blip {
    let vocab = Vocabulary {
        size: 70,
        pad: 0,
        cls: 1,
        sep: 2,
        dec: 3,
        enc: 4,
    };
    Blip::new(&spec().model, 32, vocab)
}

fn spec() -> Spec {
    let document = serde_json::json!({"name": "t", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"}});
    Spec::from_document(&document).unwrap()
}

/// Commits a step of ten samples whose identities begin at `first`.
pub(crate) fn commit(state: &mut Placed, first: u64) {
    let blip = blip();
    let noise = |i: usize| (i * 7919 % 1009) as f32 / 300.0 - 1.5;
    let gradient = (0..blip.student_layout.len()).map(noise).collect::<Vec<_>>();
    let gradient = state.device().upload(&gradient);
    let features = vec![first as f32; 10 * blip.model.embed_dim as usize];
    let identities: Vec<u64> = (first..first + 10).collect();
    let commit = Commit {
        gradient: gradient.span(),
        lanes: 2,
        image_features: &features,
        text_features: &features,
        identities: &identities,
        lr: 1e-2,
    };
    state.commit(&blip, Objective::Pretrain, &spec().pretrain, commit);
}

/// The state where it lies: in the memory of the process, or on a device.
pub(crate) fn placed(state: &State) -> [Placed; 2] {
    [state.clone().into(), Resident::of(state, &Device::Cpu).into()]
}

/// The state at step 9, written by three ranks.
fn written(objects: &Objects, state: Placed) -> Manifest {
    let stage = StageId::generate();
    let (tx, rx) = mpsc::channel();
    let report = move |outcome| match outcome {
        Outcome::Written(part) => tx.send(part).unwrap(),
        Outcome::Refused { reason, .. } => panic!("{reason}"),
    };
    let writer = Writer::start(objects.clone(), stage, State::tensors_of(&blip()), report).unwrap();
    let (step, state_bytes) = (state.step(), state.num_bytes() as u64);
    let mut shared = Shared::new(state).unwrap();
    for part in 0..3 {
        let state = shared.still(writer.range(shared.num_bytes(), part, 3)).unwrap();
        writer.write(Part { state, part, parts: 3 });
    }
    commit(shared.change(), 77);
    writer.finish(Duration::from_mins(1)).unwrap();
    Manifest {
        id: CheckpointId::generate(),
        stage,
        step,
        state_bytes,
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
    let manifest = written(&objects, state.clone().into());
    Case {
        dir,
        objects,
        blip,
        state,
        manifest,
    }
}

#[test]
fn a_state_survives_its_checkpoint_wherever_it_lies() {
    let case = case();
    for state in placed(&case.state) {
        let manifest = written(&case.objects, state);
        let hashes =
            |manifest: &Manifest| -> Vec<_> { manifest.parts.iter().map(|part| part.object.blake3.clone()).collect() };
        assert_eq!(hashes(&manifest), hashes(&case.manifest));
        let mut loaded = State::zeros(&case.blip);
        load(&case.objects, &manifest, &mut loaded).unwrap();
        assert_eq!(loaded.digest(), case.state.digest());
        for mut other in placed(&State::zeros(&case.blip)) {
            other.load(loaded.clone()).unwrap();
            let bytes = Shared::new(other)
                .unwrap()
                .view()
                .unwrap()
                .copy_bytes(0..loaded.num_bytes());
            assert_eq!(bytes.unwrap(), case.state.copy_bytes(0..loaded.num_bytes()));
        }
    }
}

#[test]
fn each_tensor_is_hashed_once_also_if_it_reaches_into_the_next_part() {
    let case = case();
    let bytes = case.state.copy_bytes(0..case.state.num_bytes());
    let mut expected = State::tensors_of(&case.blip).into_iter();
    for part in &case.manifest.parts {
        let listed = case.objects.get(part.tensors.as_ref().unwrap()).unwrap();
        let hashes: Vec<TensorHash> = serde_json::from_slice(&listed).unwrap();
        let end = part.offset_bytes + part.object.size_bytes;
        let reaches_over = |tensor: &&TensorHash| tensor.offset_bytes + tensor.size_bytes > end;
        let over = usize::from(part.part < 2);
        assert_eq!(hashes.iter().filter(reaches_over).count(), over, "part {}", part.part);
        for (hash, tensor) in hashes.iter().zip(expected.by_ref()) {
            assert_eq!((hash.section.as_str(), &hash.name), (tensor.section, &tensor.name));
            assert_eq!(hash.offset_bytes, tensor.bytes.start as u64);
            assert_eq!(hash.blake3, blake3::hash(&bytes[tensor.bytes]).to_hex().to_string());
        }
    }
    assert_eq!(expected.next(), None);
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
fn what_is_wrong_with_the_bytes_is_damage_and_what_may_pass_is_none() {
    let case = case();
    let part = &case.manifest.parts[2].object;
    let file = case.dir.path().join(&part.key);
    let sound = std::fs::read(&file).unwrap();
    let damage = |bytes: Option<&[u8]>| {
        match bytes {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let error = load(&case.objects, &case.manifest, &mut State::zeros(&case.blip)).unwrap_err();
        assert!(!error.may_pass(), "{error}");
        error.damage(&case.manifest).unwrap()
    };
    let mut flipped = sound.clone();
    flipped[5] ^= 128;
    for (bytes, cause) in [
        (Some(&flipped[..]), "BLAKE3"),
        (Some(&sound[..9]), "it has 9 bytes"),
        (None, "is missing"),
    ] {
        let found = damage(bytes);
        assert_eq!((found.checkpoint, found.step), (case.manifest.id, 9));
        assert_eq!(found.object.as_ref(), Some(&part.key));
        let text = found.to_string();
        assert!(text.contains("part 2") && text.contains(cause), "{text}");
    }
    let (key, url) = (part.key.clone(), "file:///away".into());
    let cause = objects::Error::Failed {
        key,
        url,
        cause: "connection refused".into(),
    };
    let error = Error::Part {
        part: 2,
        step: 9,
        cause,
    };
    assert!(error.damage(&case.manifest).is_none() && error.may_pass());
}

/// The whole state at a step, to be written.
fn whole(shared: &mut Shared, step: u64) -> Part {
    while shared.step() < step {
        commit(shared.change(), 1);
    }
    let state = shared.view().unwrap();
    Part {
        state: state.into(),
        part: 0,
        parts: 1,
    }
}

/// A writer whose store refuses everything until the file in its way is removed, and what it says.
fn refused() -> (tempfile::TempDir, Writer, mpsc::Receiver<Outcome>) {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::open(&format!("file://{}", dir.path().display())).unwrap();
    std::fs::write(dir.path().join("checkpoints"), "in the way").unwrap();
    let (tx, rx) = mpsc::channel();
    let (stage, say) = (StageId::generate(), move |outcome| tx.send(outcome).unwrap());
    let writer = Writer::start(objects, stage, State::tensors_of(&blip()), say).unwrap();
    (dir, writer, rx)
}

#[test]
fn a_store_that_refuses_holds_nothing_up_and_gets_the_newest_part_once_it_takes_it() {
    let (dir, writer, said) = refused();
    let mut shared = Shared::from(State::zeros(&blip()));
    for step in 1..=4 {
        writer.write(whole(&mut shared, step));
        let Outcome::Refused { step: of, reason } = said.recv_timeout(Duration::from_mins(1)).unwrap() else {
            panic!("it is written through a file");
        };
        assert!(of == step && reason.contains("checkpoints"), "{of}: {reason}");
    }
    std::fs::remove_file(dir.path().join("checkpoints")).unwrap();
    writer.finish(Duration::from_mins(1)).unwrap();
    let written: Vec<Outcome> = said.iter().collect();
    assert!(
        matches!(&written[..], [Outcome::Written(part)] if part.step == 4),
        "{written:?}"
    );
}

#[test]
fn the_last_part_is_waited_for_with_a_limit_and_then_the_reason_is_said() {
    let (_dir, writer, _said) = refused();
    writer.write(whole(&mut Shared::from(State::zeros(&blip())), 7));
    let reason = writer.finish(Duration::from_millis(100)).unwrap_err();
    assert!(
        reason.contains("last checkpoint") && reason.contains("checkpoints"),
        "{reason}"
    );
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
    let spec = |every_steps| CheckpointSpec {
        every_steps,
        keep: 2,
        keep_every_steps: 0,
        keep_best: 0,
    };
    let planned = |every, epoch| -> Vec<u64> { (1..=10).filter(|s| is_planned(spec(every), *s, 10, epoch)).collect() };
    assert_eq!(planned(4, None), [4, 8, 10]);
    assert_eq!(planned(0, Some(3)), [3, 6, 9, 10]);
    assert_eq!(planned(0, None), [10]);
}
