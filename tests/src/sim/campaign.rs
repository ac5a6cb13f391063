//! Many seeds, on all cores.

use super::{Coverage, Record, Violation, disturbed};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Campaign {
    /// What all runs went through.
    pub coverage: Coverage,
    /// The seeds that broke a rule, lowest first.
    pub violations: Vec<Violation>,
    /// Seeds played.
    pub seeds: u64,
    /// Real time.
    pub took: Duration,
    /// Virtual time of all runs.
    pub lived: Duration,
}

impl Campaign {
    /// Seeds in a second.
    pub fn pace(&self) -> f64 {
        self.seeds as f64 / self.took.as_secs_f64()
    }

    fn add(&mut self, other: Self) {
        self.coverage.add(&other.coverage);
        self.violations.extend(other.violations);
        self.seeds += other.seeds;
        self.lived += other.lived;
    }
}

/// Plays seeds in as many threads as there are cores; the outcome does not depend on how many. `told` hears of every violation
/// at once.
///
/// # Panics
/// When a run does.
pub fn campaign(seeds: Range<u64>, reference: &Record, told: impl Fn(&Violation) + Sync) -> Campaign {
    let began = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let play = || {
        let mut part = Campaign::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return part;
            }
            part.seeds += 1;
            match disturbed(seed, reference) {
                Ok(outcome) => {
                    part.coverage.add(&outcome.coverage);
                    part.lived += outcome.took;
                }
                Err(violation) => {
                    told(&violation);
                    part.violations.push(violation);
                }
            }
        }
    };
    let mut all = Campaign::default();
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let players: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
        for player in players {
            all.add(player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    all.violations.sort_by_key(|violation| violation.seed);
    all.took = began.elapsed();
    all
}
