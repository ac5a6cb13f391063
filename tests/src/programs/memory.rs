//! The memory of a process, in which a bit flips as if the hardware did it.

use super::tree;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

/// Time for a process to stop.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time between looks at it.
const LOOK: Duration = Duration::from_millis(1);

/// Flips bits of the byte that lies so many bytes behind the first of these, wherever they lie in memory that a process may
/// write. Returns in how many places.
///
/// The process stands still for the moment in which all copies of the byte change: one that it makes meanwhile from another would
/// undo the flip.
///
/// # Panics
/// When the memory of the process cannot be read and written: it is that of another user, or the process is gone.
pub fn flip(process: u32, bytes: &[u8], (distance, bits): (isize, u8)) -> usize {
    let path = format!("/proc/{process}/mem");
    let memory = File::options().read(true).write(true).open(&path);
    let memory = memory.unwrap_or_else(|error| panic!("{path}: {error}"));
    let places = places(&memory, process, bytes);
    stop(process);
    let (mut held, mut byte, mut flipped) = (vec![0; bytes.len()], [0], 0);
    for place in places {
        let Some(at) = place.checked_add_signed(distance as i64) else {
            continue;
        };
        let is_there = memory.read_exact_at(&mut held, place).is_ok() && held == bytes;
        if is_there && memory.read_exact_at(&mut byte, at).is_ok() {
            flipped += usize::from(memory.write_all_at(&[byte[0] ^ bits], at).is_ok());
        }
    }
    tree::tell(process, "-CONT");
    flipped
}

/// Where these bytes lie. That takes a while, in which the process goes on.
fn places(memory: &File, process: u32, bytes: &[u8]) -> Vec<u64> {
    let mut places = Vec::new();
    for range in writable(process) {
        let mut held = vec![0; (range.end - range.start) as usize];
        // What was given back meanwhile is not the process's any more.
        if memory.read_exact_at(&mut held, range.start).is_err() {
            continue;
        }
        let windows = held.windows(bytes.len()).enumerate();
        // To compare a first byte is quicker than to call for all of them.
        let found = windows.filter(|(_, window)| window.first() == bytes.first() && *window == bytes);
        places.extend(found.map(|(at, _)| range.start + at as u64));
    }
    places
}

/// Stops a process, and waits until it stands still.
fn stop(process: u32) {
    tree::tell(process, "-STOP");
    let path = format!("/proc/{process}/stat");
    let stands = || {
        let stat = fs::read_to_string(&path).expect("the process is there");
        stat.rsplit_once(')').is_some_and(|(_, tail)| tail.starts_with(" T"))
    };
    let deadline = Instant::now() + PATIENCE;
    while !stands() {
        assert!(Instant::now() < deadline, "{process} does not stop");
        thread::sleep(LOOK);
    }
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
