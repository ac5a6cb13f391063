//! Feeding a rank that joins, against a raw copy of as many bytes over loopback.
//!
//! `cargo bench -p medley-worker --bench handover -- [PRESET] [SOURCES] [ROUNDS] [BLOCKS]` (defaults: `vit-b`, 1, 5, the
//! preset's depth). The handover is the product's own, between real states. The raw copy has as many connections as there are
//! sources, each with a thread that writes its share of the state from memory and one that reads it into memory. They take
//! turns; the ratio is the median of the ratios of neighbouring turns. The joiner's memory is claimed before the first turn,
//! as a rank does before it listens.

#![allow(missing_docs, reason = "a program")]

mod common;

use common::{arguments, blip, connected, cpu_seconds, median};
use medley_model::blip::Blip;
use medley_model::state::State;
use medley_worker::checkpoint::placed::Placed;
use medley_worker::checkpoint::shared::Shared;
use medley_worker::collective::tcp::Mesh;
use medley_worker::rank::beginning::Path;
use medley_worker::stage::train::handover::{LIMITS, feed};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of one read or write of the raw copy.
const BLOCK: usize = 1 << 20;

fn main() {
    medley_model::ops::keep_freed_memory();
    let arguments: Vec<String> = arguments().collect();
    let number = |at: usize| -> Option<u32> { arguments.get(at).map(|arg| arg.parse().expect("a number")) };
    let preset = arguments.first().map_or("vit-b", String::as_str);
    let (sources, rounds) = (number(1).unwrap_or(1), number(2).unwrap_or(5));
    let blip = blip(preset, number(3));
    let bytes = State::num_bytes_of(&blip) as f64;
    let turns = run(&blip, sources, rounds);
    let pick = |of: fn(&Turn) -> f64| median(turns.iter().map(of).collect());
    println!(
        "{preset}, {:.2} GiB, {sources} sources, {rounds} rounds: fed in {:.0} ms ({:.2} GB/s, {:.2} s of CPU), raw copy {:.0} ms ({:.2} GB/s, {:.2} s of CPU), ratio {:.2} of wall time, {:.2} of CPU time",
        bytes / f64::from(1 << 30),
        pick(|turn| turn.fed.wall) * 1e3,
        bytes / 1e9 / pick(|turn| turn.fed.wall),
        pick(|turn| turn.fed.cpu),
        pick(|turn| turn.raw.wall) * 1e3,
        bytes / 1e9 / pick(|turn| turn.raw.wall),
        pick(|turn| turn.raw.cpu),
        pick(|turn| turn.fed.wall / turn.raw.wall),
        pick(|turn| turn.fed.cpu / turn.raw.cpu),
    );
    for turn in turns {
        println!("  fed {:.0} ms, raw {:.0} ms", turn.fed.wall * 1e3, turn.raw.wall * 1e3);
    }
}

struct Cost {
    wall: f64,
    cpu: f64,
}

struct Turn {
    fed: Cost,
    raw: Cost,
}

/// Ranks below `sources` hold the state, the last one joins.
fn run(blip: &Blip, sources: u32, rounds: u32) -> Vec<Turn> {
    let mut paths = vec![Path::Ready; sources as usize];
    paths.push(Path::Join);
    let nodes: Vec<Vec<u32>> = (0..=sources).map(|rank| vec![rank]).collect();
    let barrier = Barrier::new(sources as usize + 1);
    let wires: Vec<Mutex<(TcpStream, TcpStream)>> = (0..sources).map(|_| Mutex::new(wire())).collect();
    let each = |mesh: Mesh| {
        let joins = mesh.rank() == sources;
        let mut state = State::zeros(blip);
        state.claim_memory();
        let mut state = Shared::from(state);
        if !joins {
            here(state.change()).params.fill(mesh.rank() as f32);
        }
        let mut turns = Vec::new();
        for _ in 0..rounds {
            let fed = timed(&barrier, || {
                feed(&mut state, &paths, &nodes, (&mesh, None)).expect("peers live");
            });
            let raw = timed(&barrier, || {
                if joins {
                    read_all(here(state.change()), &wires);
                } else {
                    write_share(state.here().expect("in the process"), mesh.rank(), &wires);
                }
            });
            turns.push(Turn { fed, raw });
        }
        let _ = mesh.leave(Duration::from_mins(1));
        turns
    };
    connected(sources + 1, LIMITS, each).pop().unwrap_or_default()
}

fn here(state: &mut Placed) -> &mut State {
    state.here_mut().expect("it lies in the memory of the process")
}

/// What it costs until everyone is done.
fn timed(barrier: &Barrier, act: impl FnOnce()) -> Cost {
    barrier.wait();
    let (began, cpu) = (Instant::now(), cpu_seconds());
    act();
    barrier.wait();
    Cost {
        wall: began.elapsed().as_secs_f64(),
        cpu: cpu_seconds() - cpu,
    }
}

fn wire() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let near = TcpStream::connect(listener.local_addr().expect("it listens")).expect("loopback connects");
    let (far, _) = listener.accept().expect("loopback connects");
    for end in [&near, &far] {
        end.set_nodelay(true).expect("an open socket");
    }
    (near, far)
}

/// The blocks of the raw copy that travel over one of so many wires.
fn share(state: &State, wire: usize, wires: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    state.pieces(BLOCK).into_iter().skip(wire).step_by(wires)
}

fn write_share(state: &State, rank: u32, wires: &[Mutex<(TcpStream, TcpStream)>]) {
    let near = wires[rank as usize]
        .lock()
        .expect("nobody failed")
        .0
        .try_clone()
        .expect("an open socket");
    for range in share(state, rank as usize, wires.len()) {
        match state.together(range.clone()) {
            Some(block) => (&near).write_all(block),
            None => (&near).write_all(&state.copy_bytes(range)),
        }
        .expect("the other end reads");
    }
}

/// Reads what comes over all wires into the state's sections, which lie there as the raw bytes that they are.
fn read_all(state: &mut State, wires: &[Mutex<(TcpStream, TcpStream)>]) {
    let shares: Vec<Vec<usize>> = (0..wires.len())
        .map(|wire| share(state, wire, wires.len()).map(|range| range.len()).collect())
        .collect();
    // Each wire has a part of its own of the memory of the state.
    let memory = [&mut state.params, &mut state.m, &mut state.v];
    thread::scope(|scope| {
        for ((lens, wire), part) in shares.into_iter().zip(wires).zip(memory) {
            scope.spawn(move || {
                let far = wire
                    .lock()
                    .expect("nobody failed")
                    .1
                    .try_clone()
                    .expect("an open socket");
                let part = part.as_bytes_mut();
                let mut at = 0;
                for len in lens {
                    // From the beginning again where the part ends.
                    if at + len > part.len() {
                        at = 0;
                    }
                    (&far)
                        .read_exact(&mut part[at..at + len])
                        .expect("the other end writes");
                    at += len;
                }
            });
        }
    });
}
