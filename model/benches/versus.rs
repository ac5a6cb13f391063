//! Medley's side of `benches/run.sh`, which lets it and PyTorch work in turns.
//!
//! `versus PRESET BATCH THREADS [DROPOUT]` prints what the other side needs to know to do the same, as a line of JSON; then it reads
//! `step`, `greedy`, `nucleus`, `pairs` or `match` from its input, does that once, and prints seconds of wall and CPU time and what it did.

#![allow(missing_docs, reason = "a program")]

mod fixture;
mod program;
mod reading;

use fixture::Fixture;
use medley_model::generate::Reader;
use medley_model::generate::nucleus::{GREEDY, Sampling};
use program::{arguments, cpu_seconds};
use serde_json::{Value, json};
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = arguments().collect();
    let [preset, batch, threads, dropout @ ..] = &arguments[..] else {
        panic!("versus PRESET BATCH THREADS [DROPOUT]")
    };
    let dropout = dropout.first().map(|rate| rate.parse().expect("DROPOUT is a number"));
    let [batch, threads] = [batch, threads].map(|arg| arg.parse().expect("BATCH and THREADS are numbers"));
    let mut fixture = Fixture::new(preset, Some(batch), threads, dropout);
    let mut reader = None;
    println!("{}", describe(&fixture));
    for command in std::io::stdin().lines() {
        let command = command.expect("standard input is text");
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        let done = run(&mut fixture, &mut reader, &command);
        let seconds = json!({"wall": wall.elapsed().as_secs_f64(), "cpu": cpu_seconds() - cpu, "done": done});
        println!("{seconds}");
    }
}

fn describe(fixture: &Fixture) -> Value {
    let (model, vocab) = (&fixture.blip.model, fixture.blip.vocab);
    let (vision, text) = (&model.vision, &model.text);
    json!({
        "config": {
            "vision": {"image_size": fixture.blip.image_size, "patch": vision.patch, "width": vision.width,
                       "depth": vision.depth, "heads": vision.heads, "mlp": vision.mlp},
            "text": {"width": text.width, "depth": text.depth, "heads": text.heads, "ffn": text.ffn,
                     "positions": text.positions},
            "vocab": {"size": vocab.size, "pad": vocab.pad, "cls": vocab.cls, "sep": vocab.sep, "dec": vocab.dec, "enc": vocab.enc},
            "embed_dim": model.embed_dim,
            "queue": model.queue,
        },
        "dropout": text.dropout,
        "max_tokens": fixture.spec.max_tokens(&fixture.spec.pretrain),
        "new_tokens": reading::new_tokens(model),
        "texts_an_image": reading::TEXTS_AN_IMAGE,
        "texts": fixture.samples.texts,
    })
}

/// Does what is asked for. The state for steps, and the reader for the rest, are made when they are first needed.
fn run(fixture: &mut Fixture, reader: &mut Option<Reader>, command: &str) -> Value {
    if command == "step" {
        let losses = fixture.step().losses;
        // The commit is a part of the step, and the other side's turn comes next.
        fixture.pool.check().unwrap_or_else(|error| panic!("{error}"));
        return json!(losses);
    }
    let (reader, samples) = (reader.get_or_insert_with(|| reading::reader(fixture)), &fixture.samples);
    let mut tokens = |sampling| {
        let captions = reading::captions(reader, samples, sampling);
        captions.iter().map(|caption| caption.tokens.len()).collect::<Vec<_>>()
    };
    match command {
        "greedy" => json!(tokens(GREEDY)),
        "nucleus" => json!(tokens(Sampling { top_p: 0.9, ..GREEDY })),
        "pairs" | "match" => json!(reading::matching(reader, samples).len()),
        _ => panic!("unknown command {command}: step, greedy, nucleus, pairs or match"),
    }
}
