//! What a generation goes on from: agreed on by its members without a word beyond what each holds.

use serde::{Deserialize, Serialize};

/// What a rank brings along from an earlier generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Number of committed steps.
    pub committed: u64,
    /// Whether it is prepared for the next.
    pub prepared: bool,
}

/// How a rank reaches the step that the whole generation goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// It is there; prepared work, if any, is dropped and redone.
    Ready,
    /// It commits what it is prepared for, from its own memory.
    CommitPrepared,
    /// It holds no state, or one that is too old: the others feed it theirs.
    Join,
}

/// What a generation goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// From the last checkpoint, or from the stage's start: nobody holds a later state.
    Stored,
    /// From memory.
    Memory {
        /// Number of committed steps.
        committed: u64,
        /// Path of each rank.
        paths: Vec<Path>,
    },
}

/// How a generation begins: a function of what its members hold and of the last checkpoint's step, the same on all of them.
///
/// The highest committed number counts: it was committed only after *all* members of its generation were prepared, so a
/// survivor that is one behind is prepared for it. Whatever generation a memory comes from, it is the same bits, because
/// every step is a function of the step before. So nobody who holds a state near enough copies another's.
pub fn begin(members: &[Option<Memory>], stored: Option<u64>) -> Beginning {
    let highest = members.iter().flatten().map(|memory| memory.committed).max();
    let Some(committed) = highest.filter(|committed| stored.is_none_or(|stored| stored <= *committed)) else {
        return Beginning::Stored;
    };
    let path = |memory: &Option<Memory>| match memory {
        Some(memory) if memory.committed == committed => Path::Ready,
        Some(memory) if memory.committed + 1 == committed && memory.prepared => Path::CommitPrepared,
        _ => Path::Join,
    };
    let paths = members.iter().map(path).collect();
    Beginning::Memory { committed, paths }
}
