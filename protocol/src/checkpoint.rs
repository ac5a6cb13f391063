//! Objects named by content, and the manifests of checkpoints.

use crate::ids::{CheckpointId, StageId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One immutable object of the object store, named by its content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Key in the store, `[a-z0-9/._-]`, without leading slash or `..`.
    pub key: String,
    /// BLAKE3 of the bytes, hexadecimal.
    pub blake3: String,
    /// Size in bytes.
    pub size_bytes: u64,
}

/// Where the objects of checkpoints lie, and nothing else does: objects elsewhere are never deleted.
pub const FOLDER: &str = "checkpoints/";

/// Where the objects of a stage's checkpoints lie: the beginning of their keys.
pub fn folder(stage: StageId) -> String {
    format!("{FOLDER}{stage}/")
}

impl ObjectRef {
    /// Whether the key is well formed: relative, without `..`, and of harmless characters only.
    pub fn is_valid_key(key: &str) -> bool {
        let harmless = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        !key.is_empty()
            && key.len() <= 512
            && key
                .split('/')
                .all(|part| !part.is_empty() && part != "." && part != ".." && part.chars().all(harmless))
    }
}

/// A part of a checkpoint that a rank has written: a byte range of the canonical state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointPart {
    /// Committed step whose state this is.
    pub step: u64,
    /// Index of this part.
    pub part: u32,
    /// Number of parts of this checkpoint (the world size of the generation that wrote it).
    pub parts: u32,
    /// First byte of the canonical state that the object holds.
    pub offset_bytes: u64,
    /// Size of the whole canonical state.
    pub state_bytes: u64,
    /// The object.
    pub object: ObjectRef,
    /// What the tensors are that begin in this part: an object with a list of [`TensorHash`]. None if nobody hashed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensors: Option<ObjectRef>,
}

/// A tensor of a state, and the hash of its bytes: little-endian numbers, nothing before, between or after them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorHash {
    /// `params`, their moments `m` and `v`, the momentum encoders `ema`, or the queues.
    pub section: String,
    /// Its official name.
    pub name: String,
    /// First of its bytes in the canonical state.
    pub offset_bytes: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// BLAKE3 of the bytes, hexadecimal.
    pub blake3: String,
}

/// A committed checkpoint: all parts present. Loads to any number of ranks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Identity.
    pub id: CheckpointId,
    /// The training stage that wrote it.
    pub stage: StageId,
    /// Committed step.
    pub step: u64,
    /// Size of the whole canonical state.
    pub state_bytes: u64,
    /// Parts in order of their offsets, without gap or overlap.
    pub parts: Vec<CheckpointPart>,
}

impl Manifest {
    /// The parts that hold trained weights. A state begins with its step and its parameters; there are as many values in both
    /// moments, so that the first third ends behind the parameters.
    pub fn weights(&self) -> impl Iterator<Item = &CheckpointPart> {
        let end = self.state_bytes / 3 + MAX_HEADER;
        self.parts.iter().filter(move |part| part.offset_bytes < end)
    }
}

/// What is wrong with the bytes of a committed checkpoint: nobody can load it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Its committed step.
    pub step: u64,
    /// Key of the object that is damaged; none if the parts do not fit together.
    pub object: Option<String>,
    /// What is wrong, for people.
    pub cause: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the checkpoint at step {} is damaged: ", self.step)?;
        if let Some(object) = &self.object {
            write!(f, "object {object}: ")?;
        }
        f.write_str(&self.cause)
    }
}

/// What stands before the parameters takes no more bytes.
const MAX_HEADER: u64 = 64;

#[cfg(test)]
mod tests {
    use super::ObjectRef;

    #[test]
    fn keys_that_could_leave_the_store_are_invalid() {
        for key in ["", "/a", "a//b", "../a", "a/../b", "a/./b", "A", "a b", "a\\b"] {
            assert!(!ObjectRef::is_valid_key(key), "{key:?}");
        }
        assert!(ObjectRef::is_valid_key("checkpoints/0197-ab/part-0.bin"));
    }
}
