//! What a CUDA device computes, against the processor, and how fast.
//!
//! - `gpu info` describes the device.
//! - `gpu ops [KIND…]` runs every operation on both, or those of some kinds, with random inputs of many shapes.
//! - `gpu lane PRESET BATCH FORMAT [STEPS]` runs a lane of a step and its commit on both, several times.
//! - `gpu captions PRESET FORMAT` chooses tokens and makes captions on both.
//! - `gpu captions PRESET FORMAT bench` times captions of several batches, and a token's share of them.
//! - `gpu attention` times attention in the shapes of ViT-B and its texts.
//! - `gpu checkpoint PRESET` takes checkpoints in bf16 at the preset's batch, and tells what they cost the steps.
//! - `gpu bench PRESET BATCH FORMAT STEPS` times whole steps.
//! - `gpu profile PRESET BATCH FORMAT` tells how long each operation of a step takes on the device.
//!
//! The comparisons end with 1 if anything differs by more than rounding, or does not give the same bits twice.

mod attention_bench;
mod bench;
mod captions;
mod captions_bench;
mod checkpoint;
#[path = "../../benches/fixture/mod.rs"]
mod fixture;
mod lane;
mod ops;
mod overlap;
mod profile;

use medley_model::cuda::{Cuda, Format};
use medley_model::device::Device;
use std::process::ExitCode;
use std::sync::Arc;

/// Steps in which lanes are compared, if nothing is said.
const LANE_STEPS: usize = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cuda = match Cuda::open(0) {
        Ok(cuda) => cuda,
        Err(error) => {
            eprintln!("gpu: {error}");
            return ExitCode::FAILURE;
        }
    };
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["info"] => println!("{:#?}", cuda.describe()),
        ["ops", ref kinds @ ..] => return ops::check(&cuda, kinds),
        ["attention"] => attention_bench::measure(&cuda),
        ["checkpoint", preset] => return verdict(checkpoint::measure(preset, &on(cuda, "bf16"))),
        ["lane", preset, batch, format] => return lanes(preset, batch, LANE_STEPS, &on(cuda, format)),
        ["lane", preset, batch, format, steps] => return lanes(preset, batch, number(steps), &on(cuda, format)),
        ["captions", preset, format] => return verdict(captions::compare(preset, &on(cuda, format))),
        ["captions", preset, format, "bench"] => captions_bench::measure(preset, &on(cuda, format)),
        ["bench", preset, batch, format, steps] => {
            bench::measure(preset, number(batch), number(steps), on(cuda, format));
        }
        ["profile", preset, batch, format] => profile::measure(preset, number(batch), on(cuda, format)),
        _ => {
            eprintln!(
                "gpu: say info, ops [KIND…], attention, lane PRESET BATCH FORMAT [STEPS], captions PRESET FORMAT [bench], \
                 checkpoint PRESET, bench PRESET BATCH FORMAT STEPS or profile PRESET BATCH FORMAT"
            );
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn on(cuda: Arc<Cuda>, format: &str) -> Device {
    let format = match format {
        "fp32" => Format::F32,
        "bf16" => Format::Bf16,
        _ => panic!("{format} is neither fp32 nor bf16"),
    };
    Device::Cuda(cuda, format)
}

fn lanes(preset: &str, batch: &str, steps: usize, device: &Device) -> ExitCode {
    verdict(lane::compare(preset, number(batch), steps, device))
}

fn verdict(well: bool) -> ExitCode {
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn number(word: &str) -> usize {
    word.parse().unwrap_or_else(|_| panic!("{word} is not a number"))
}
