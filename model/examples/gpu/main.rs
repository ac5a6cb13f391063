//! What a CUDA device computes, against the processor, and how fast.
//!
//! - `gpu info` describes the device.
//! - `gpu ops` runs every operation on both, with random inputs of many shapes.
//! - `gpu lane PRESET BATCH` runs a lane of a step and its commit on both.
//! - `gpu bench PRESET BATCH STEPS` times whole steps.
//!
//! The comparisons end with 1 if anything differs by more than rounding, or does not give the same bits twice.

mod bench;
#[path = "../../benches/fixture/mod.rs"]
mod fixture;
mod lane;
mod ops;

use medley_model::cuda::Cuda;
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
        ["lane", preset, batch] => return lanes(preset, batch, &cuda),
        ["bench", preset, batch, steps] => bench::measure(preset, number(batch), number(steps), Device::Cuda(cuda)),
        _ => {
            eprintln!("gpu: say info, ops, lane PRESET BATCH or bench PRESET BATCH STEPS");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn lanes(preset: &str, batch: &str, cuda: &Arc<Cuda>) -> ExitCode {
    if lane::compare(preset, number(batch), &Device::Cuda(cuda.clone())) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn number(word: &str) -> usize {
    word.parse().unwrap_or_else(|_| panic!("{word} is not a number"))
}
