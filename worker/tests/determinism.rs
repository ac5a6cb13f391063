//! The same steps end with the same bytes, however many ranks and threads compute them, and wherever they were interrupted.

#![allow(clippy::unwrap_used, reason = "a test")]

mod training;

use medley_model::blip::Blip;
use medley_model::params::Vocabulary;
use medley_model::state::State;
use medley_protocol::checkpoint::Manifest;
use medley_protocol::spec::Spec;
use medley_worker::checkpoint::placed::APART;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use training::{corpus, describe_again, final_state, train};

const LANES: u32 = 8;

/// Dropout and augmentation are on: their streams must not depend on ranks either. `more` is put at the end.
fn write_spec(dir: &Path, kind: &str, steps: u32, more: &str) -> std::path::PathBuf {
    let spec = format!(
        r#"
name = "determinism"
kind = "{kind}"
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
{more}
"#,
        dir.display()
    );
    let path = dir.join("spec.toml");
    std::fs::write(&path, spec).unwrap();
    path
}

#[test]
fn ranks_and_threads_do_not_change_a_bit() {
    let dir = tempfile::tempdir().unwrap();
    corpus(dir.path());
    let spec = write_spec(dir.path(), "pretrain", 6, "");
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
    // As on a GPU: committed, compared, copied and written from there.
    for ranks in [1, 3] {
        let out = dir.path().join(format!("apart-{ranks}"));
        let mut apart = train(&spec, &out, ranks, 1);
        apart.env(APART, "1");
        assert_eq!(final_state(apart), expected, "{ranks} ranks with states apart");
    }
}

#[test]
fn a_killed_training_goes_on_to_the_same_bytes() {
    const STEPS: u32 = 100;
    let dir = tempfile::tempdir().unwrap();
    corpus(dir.path());
    let spec = write_spec(dir.path(), "pretrain", STEPS, "");
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

/// Settings of a filter that meets other texts of its images, in a lane, in other lanes and in the queue.
const FILTER: &str = r#"
[filter]
length = { by = "steps", count = 7 }
warmup_steps = 2
image_size = 16
augment = { by = "reference", min_crop = 0.5 }
same_image = "positive"
"#;

#[test]
fn several_texts_of_a_sample_train_as_copies_of_its_image_do() {
    let run = |texts: u64, apart: bool| {
        let dir = tempfile::tempdir().unwrap();
        corpus(dir.path());
        describe_again(dir.path(), texts, apart);
        let filter = format!("{FILTER}negatives = \"all\"\n");
        let (spec, out) = (write_spec(dir.path(), "bootstrap", 6, &filter), dir.path().join("out"));
        let pretrained = final_state(train(&spec, &out, 2, 1));
        let mut command = train(&spec, &out, 2, 1);
        command.args(["--stage", "filter"]);
        [pretrained, final_state(command)]
    };
    let together = run(2, false);
    assert_eq!(together, run(2, true));
    assert_ne!(together, run(1, false), "the second texts are read");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_filter_with_negatives_from_all_lanes_does_not_depend_on_ranks() {
    let dir = tempfile::tempdir().unwrap();
    corpus(dir.path());
    describe_again(dir.path(), 5, false);
    let filter = |negatives: &str| {
        let filter = format!("{FILTER}negatives = \"{negatives}\"\n");
        write_spec(dir.path(), "bootstrap", 3, &filter)
    };
    let pretrained = dir.path().join("pretrained");
    final_state(train(&filter("all"), &pretrained, 1, 1));
    let run = |negatives: &str, ranks: u32, threads: u32| {
        let out = dir.path().join(format!("out-{negatives}-{ranks}-{threads}"));
        copy(&pretrained, &out);
        let mut command = train(&filter(negatives), &out, ranks, threads);
        command.args(["--stage", "filter"]);
        final_state(command)
    };
    let expected = run("all", 1, 1);
    assert!(expected.starts_with("step 7 state "), "{expected}");
    for (ranks, threads) in [(2, 1), (3, 1), (8, 1), (2, 2)] {
        assert_eq!(
            run("all", ranks, threads),
            expected,
            "{ranks} ranks with {threads} threads each"
        );
    }
    assert_ne!(run("lane", 1, 1), expected, "negatives of other lanes are never drawn");
}

#[test]
fn each_fine_tuning_stage_trains_at_its_own_image_size() {
    let dir = tempfile::tempdir().unwrap();
    corpus(dir.path());
    let stage = |name: &str, side: u32| {
        format!("[{name}]\nlength = {{ by = \"steps\", count = 2 }}\nwarmup_steps = 0\nimage_size = {side}\n")
    };
    let path = write_spec(
        dir.path(),
        "bootstrap",
        3,
        &(stage("captioner", 48) + &stage("filter", 16)),
    );
    let out = dir.path().join("out");
    final_state(train(&path, &out, 2, 1));
    let spec: toml::Table = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let spec = Spec::from_document(&serde_json::to_value(spec).unwrap()).unwrap();
    let written = |file: &str| -> u64 {
        let manifest: Manifest = serde_json::from_slice(&std::fs::read(out.join(file)).unwrap()).unwrap();
        manifest.state_bytes
    };
    // Any vocabulary will do: only the position tables differ.
    let vocabulary = Vocabulary {
        size: 70,
        pad: 0,
        cls: 1,
        sep: 2,
        dec: 3,
        enc: 4,
    };
    let size = |side: u32| State::zeros(&Blip::new(&spec.model, side, vocabulary)).num_bytes() as u64;
    for (stage, side) in [("captioner", 48), ("filter", 16)] {
        let mut command = train(&path, &out, 2, 1);
        command.args(["--stage", stage]);
        final_state(command);
        let grown = written(&format!("{stage}-checkpoint.json")).wrapping_sub(written("checkpoint.json"));
        assert_eq!(grown, size(side).wrapping_sub(size(32)), "{stage}");
    }
}

#[test]
fn each_stage_cuts_texts_at_its_own_limit() {
    let dir = tempfile::tempdir().unwrap();
    corpus(dir.path());
    let captioner = |settings: &str| {
        let section = "[captioner]\nlength = { by = \"steps\", count = 2 }\nwarmup_steps = 0\n";
        write_spec(dir.path(), "bootstrap", 3, &format!("{section}{settings}\n"))
    };
    let pretrained = dir.path().join("pretrained");
    final_state(train(&captioner(""), &pretrained, 1, 1));
    let run = |settings: &str| {
        let out = dir.path().join("out");
        let _ = std::fs::remove_dir_all(&out);
        copy(&pretrained, &out);
        let mut command = train(&captioner(settings), &out, 1, 1);
        command.args(["--stage", "captioner"]);
        command
    };
    let whole = final_state(run(""));
    assert_eq!(final_state(run("[filter]\nmax_tokens = 5")), whole);
    assert_ne!(final_state(run("max_tokens = 5")), whole);
    // The words have more tokens than could be known before there was a vocabulary.
    let refused = run("max_tokens = 6\nprompt = \"a picture of \"").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
    assert!(!refused.status.success());
    assert!(said.contains("captioner.max_tokens is 6: no room for a text"), "{said}");
}

fn wait_for(file: &Path) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !file.exists() {
        assert!(Instant::now() < deadline, "{} never came", file.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}
