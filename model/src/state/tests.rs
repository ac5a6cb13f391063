//! What a commit makes of a state, and its canonical bytes.

mod resident;

use super::*;
use crate::params::Objective;
use crate::params::Vocabulary;
use medley_protocol::spec::{Spec, TrainSpec};
use std::ops::Range;

fn blip() -> (Blip, TrainSpec) {
    let document = serde_json::json!({"name": "t", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"},
        "model": {"queue": 16}, "lanes": {"count": 2, "batch": 5}, "cluster": {"max_ranks": 2}});
    let spec = Spec::from_document(&document).unwrap();
    let vocab = Vocabulary {
        size: 40,
        pad: 0,
        cls: 2,
        sep: 3,
        dec: 4,
        enc: 5,
    };
    (Blip::new(&spec.model, 32, vocab), spec.pretrain)
}

/// Commits a step of ten samples whose identities begin at `first`.
fn commit(state: &mut State, blip: &Blip, train: &TrainSpec, first: u64) {
    let gradient = Flat::from_slice(&vec![0.5; blip.student_layout.len()]);
    let features = vec![first as f32; 10 * blip.model.embed_dim as usize];
    let identities: Vec<u64> = (first..first + 10).collect();
    let commit = Commit {
        gradient: (&gradient).into(),
        lanes: 2,
        image_features: &features,
        text_features: &features,
        identities: &identities,
        lr: 1e-2,
    };
    state.commit(blip, Objective::Filter, train, commit);
}

#[test]
fn identities_are_queued_beside_the_features_they_belong_to() {
    let (blip, train) = blip();
    let mut state = State::fresh(&blip, 1);
    assert_eq!(state.queued_identities, [UNKNOWN; 16]);
    commit(&mut state, &blip, &train, 100);
    commit(&mut state, &blip, &train, 200);
    let expected: Vec<u64> = (206..210).chain(104..110).chain(200..206).collect();
    assert_eq!(state.queued_identities, expected);
    let first_of = |at: usize| state.image_queue[at * blip.model.embed_dim as usize];
    assert!((0..16).all(|at| first_of(at) == (state.queued_identities[at] / 100 * 100) as f32));
}

#[test]
fn canonical_bytes_hold_the_identities() {
    let (blip, train) = blip();
    let mut state = State::fresh(&blip, 1);
    commit(&mut state, &blip, &train, u64::MAX - 50);
    let bytes = state.copy_bytes(0..state.num_bytes());
    let mut loaded = State::zeros(&blip);
    loaded.load(&bytes).unwrap();
    assert_eq!(loaded.queued_identities, state.queued_identities);
    assert_eq!(loaded.digest(), state.digest());
    assert_eq!(bytes.len(), State::num_bytes_of(&blip));
    let (step, params) = State::beginning(&blip, &bytes[..State::num_beginning_bytes(&blip)]);
    assert_eq!((step, &params[..]), (1, &state.params[..]));
    loaded.queued_identities[15] ^= 1;
    assert_ne!(loaded.digest(), state.digest());
}

#[test]
fn a_state_can_be_written_piece_by_piece() {
    let (blip, train) = blip();
    let mut state = State::fresh(&blip, 1);
    commit(&mut state, &blip, &train, 100);
    let bytes = state.copy_bytes(0..state.num_bytes());
    for size in [5, 4096, bytes.len()] {
        let mut written = State::zeros(&blip);
        for (piece, at) in bytes.chunks(size).zip((0..).step_by(size)) {
            written.write_bytes(at, piece);
        }
        assert_eq!(
            (written.step, written.digest()),
            (1, state.digest()),
            "pieces of {size}"
        );
    }
}

#[test]
fn a_fine_tuning_stage_forgets_what_its_queues_show() {
    let (blip, train) = blip();
    let mut state = State::fresh(&blip, 1);
    commit(&mut state, &blip, &train, 100);
    let features = state.image_queue.to_vec();
    state.begin_stage();
    assert_eq!((state.step, state.queue_next), (0, 0));
    assert_eq!(state.queued_identities, [UNKNOWN; 16]);
    assert_eq!(state.image_queue[..], features);
}

#[test]
fn momentum_encoders_follow_as_far_as_the_momentum_says() {
    for momentum in [0.0, 0.7, 0.995, 1.0] {
        let (blip, mut train) = blip();
        train.momentum = momentum;
        let mut state = State::fresh(&blip, 1);
        let before = state.ema.to_vec();
        commit(&mut state, &blip, &train, 100);
        for entry in blip.momentum_layout.entries() {
            let student = blip.student_layout.entry(blip.student_layout.id(&entry.name)).range();
            for (at, student) in entry.range().zip(&state.params[student]) {
                let expected = momentum * f64::from(before[at]) + (1.0 - momentum) * f64::from(*student);
                assert!(
                    (f64::from(state.ema[at]) - expected).abs() < 1e-6,
                    "{} at {momentum}",
                    entry.name
                );
            }
        }
    }
}

#[test]
fn a_commit_has_the_bits_of_its_parts_one_after_the_other() {
    let (blip, train) = blip();
    let noise = |i: usize| ((i * 7919 % 1009) as f32 - 500.0) / 300.0;
    let gradient: Vec<f32> = (0..blip.student_layout.len()).map(noise).collect();
    let (gradient, features) = (
        Flat::from_slice(&gradient),
        vec![0.5; 10 * blip.model.embed_dim as usize],
    );
    let commit = Commit {
        gradient: (&gradient).into(),
        lanes: 3,
        image_features: &features,
        text_features: &features,
        identities: &[],
        lr: 1e-2,
    };
    for objective in [Objective::Pretrain, Objective::Captioner, Objective::Filter] {
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (mut whole, mut parts) = (State::fresh(&blip, 1), State::fresh(&blip, 1));
            for _ in 0..2 {
                pool.install(|| whole.commit(&blip, objective, &train, commit));
                parts.optimise(&blip, objective, &train, commit);
                parts.settle(&blip, objective, &train);
                parts.advance(&blip, objective, commit);
            }
            assert_eq!(whole.digest(), parts.digest(), "{objective:?} on {threads} threads");
        }
    }
}

#[test]
fn each_tensor_is_found_among_the_canonical_bytes_and_nothing_is_between_them() {
    let (blip, train) = blip();
    let mut state = State::fresh(&blip, 1);
    commit(&mut state, &blip, &train, 100);
    let canonical = state.copy_bytes(0..state.num_bytes());
    let tensors = State::tensors_of(&blip);
    let mut end = bytes::HEADER;
    for tensor in &tensors {
        assert!(
            canonical[end..tensor.bytes.start].iter().all(|byte| *byte == 0),
            "{tensor:?}"
        );
        end = tensor.bytes.end;
    }
    assert_eq!(end, canonical.len());
    let of = |section: &str, name: &str| {
        let is_it = |tensor: &&Tensor| (tensor.section, tensor.name.as_str()) == (section, name);
        &canonical[tensors.iter().find(is_it).unwrap().bytes.clone()]
    };
    let entry = &blip.student_layout.entries()[3];
    let of_buffer = |buffer: &[f32]| bytemuck::cast_slice::<f32, u8>(&buffer[entry.range()]).to_vec();
    assert_eq!(of("v", &entry.name), of_buffer(&state.v));
    assert_ne!(of("v", &entry.name), of("m", &entry.name));
    assert_eq!(of("text_queue", "text_queue"), state.text_queue.as_bytes());
    assert_eq!(of("queued_identities", "queued_identities").len(), 8 * 16);
}

#[test]
fn what_a_step_replaces_in_the_queues_is_known_before() {
    let (blip, train) = blip();
    let mut state = State::fresh(&blip, 1);
    commit(&mut state, &blip, &train, 100);
    let (before, replaced) = (state.copy_bytes(0..state.num_bytes()), state.replaced_by(10));
    commit(&mut state, &blip, &train, 200);
    let after = state.copy_bytes(0..state.num_bytes());
    let entry = 8 + 8 * blip.model.embed_dim as usize;
    let queues = before.len() - 16 * entry..before.len();
    let is_known = |at: &usize| replaced.iter().any(|range| range.contains(at));
    let mut changed = queues.filter(|at| before[*at] != after[*at]);
    assert!(changed.all(|at| is_known(&at)), "{replaced:?}");
    assert_eq!(replaced.iter().map(Range::len).sum::<usize>(), 10 * entry);
    assert_eq!(
        state.replaced_by(1000).iter().map(Range::len).sum::<usize>(),
        16 * entry
    );
}
