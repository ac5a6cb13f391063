//! Standard streams that take nothing, as on a full disk: nothing ends of them that has other work to do, and what ends says why.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Takes no byte.
fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

fn worker() -> Command {
    Command::new(env!("CARGO_BIN_EXE_medley-worker"))
}

#[test]
fn a_rank_that_cannot_log_still_tells_its_agent_why_it_fails() {
    let mut rank = worker()
        .arg("rank")
        .env("RUST_LOG", "info")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(full())
        .spawn()
        .unwrap();
    // Not the order that must come first.
    let mut orders = rank.stdin.take().unwrap();
    orders.write_all(b"{\"to\":\"lease\",\"lease\":null}\n").unwrap();
    let mut said = String::new();
    rank.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("the first order must be to start"), "{said:?}");
    assert_eq!(rank.wait().unwrap().code(), Some(1));
}

#[test]
fn a_command_ends_with_its_own_code_where_it_cannot_say_why() {
    let status = worker()
        .args(["agent", "--coordinator", "http://127.0.0.1:1", "--name", "n1"])
        .args(["--token-file", "/nowhere"])
        .stderr(full())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn output_that_cannot_be_written_is_said() {
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/weights/files/vit.pth");
    let show = || {
        let mut command = worker();
        command.args(["weights", "show"]).arg(&weights);
        command
    };
    let output = show().stdout(full()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write to standard output"), "{said}");
    let (reader, left) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(show().stdout(left).status().unwrap().code(), Some(0));
}
