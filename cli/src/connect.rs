//! Finding the coordinator and its token.

use crate::failure::Refusal;
use anyhow::{Context, Result, anyhow};
use medley_protocol::client::{Client, Error};
use medley_protocol::error::Code;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The state directory when nothing is said.
pub(crate) const DEFAULT_STATE_DIR: &str = ".medley";

/// Where the coordinator is, as given by the user.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Connection {
    /// URL of the coordinator, such as http://127.0.0.1:7700 [default: the one in the state directory].
    #[arg(long, global = true, env = "MEDLEY_URL", help_heading = "Coordinator")]
    pub(crate) url: Option<String>,
    /// File that holds a token, one line [default: tokens/admin in the state directory].
    #[arg(long, global = true, env = "MEDLEY_TOKEN_FILE", help_heading = "Coordinator")]
    pub(crate) token_file: Option<PathBuf>,
    /// State directory of a coordinator on this machine [default: .medley].
    #[arg(long, global = true, env = "MEDLEY_STATE_DIR", help_heading = "Coordinator")]
    pub(crate) state_dir: Option<PathBuf>,
}

impl Connection {
    /// A client for the coordinator.
    ///
    /// # Errors
    /// Names the file that is missing and the flag that says where to look instead.
    pub(crate) fn client(&self) -> Result<Client> {
        let state_dir = self.state_dir.as_deref().unwrap_or(Path::new(DEFAULT_STATE_DIR));
        let url = match &self.url {
            Some(url) => url.clone(),
            None => line_of(&state_dir.join("coordinator.url"))
                .context("no coordinator known here: start one with `medley up`, or give --url or --state-dir")?,
        };
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(anyhow!("--url {url}: must begin with http:// or https://"));
        }
        let token_file = self
            .token_file
            .clone()
            .unwrap_or_else(|| state_dir.join("tokens/admin"));
        let token = line_of(&token_file).context("no token: give --token-file, or the coordinator's --state-dir")?;
        Ok(Client::new(&url, &token))
    }

    /// The flags that lead another call of the command to the same coordinator, with a leading space; empty if it finds it anyway.
    pub(crate) fn flags(&self) -> String {
        let mut flags = String::new();
        if let Some(url) = &self.url {
            let _ = write!(flags, " --url {url}");
        }
        for (flag, path) in [("--token-file", &self.token_file), ("--state-dir", &self.state_dir)] {
            if let Some(path) = path {
                let _ = write!(flags, " {flag} {}", path.display());
            }
        }
        flags
    }
}

/// The first line of a file.
pub(crate) fn line_of(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() {
        return Err(anyhow!("{} is empty", path.display()));
    }
    Ok(line.to_owned())
}

/// A failed call, in words that say what to do.
pub(crate) fn explain(error: Error) -> anyhow::Error {
    match error {
        Error::Unreachable { url, source } if source.is_decode() => anyhow!(
            "the coordinator at {url} gave an answer that this command cannot read ({}): use the same version of both",
            root_cause(&source)
        ),
        Error::Unreachable { url, source } => anyhow!(
            "no answer from the coordinator at {url} ({}): start it with `medley up`, or give --url",
            root_cause(&source)
        ),
        Error::Refused(problem) => {
            let is_token = matches!(problem.code, Code::Unauthorized | Code::Forbidden);
            let advice = is_token.then_some("give --token-file, a token with the right role");
            Refusal { problem, advice }.into()
        }
    }
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_dir(dir: &Path) -> Connection {
        Connection {
            state_dir: Some(dir.to_owned()),
            ..Connection::default()
        }
    }

    #[test]
    fn a_state_directory_gives_both_url_and_token() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tokens")).unwrap();
        std::fs::write(dir.path().join("tokens/admin"), "secret\n").unwrap();
        std::fs::write(dir.path().join("coordinator.url"), "http://127.0.0.1:1\n").unwrap();
        assert!(in_dir(dir.path()).client().is_ok());
    }

    #[test]
    fn a_missing_coordinator_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = format!("{:#}", in_dir(dir.path()).client().err().unwrap());
        assert!(
            error.contains("medley up") && error.contains("coordinator.url"),
            "{error}"
        );
    }

    #[test]
    fn an_empty_token_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "\n").unwrap();
        let connection = Connection {
            url: Some("http://127.0.0.1:1".into()),
            token_file: Some(token),
            state_dir: None,
        };
        let error = format!("{:#}", connection.client().err().unwrap());
        assert!(
            error.contains("token is empty") && error.contains("--token-file"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_absent_coordinator_is_one_line_that_says_what_to_do() {
        let client = Client::new("http://127.0.0.1:1", "x");
        let error = client.get::<serde_json::Value>("/jobs").await.unwrap_err();
        let text = format!("{:#}", explain(error));
        assert!(
            text.contains("refused") && text.contains("medley up") && !text.contains('\n'),
            "{text}"
        );
    }
}
