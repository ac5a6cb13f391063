//! What something costs: time that this thread computes, and memory.

use std::time::Duration;

/// Times of one kind.
#[derive(Default)]
pub(super) struct Times(pub(super) Vec<Duration>);

impl Times {
    /// Does something, and notes how long it took.
    pub(super) fn time<T>(&mut self, what: impl FnOnce() -> T) -> T {
        let began = computed();
        let done = what();
        self.0.push(computed().saturating_sub(began));
        done
    }

    /// The median, the 95th percentile and the longest, in milliseconds.
    fn sorted_ms(&self) -> [f64; 3] {
        let mut times = self.0.clone();
        times.sort_unstable();
        let at = |share: f64| {
            times
                .get(((times.len() as f64 - 1.0) * share) as usize)
                .copied()
                .unwrap_or_default()
        };
        [0.5, 0.95, 1.0].map(|share| at(share).as_secs_f64() * 1000.0)
    }

    /// Prints them.
    pub(super) fn line(&self, what: &str) {
        let [middle, high, most] = self.sorted_ms();
        println!(
            "{what:<28} p50 {middle:9.3} ms   p95 {high:9.3} ms   most {most:9.3} ms   ({} times)",
            self.0.len()
        );
    }
}

/// How long this thread has computed.
fn computed() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split_whitespace().next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

/// A line of `/proc/self/status`, in MiB.
pub(super) fn memory_mib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| {
        line.trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) / 1024
}
