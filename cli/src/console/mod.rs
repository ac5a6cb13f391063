//! What people and scripts see: tables, JSON, words for numbers, and the screen that shows progress.

mod screen;
mod table;
mod text;
mod width;

pub(crate) use screen::Screen;
pub(crate) use table::{Align, Table};
pub(crate) use text::{ago, bytes, clock, duration, number, percent, seconds_between, wire_name};
pub(crate) use width::stdout_width;

use anyhow::Result;
use serde::Serialize;
use std::io::Write;

/// Prints to standard output.
///
/// # Errors
/// When it cannot be written, such as a pipe that was closed.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

/// Prints a value as JSON.
///
/// # Errors
/// As for [`print()`].
pub(crate) fn print_json<T: Serialize + ?Sized>(value: &T) -> Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// Whether an error is only that the reader of our output has gone (as in `medley jobs | head`).
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.downcast_ref::<std::io::Error>().is_some_and(closed)
}
