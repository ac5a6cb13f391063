//! What a state directory remembers of its last demo, so that an interrupted one is continued.

use anyhow::{Context, Result, bail};
use medley_protocol::ids::JobId;
use medley_protocol::stage::JobState;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The last demo of a state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Whether it was the quick one.
    pub(super) quick: bool,
    /// Its idempotency key: written before the job is submitted, so that it is never submitted twice.
    pub(super) key: String,
    /// Its job, once submitted.
    pub(super) job: Option<JobId>,
    /// Whether its report was written.
    pub(super) reported: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Submit a new job.
    Fresh,
    /// Go on with a job whose submission may have been interrupted.
    SubmitAgain,
    /// Follow a job.
    Continue(JobId),
}

/// Decides from the memory and from the state of its job (none if the coordinator does not know it).
///
/// # Errors
/// When the other demo is unfinished here.
pub(super) fn decide(memory: Option<&Memory>, state: Option<JobState>, quick: bool) -> Result<Decision> {
    let Some(memory) = memory else {
        return Ok(Decision::Fresh);
    };
    let unfinished = match (memory.job, state) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(_), Some(JobState::Succeeded)) => !memory.reported,
        (Some(_), Some(state)) => !state.is_final(),
    };
    match (unfinished, memory.job) {
        (false, _) => Ok(Decision::Fresh),
        (true, _) if memory.quick != quick => {
            let (there, flag) = if memory.quick {
                ("quick", " --quick")
            } else {
                ("full", "")
            };
            bail!(
                "an unfinished {there} demo is in this state directory: continue it with `medley demo{flag}`, or give \
                 another --state-dir"
            )
        }
        (true, None) => Ok(Decision::SubmitAgain),
        (true, Some(job)) => Ok(Decision::Continue(job)),
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("demo.json")
}

/// Reads the memory; none if there was no demo.
///
/// # Errors
/// Names the file that cannot be read.
pub(super) fn read(state_dir: &Path) -> Result<Option<Memory>> {
    let path = path(state_dir);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("{} cannot be read: remove it to start a new demo", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes the memory.
///
/// # Errors
/// Names the file that cannot be written.
pub(super) fn write(state_dir: &Path, memory: &Memory) -> Result<()> {
    let path = path(state_dir);
    let temporary = path.with_extension("json.tmp");
    std::fs::write(&temporary, serde_json::to_vec_pretty(memory)?)
        .and_then(|()| std::fs::rename(&temporary, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(job: Option<JobId>, reported: bool) -> Memory {
        Memory {
            quick: true,
            key: "k".into(),
            job,
            reported,
        }
    }

    #[test]
    fn an_unfinished_demo_is_continued_and_a_finished_one_starts_a_new_job() {
        let job = JobId::generate();
        let decide = |reported, state| decide(Some(&memory(Some(job), reported)), state, true).unwrap();
        assert_eq!(decide(false, Some(JobState::Running)), Decision::Continue(job));
        assert_eq!(decide(false, Some(JobState::Succeeded)), Decision::Continue(job));
        assert_eq!(decide(true, Some(JobState::Succeeded)), Decision::Fresh);
        assert_eq!(decide(false, Some(JobState::Failed)), Decision::Fresh);
        assert_eq!(decide(false, None), Decision::Fresh);
    }

    #[test]
    fn an_interrupted_submission_is_repeated_under_its_key() {
        assert_eq!(
            decide(Some(&memory(None, false)), None, true).unwrap(),
            Decision::SubmitAgain
        );
        assert_eq!(decide(None, None, true).unwrap(), Decision::Fresh);
    }

    #[test]
    fn the_other_unfinished_demo_is_refused_with_what_to_do() {
        let unfinished = memory(Some(JobId::generate()), false);
        let refusal = decide(Some(&unfinished), Some(JobState::Running), false)
            .unwrap_err()
            .to_string();
        assert!(refusal.contains("medley demo --quick"), "{refusal}");
    }

    #[test]
    fn memory_survives_a_round_trip_and_absence() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let memory = memory(Some(JobId::generate()), false);
        write(dir.path(), &memory).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(memory));
    }
}
