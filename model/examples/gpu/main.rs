//! What a CUDA device computes, against the processor, and how fast.
//!
//! - `gpu info` describes the device.
//! - `gpu ops` runs every operation on both, with random inputs of many shapes.
//! - `gpu lane PRESET BATCH FORMAT` runs a lane of a step and its commit on both.
//! - `gpu attention` times attention in the shapes of ViT-B and its texts.
//! - `gpu bench PRESET BATCH FORMAT STEPS` times whole steps.
//!
//! The comparisons end with 1 if anything differs by more than rounding, or does not give the same bits twice.

mod attention_bench;
mod bench;
#[path = "../../benches/fixture/mod.rs"]
mod fixture;
mod lane;
mod ops;
mod overlap;

use medley_model::cuda::{Cuda, Format};
use medley_model::device::Device;
use std::process::ExitCode;
use std::sync::Arc;

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
        ["ops"] => return ops::check(&cuda),
        ["attention"] => attention_bench::measure(&cuda),
        ["lane", preset, batch, format] => return lanes(preset, batch, &on(cuda, format)),
        ["bench", preset, batch, format, steps] => {
            bench::measure(preset, number(batch), number(steps), on(cuda, format));
        }
        _ => {
            eprintln!("gpu: say info, ops, attention, lane PRESET BATCH FORMAT or bench PRESET BATCH FORMAT STEPS");
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

fn lanes(preset: &str, batch: &str, device: &Device) -> ExitCode {
    if lane::compare(preset, number(batch), device) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn number(word: &str) -> usize {
    word.parse().unwrap_or_else(|_| panic!("{word} is not a number"))
}
