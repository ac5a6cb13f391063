//! A submitted document becomes a job: completed, checked, its data sets found.

use super::{App, Error, Result};
use crate::domain::graph::{Shards, new_job};
use crate::domain::{Event, SystemMint};
use crate::store::{Earlier, Submission};
use axum::http::HeaderMap;
use chrono::Utc;
use medley_protocol::error::Code;
use medley_protocol::ids::JobId;
use medley_protocol::spec::{DataSpec, Problem, Problems, Spec, StartSpec};
use medley_protocol::text::is_plain;
use serde_json::Value;
use std::path::Path;

/// Longest idempotency key.
const MAX_KEY: usize = 200;
/// Most shards of a set: each becomes a task.
const MAX_SHARDS: usize = 100_000;

/// The idempotency key of a request, if it has one. Keys of different holders do not meet.
pub(super) fn idempotency_key(headers: &HeaderMap, holder: &str) -> Result<Option<String>> {
    let Some(header) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = header.to_str().unwrap_or_default();
    if key.is_empty() || key.len() > MAX_KEY {
        let message = format!("the header must have 1 to {MAX_KEY} printable ASCII characters");
        return Err(Error::invalid("Idempotency-Key", message));
    }
    Ok(Some(format!("{holder}\n{key}")))
}

/// Makes a job of the document, or finds the one that the same request made before. Returns whether it is new.
pub(super) async fn submit(app: &App, document: &Value, key: Option<&str>) -> Result<(JobId, bool)> {
    let body = *blake3::hash(document.to_string().as_bytes()).as_bytes();
    let key = key.map(|key| (key, body));
    if let Some((key, body)) = &key {
        match app.store.earlier_submission(key, body).await? {
            Earlier::Nothing => {}
            known => return before(known),
        }
    }
    let (spec, shards) = check(document).await?;
    let (job, tasks) = new_job(spec, &shards, Utc::now(), &mut SystemMint);
    let message = format!(
        "{:?} was submitted: a {} job of {} stages",
        job.spec.name,
        job.spec.kind.name(),
        job.stages.len()
    );
    let submission = Submission {
        job: &job,
        tasks: &tasks,
        events: &[Event::of_job(&job, "job-submitted", message)],
        key,
    };
    match app.store.submit(&submission).await? {
        Earlier::Nothing => Ok((job.id, true)),
        known => before(known),
    }
}

/// Completes a document and finds its data sets.
pub(super) async fn check(document: &Value) -> Result<(Spec, Shards)> {
    let spec = Spec::from_document(document)?;
    let (data, vocab, start) = (spec.data.clone(), spec.vocab.file.clone(), spec.start.clone());
    let found = tokio::task::spawn_blocking(move || find(&data, &vocab, &start));
    let shards = found.await.map_err(Error::internal)??;
    Ok((spec, shards))
}

fn before(earlier: Earlier) -> Result<(JobId, bool)> {
    match earlier {
        Earlier::Same(job) => Ok((JobId::from_uuid(job), false)),
        Earlier::Other | Earlier::Nothing => Err(Error::new(
            Code::IdempotencyMismatch,
            "this Idempotency-Key came with another document before; use a new key for a new job",
        )),
    }
}

/// The shards of the sets, and whether vocabulary and weights are there: every problem at once.
fn find(data: &DataSpec, vocab: &str, start: &StartSpec) -> Result<Shards, Problems> {
    let mut problems = Vec::new();
    let mut list = |field: &str, directory: &str| {
        if directory.is_empty() {
            return Vec::new();
        }
        let found = shards(&Path::new(&data.root).join(directory));
        found.unwrap_or_else(|message| {
            problems.push(Problem {
                path: format!("data.{field}"),
                message,
            });
            Vec::new()
        })
    };
    let shards = Shards {
        human: list("human", &data.human),
        web: list("web", &data.web),
        test: list("test", &data.test),
    };
    if !vocab.is_empty() && !Path::new(vocab).is_file() {
        problems.push(Problem {
            path: "vocab.file".into(),
            message: format!(
                "{vocab} is not a file here; give the path of a BERT vocab.txt or tokenizer.json, or leave it empty"
            ),
        });
    }
    for (path, files) in start.lists() {
        let missing = files.iter().filter(|file| !Path::new(file).exists());
        problems.extend(missing.map(|file| Problem {
            path: path.into(),
            message: format!("{file} is not here; put the file of weights there, on every node too"),
        }));
    }
    if problems.is_empty() {
        Ok(shards)
    } else {
        Err(Problems(problems))
    }
}

/// Names of the tar files of a directory, sorted.
fn shards(directory: &Path) -> Result<Vec<String>, String> {
    let shown = directory.display();
    let unreadable =
        |e| format!("{shown} cannot be read ({e}); put the set's *.tar shards there, or set it to \"\" for none");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let name = name
            .to_str()
            .filter(|name| Path::new(name).extension().is_some_and(|e| e == "tar"));
        names.extend(name.map(str::to_owned));
    }
    if let Some(odd) = names.iter().find(|name| !is_plain(name)) {
        return Err(format!(
            "{shown} holds a shard whose name has control characters ({odd:?}); rename it"
        ));
    }
    if names.is_empty() {
        return Err(format!(
            "{shown} holds no *.tar shard; put the set's shards there, or set it to \"\" for none"
        ));
    }
    if names.len() > MAX_SHARDS {
        return Err(format!(
            "{shown} holds {} shards, at most {MAX_SHARDS} are possible; make them larger",
            names.len()
        ));
    }
    names.sort_unstable();
    Ok(names)
}
