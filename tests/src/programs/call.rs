//! A program that is run to its end.

use super::program;
use std::ffi::OsStr;
use std::process::Command;

/// What a program has printed.
#[derive(Debug)]
pub struct Said {
    /// On standard output.
    pub output: String,
    /// On standard error.
    pub messages: String,
}

/// Runs a program with these arguments; what it prints.
///
/// # Panics
/// When it fails.
pub fn call<S: AsRef<OsStr>>(name: &str, arguments: &[S]) -> Said {
    let called = Command::new(program(name)).args(arguments).output();
    let called = called.unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
    let said = Said {
        output: String::from_utf8_lossy(&called.stdout).into_owned(),
        messages: String::from_utf8_lossy(&called.stderr).into_owned(),
    };
    assert!(called.status.success(), "{name} ended with {}: {said:?}", called.status);
    said
}
