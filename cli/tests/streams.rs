//! The command where nobody can read what it says.

use std::fs::File;
use std::process::Command;

#[test]
fn a_command_ends_with_its_own_code_where_it_cannot_say_why() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_medley"))
        .args(["submit", "/nowhere.toml"])
        .stderr(full)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}
