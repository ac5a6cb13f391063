//! Threads that copy and write checkpoint parts while the next steps are computed.

use super::part_range;
use super::shared::View;
use crate::objects::Objects;
use medley_protocol::checkpoint::CheckpointPart;
use medley_protocol::ids::StageId;
use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

/// A part to be written: a range of the state's canonical bytes.
#[derive(Debug)]
pub struct Part {
    /// The state; it cannot change before the part is copied.
    pub state: View,
    /// Index of the part.
    pub part: u32,
    /// Number of parts.
    pub parts: u32,
}

/// A part that was copied.
#[derive(Debug)]
struct Copied {
    step: u64,
    part: u32,
    parts: u32,
    offset_bytes: u64,
    state_bytes: u64,
    bytes: Vec<u8>,
}

/// Copies and writes parts in order: one is written while the next one is copied.
#[derive(Debug)]
pub struct Writer {
    waiting: SyncSender<Part>,
    copying: JoinHandle<()>,
    writing: JoinHandle<Result<(), String>>,
}

impl Writer {
    /// Starts the threads. `written` is called for each part once it is in the store and verified.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        objects: Objects,
        stage: StageId,
        written: impl FnMut(CheckpointPart) + Send + 'static,
    ) -> io::Result<Self> {
        let (waiting, parts) = mpsc::sync_channel(1);
        let (copied, copies) = mpsc::sync_channel(0);
        let named = |name: &str| thread::Builder::new().name(name.into());
        let copying = named("snapshot").spawn(move || copy_all(&parts, &copied))?;
        let writing = named("checkpoint").spawn(move || write_all(&objects, stage, &copies, written))?;
        Ok(Self {
            waiting,
            copying,
            writing,
        })
    }

    /// Hands a part over; its state can change again when it was copied, which waits only for earlier parts that are not
    /// written yet.
    ///
    /// # Errors
    /// Why an earlier part could not be written.
    pub fn write(self, part: Part) -> Result<Self, String> {
        match self.waiting.send(part) {
            Ok(()) => Ok(self),
            Err(_) => Err(self.finish().err().unwrap_or_else(|| "the writer ended".into())),
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// Why a part could not be written.
    pub fn finish(self) -> Result<(), String> {
        drop(self.waiting);
        // Every operation on the store has a deadline.
        let copied = self.copying.join().map_err(|_| "copying a part failed".to_owned());
        let written = self.writing.join().unwrap_or_else(|_| Err("the writer failed".into()));
        copied.and(written)
    }
}

fn copy_all(waiting: &Receiver<Part>, copied: &SyncSender<Copied>) {
    while let Ok(Part { state, part, parts }) = waiting.recv() {
        let state_bytes = state.num_bytes() as u64;
        let range = part_range(state_bytes, part, parts);
        let copy = Copied {
            step: state.step,
            part,
            parts,
            offset_bytes: range.start,
            state_bytes,
            bytes: state.copy_bytes(range.start as usize..range.end as usize),
        };
        drop(state);
        if copied.send(copy).is_err() {
            // The writer says why.
            return;
        }
    }
}

fn write_all(
    objects: &Objects,
    stage: StageId,
    copies: &Receiver<Copied>,
    mut written: impl FnMut(CheckpointPart),
) -> Result<(), String> {
    while let Ok(copied) = copies.recv() {
        let Copied {
            step,
            part,
            parts,
            offset_bytes,
            state_bytes,
            bytes,
        } = copied;
        let name = format!("checkpoints/{stage}/{step}-part-{part}-of-{parts}");
        let object = objects
            .put(&name, bytes)
            .map_err(|e| format!("checkpoint at step {step}: {e}"))?;
        written(CheckpointPart {
            step,
            part,
            parts,
            offset_bytes,
            state_bytes,
            object,
        });
    }
    Ok(())
}
