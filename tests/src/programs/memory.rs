//! The memory of a process, in which a bit flips as if the hardware did it.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Flips bits of the byte that lies so many bytes behind the first of these, wherever they lie in memory that a process may
/// write. Returns in how many places.
///
/// # Panics
/// When the memory of the process cannot be read and written: it is that of another user, or the process is gone.
pub fn flip(process: u32, bytes: &[u8], (distance, bits): (isize, u8)) -> usize {
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
            // To compare a first byte is quicker than to call for all of them, and the process goes on meanwhile.
            .filter(|(_, window)| window.first() == bytes.first() && *window == bytes);
        for at in found.filter_map(|(at, _)| at.checked_add_signed(distance)) {
            let Some(byte) = held.get(at) else { continue };
            let written = memory.write_all_at(&[byte ^ bits], range.start + at as u64);
            flipped += usize::from(written.is_ok());
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
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::{Command, Stdio};

    #[test]
    fn a_bit_flips_where_the_bytes_lie() {
        let shell = Command::new("sh")
            .args(["-c", "read -r held; echo holds it; read -r _; echo \"$held\""])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut shell = shell.unwrap();
        let (mut input, output) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        let mut output = BufReader::new(output);
        writeln!(input, "many words that stand nowhere else").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "holds it\n");
        assert!(flip(shell.id(), b"words that stand nowhere else", (-5, 1)) >= 1);
        writeln!(input).unwrap();
        let mut held = String::new();
        output.read_to_string(&mut held).unwrap();
        assert_eq!(held, "lany words that stand nowhere else\n");
        assert!(shell.wait().unwrap().success());
    }
}
