//! What a CUDA device computes, against the CPU.
//!
//! `gpu info` describes the device. `gpu ops` runs every operation on both, with random inputs of many shapes, and ends with 1 if
//! any differs by more than rounding or does not give the same bits twice.

mod ops;

use medley_model::cuda::Cuda;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = std::env::args().nth(1).unwrap_or_default();
    let cuda = match Cuda::open(0) {
        Ok(cuda) => cuda,
        Err(error) => {
            eprintln!("gpu: {error}");
            return ExitCode::FAILURE;
        }
    };
    match command.as_str() {
        "info" => {
            println!("{:#?}", cuda.describe());
            ExitCode::SUCCESS
        }
        "ops" => ops::check(&cuda),
        _ => {
            eprintln!("gpu: say `gpu info` or `gpu ops`");
            ExitCode::FAILURE
        }
    }
}
