//! The memory of a process, in which a bit flips as if the hardware did it.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Flips the lowest bit of the first byte of these bytes wherever they lie in memory that a process may write. Returns in how
/// many places.
///
/// # Panics
/// When the memory of the process cannot be read and written: it is that of another user, or the process is gone.
pub fn flip(process: u32, bytes: &[u8]) -> usize {
    let path = format!("/proc/{process}/mem");
    let memory = File::options().read(true).write(true).open(&path);
    let memory = memory.unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut flipped = 0;
    for range in writable(process) {
        let mut held = vec![0; (range.end - range.start) as usize];
        // What was given back meanwhile is not the process's any more.
        if memory.read_exact_at(&mut held, range.start).is_err() {
            continue;
        }
        let found = held
            .windows(bytes.len())
            .enumerate()
            .filter(|(_, window)| *window == bytes);
        for (at, _) in found {
            let written = memory.write_all_at(&[bytes[0] ^ 1], range.start + at as u64);
            written.unwrap_or_else(|error| panic!("{path}: {error}"));
            flipped += 1;
        }
    }
    flipped
}

/// The address ranges that belong to no file and may be written.
fn writable(process: u32) -> Vec<Range<u64>> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("the process is there");
    let range = |line: &str| {
        let mut fields = line.split_whitespace();
        let (range, rights, name) = (fields.next()?, fields.next()?, fields.nth(3).unwrap_or(""));
        let (start, end) = range.split_once('-')?;
        let address = |digits| u64::from_str_radix(digits, 16).ok();
        let range = address(start)?..address(end)?;
        (rights.starts_with("rw") && matches!(name, "" | "[heap]")).then_some(range)
    };
    maps.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn a_bit_flips_where_the_bytes_lie() {
        // Made so that no other copy lies in memory but the one that is looked for.
        let mut bytes: Vec<u8> = (0..200_u32).map(|i| (i * i % 251) as u8).collect();
        let copy = black_box(bytes.clone());
        let places = flip(std::process::id(), &bytes);
        assert!(places >= 1);
        let flipped = |held: &[u8]| held[0] == 1 && held[1] == 1;
        assert!(flipped(black_box(&copy)));
        bytes[0] = 0;
        assert_eq!(bytes[1..], copy[1..]);
    }
}
