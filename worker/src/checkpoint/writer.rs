//! A thread that writes checkpoint parts while the next steps are computed.

use crate::objects::Objects;
use medley_protocol::checkpoint::CheckpointPart;
use medley_protocol::ids::StageId;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

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
    pub bytes: Vec<u8>,
}

/// Writes parts in order; at most one waits while one is written.
#[derive(Debug)]
pub struct Writer {
    waiting: SyncSender<Copied>,
    thread: JoinHandle<Result<(), String>>,
}

impl Writer {
    /// Starts the thread. `written` is called for each part once it is in the store and verified.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        objects: Objects,
        stage: StageId,
        written: impl FnMut(CheckpointPart) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (waiting, copies) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || write_all(&objects, stage, &copies, written))?;
        Ok(Self { waiting, thread })
    }

    /// Hands a part over; waits only if two earlier ones are not written yet.
    ///
    /// # Errors
    /// Why an earlier part could not be written.
    pub fn write(self, copied: Copied) -> Result<Self, String> {
        match self.waiting.send(copied) {
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
        self.thread.join().unwrap_or_else(|_| Err("the writer failed".into()))
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
