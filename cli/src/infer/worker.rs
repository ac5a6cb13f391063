//! `medley-worker infer` as a child of the command.

use crate::cluster::end_with_parent;
use crate::console::Screen;
use anyhow::{Context as _, Result, bail};
use medley_protocol::inference::{Answer, Request};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

/// Longest wait for the next answer: a large model on a slow disk takes its time.
const PATIENCE: Duration = Duration::from_hours(1);
/// Longest wait for the end of a program that has closed its output.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// How much of what it says on standard error is kept, in bytes.
const MAX_WORDS: u64 = 64 << 10;
/// How its last words begin.
const ERROR: &str = "error: ";

/// Starts the program, asks it, and gives each answer to `hear`.
///
/// # Errors
/// When it cannot be started or fails, with its own words; and what `hear` returns.
pub(super) async fn run(
    program: &Path,
    request: &Request,
    screen: &Screen,
    mut hear: impl FnMut(Answer) -> Result<()>,
) -> Result<()> {
    let request = serde_json::to_vec(request)?;
    let mut command = Command::new(program);
    command.arg("infer").kill_on_drop(true);
    // Started from the thread that waits for it, which lives as long as the command.
    end_with_parent(command.as_std_mut());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if std::env::var_os("RUST_LOG").is_none() {
        command.env("RUST_LOG", "warn");
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
        bail!("{} was started without its pipes", program.display());
    };
    let words = tokio::spawn(words(stderr));
    // Fails only if the program has ended, and then its own words say why.
    let _ = stdin.write_all(&request).await;
    drop(stdin);
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = timeout(PATIENCE, lines.next_line())
        .await
        .with_context(|| format!("{} says nothing for an hour", program.display()))??
    {
        let answer = serde_json::from_str(&line);
        hear(answer.with_context(|| format!("{} says {line:?}: use programs of one build", program.display()))?)?;
    }
    let status = timeout(END_PATIENCE, child.wait())
        .await
        .with_context(|| format!("{} does not end", program.display()))??;
    let words = words.await?;
    let (warnings, error) = split(&words);
    if !warnings.is_empty() {
        screen.line(warnings);
    }
    match error {
        _ if status.success() => Ok(()),
        Some(error) => bail!("{error}"),
        None => bail!("{} ended with {status}", program.display()),
    }
}

/// What the program says on standard error; what is too long is heard and forgotten.
async fn words(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut words = Vec::new();
    // A pipe that breaks has said all it can.
    let _ = (&mut stderr).take(MAX_WORDS).read_to_end(&mut words).await;
    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&words).into_owned()
}

/// Warnings, and the error at the end.
fn split(words: &str) -> (&str, Option<&str>) {
    let words = words.trim_end();
    if let Some(error) = words.strip_prefix(ERROR) {
        return ("", Some(error));
    }
    match words.split_once(&format!("\n{ERROR}")) {
        Some((warnings, error)) => (warnings, Some(error)),
        None => (words, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_told_from_warnings() {
        assert_eq!(split("WARN a\nerror: b: c\n  d\n"), ("WARN a", Some("b: c\n  d")));
        assert_eq!(split("error: b\n"), ("", Some("b")));
        assert_eq!(split("WARN error: b\n"), ("WARN error: b", None));
    }
}
