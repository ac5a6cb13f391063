//! A clock of the wall may jump; nothing that waits or decides may look at one.
//!
//! Deadlines are on monotonic clocks, and what several coordinators must agree on is measured by the database. So the only
//! uses of the wall clock in coordinator and agents are to say when a job was submitted, and to tell old files, whose times
//! are by it too.

use std::fs;
use std::path::{Path, PathBuf};

/// Ways to look at the wall clock.
const LOOKS: [&str; 3] = ["Utc::now(", "Local::now(", "SystemTime::now("];
const ALLOWED: [&str; 2] = ["coordinator/src/api/submission.rs", "coordinator/src/leftovers.rs"];

/// The sources below a folder, without tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

#[test]
fn nothing_that_decides_looks_at_the_wall_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace");
    let mut files = Vec::new();
    for folder in ["coordinator/src", "worker/src", "protocol/src"] {
        sources(&root.join(folder), &mut files);
    }
    let looks = |path: &PathBuf| {
        let text = fs::read_to_string(path).expect("a source is text");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        LOOKS.iter().any(|look| code.contains(look))
    };
    let mut found: Vec<PathBuf> = files.into_iter().filter(looks).collect();
    found.sort();
    assert_eq!(found, ALLOWED.map(|file| root.join(file)));
}
