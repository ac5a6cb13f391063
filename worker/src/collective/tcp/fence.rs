//! The end of a generation as the control plane sees it: who computes may be waiting for a peer that hangs, and must be
//! called off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is said of waits that were called off.
pub(super) const REASON: &str = "another generation has begun";

/// The lowest generation that still counts; it only grows. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Fence(Arc<AtomicU64>);

impl Fence {
    /// Generations below `generation` are over.
    pub fn raise(&self, generation: u64) {
        self.0.fetch_max(generation, Ordering::SeqCst);
    }

    /// Whether `generation` is over.
    pub fn is_past(&self, generation: u64) -> bool {
        generation < self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_never_lowered() {
        let fence = Fence::default();
        fence.clone().raise(4);
        fence.raise(3);
        assert!(fence.is_past(3) && !fence.is_past(4));
    }
}
