//! Patience with shards that cannot be read: a file server that starts anew, a folder that somebody moves and moves back.

use medley_data::loader::Fault;
use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

/// Time from the first try of a read in which a further one begins; tests have less of it.
pub const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 30 });
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// Reads, and reads again for a while as long as that fails and `may_pass` says that it need not; that is told whether an earlier
/// try has failed. Before each further try `is_wanted` is asked, which may tell others that this one waits.
///
/// # Errors
/// Those of the last try.
pub fn patiently<T, E: std::fmt::Display>(
    mut read: impl FnMut() -> Result<T, E>,
    may_pass: impl Fn(&E, bool) -> bool,
    mut is_wanted: impl FnMut() -> bool,
) -> Result<T, E> {
    let mut first: Option<Instant> = None;
    loop {
        let error = match read() {
            Ok(read) => return Ok(read),
            Err(error) => error,
        };
        if !may_pass(&error, first.is_some()) {
            return Err(error);
        }
        if first.is_none() {
            tracing::warn!("{error}; it is tried again for {} s", PATIENCE.as_secs());
        }
        if first.get_or_insert_with(Instant::now).elapsed() >= PATIENCE || !is_wanted() {
            return Err(error);
        }
        thread::sleep(PAUSE);
    }
}

/// Whether a fault may pass: not that a shard is another file than the one that was indexed, or no file at all. One that was not to be
/// read a moment ago may be on its way, and be shorter for that.
pub fn fault_may_pass(fault: &Fault, was_missing: bool) -> bool {
    match fault {
        Fault::Read { source, .. } => error_may_pass(source),
        Fault::Changed { found, expected, .. } => was_missing && found < expected,
        Fault::Undecodable { .. } => false,
    }
}

/// Whether a file may be read later that cannot be read now.
pub fn error_may_pass(error: &std::io::Error) -> bool {
    error.kind() != ErrorKind::InvalidInput
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    fn missing() -> Fault {
        let source = Error::from(ErrorKind::NotFound);
        Fault::Read {
            path: "a.tar".into(),
            source,
        }
    }

    fn changed(found: u64) -> Fault {
        Fault::Changed {
            path: "a.tar".into(),
            found,
            expected: 10,
        }
    }

    fn tried(faults: Vec<Fault>) -> (Result<u32, String>, usize) {
        let (mut faults, mut waits) = (faults.into_iter(), 0);
        let read = || faults.next().map_or(Ok(7), Err);
        let result = patiently(read, fault_may_pass, || {
            waits += 1;
            true
        });
        (result.map_err(|fault| fault.to_string()), waits)
    }

    #[test]
    fn a_shard_that_comes_back_is_read_even_if_it_comes_piece_by_piece() {
        assert_eq!(tried(vec![missing(), changed(3)]), (Ok(7), 2));
    }

    #[test]
    fn a_shard_that_is_another_one_is_not_waited_for() {
        assert_eq!(tried(vec![changed(3)]), (Err(changed(3).to_string()), 0));
        assert_eq!(tried(vec![missing(), changed(11)]), (Err(changed(11).to_string()), 1));
    }

    #[test]
    fn patience_ends_and_nobody_is_waited_for_in_vain() {
        let begun = Instant::now();
        let result: Result<(), Fault> = patiently(|| Err(missing()), fault_may_pass, || true);
        assert!(result.is_err() && begun.elapsed() >= PATIENCE);
        let result: Result<(), Fault> = patiently(|| Err(missing()), fault_may_pass, || false);
        assert!(result.is_err() && begun.elapsed() < PATIENCE * 2);
    }
}
