//! `medley submit`: from a file to a job.

mod dry_run;

use crate::Ending;
use crate::connect::{Connection, explain};
use crate::console::{Screen, print, print_json};
use crate::failure::Refusal;
use crate::follow::watch;
use crate::signals::Signals;
use anyhow::{Context, Result, anyhow, bail};
use medley_protocol::client::Client;
use medley_protocol::ids::JobId;
use medley_protocol::rest::JobDetail;
use medley_protocol::spec::Spec;
use medley_protocol::stage::JobState;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pauses between tries while the coordinator does not answer; the key makes them harmless.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

const EXAMPLE: &str = "\
A spec is laid over its preset, so it names only what differs:

  name = \"shapes\"
  kind = \"bootstrap\"           # or \"pretrain\"
  preset = \"tiny\"              # nano, tiny, vit-b or vit-l
  [data]
  root = \"data\"                # holds human/, web/ and test/ with webdataset .tar shards
  [pretrain.length]
  by = \"steps\"
  count = 500

A relative data.root (or vocab.file) is taken from the folder of the spec. Try a spec with --check, which prints it
completed and submits nothing.";

/// Arguments of `medley submit`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The spec: TOML, or JSON if the name ends in .json; `-` reads standard input.
    spec: PathBuf,
    /// Follow the job to its end; the exit code is 0 only if it succeeded.
    #[arg(long, short)]
    watch: bool,
    /// Complete and check the spec, print it and submit nothing.
    #[arg(long, conflicts_with = "watch")]
    check: bool,
    /// Say which ranks the job would get now and how fast they are, and submit nothing.
    #[arg(long, conflicts_with_all = ["watch", "check"])]
    dry_run: bool,
    /// Write down which samples every step reads; `medley ledger` checks it.
    #[arg(long)]
    ledger: bool,
    /// Submitting again with the same key gives the same job instead of another one.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

/// Runs the command.
///
/// # Errors
/// With every wrong field of the spec on a line of its own.
pub(crate) async fn run(args: Args, json: bool) -> Result<Ending> {
    let mut document = read(&args.spec)?;
    if args.ledger {
        document["ledger"] = Value::Bool(true);
    }
    if args.check {
        let spec = Spec::from_document(&document).map_err(|problems| Refusal {
            problem: problems.into(),
            advice: None,
        })?;
        print_json(&spec)?;
        return Ok(Ending::Success);
    }
    let client = args.connection.client()?;
    if args.dry_run {
        dry_run::run(&client, &document, json).await?;
        return Ok(Ending::Success);
    }
    let key = args.idempotency_key.unwrap_or_else(fresh_key);
    let job = submit(&client, &document, &key).await?;
    if !args.watch {
        return announce(&job, &args.connection, json);
    }
    let screen = Screen::stderr();
    screen.line(&format!("job {} ({})", job.job.id, job.job.name));
    follow(&client, job.job.id, &screen, json, &args.connection).await
}

fn announce(job: &JobDetail, connection: &Connection, json: bool) -> Result<Ending> {
    if json {
        print_json(job)?;
    } else {
        let flags = connection.flags();
        print(&format!(
            "{}\nfollow it with: medley jobs watch {}{flags}",
            job.job.id, job.job.id
        ))?;
    }
    Ok(Ending::Success)
}

/// Follows a job to its end, or until a signal.
///
/// # Errors
/// As for [`watch()`].
pub(crate) async fn follow(
    client: &Client,
    job: JobId,
    screen: &Screen,
    json: bool,
    connection: &Connection,
) -> Result<Ending> {
    let mut signals = Signals::listen()?;
    let watched = tokio::select! {
        watched = watch(client, job, screen) => watched?,
        () = signals.next() => {
            let flags = connection.flags();
            screen.line(&format!("the job goes on; follow it with: medley jobs watch {job}{flags}"));
            return Ok(Ending::Interrupted);
        }
    };
    screen.line(&watched.summary());
    if watched.job.job.state == JobState::Failed {
        let flags = connection.flags();
        screen.line(&format!(
            "once that is put right, the job goes on where it failed with: medley jobs retry {job}{flags}"
        ));
    }
    if json {
        print_json(&watched.job)?;
    }
    Ok(if watched.succeeded() {
        Ending::Success
    } else {
        Ending::JobFailed
    })
}

/// A new idempotency key.
pub(crate) fn fresh_key() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Submits a document, trying again while the coordinator does not answer.
///
/// # Errors
/// The refusal, with every wrong field on a line of its own.
pub(crate) async fn submit(client: &Client, document: &Value, key: &str) -> Result<JobDetail> {
    let mut pauses = PAUSES.iter();
    loop {
        match client.submit(document, key).await {
            Ok(job) => return Ok(job),
            Err(error) => match pauses.next().filter(|_| error.is_transient()) {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return Err(explain(error)),
            },
        }
    }
}

fn read(path: &Path) -> Result<Value> {
    let (text, folder) = if path == Path::new("-") {
        let text = std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?;
        (text, PathBuf::from("."))
    } else {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        (text, folder.to_owned())
    };
    let is_json =
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) || text.trim_start().starts_with('{');
    let mut document = if is_json {
        serde_json::from_str(&text).map_err(|error| anyhow!("{}: {error}", path.display()))?
    } else {
        toml::from_str(&text).map_err(|error| explain_toml(path, &text, &error))?
    };
    for (section, field) in [("data", "root"), ("vocab", "file")] {
        make_absolute(&mut document, section, field, &folder)?;
    }
    Ok(document)
}

fn explain_toml(path: &Path, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let message = error.message().replace('\n', "; ");
    anyhow!("{}:{line}:{column}: {message}", path.display())
}

fn make_absolute(document: &mut Value, section: &str, field: &str, folder: &Path) -> Result<()> {
    let Some(value) = document.get_mut(section).and_then(|section| section.get_mut(field)) else {
        return Ok(());
    };
    let Some(given) = value.as_str().filter(|given| !given.is_empty()) else {
        return Ok(());
    };
    let absolute = std::path::absolute(folder.join(given))?;
    let Some(text) = absolute.to_str() else {
        bail!("{section}.{field}: {} is not UTF-8", absolute.display());
    };
    // `a/../b` is left to the file system, `.` is dropped.
    *value = Value::String(text.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Coordinator;

    const SPEC: &str = "name = \"j\"\nkind = \"bootstrap\"\npreset = \"tiny\"\n[data]\nroot = \"sets\"\n";

    fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn a_relative_root_is_taken_from_the_folder_of_the_spec() {
        let (dir, path) = file("job.toml", SPEC);
        let document = read(&path).unwrap();
        assert_eq!(document["data"]["root"], dir.path().join("sets").to_str().unwrap());
        assert!(Spec::from_document(&document).is_ok());
    }

    #[test]
    fn json_is_read_too_and_an_absolute_root_is_left_alone() {
        let (_dir, path) = file("job.json", r#"{"name": "j", "data": {"root": "/d"}}"#);
        assert_eq!(read(&path).unwrap()["data"]["root"], "/d");
    }

    #[test]
    fn a_mistake_in_the_file_is_one_line_with_its_place() {
        let (_dir, path) = file("job.toml", "name = \"j\"\nkind = = 3\n");
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("job.toml:2:8") && !error.contains('\n'), "{error}");
    }

    #[tokio::test]
    async fn the_same_key_gives_the_same_job() {
        let coordinator = Coordinator::start().await;
        let (_dir, path) = file("job.toml", SPEC);
        let document = read(&path).unwrap();
        let first = submit(&coordinator.client(), &document, "k").await.unwrap();
        let again = submit(&coordinator.client(), &document, "k").await.unwrap();
        let other = submit(&coordinator.client(), &document, "l").await.unwrap();
        assert_eq!(first.job.id, again.job.id);
        assert_ne!(first.job.id, other.job.id);
    }

    #[tokio::test]
    async fn wrong_fields_are_listed_one_per_line() {
        let coordinator = Coordinator::start().await;
        let (_dir, path) = file("job.toml", "nam = \"j\"\npreset = \"tiny\"\n");
        let error = submit(&coordinator.client(), &read(&path).unwrap(), "k")
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("\n  data.root: missing"), "{text}");
        assert!(text.contains("\n  nam: unknown field; did you mean `name`?"), "{text}");
    }

    #[tokio::test]
    async fn a_wrong_token_is_told_with_what_to_do() {
        let coordinator = Coordinator::start().await;
        let client = Client::new(coordinator.url(), "wrong");
        let error = submit(&client, &serde_json::json!({}), "k").await.unwrap_err();
        assert!(error.to_string().contains("--token-file"), "{error}");
    }
}
