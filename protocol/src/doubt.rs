//! When the states of a generation's ranks differ: what is proven all the same, and what is not.
//!
//! With step `s` ranks compare one of [`COMPARED_WITHIN`] parts of the state before it, another one with every step. If a part
//! differs before step `T` although it did not before step `T - 64`, something went wrong in between. Whoever was in the wrong
//! has computed with it, and what it computed is in everybody's state: nobody's memory is worth anything, nor is any
//! checkpoint of that time. A checkpoint of `T - 64` committed steps is copied while that step is computed, so it may have been
//! read after the parts of that step were compared. The last one that is proven has a step less.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Every byte of a state is compared between the ranks once in so many steps.
pub const COMPARED_WITHIN: u64 = 64;

/// Checkpoints of at most so many committed steps are proven, whatever may be found before step `step` or a later one.
pub const fn proven_by(step: u64) -> u64 {
    step.saturating_sub(COMPARED_WITHIN + 1)
}

/// The ranks of a generation found that their states differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// Number of steps committed by the states that differ.
    pub step: u64,
    /// A checkpoint of more committed steps is doubtful. 0: none is proven, but the stage's start is.
    pub proven: u64,
    /// Ranks whose state is not that of the majority; empty where there is no majority.
    pub minority: Vec<u32>,
}

impl Doubt {
    /// States differ after so many steps, the first of which `loaded` were loaded by all from one checkpoint: that one is not to
    /// blame for what has happened since.
    pub fn new(step: u64, loaded: u64, minority: Vec<u32>) -> Self {
        Self {
            step,
            proven: proven_by(step).max(loaded),
            minority,
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the state before step {} is not the same everywhere", self.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The step before which a bit is found that flips in this part of the state, after the parts of so many steps were compared.
    fn found_before(flips_after: u64, part: u64) -> u64 {
        (flips_after..flips_after + COMPARED_WITHIN)
            .find(|step| step % COMPARED_WITHIN == part)
            .expect("every part has its turn")
    }

    #[test]
    fn no_checkpoint_that_is_proven_was_read_after_the_bit_flipped() {
        for flips_after in 0..200 {
            for part in 0..COMPARED_WITHIN {
                let doubt = Doubt::new(found_before(flips_after, part), 0, vec![1]);
                // A checkpoint of c steps is read after c comparisons, and may still be after c + 1 of them.
                let is_sound = doubt.proven == 0 || doubt.proven + 1 < flips_after;
                assert!(is_sound, "{flips_after} {part} {doubt:?}");
            }
        }
    }

    #[test]
    fn the_newest_that_can_be_proven_is() {
        let newest = |step| Doubt::new(step, 0, Vec::new()).proven;
        // It flips right after the comparison before step 100, in the part that was compared there.
        assert_eq!(found_before(101, 100 % COMPARED_WITHIN), 164);
        assert_eq!(
            newest(164),
            99,
            "that of step 100 may have been read after the comparison"
        );
        assert_eq!((newest(64), newest(65), newest(66)), (0, 0, 1));
    }

    #[test]
    fn what_all_have_loaded_is_as_good_as_it_was() {
        assert_eq!(Doubt::new(130, 120, Vec::new()).proven, 120);
        assert_eq!(Doubt::new(190, 120, Vec::new()).proven, 125);
    }
}
