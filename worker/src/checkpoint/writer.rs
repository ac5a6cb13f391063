//! Threads that copy and write checkpoint parts while the next steps are computed.
//!
//! A store that refuses (it is full, or read-only) does not stop the training: the part is kept and tried again, ever more
//! slowly, until it is written or a newer one takes its place. A store that is merely slow is waited for: if a rank left out
//! what others write, no checkpoint would ever be whole.
//!
//! With each part goes a list of the hashes of the tensors that begin in it. For the last of them the bytes behind the part are
//! copied too, so that hashing takes no time from the next commit.
//!
//! The memory of a copy is kept for the next one: the system takes longer to give so much of it anew than copying takes.

use super::part_range;
use super::shared::Still;
use crate::objects::Objects;
use bytes::{Bytes, BytesMut};
use medley_model::device::DeviceError;
use medley_model::state::Tensor;
use medley_protocol::checkpoint::{CheckpointPart, ObjectRef, TensorHash, folder};
use medley_protocol::ids::StageId;
use std::io;
use std::ops::Range;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Shortest and longest pause before a part is tried again.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// A part to be written: a range of the state's canonical bytes.
#[derive(Debug)]
pub struct Part {
    /// The state as it was: of its bytes at least those of [`Writer::range`].
    pub state: Still,
    /// Index of the part.
    pub part: u32,
    /// Number of parts.
    pub parts: u32,
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

/// A part that was copied.
#[derive(Debug)]
struct Copied {
    step: u64,
    part: u32,
    parts: u32,
    range: Range<usize>,
    state_bytes: usize,
    /// From the beginning of the part to its end, or to the end of the last tensor that begins in it.
    bytes: Bytes,
}

/// Copies and writes parts in order: one is written while the next one is copied.
#[derive(Debug)]
pub struct Writer {
    parts: SyncSender<Part>,
    copying: JoinHandle<()>,
    desk: Arc<Desk>,
    writing: JoinHandle<()>,
}

/// What the thread that copies and the one that writes share.
#[derive(Debug)]
struct Desk {
    objects: Objects,
    stage: StageId,
    /// Of the whole state, in canonical order.
    tensors: Vec<Tensor>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Option<Copied>,
    /// Memory of a part that was written.
    spare: BytesMut,
    /// Why the store refuses the part that is being written.
    refused: Option<String>,
    /// Why a part was not copied from the device.
    not_copied: Option<String>,
    /// Nothing more will come; writing ends when nothing is left, or at once from this time on.
    end_by: Option<Instant>,
    /// Nobody writes any more.
    has_ended: bool,
}

impl Writer {
    /// Starts the threads, for states that have these tensors. `report` is called with what becomes of each part.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        objects: Objects,
        stage: StageId,
        tensors: Vec<Tensor>,
        report: impl FnMut(Outcome) + Send + 'static,
    ) -> io::Result<Self> {
        let (parts, given) = mpsc::sync_channel(1);
        let desk = Arc::new(Desk {
            objects,
            stage,
            tensors,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let named = |name: &str| thread::Builder::new().name(name.into());
        let (copier, writer) = (Arc::clone(&desk), Arc::clone(&desk));
        let copying = named("snapshot").spawn(move || copier.copy(&given))?;
        let writing = named("checkpoint").spawn(move || writer.serve(report))?;
        Ok(Self {
            parts,
            copying,
            desk,
            writing,
        })
    }

    /// The canonical bytes of a state of so many that are copied for a part: its own, and what is behind them of the last tensor
    /// that begins in it.
    pub fn range(&self, state_bytes: usize, part: u32, parts: u32) -> Range<usize> {
        self.desk.copied(&range(state_bytes, part, parts))
    }

    /// Hands a part over. Its state can change again when it was copied, which waits only if two earlier parts are not written
    /// yet and the store does not refuse them.
    pub fn write(&self, part: Part) {
        // A thread that failed is reported at the end.
        let _ = self.parts.send(part);
    }

    /// Waits until everything is written, for so long at most.
    ///
    /// # Errors
    /// Why a part could not be written.
    pub fn finish(self, patience: Duration) -> Result<(), String> {
        drop(self.parts);
        // Every operation on the store has a deadline, so this ends, unless a device hangs.
        let copied = self.copying.join();
        self.desk.lock().end_by = Some(Instant::now() + patience);
        self.desk.changed.notify_all();
        let written = self.writing.join();
        if copied.is_err() || written.is_err() {
            return Err("the writer of checkpoints failed".into());
        }
        let mut state = self.desk.lock();
        if let Some(why) = state.not_copied.take() {
            return Err(why);
        }
        state.refused.take().map_or(Ok(()), |reason| {
            Err(format!(
                "the last checkpoint could not be written for {} s, and nothing else is left to do: {reason}",
                patience.as_secs()
            ))
        })
    }
}

/// Says, when it is dropped, that nobody writes any more.
struct Ending<'a>(&'a Desk);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.lock().has_ended = true;
        self.0.changed.notify_all();
    }
}

impl State {
    /// Keeps the memory of a part that is not needed any more.
    fn keep_memory(&mut self, copied: Copied) {
        // The store may still hold it for a moment: then the next copy gets other memory.
        if let Ok(bytes) = copied.bytes.try_into_mut() {
            self.spare = bytes;
        }
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

    /// What is copied for a part: its bytes, and what is behind them of the last tensor that begins in it.
    fn copied(&self, range: &Range<usize>) -> Range<usize> {
        let end = self.tensors_in(range).last().map_or(0, |last| last.bytes.end);
        range.start..range.end.max(end)
    }

    /// Copies parts, each before its state may change.
    fn copy(&self, parts: &Receiver<Part>) {
        while let Ok(Part { state, part, parts }) = parts.recv() {
            let state_bytes = state.num_bytes();
            let range = range(state_bytes, part, parts);
            let (step, copied) = (state.step(), self.copy_bytes(&state, self.copied(&range)));
            drop(state);
            match copied {
                Ok(bytes) => self.put_down(Copied {
                    step,
                    part,
                    parts,
                    range,
                    state_bytes,
                    bytes,
                }),
                Err(error) => {
                    // A rank that goes on hears of it from its device, too.
                    let why = format!("the checkpoint at step {step} is not written: {error}");
                    tracing::warn!("{why}");
                    self.lock().not_copied = Some(why);
                }
            }
        }
    }

    fn copy_bytes(&self, state: &Still, range: Range<usize>) -> Result<Bytes, DeviceError> {
        let mut bytes = std::mem::take(&mut self.lock().spare);
        bytes.clear();
        if bytes.capacity() < range.len() {
            bytes = BytesMut::with_capacity(range.len());
        }
        state.for_bytes(range, |slice| bytes.extend_from_slice(slice))?;
        Ok(bytes.freeze())
    }

    /// The tensors that begin in a range of the canonical bytes.
    fn tensors_in(&self, range: &Range<usize>) -> &[Tensor] {
        let before = |end: usize| self.tensors.partition_point(|tensor| tensor.bytes.start < end);
        &self.tensors[before(range.start)..before(range.end)]
    }

    /// Leaves a part to be written: waits for the earlier one to be taken up, unless the store refuses what came before.
    fn put_down(&self, copied: Copied) {
        let mut state = self.lock();
        while state.waiting.is_some() && state.refused.is_none() && !state.has_ended {
            state = self.wait(state, PAUSES[1]);
        }
        if let Some(older) = state.waiting.replace(copied) {
            tracing::warn!(
                "the checkpoint at step {} is not written: a newer one is due",
                older.step
            );
            state.keep_memory(older);
        }
        self.changed.notify_all();
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

    fn serve(&self, mut report: impl FnMut(Outcome)) {
        let _ending = Ending(self);
        while let Some(copied) = self.next() {
            let hashes = self.hash_tensors(&copied);
            for tries in 0.. {
                match self.put(&copied, &hashes) {
                    Ok(part) => {
                        let mut state = self.lock();
                        state.refused = None;
                        state.keep_memory(copied);
                        drop(state);
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

    fn hash_tensors(&self, copied: &Copied) -> Vec<TensorHash> {
        let begin = copied.range.start;
        let tensors = self.tensors_in(&copied.range).iter();
        tensors
            .map(|tensor| TensorHash {
                section: tensor.section.into(),
                name: tensor.name.clone(),
                offset_bytes: tensor.bytes.start as u64,
                size_bytes: tensor.bytes.len() as u64,
                blake3: blake3::hash(&copied.bytes[tensor.bytes.start - begin..tensor.bytes.end - begin])
                    .to_hex()
                    .to_string(),
            })
            .collect()
    }

    fn put(&self, copied: &Copied, hashes: &[TensorHash]) -> Result<CheckpointPart, String> {
        let Copied { step, part, parts, .. } = *copied;
        let put = |kind: &str, bytes: Bytes| -> Result<ObjectRef, String> {
            let name = format!("{}{step}-{kind}-{part}-of-{parts}", folder(self.stage));
            self.objects.put(&name, bytes).map_err(|e| e.to_string())
        };
        let listed = serde_json::to_vec(hashes).map_err(|e| e.to_string())?;
        Ok(CheckpointPart {
            step,
            part,
            parts,
            offset_bytes: copied.range.start as u64,
            state_bytes: copied.state_bytes as u64,
            tensors: Some(put("tensors", listed.into())?),
            object: put("part", copied.bytes.slice(..copied.range.len()))?,
        })
    }
}

/// The canonical bytes of a part.
fn range(state_bytes: usize, part: u32, parts: u32) -> Range<usize> {
    let range = part_range(state_bytes as u64, part, parts);
    range.start as usize..range.end as usize
}

#[cfg(test)]
mod tests;
