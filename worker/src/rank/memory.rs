//! How much memory a rank needs: the most that its process ever had resident, as the kernel counts it.
//!
//! A rank is a process of its own for each stage and generation, so the figure is that of the stage alone. It travels with
//! the facts that a rank hands in, its checkpoint parts and its results, and arrives wherever those do.

use std::fs;

/// Most bytes that this process has had resident so far; none where the system does not say.
pub fn peak_bytes() -> Option<u64> {
    peak_in(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Memory of the machine, or of the container that this program runs in; none where the system does not say.
pub fn machine_bytes() -> Option<u64> {
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    let machine = kib_in(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    Some(limit.map_or(machine, |limit: u64| limit.min(machine)))
}

/// Reads the high-water mark in the text of a process's `status`.
fn peak_in(status: &str) -> Option<u64> {
    kib_in(status, "VmHWM:")
}

/// The bytes of a line that has this name and counts KiB.
fn kib_in(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_found_among_other_lines() {
        let status = "Name:\tmedley-worker\nVmPeak:\t  900 kB\nVmHWM:\t  512 kB\nVmRSS:\t  100 kB\n";
        assert_eq!(peak_in(status), Some(512 * 1024));
        assert_eq!(peak_in("Name:\tkthreadd\n"), None);
        assert_eq!(peak_in("VmHWM:\tmuch\n"), None);
    }

    #[test]
    fn a_machine_has_more_memory_than_this_process() {
        assert!(machine_bytes() > peak_bytes());
    }

    #[test]
    fn memory_that_was_used_once_stays_in_the_peak() {
        const MORE: usize = 64 << 20;
        let before = peak_bytes().unwrap();
        drop(std::hint::black_box(vec![1_u8; MORE]));
        let after = peak_bytes().unwrap();
        // Other threads give memory back meanwhile; most of ours must show all the same.
        assert!(
            after >= MORE as u64 && after >= before,
            "{before} before, {after} after"
        );
    }
}
