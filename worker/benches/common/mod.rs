//! What the benches of the worker share: models by preset, meshes on loopback, medians.

// Not every bench uses everything.
#![allow(dead_code, reason = "shared between programs")]

use medley_model::blip::Blip;
use medley_model::params::Vocabulary;
use medley_protocol::ids::StageId;
use medley_protocol::spec::Spec;
use medley_worker::collective::tcp::mesh::Limits;
use medley_worker::collective::tcp::{Fence, Hello, Mesh, Timing};
use std::net::TcpListener;
use std::thread;

/// The arguments of the program, without those that cargo adds.
pub(crate) fn arguments() -> impl Iterator<Item = String> {
    std::env::args().skip(1).filter(|arg| !arg.starts_with("--"))
}

/// The model of a preset; `blocks` is the depth of both towers, the preset's own if it is none.
pub(crate) fn blip(preset: &str, blocks: Option<u32>) -> Blip {
    let mut document =
        serde_json::json!({"name": "bench", "kind": "pretrain", "preset": preset, "data": {"root": "/nowhere"}});
    if let Some(layers) = blocks {
        document["model"] = serde_json::json!({"vision": {"depth": layers}, "text": {"depth": layers}});
    }
    let spec = Spec::from_document(&document).unwrap_or_else(|problems| panic!("{problems}"));
    let size = spec.vocab.max_size;
    let vocab = Vocabulary {
        size,
        pad: 0,
        cls: size - 4,
        sep: size - 3,
        dec: size - 2,
        enc: size - 1,
    };
    Blip::new(&spec.model, spec.pretrain.image_size, vocab)
}

/// Runs `each` as every one of `ranks` ranks that are connected over loopback; what they return, by rank.
pub(crate) fn connected<T: Send>(ranks: u32, limits: Limits, each: impl Fn(Mesh) -> T + Sync) -> Vec<T> {
    let listeners: Vec<TcpListener> = (0..ranks)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
        .collect();
    let addresses: Vec<String> = listeners
        .iter()
        .map(|listener| listener.local_addr().expect("it listens").to_string())
        .collect();
    let stage = StageId::generate();
    let run = |rank: u32| {
        let hello = Hello {
            stage,
            generation: 1,
            secret: "bench".into(),
            memory: None,
            rank,
            world: ranks,
            fingerprint: String::new(),
        };
        let terms = (Timing::default(), limits);
        let listener = &listeners[rank as usize];
        each(Mesh::connect(listener, &hello, &addresses, terms, &Fence::default(), &|_| ()).expect("loopback connects"))
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..ranks).map(|rank| scope.spawn(move || run(rank))).collect();
        running
            .into_iter()
            .map(|rank| rank.join().expect("a rank failed"))
            .collect()
    })
}

/// The middle of some figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Seconds of CPU that this process has used.
pub(crate) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("the kernel says what a process used");
    let after_name = &stat[stat.rfind(')').expect("a name in brackets") + 2..];
    let ticks = after_name
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<f64>().expect("a number"));
    ticks.sum::<f64>() / 100.0
}
