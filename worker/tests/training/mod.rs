//! A small generated corpus, and `medley-worker train` on it.

#![allow(clippy::unwrap_used, reason = "a test")]

use medley_data::random::Key;
use medley_data::synth::{SynthSpec, generate, read_truth};
use std::path::Path;
use std::process::{Command, Stdio};

/// Draws the corpus: 24 images in the human set, of which 16 are in the first shard.
pub(crate) fn corpus(dir: &Path) {
    let spec = SynthSpec {
        seed: 1,
        human: 24,
        web: 24,
        test: 4,
        shard: 16,
        other: 0.2,
        half_true: 0.2,
        boilerplate: 0.1,
    };
    generate(&spec, dir, &mut |_, _| {}).unwrap();
}

/// A training, which may be given more arguments.
pub(crate) fn train(spec: &Path, out: &Path, ranks: u32, threads: u32) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_medley-worker"));
    command.arg("train").arg(spec).arg("--out").arg(out);
    command.args(["--ranks", &ranks.to_string(), "--threads", &threads.to_string()]);
    command
}

/// The line with the digest of the final state: parameters, moments, momentum encoder, queues and counters.
pub(crate) fn final_state(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let last = text.lines().find(|line| line.starts_with("step "));
    last.unwrap_or_else(|| panic!("no digest in: {text}")).to_owned()
}

/// Gives each image of the human set's first shard so many texts; with `apart`, each beside a copy of the image as a sample
/// of its own.
pub(crate) fn describe_again(dir: &Path, texts: u64, apart: bool) {
    let truth = read_truth(dir, "human").unwrap();
    let path = dir.join("human/shard-000000.tar");
    let file = std::fs::File::open(&path).unwrap();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for member in medley_data::shards::members(&path).unwrap().members {
        let bytes = medley_data::shards::read(&file, member.extent).unwrap();
        files.push((format!("{}.{}", member.key, member.extension), bytes.clone()));
        if member.extension != "jpg" {
            continue;
        }
        let scene = truth.iter().find(|truth| truth.key == member.key).unwrap().scene;
        for number in 1..texts {
            let text = scene.describe(Key::new(number)).into_bytes();
            if apart {
                files.push((format!("{}-{number}.jpg", member.key), bytes.clone()));
                files.push((format!("{}-{number}.txt", member.key), text));
            } else {
                files.push((format!("{}.{number}.txt", member.key), text));
            }
        }
    }
    medley_data::shards::write(&path, files.iter().map(|(name, bytes)| (name.clone(), &bytes[..]))).unwrap();
}
