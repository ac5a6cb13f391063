//! What people and scripts see: tables, JSON, words for numbers, and the screen that shows progress.

mod screen;
mod table;
mod text;
mod width;

pub(crate) use screen::Screen;
pub(crate) use table::{Align, Table};
pub(crate) use text::{ago, bytes, clock, duration, number, percent, seconds_between, shown, wire_name};
pub(crate) use width::stdout_width;

use anyhow::{Context as _, Result};
use medley_protocol::text::is_plain;
use serde::Serialize;
use std::io::Write;

/// Prints to standard output. What a terminal would obey is written out.
///
/// # Errors
/// When it cannot be written, such as a pipe that was closed.
pub(crate) fn print(text: &str) -> Result<()> {
    put(&mut std::io::stdout().lock(), &shown(text))
}

/// Prints to standard error; whoever has closed it, or has no room left, misses it.
pub(crate) fn complain(text: &str) {
    let _ = put(&mut std::io::stderr().lock(), &shown(text));
}

fn put(out: &mut impl Write, text: &str) -> Result<()> {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    write!(out, "{text}{end}")
        .and_then(|()| out.flush())
        .context("cannot write the output")
}

/// Prints a value as JSON.
///
/// # Errors
/// As for [`print()`].
pub(crate) fn print_json<T: Serialize + ?Sized>(value: &T) -> Result<()> {
    put(
        &mut std::io::stdout().lock(),
        &shown_in_json(serde_json::to_string_pretty(value)?),
    )
}

/// Prints JSON in one line to standard error, as [`complain`].
pub(crate) fn complain_json(value: &serde_json::Value) {
    let _ = put(&mut std::io::stderr().lock(), &shown_in_json(value.to_string()));
}

/// The same controls as in a text are written out, in JSON's way.
fn shown_in_json(json: String) -> String {
    let escaped = |c: char| match c {
        '\n' => c.to_string(),
        _ if is_plain(c.encode_utf8(&mut [0; 4])) => c.to_string(),
        _ => format!("\\u{:04x}", u32::from(c)),
    };
    if json.lines().all(is_plain) {
        json
    } else {
        json.chars().map(escaped).collect()
    }
}

/// Whether an error is only that the reader of our output has gone (as in `medley jobs | head`).
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.downcast_ref::<std::io::Error>().is_some_and(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &str = "a\u{1b}]0;OWNED\u{7}\rb\u{9b}31m\u{202e}\u{7f}";

    #[test]
    fn what_a_terminal_would_obey_is_written_out_and_lines_stay_lines() {
        let text = shown("one\ntwo\u{1b}[2J\n");
        assert_eq!(text, "one\ntwo\\u{1b}[2J\n");
        assert!(shown(ODD).lines().all(is_plain));
    }

    #[test]
    fn json_stays_json() {
        let printed = shown_in_json(serde_json::to_string_pretty(&[ODD, "plain"]).unwrap());
        assert!(printed.lines().all(is_plain), "{printed:?}");
        let read: Vec<String> = serde_json::from_str(&printed).unwrap();
        assert_eq!(read, [ODD, "plain"]);
    }

    #[test]
    fn output_that_cannot_be_written_is_an_error_and_a_reader_that_left_is_none() {
        let mut full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let error = put(&mut full, "x").unwrap_err();
        assert!(
            !is_closed_pipe(&error) && format!("{error:#}").contains("No space left"),
            "{error:#}"
        );
        let (reader, mut left) = std::io::pipe().unwrap();
        drop(reader);
        assert!(is_closed_pipe(&put(&mut left, "x").unwrap_err()));
    }
}
