//! Medley's side of `benches/run.sh`, which lets it and PyTorch work in turns.
//!
//! `versus PRESET BATCH THREADS [DROPOUT]` prints what the other side needs to know to do the same, as a line of JSON; then it reads
//! `step`, `greedy`, `nucleus`, `pairs` or `match` from its input, does that once, and prints seconds of wall and CPU time and what it did.

#![allow(missing_docs, reason = "a program")]

mod fixture;
mod program;

use fixture::Fixture;
use medley_model::generate::nucleus::{GREEDY, Sampling};
use medley_model::generate::{CaptionRequest, Search};
use program::{arguments, cpu_seconds};
use serde_json::{Value, json};
use std::time::Instant;

/// Tokens that every caption grows by: `[SEP]` may not come before.
const NEW_TOKENS: usize = 20;
/// Texts scored against each image: the web's and the captioner's.
const TEXTS_AN_IMAGE: usize = 2;

fn main() {
    let arguments: Vec<String> = arguments().collect();
    let [preset, batch, threads, dropout @ ..] = &arguments[..] else {
        panic!("versus PRESET BATCH THREADS [DROPOUT]")
    };
    let dropout = dropout.first().map(|rate| rate.parse().expect("DROPOUT is a number"));
    let [batch, threads] = [batch, threads].map(|arg| arg.parse().expect("BATCH and THREADS are numbers"));
    let mut fixture = Fixture::new(preset, Some(batch), threads, dropout);
    println!("{}", describe(&fixture));
    for command in std::io::stdin().lines() {
        let command = command.expect("standard input is text");
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        let done = run(&mut fixture, &command);
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
        "new_tokens": NEW_TOKENS.min(text.positions as usize - 1),
        "texts_an_image": TEXTS_AN_IMAGE,
        "texts": fixture.samples.texts,
    })
}

fn run(fixture: &mut Fixture, command: &str) -> Value {
    match command {
        "step" => json!(fixture.step().losses),
        "greedy" => caption(fixture, GREEDY),
        "nucleus" => caption(fixture, Sampling { top_p: 0.9, ..GREEDY }),
        "pairs" | "match" => matching(fixture),
        _ => panic!("unknown command {command}: step, greedy, nucleus, pairs or match"),
    }
}

fn caption(fixture: &mut Fixture, sampling: Sampling) -> Value {
    let tokens = 1 + NEW_TOKENS.min(fixture.blip.model.text.positions as usize - 1);
    let request = CaptionRequest {
        search: Search::Sample(sampling),
        count: 1,
        prompt: &[],
        min_tokens: tokens,
        max_tokens: tokens,
        seed: 1,
    };
    let samples: Vec<u64> = (0..fixture.samples.texts.len() as u64).collect();
    let Fixture {
        blip,
        state,
        samples: images,
        pool,
        ..
    } = fixture;
    let captions = blip.captions(state.params(), &images.pixels, &samples, &request, pool);
    json!(captions.iter().map(|caption| caption.tokens.len()).collect::<Vec<_>>())
}

fn matching(fixture: &mut Fixture) -> Value {
    let b = fixture.samples.texts.len() as u32;
    let pairs: Vec<(u32, u32)> = (0..b * TEXTS_AN_IMAGE as u32)
        .map(|pair| (pair / TEXTS_AN_IMAGE as u32, pair % b))
        .collect();
    let Fixture {
        blip,
        state,
        samples,
        pool,
        ..
    } = fixture;
    json!(
        blip.match_logits(
            state.params(),
            &samples.pixels,
            b as usize,
            &samples.texts,
            &pairs,
            pool
        )
        .len()
    )
}
