//! The lane tree against a plain ring, over the same connections on loopback.
//!
//! `cargo bench -p medley-worker --bench collective -- [PRESET] [ROUNDS] [RANKS]` (defaults: `tiny`, 7, and 2, 4 and 8 ranks).
//! Tree and ring take turns; times are medians, the ratio is the median of the ratios of neighbouring turns. Every rank is
//! a node of its own, so what a rank sends crosses nodes; bytes are those written to sockets, headers included. Half of what
//! a ring sends is a sum on its way, the other half the total. After that, by route alone, what a node sends on two nodes
//! of up to sixteen ranks.

#![allow(missing_docs, reason = "a program")]

mod common;

use bytes::Bytes;
use common::{arguments, blip, connected, median};
use medley_model::device::Buffer;
use medley_model::tape::Gradient;
use medley_worker::collective::deal::{Deal, deal};
use medley_worker::collective::gradients::Gradients;
use medley_worker::collective::reduce::{Local, Plan, total};
use medley_worker::collective::route::{Op, Slices, route};
use medley_worker::collective::tcp::mesh::Limits;
use medley_worker::collective::tcp::{Kind, Lost, Mesh, Tag};
use std::convert::Infallible;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Most elements of a frame of the ring, as in the tree's.
const FRAME: usize = 4 << 20;

fn main() {
    medley_model::ops::keep_freed_memory();
    let mut arguments = arguments();
    let preset = arguments.next().unwrap_or_else(|| "tiny".into());
    let rounds = arguments
        .next()
        .map_or(7, |rounds| rounds.parse().expect("ROUNDS is a number"));
    let len = blip(&preset, None).student_layout.len();
    println!("gradient of {preset}: {:.1} MiB", mib((len * 4) as f64));
    println!(
        "| ranks | lanes | tree, ms | ring, ms | time ratio | sent by the busiest rank, MiB: tree | ring | bytes ratio |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    let ranks = arguments.next().map(|ranks| ranks.parse().expect("RANKS is a number"));
    for ranks in ranks.map_or(vec![2, 4, 8], |ranks| vec![ranks]) {
        // Eight gradients of ViT-B and what is on its way would not fit most machines.
        let len = if ranks == 8 { len.min(64 << 20) } else { len };
        let mut counts = vec![ranks, 8, 32, 31, 30, 28];
        counts.dedup();
        for lanes in counts {
            measure(ranks, lanes, len, rounds);
        }
    }
    two_nodes();
}

fn measure(ranks: u32, lanes: u32, len: usize, rounds: usize) {
    let deal = deal(lanes, &vec![1; ranks as usize]).expect("there are lanes enough");
    let [tree, ring] = [Way::Tree, Way::Ring].map(|way| run(&deal, len, 1, &[way]).busiest);
    let both = run(&deal, len, rounds, &[Way::Tree, Way::Ring]);
    let seconds = |way: usize| median(both.seconds.iter().map(|turn| turn[way]).collect());
    let ratio = median(both.seconds.iter().map(|turn| turn[0] / turn[1]).collect());
    println!(
        "| {ranks} | {lanes} | {:.1} | {:.1} | {ratio:.2} | {:.2} | {:.2} | {:.2} |",
        seconds(0) * 1e3,
        seconds(1) * 1e3,
        mib(tree),
        mib(ring),
        tree / ring,
    );
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Tree,
    Ring,
}

struct Outcome {
    /// For each round, the seconds that each way took until the last rank had its total.
    seconds: Vec<Vec<f64>>,
    /// Most bytes that one rank wrote to its sockets.
    busiest: f64,
}

/// Sums made-up gradients so many times in each way in turn.
fn run(deal: &Deal, len: usize, rounds: usize, ways: &[Way]) -> Outcome {
    let plan = Plan::new(deal, 0, len);
    let limits = plan.limits(len, 0);
    let limits = Limits {
        frame_bytes: limits.frame_bytes.max(FRAME * 4),
        waiting_bytes: limits.waiting_bytes.max(8 * len),
    };
    let barrier = Barrier::new(deal.ranks() as usize);
    let outcomes = connected(deal.ranks(), limits, |mesh| {
        let plan = Plan::new(deal, mesh.rank(), len);
        let mut pool = Gradients::new(len);
        let mut seconds = Vec::new();
        for round in 0..rounds as u64 {
            let mut turn = Vec::new();
            for (way, number) in ways.iter().zip(0..) {
                let exchange = 2 * round + number;
                turn.push(once(*way, &plan, exchange, &mesh, &mut pool, &barrier));
            }
            seconds.push(turn);
        }
        (seconds, mesh.leave(Duration::from_mins(1)).values().sum::<u64>())
    });
    let busiest = outcomes.iter().map(|(_, written)| *written).max().unwrap_or(0) as f64;
    let seconds = outcomes
        .into_iter()
        .next()
        .map(|(seconds, _)| seconds)
        .unwrap_or_default();
    Outcome { seconds, busiest }
}

fn once(way: Way, plan: &Plan, exchange: u64, mesh: &Mesh, pool: &mut Gradients, barrier: &Barrier) -> f64 {
    let fill = |lane: u32, out: Gradient| {
        out.values.host().fill(lane as f32 + 1.0);
        Ok::<_, Infallible>(())
    };
    let done = |began: Instant, total: Buffer, pool: &mut Gradients| {
        barrier.wait();
        pool.give(total);
        began.elapsed().as_secs_f64()
    };
    match way {
        Way::Tree => {
            let Ok(local) = Local::collect(plan, pool, fill);
            barrier.wait();
            let began = Instant::now();
            let total = total(plan, local, exchange, mesh, pool).expect("peers live");
            done(began, total, pool)
        }
        Way::Ring => {
            let mut gradient = pool.take();
            let Ok(()) = fill(mesh.rank(), gradient.span_mut().into());
            barrier.wait();
            let began = Instant::now();
            ring(gradient.span_mut().host(), exchange, mesh).expect("peers live");
            done(began, gradient, pool)
        }
    }
}

/// Reduce-scatter, then all-gather: in each of 2·(n − 1) rounds every rank sends a part of the buffer to the next one.
fn ring(buffer: &mut [f32], exchange: u64, mesh: &Mesh) -> Result<(), Lost> {
    let (rank, ranks) = (mesh.rank(), mesh.others().count() as u32 + 1);
    let (next, before) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
    let width = buffer.len().div_ceil(ranks as usize);
    let range = |part: u32| {
        let first = (part as usize * width).min(buffer.len());
        first..(first + width).min(buffer.len())
    };
    let ranges: Vec<_> = (0..ranks).map(range).collect();
    for round in 0..2 * (ranks - 1) {
        let gathers = round >= ranks - 1;
        let sent = (rank + 2 * ranks - round) % ranks;
        let received = (before + 2 * ranks - round) % ranks;
        let tag = |frame: usize| Tag {
            exchange,
            slice: round,
            first: frame as u32,
            ..Tag::plain(Kind::Partial)
        };
        for (frame, piece) in buffer[ranges[sent as usize].clone()].chunks(FRAME).enumerate() {
            mesh.send(next, tag(frame), Bytes::copy_from_slice(bytemuck::cast_slice(piece)));
        }
        for (frame, piece) in buffer[ranges[received as usize].clone()].chunks_mut(FRAME).enumerate() {
            let bytes = mesh.receive(before, tag(frame))?;
            if gathers {
                bytemuck::cast_slice_mut(piece).copy_from_slice(&bytes);
            } else {
                let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
                piece.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
        }
    }
    Ok(())
}

/// What nodes send to each other for W ranks on two nodes, as multiples of what nodes in a ring send.
fn two_nodes() {
    println!("\n32 lanes on two nodes of up to 16 ranks, bytes that leave each node against a ring of nodes:");
    let len = 1 << 22;
    for ranks in 2..=32_u32 {
        let map = [ranks.div_ceil(2), ranks / 2];
        let deal = deal(32, &map).expect("there are lanes enough");
        let slices = Slices::new(&deal, len);
        let mut sent = [0; 2];
        for rank in 0..ranks {
            let home = deal.node_of(rank);
            for op in route(&deal, slices, rank) {
                if let Op::Send { to, what } = op {
                    let abroad = to.iter().filter(|to| deal.node_of(**to) != home).count();
                    sent[home] += abroad * slices.range(what.slice).len();
                }
            }
        }
        // A ring of two nodes: each sends half of the sums and half of the totals.
        let [first, second] = sent.map(|sent| sent as f64 / len as f64);
        print!(
            "{map:?} {first:.2} {second:.2}{}",
            if ranks % 4 == 1 { "\n" } else { "   " }
        );
    }
    println!();
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}
