//! Loading a model for inference, against loading a whole state.
//!
//! `cargo bench -p medley-worker --bench load -- [PRESET] [ROUNDS] [DIRECTORY]` (defaults: `vit-b`, 3, the system's directory
//! for temporary files). A checkpoint of one part and one of eight are written, and the released code's tensors as
//! safetensors; then each is loaded as a whole state and as parameters alone, in turn. Files are in the system's cache.

#![allow(missing_docs, reason = "a program")]

mod common;

use common::{arguments, blip, cpu_seconds, median};
use medley_model::blip::Blip;
use medley_model::state::State;
use medley_model::weights::Start;
use medley_model::weights::export::{Export, Kind};
use medley_protocol::checkpoint::{CheckpointPart, Manifest};
use medley_protocol::ids::{CheckpointId, StageId};
use medley_worker::checkpoint::shared::Shared;
use medley_worker::checkpoint::writer::{Outcome, Part, Writer};
use medley_worker::checkpoint::{load, load_params};
use medley_worker::objects::Objects;
use std::hint::black_box;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Time for the store to take a part that it refused.
const PATIENCE: Duration = Duration::from_mins(1);

fn main() {
    medley_model::ops::keep_freed_memory();
    let mut arguments = arguments();
    let preset = arguments.next().unwrap_or_else(|| "vit-b".into());
    let rounds: usize = arguments
        .next()
        .map_or(3, |rounds| rounds.parse().expect("ROUNDS is a number"));
    let directory = arguments
        .next()
        .map_or_else(std::env::temp_dir, Into::into)
        .join("medley-load-bench");
    std::fs::create_dir_all(&directory).expect("a directory that can be made");
    let blip = blip(&preset, None);
    let objects = Objects::open(&format!("file://{}", directory.display())).expect("a store");
    let state = Shared::from(State::fresh(&blip, 1));
    let here = state.here().expect("it lies in the memory of the process");
    let file = export(&blip, here, &directory.join("weights"));
    let (state, one) = checkpoint(state, &objects, 1);
    let (state, eight) = checkpoint(state, &objects, 8);
    drop(state);
    for (name, manifest) in [("checkpoint of one part", one), ("checkpoint of eight parts", eight)] {
        let whole = || {
            let mut state = State::zeros(&blip);
            load(&objects, &manifest, &mut state).expect("it was just written");
            black_box(state);
        };
        let params = || {
            black_box(load_params(&objects, &manifest, &blip).expect("it was just written"));
        };
        compare(&format!("{preset}, {name}"), rounds, whole, params);
    }
    let start = || Start {
        files: std::slice::from_ref(&file),
        seed: 1,
        momentum: 0.995,
    };
    let whole = || {
        black_box(start().load(&blip).expect("it was just written"));
    };
    let params = || {
        black_box(start().load_params(&blip).expect("it was just written"));
    };
    compare(&format!("{preset}, safetensors"), rounds, whole, params);
    std::fs::remove_dir_all(directory).expect("what was written can be removed");
}

/// Seconds of wall time and of CPU time.
type Times = (f64, f64);

fn compare(name: &str, rounds: usize, whole: impl Fn(), params: impl Fn()) {
    let timed = |act: &dyn Fn()| {
        let (began, cpu) = (Instant::now(), cpu_seconds());
        act();
        (began.elapsed().as_secs_f64(), cpu_seconds() - cpu)
    };
    let turns: Vec<_> = (0..rounds).map(|_| (timed(&whole), timed(&params))).collect();
    let pick = |of: fn(&(Times, Times)) -> f64| median(turns.iter().map(of).collect());
    println!(
        "{name}: whole state {:.2} s ({:.2} of CPU), parameters {:.2} s ({:.2} of CPU), ratio {:.2} of wall time, {:.2} of CPU time",
        pick(|(whole, _)| whole.0),
        pick(|(whole, _)| whole.1),
        pick(|(_, params)| params.0),
        pick(|(_, params)| params.1),
        pick(|(whole, params)| params.0 / whole.0),
        pick(|(whole, params)| params.1 / whole.1),
    );
}

/// The released code's tensors, momentum encoders and queues included.
fn export(blip: &Blip, state: &State, out: &Path) -> std::path::PathBuf {
    let words: Vec<String> = (0..blip.vocab.size).map(|word| format!("w{word}\n")).collect();
    let export = Export {
        blip,
        state,
        vocabulary: &words.concat(),
    };
    export.write(Kind::Safetensors, out).expect("room on the disk");
    out.join(Kind::Safetensors.file())
}

fn checkpoint(mut state: Shared, objects: &Objects, parts: u32) -> (Shared, Manifest) {
    let stage = StageId::generate();
    let (say, written) = mpsc::channel();
    let said = move |outcome| say.send(outcome).expect("the bench listens");
    let writer = Writer::start(objects.clone(), stage, Vec::new(), said).expect("threads");
    for part in 0..parts {
        let state = state.view().expect("nothing has failed").into();
        writer.write(Part { state, part, parts });
    }
    writer.finish(PATIENCE).expect("the store takes it");
    let manifest = Manifest {
        id: CheckpointId::generate(),
        stage,
        step: state.step(),
        state_bytes: state.num_bytes() as u64,
        parts: written.iter().map(part_of).collect(),
    };
    (state, manifest)
}

fn part_of(outcome: Outcome) -> CheckpointPart {
    match outcome {
        Outcome::Written(part) => part,
        Outcome::Refused { reason, .. } => panic!("{reason}"),
    }
}
