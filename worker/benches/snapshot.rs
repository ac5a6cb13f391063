//! What a checkpoint costs a rank, against plain copies of as many bytes.
//!
//! `cargo bench -p medley-worker --bench snapshot -- [PRESET] [STEP_SECONDS] [ROUNDS] [DIRECTORY]` (defaults: `vit-b`, 10, 3,
//! the system's directory for temporary files). Real are the state, the copy that is made while the next step is computed,
//! the commit's wait for it, and writing and verifying the part; a step is played by arithmetic on one thread. The rank is
//! one of two: its part is half of the state. In each round, in turn: a step with a snapshot before it; a snapshot with no
//! step after it, so that the wait is as long as the copy; a plain copy of the part in memory; and a file written with as many
//! bytes, synced and read back.

#![allow(missing_docs, reason = "a program")]

mod common;

use common::{arguments, blip, median};
use medley_model::blip::Blip;
use medley_model::state::State;
use medley_protocol::ids::StageId;
use medley_worker::checkpoint::part_range;
use medley_worker::checkpoint::shared::Shared;
use medley_worker::checkpoint::writer::{Outcome, Part, Writer};
use medley_worker::objects::Objects;
use medley_worker::rank::memory::peak_bytes;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Ranks that share a checkpoint.
const RANKS: u32 = 2;
/// Seconds from one checkpoint to the next.
const INTERVAL: f64 = 60.0;

fn main() {
    medley_model::ops::keep_freed_memory();
    let mut arguments = arguments();
    let preset = arguments.next().unwrap_or_else(|| "vit-b".into());
    let step = arguments
        .next()
        .map_or(10.0, |seconds| seconds.parse().expect("STEP_SECONDS is a number"));
    let rounds = arguments
        .next()
        .map_or(3, |rounds| rounds.parse().expect("ROUNDS is a number"));
    let directory = arguments
        .next()
        .map_or_else(std::env::temp_dir, Into::into)
        .join("medley-snapshot-bench");
    let blip = blip(&preset, None);
    let mut state = State::zeros(&blip);
    state.claim_memory();
    let mut bench = Bench::new(&blip, state, &directory);
    let mut rows = Vec::new();
    for _ in 0..rounds {
        let row = bench.round(Duration::from_secs_f64(step));
        println!(
            "  wait after a step of {step} s {:.1} ms, wait after none {:.0} ms, plain copy {:.0} ms; written and verified in {:.0} ms, plain file {:.0} ms",
            row.hidden * 1e3,
            row.exposed * 1e3,
            row.copied * 1e3,
            row.written * 1e3,
            row.file * 1e3,
        );
        rows.push(row);
    }
    let pick = |of: fn(&Row) -> f64| median(rows.iter().map(of).collect());
    println!(
        "{preset}, part of {:.2} GiB: a commit waits {:.4} % of the time at a checkpoint a minute; the copy takes {:.2} of a plain copy's time, writing {:.2} of a plain file's; memory {:.2} GiB before, at most {:.2} GiB",
        bench.part_bytes() as f64 / f64::from(1 << 30),
        pick(|row| row.hidden) / INTERVAL * 100.0,
        pick(|row| row.exposed / row.copied),
        pick(|row| row.written / row.file),
        bench.before as f64 / f64::from(1 << 30),
        peak_bytes().unwrap_or(0) as f64 / f64::from(1 << 30),
    );
    std::fs::remove_dir_all(directory).expect("what was written can be removed");
}

struct Row {
    /// Wait of the commit after a step.
    hidden: f64,
    /// Wait when there was no step.
    exposed: f64,
    copied: f64,
    written: f64,
    file: f64,
}

struct Bench<'a> {
    state: Shared,
    writer: Writer,
    written: mpsc::Receiver<Instant>,
    directory: &'a Path,
    /// Most memory before the first snapshot.
    before: u64,
}

impl<'a> Bench<'a> {
    fn new(blip: &Blip, state: State, directory: &'a Path) -> Self {
        std::fs::create_dir_all(directory).expect("a directory that can be made");
        let objects = Objects::open(&format!("file://{}", directory.display())).expect("a store");
        let (say, written) = mpsc::channel();
        let said = move |outcome| match outcome {
            Outcome::Written(_) => say.send(Instant::now()).expect("the bench listens"),
            Outcome::Refused { reason, .. } => panic!("the store takes it: {reason}"),
        };
        let writer = Writer::start(objects, StageId::generate(), State::tensors_of(blip), said).expect("threads");
        Self {
            state: state.into(),
            writer,
            written,
            directory,
            before: peak_bytes().unwrap_or(0),
        }
    }

    fn part_bytes(&self) -> usize {
        let range = part_range(self.state.num_bytes() as u64, 0, RANKS);
        (range.end - range.start) as usize
    }

    fn round(&mut self, step: Duration) -> Row {
        let (hidden, written) = self.snapshot(step);
        let (exposed, _) = self.snapshot(Duration::ZERO);
        let began = Instant::now();
        let here = self.state.here().expect("it lies in the memory of the process");
        let copy = black_box(here.copy_bytes(0..self.part_bytes()));
        let copied = began.elapsed().as_secs_f64();
        let file = self.file(&copy);
        Row {
            hidden,
            exposed,
            copied,
            written,
            file,
        }
    }

    /// Takes a checkpoint and plays a step; how long the commit waits, and the whole time until the part is in the store.
    fn snapshot(&mut self, step: Duration) -> (f64, f64) {
        let began = Instant::now();
        let part = Part {
            state: self.state.view().expect("nothing has failed").into(),
            part: 0,
            parts: RANKS,
        };
        self.writer.write(part);
        let mut number = 1.0_f64;
        while began.elapsed() < step {
            number = black_box(number * 1.000_000_1);
        }
        let waits = Instant::now();
        let here = self.state.change().here_mut();
        here.expect("it lies in the memory of the process").step += 1;
        let waited = waits.elapsed().as_secs_f64();
        let written = self.written.recv().expect("the store takes it");
        (waited, written.duration_since(began).as_secs_f64())
    }

    fn file(&self, bytes: &[u8]) -> f64 {
        let path = self.directory.join("plain");
        let began = Instant::now();
        let mut file = File::create(&path).expect("a file");
        file.write_all(bytes).expect("room on the disk");
        file.sync_all().expect("the disk takes it");
        let mut read = Vec::with_capacity(bytes.len());
        File::open(&path)
            .and_then(|mut file| file.read_to_end(&mut read))
            .expect("it is there");
        assert_eq!(black_box(read).len(), bytes.len());
        began.elapsed().as_secs_f64()
    }
}
