//! Checkpoints: when they are taken, who writes which bytes, and how they are read back.
//!
//! A checkpoint is the canonical bytes of a [`State`], cut into as many parts as the generation has ranks; it is loaded
//! by any number of ranks. A part is copied while the next step is computed, from the state ([`placed`]), which cannot be committed
//! before, or from a snapshot on its device ([`shared`]), and then written ([`writer`]); it counts only when it was read back with the right hash. What cannot be read is tried again
//! for a while; what is read and differs, or is not there in a store that answers, is [damage](Error::damage), and the
//! coordinator falls back to an earlier checkpoint.

pub mod placed;
pub mod shared;
pub mod writer;

use crate::objects::{self, Objects};
use medley_model::blip::Blip;
use medley_model::flat::Flat;
use medley_model::state::State;
use medley_protocol::checkpoint::{CheckpointPart, Damage, Manifest, ObjectRef};
use medley_protocol::spec::CheckpointSpec;
use std::ops::Range;
use std::thread;
use std::time::Duration;

/// Pauses before an object is read once more.
const PAUSES_MS: [u64; 5] = [250, 1000, 4000, 8000, 16_000];
/// Reads of an object that is not what it should be. More than one: the fault may lie in what is between store and rank.
const DAMAGED_READS: usize = 2;

/// Why a checkpoint cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part is missing or damaged.
    #[error("part {part} of the checkpoint at step {step}: {cause}")]
    Part {
        /// The part.
        part: u32,
        /// Its checkpoint.
        step: u64,
        /// What the store says.
        cause: objects::Error,
    },
    /// The parts do not make a whole.
    #[error("the checkpoint at step {step} is not whole: {cause}")]
    Torn {
        /// The checkpoint.
        step: u64,
        /// What does not fit.
        cause: String,
    },
    /// It was written for another model.
    #[error("the checkpoint at step {step} does not fit the spec: {cause}")]
    Other {
        /// The checkpoint.
        step: u64,
        /// What does not fit.
        cause: String,
    },
}

impl Error {
    /// What is wrong with the checkpoint itself; none if it may only not be read now or here, or belongs to another model.
    pub fn damage(&self, manifest: &Manifest) -> Option<Damage> {
        let (object, cause) = match self {
            Self::Part { part, cause, .. } => match cause {
                objects::Error::Damaged { key, cause, .. } => (Some(key.clone()), format!("part {part}: {cause}")),
                objects::Error::Missing { key, .. } => (Some(key.clone()), format!("part {part} is missing")),
                objects::Error::Failed { .. } | objects::Error::Url(_) | objects::Error::Thread(_) => return None,
            },
            Self::Torn { cause, .. } => (None, cause.clone()),
            Self::Other { .. } => return None,
        };
        Some(Damage {
            checkpoint: manifest.id,
            step: manifest.step,
            object,
            cause,
        })
    }

    /// Whether another try may help.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Part {
                cause: objects::Error::Failed { .. },
                ..
            }
        )
    }
}

/// Whether the spec plans a checkpoint once `committed` steps are done.
///
/// Periodic ones count from the stage's first step; epochs' ends count where the stage's length is given in epochs; the
/// last step always counts.
pub fn is_planned(spec: CheckpointSpec, committed: u64, total: u64, epoch: Option<u64>) -> bool {
    let every = |steps: u64| steps > 0 && committed.is_multiple_of(steps);
    committed == total || every(spec.every_steps) || epoch.is_some_and(every)
}

/// The bytes of the canonical state that part `part` of `parts` holds.
pub fn part_range(state_bytes: u64, part: u32, parts: u32) -> Range<u64> {
    let cut = |i: u32| (u128::from(state_bytes) * u128::from(i) / u128::from(parts)) as u64;
    cut(part)..cut(part + 1)
}

/// Reads a checkpoint into `state`, verifying every part.
///
/// # Errors
/// [`Error`]; `state` is then unspecified.
pub fn load(objects: &Objects, manifest: &Manifest, state: &mut State) -> Result<(), Error> {
    check_size(manifest, state.num_bytes())?;
    let bytes = read(objects, manifest, state.num_bytes())?;
    state.load(&bytes).map_err(|e| Error::Other {
        step: manifest.step,
        cause: e.to_string(),
    })?;
    check_step(manifest, state.step)
}

/// Reads the parameters of a checkpoint, verifying the parts that hold them; no other is read.
///
/// # Errors
/// [`Error`]
pub fn load_params(objects: &Objects, manifest: &Manifest, blip: &Blip) -> Result<Flat, Error> {
    check_size(manifest, State::num_bytes_of(blip))?;
    let bytes = read(objects, manifest, State::num_beginning_bytes(blip))?;
    let (step, params) = State::beginning(blip, &bytes);
    check_step(manifest, step)?;
    Ok(params)
}

/// The canonical bytes up to the end of the part that holds the byte before `end`.
fn read(objects: &Objects, manifest: &Manifest, end: usize) -> Result<Vec<u8>, Error> {
    check_parts(manifest)?;
    let mut bytes = Vec::new();
    for part in manifest.parts.iter().take_while(|part| part.offset_bytes < end as u64) {
        let piece = patiently(objects, &part.object).map_err(|cause| Error::Part {
            part: part.part,
            step: manifest.step,
            cause,
        })?;
        if bytes.is_empty() {
            // Often the only part: several gigabytes that need not be copied.
            bytes = piece;
        } else {
            bytes.extend_from_slice(&piece);
        }
    }
    Ok(bytes)
}

/// Reads an object, again and again if it cannot be read.
fn patiently(objects: &Objects, object: &ObjectRef) -> Result<Vec<u8>, objects::Error> {
    let mut read = objects.get(object);
    for (tries, pause) in (1..).zip(PAUSES_MS) {
        match &read {
            Err(objects::Error::Failed { .. }) => {}
            Err(_) if tries < DAMAGED_READS => {}
            _ => break,
        }
        if let Err(error) = &read {
            tracing::warn!("reads once more in {pause} ms: {error}");
        }
        thread::sleep(Duration::from_millis(pause));
        read = objects.get(object);
    }
    read
}

fn check_size(manifest: &Manifest, expected: usize) -> Result<(), Error> {
    if manifest.state_bytes == expected as u64 {
        return Ok(());
    }
    Err(Error::Other {
        step: manifest.step,
        cause: format!(
            "it holds {} bytes, this model's state has {expected}",
            manifest.state_bytes
        ),
    })
}

fn check_step(manifest: &Manifest, step: u64) -> Result<(), Error> {
    if manifest.step == step {
        return Ok(());
    }
    Err(Error::Torn {
        step: manifest.step,
        cause: format!("its state says step {step}"),
    })
}

/// Whether parts follow each other without gap or overlap, before anything is read.
fn check_parts(manifest: &Manifest) -> Result<(), Error> {
    let torn = |cause: String| Error::Torn {
        step: manifest.step,
        cause,
    };
    let mut next = 0;
    for CheckpointPart {
        part,
        step,
        offset_bytes,
        state_bytes,
        object,
        ..
    } in &manifest.parts
    {
        if *step != manifest.step || *state_bytes != manifest.state_bytes {
            return Err(torn(format!("part {part} belongs to another checkpoint")));
        }
        if *offset_bytes != next {
            return Err(torn(format!(
                "part {part} begins at byte {offset_bytes} instead of {next}"
            )));
        }
        next = next.saturating_add(object.size_bytes);
    }
    if next != manifest.state_bytes {
        return Err(torn(format!("its parts hold {next} of {} bytes", manifest.state_bytes)));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
