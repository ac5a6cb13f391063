//! Where work goes, of a training step, of match scores or of captions: operations as executed, and CPU time, by part and by kind.
//!
//! `cargo bench -p medley-model --bench flops -- [PRESET] [BATCH] [THREADS] [WORK]` (defaults: `vit-b`, 4 samples, 1 thread, `step`;
//! the others are `match`, two texts an image, and `greedy`, captions of 20 tokens). The first table compares a step with the operations of the reference's arrangement (texts padded to 30 tokens, three passes for matching and one
//! for generation, each projecting the image's keys and values anew); they are known for ViT-B at 224 px.

#![allow(missing_docs, reason = "a program")]

mod fixture;
mod program;
mod reading;

use fixture::Fixture;
use medley_model::generate::nucleus::GREEDY;
use medley_model::ops::blocks::on_threads;
use medley_model::ops::meter::{Account, Kind, Part, measure};
use program::{arguments, cpu_seconds};

/// A row of the first table: parts, and GFLOP a sample of the reference's arrangement for ViT-B, forward and backward.
const PARTS: [(&str, &[Part], f64); 7] = [
    ("image tower", &[Part::Image], 3.0 * 35.126),
    ("image tower, momentum", &[Part::MomentumImage], 35.126),
    ("text tower", &[Part::Text], 3.0 * 5.129),
    ("text tower, momentum", &[Part::MomentumText], 5.129),
    ("contrast", &[Part::Contrast], 2.0 * 0.118),
    (
        "multimodal, keys and values of images",
        &[Part::ImageKeys],
        4.0 * 3.0 * 5.577,
    ),
    (
        "multimodal, the rest, and heads",
        &[Part::Multimodal, Part::Heads],
        3.0 * (4.0 * 11.774 + 1.442 - 4.0 * 5.577),
    ),
];

fn main() {
    let mut arguments = arguments();
    let preset = arguments.next().unwrap_or_else(|| "vit-b".into());
    let mut number = |default: usize| {
        arguments
            .next()
            .map_or(default, |arg| arg.parse().expect("BATCH and THREADS are numbers"))
    };
    let (batch, threads) = (number(4), number(1));
    let mut fixture = Fixture::new(&preset, Some(batch), threads, None);
    let work = arguments.next().unwrap_or_else(|| "step".into());
    let mut once: Box<dyn FnMut() + Send> = match work.as_str() {
        "step" => Box::new(|| drop(fixture.step())),
        "match" => {
            let mut reader = reading::reader(&fixture);
            Box::new(move || drop(reading::matching(&mut reader, &fixture.samples)))
        }
        "greedy" => {
            let mut reader = reading::reader(&fixture);
            Box::new(move || drop(reading::captions(&mut reader, &fixture.samples, GREEDY)))
        }
        _ => panic!("WORK is step, match or greedy"),
    };
    once();
    let times = if preset == "vit-b" { 3 } else { 200 };
    // The account is one thread's: that of the pool which the work runs on.
    let ((), account) = on_threads(|| measure(cpu_seconds, || (0..times).for_each(|_| once())));
    println!("{preset}, {batch} samples, {threads} threads, mean of {times} times {work}\n");
    operations(
        &account,
        (times * batch) as f64 * 1e9,
        preset == "vit-b" && work == "step",
    );
    spent(&account, times as f64);
}

fn operations(account: &Account, unit: f64, known: bool) {
    println!("{:<40} {:>12} {:>12}", "GFLOP a sample", "executed", "reference");
    let row = |name: &str, executed: u64, reference: f64| {
        let reference = if known { format!("{reference:.2}") } else { "-".into() };
        println!("{name:<40} {:>12.3} {reference:>12}", executed as f64 / unit);
    };
    for (name, parts, reference) in PARTS {
        row(name, account.total(|part, _| parts.contains(&part)).flops, reference);
    }
    let all = account.total(|_, _| true).flops;
    let reference: f64 = PARTS.iter().map(|(_, _, reference)| reference).sum();
    row("all", all, reference);
    let recomputed = account.total(|_, kind| kind == Kind::Attention).flops;
    println!(
        "of which attention {:.3}; its scores are computed again in the backward pass",
        recomputed as f64 / unit
    );
    if known {
        println!(
            "the reference's arrangement has {:.3} times as many",
            reference / (all as f64 / unit)
        );
    }
    println!();
}

fn spent(account: &Account, times: f64) {
    print!("{:<16}", "CPU ms a time");
    Kind::ALL.iter().for_each(|kind| print!("{:>10}", format!("{kind:?}")));
    println!("{:>10}{:>8}{:>9}", "all", "share", "GFLOP/s");
    let all = account.total(|_, _| true).seconds;
    let line = |name: String, wanted: &dyn Fn(Part) -> bool| {
        print!("{name:<16}");
        for kind in Kind::ALL {
            let seconds = account.total(|part, k| wanted(part) && k == kind).seconds;
            print!("{:>10.2}", seconds * 1e3 / times);
        }
        let total = account.total(|part, _| wanted(part));
        let gemm = account.total(|part, kind| wanted(part) && kind == Kind::Gemm);
        let rate = if gemm.flops == 0 {
            0.0
        } else {
            gemm.flops as f64 / gemm.seconds / 1e9
        };
        println!(
            "{:>10.2}{:>7.1}%{rate:>9.1}",
            total.seconds * 1e3 / times,
            100.0 * total.seconds / all
        );
    };
    for part in Part::ALL {
        line(format!("{part:?}"), &|p| p == part);
    }
    line("all".into(), &|_| true);
    println!("GFLOP/s are those of matrix products alone.");
}
