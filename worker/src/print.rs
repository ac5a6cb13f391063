//! Standard output of the commands for people.

use anyhow::Context as _;
use medley_protocol::text::plain;
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, Write as _};

/// Prints lines. What a terminal would obey, such as in the name of a tensor, is written out.
///
/// # Errors
/// When it cannot be written, as on a full disk.
pub fn lines(text: impl Display) -> anyhow::Result<()> {
    text.to_string()
        .lines()
        .try_for_each(|line| put(&plain(line, usize::MAX)))
}

/// Prints a value as a line of JSON.
///
/// # Errors
/// As for [`lines`].
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    put(&serde_json::to_string(value)?)
}

fn put(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let printed = writeln!(out, "{line}").and_then(|()| out.flush());
    printed.context("cannot write to standard output")
}

/// Whether an error is only that the reader of our output has gone, as in `medley-worker weights show FILE | head`.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let is_closed = |e: &std::io::Error| e.kind() == ErrorKind::BrokenPipe;
    error.downcast_ref::<std::io::Error>().is_some_and(is_closed)
}
