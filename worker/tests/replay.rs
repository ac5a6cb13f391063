//! `medley-worker replay` on the goldens' own documents.
#![allow(clippy::unwrap_used, missing_docs)]

use medley_model::replay::{Batch, Config, document, step};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A document that the model's goldens were computed from.
fn golden(folder: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../model/tests/golden")
        .join(folder)
        .join(name)
}

fn replay(folder: &str, state: &Path, out: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_medley-worker"))
        .arg("replay")
        .args(["--config".into(), golden(folder, "config.json")])
        .args([Path::new("--state"), state])
        .args(["--batch".into(), golden(folder, "batch-0.safetensors")])
        .args(["--batch".into(), golden(folder, "batch-1.safetensors")])
        .args([Path::new("--out"), out])
        .args(["--threads", "2"])
        .output()
        .unwrap()
}

#[test]
fn the_command_writes_what_the_library_computes() {
    for (folder, losses) in [("small", "itc itm lm"), ("captioner", "lm"), ("filter", "itc itm")] {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("library"), dir.path().join("command"));
        std::fs::create_dir(&ours).unwrap();
        let output = replay(folder, &golden(folder, "state.safetensors"), &theirs);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let named: Vec<&str> = line
                .split(", ")
                .filter_map(|loss| loss.split(' ').rev().nth(1))
                .collect();
            assert_eq!(named.join(" "), losses, "{line}");
        }
        library(folder, &ours);
        let read = |path: &Path| std::fs::read(path).unwrap();
        for name in ["step-0.safetensors", "step-1.safetensors", "state.safetensors"] {
            assert!(read(&ours.join(name)) == read(&theirs.join(name)), "{folder}/{name}");
        }
    }
}

fn library(folder: &str, out: &Path) {
    let read = |name: &str| std::fs::read(golden(folder, name)).unwrap();
    let config = Config::read("config", std::str::from_utf8(&read("config.json")).unwrap()).unwrap();
    let blip = config.blip();
    let mut state = document::read("state", &read("state.safetensors"), &blip, config.objective).unwrap();
    for i in 0..2 {
        let batch = Batch::read("batch", &read(&format!("batch-{i}.safetensors")), &config).unwrap();
        let outcome = step(&blip, &config, &mut state, &batch).unwrap();
        outcome
            .write(&blip, &out.join(format!("step-{i}.safetensors")))
            .unwrap();
    }
    document::write(&state, &blip, config.objective, &out.join("state.safetensors")).unwrap();
}

#[test]
fn a_document_that_does_not_fit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = golden("small", "batch-0.safetensors");
    let output = replay("small", &wrong, dir.path());
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    for part in [
        "batch-0.safetensors:",
        "visual_encoder.cls_token: is missing",
        "image: is no tensor of",
    ] {
        assert!(said.contains(part), "{part} not in {said}");
    }
}
