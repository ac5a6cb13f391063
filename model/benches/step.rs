//! Samples per second of one lane's training step and its commit, and the memory that it takes.
//!
//! `cargo bench -p medley-model --bench step -- [PRESET] [BATCH] [THREADS] [recompute]` (defaults: `tiny`, the preset's batch, one
//! thread, activations kept). The median of the runs is reported, with the least and the most.

#![allow(missing_docs, reason = "a program")]

mod fixture;
mod program;

use fixture::Fixture;
use program::{arguments, cpu_seconds};
use std::time::Instant;

fn main() {
    let mut arguments = arguments();
    let preset = arguments.next().unwrap_or_else(|| "tiny".into());
    let mut number = || {
        arguments
            .next()
            .map(|arg| arg.parse().expect("BATCH and THREADS are numbers"))
    };
    let (batch, threads) = (number(), number().unwrap_or(1));
    let mut fixture = Fixture::new(&preset, batch, threads, None);
    fixture.blip.recomputes = arguments.any(|word| word == "recompute");
    fixture.step();
    forget_peak();
    let (budget, cpu) = (Instant::now(), cpu_seconds());
    let mut seconds = Vec::new();
    while seconds.len() < 5 || (budget.elapsed().as_secs() < 20 && seconds.len() < 200) {
        let began = Instant::now();
        fixture.step();
        seconds.push(began.elapsed().as_secs_f64());
    }
    let cpu = (cpu_seconds() - cpu) / seconds.len() as f64;
    seconds.sort_by(f64::total_cmp);
    let (batch, median) = (fixture.samples.texts.len(), seconds[seconds.len() / 2]);
    println!(
        "{preset} batch {batch}, {} px, {threads} threads, {} runs: {:.1} ms a step (least {:.1}, most {:.1}; {:.1} of CPU), {:.2} samples/s; activations at most {:.2} GiB, the process {:.2} GiB{}",
        fixture.blip.image_size,
        seconds.len(),
        median * 1e3,
        seconds[0] * 1e3,
        seconds[seconds.len() - 1] * 1e3,
        cpu * 1e3,
        batch as f64 / median,
        fixture.pool.peak_bytes() as f64 / f64::from(1 << 30),
        peak_gib(),
        if fixture.blip.recomputes { ", recomputed" } else { "" },
    );
}

/// Lets the most memory that the process has held begin anew: making the state takes more than what is left of that.
fn forget_peak() {
    if let Err(error) = std::fs::write("/proc/self/clear_refs", "5") {
        eprintln!("the peak memory is that of the process from its start: /proc/self/clear_refs: {error}");
    }
}

/// The most memory that the process has held.
fn peak_gib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells of each process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.expect("a process has a peak") / f64::from(1 << 20)
}
