//! A thread that writes checkpoint parts while the next steps are computed.
//!
//! A store that refuses (it is full, or read-only) does not stop the training: the part is kept and tried again, ever more
//! slowly, until it is written or a newer one takes its place. A store that is merely slow is waited for: if a rank left out
//! what others write, no checkpoint would ever be whole.

use crate::objects::Objects;
use bytes::Bytes;
use medley_protocol::checkpoint::CheckpointPart;
use medley_protocol::ids::StageId;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Shortest and longest pause before a part is tried again.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// What a rank has copied and not yet written.
#[derive(Debug)]
pub struct Copied {
    /// Committed step whose state it is.
    pub step: u64,
    /// Index of the part.
    pub part: u32,
    /// Number of parts.
    pub parts: u32,
    /// First byte of the canonical state.
    pub offset_bytes: u64,
    /// Size of the canonical state.
    pub state_bytes: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// What became of a part.
#[derive(Debug)]
pub enum Outcome {
    /// It is in the store, and was read back.
    Written(CheckpointPart),
    /// It could not be written, for the first time; it is tried again.
    Refused {
        /// Its committed step.
        step: u64,
        /// Why, for people.
        reason: String,
    },
}

/// Writes parts in order; at most one waits while one is written.
#[derive(Debug)]
pub struct Writer {
    desk: Arc<Desk>,
    thread: JoinHandle<()>,
}

/// What rank and thread share.
#[derive(Debug, Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Option<Copied>,
    /// Why the store refuses the part that the thread has.
    refused: Option<String>,
    /// Nothing more will come; the thread ends when nothing is left, or at once from this time on.
    end_by: Option<Instant>,
}

impl Writer {
    /// Starts the thread. `report` is called with what becomes of each part.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        objects: Objects,
        stage: StageId,
        report: impl FnMut(Outcome) + Send + 'static,
    ) -> std::io::Result<Self> {
        let desk = Arc::<Desk>::default();
        let own = Arc::clone(&desk);
        let thread = thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || own.serve(&objects, stage, report))?;
        Ok(Self { desk, thread })
    }

    /// Hands a part over. Waits if two earlier ones are not written yet, unless the store refuses them.
    pub fn write(&self, copied: Copied) {
        let mut state = self.desk.lock();
        // Every operation on the store has a deadline.
        while state.waiting.is_some() && state.refused.is_none() && !self.thread.is_finished() {
            state = self.desk.wait(state, PAUSES[0]);
        }
        if let Some(older) = state.waiting.replace(copied) {
            tracing::warn!(
                "the checkpoint at step {} is not written: a newer one is due",
                older.step
            );
        }
        self.desk.changed.notify_all();
    }

    /// Waits until everything is written, for so long at most.
    ///
    /// # Errors
    /// Why a part could not be written.
    pub fn finish(self, patience: Duration) -> Result<(), String> {
        self.desk.lock().end_by = Some(Instant::now() + patience);
        self.desk.changed.notify_all();
        self.thread
            .join()
            .map_err(|_| "the writer of checkpoints failed".to_owned())?;
        let mut state = self.desk.lock();
        state.refused.take().map_or(Ok(()), |reason| {
            Err(format!(
                "the last checkpoint could not be written for {} s, and nothing else is left to do: {reason}",
                patience.as_secs()
            ))
        })
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The next part to write; none when nothing will come.
    fn next(&self) -> Option<Copied> {
        let mut state = self.lock();
        loop {
            if let Some(copied) = state.waiting.take() {
                state.refused = None;
                self.changed.notify_all();
                return Some(copied);
            }
            if state.end_by.is_some() {
                return None;
            }
            state = self.wait(state, PAUSES[1]);
        }
    }

    fn serve(&self, objects: &Objects, stage: StageId, mut report: impl FnMut(Outcome)) {
        while let Some(copied) = self.next() {
            for tries in 0.. {
                match put(objects, stage, &copied) {
                    Ok(part) => {
                        self.lock().refused = None;
                        report(Outcome::Written(part));
                        break;
                    }
                    Err(reason) => {
                        let step = copied.step;
                        tracing::warn!("the checkpoint at step {step} is tried again: {reason}");
                        if tries == 0 {
                            let reason = reason.clone();
                            report(Outcome::Refused { step, reason });
                        }
                        if !self.pause(reason, tries) {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Waits before the same part is tried again. False if it is not to be.
    fn pause(&self, reason: String, tries: u32) -> bool {
        let [shortest, longest] = PAUSES;
        let until = Instant::now() + shortest.saturating_mul(1 << tries.min(10)).min(longest);
        let mut state = self.lock();
        state.refused = Some(reason);
        self.changed.notify_all();
        loop {
            let now = Instant::now();
            if state.waiting.is_some() || state.end_by.is_some_and(|end| end <= now) {
                return false;
            }
            let until = state.end_by.map_or(until, |end| end.min(until));
            if until <= now {
                return true;
            }
            state = self.wait(state, until - now);
        }
    }
}

fn put(objects: &Objects, stage: StageId, copied: &Copied) -> Result<CheckpointPart, String> {
    let Copied {
        step,
        part,
        parts,
        offset_bytes,
        state_bytes,
        bytes,
    } = copied;
    let name = format!("checkpoints/{stage}/{step}-part-{part}-of-{parts}");
    let object = objects.put(&name, bytes.clone()).map_err(|e| e.to_string())?;
    Ok(CheckpointPart {
        step: *step,
        part: *part,
        parts: *parts,
        offset_bytes: *offset_bytes,
        state_bytes: *state_bytes,
        object,
    })
}
