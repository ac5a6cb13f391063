//! Writes a generated corpus, for what trains without the demo: `synth FOLDER HUMAN WEB TEST`, so many images of each set.

use medley_data::synth::{SynthSpec, generate};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let counts: Option<Vec<u32>> = arguments.iter().skip(1).map(|word| word.parse().ok()).collect();
    let (Some(folder), Some([human, web, test])) = (arguments.first(), counts.as_deref()) else {
        eprintln!("synth: say FOLDER HUMAN WEB TEST");
        return ExitCode::FAILURE;
    };
    let spec = SynthSpec {
        seed: 42,
        human: *human,
        web: *web,
        test: *test,
        shard: 250,
        other: 0.25,
        half_true: 0.2,
        boilerplate: 0.1,
    };
    match generate(&spec, Path::new(folder), &mut |_, _| {}) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("synth: {folder}: {error}");
            ExitCode::FAILURE
        }
    }
}
