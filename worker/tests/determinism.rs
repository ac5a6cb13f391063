//! The same steps end with the same bytes, however many ranks and threads compute them, and wherever they were interrupted.

#![allow(clippy::unwrap_used, reason = "a test")]

use medley_data::synth::{SynthSpec, generate};
use medley_protocol::checkpoint::Manifest;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LANES: u32 = 8;

fn corpus(dir: &Path) {
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

/// Dropout and augmentation are on: their streams must not depend on ranks either.
fn write_spec(dir: &Path, steps: u32) -> std::path::PathBuf {
    let spec = format!(
        r#"
name = "determinism"
kind = "pretrain"
preset = "nano"
[data]
root = "{}"
[lanes]
count = {LANES}
batch = 2
[model.text]
dropout = 0.1
[model.vision]
drop_path = 0.1
[pretrain]
length = {{ by = "steps", count = {steps} }}
warmup_steps = 2
augment = {{ by = "reference", min_crop = 0.5, auto_contrast = "fixed" }}
[checkpoint]
every_steps = 5
"#,
        dir.display()
    );
    let path = dir.join("spec.toml");
    std::fs::write(&path, spec).unwrap();
    path
}

fn train(spec: &Path, out: &Path, ranks: u32, threads: u32) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_medley-worker"));
    command.arg("train").arg(spec).arg("--out").arg(out);
    command.args(["--ranks", &ranks.to_string(), "--threads", &threads.to_string()]);
    command
}

/// The line with the digest of the final state: parameters, moments, momentum encoder, queues and counters.
fn final_state(mut command: Command) -> String {
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

#[test]
fn ranks_and_threads_do_not_change_a_bit() {
    let dir = tempfile::tempdir().unwrap();
    corpus(dir.path());
    let spec = write_spec(dir.path(), 6);
    let run = |ranks: u32, threads: u32| {
        let out = dir.path().join(format!("out-{ranks}-{threads}"));
        final_state(train(&spec, &out, ranks, threads))
    };
    let expected = run(1, 1);
    assert!(expected.starts_with("step 6 state "), "{expected}");
    for (ranks, threads) in [(2, 1), (3, 1), (4, 1), (5, 1), (1, 2), (2, 2)] {
        assert_eq!(
            run(ranks, threads),
            expected,
            "{ranks} ranks with {threads} threads each"
        );
    }
}

#[test]
fn a_killed_training_goes_on_to_the_same_bytes() {
    const STEPS: u32 = 100;
    let dir = tempfile::tempdir().unwrap();
    corpus(dir.path());
    let spec = write_spec(dir.path(), STEPS);
    let undisturbed = final_state(train(&spec, &dir.path().join("undisturbed"), 2, 1));
    let out = dir.path().join("killed");
    let manifest = out.join("checkpoint.json");
    let mut killed = train(&spec, &out, 3, 1).stdout(Stdio::null()).spawn().unwrap();
    wait_for(&manifest);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    assert!(manifest.step < u64::from(STEPS), "killed too late to show anything");
    assert_eq!(final_state(train(&spec, &out, 2, 1)), undisturbed);
}

fn wait_for(file: &Path) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !file.exists() {
        assert!(Instant::now() < deadline, "{} never came", file.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}
