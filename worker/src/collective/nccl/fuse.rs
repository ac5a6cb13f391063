//! An end for calls that do not end.
//!
//! A call into a library cannot be called off. So a thread watches how long one lasts, and when it lasts too long, what was lit
//! with the fuse is done: in a rank, the process ends, since its agent can start another one and nothing else can help.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time by which a call is noticed too late.
const LOOK: Duration = Duration::from_millis(250);

/// Watches the calls of one thread.
#[derive(Debug)]
pub struct Fuse(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    watched: Mutex<Watched>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct Watched {
    /// What is called, and how long it may last.
    call: Option<(&'static str, Duration, Instant)>,
    is_over: bool,
}

impl Fuse {
    /// A fuse; when a call lasts too long, `burn` is told which one.
    ///
    /// # Errors
    /// When the thread that watches cannot start: then nothing may be called that could stay away.
    pub fn new(burn: impl Fn(&'static str, Duration) + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let watching = Arc::clone(&shared);
        let watch = move || {
            let mut watched = watching.lock();
            while !watched.is_over {
                if let Some((what, limit, _)) = watched.call.take_if(|(_, _, until)| *until <= Instant::now()) {
                    burn(what, limit);
                }
                // Woken at the end only: calls are too many to hear of each.
                let woken = watching.over.wait_timeout(watched, LOOK);
                watched = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        thread::Builder::new().name("fuse".into()).spawn(watch)?;
        Ok(Self(shared))
    }

    /// A fuse that ends the process, without a word to anyone but the log: even leaving it in good order may hang.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_process() -> io::Result<Self> {
        Self::new(|what, limit| {
            tracing::error!(
                "NCCL does not come back from `{what}` within {} s: this rank ends, its agent starts another one",
                limit.as_secs()
            );
            std::process::abort();
        })
    }

    /// Calls `f`, which may last so long.
    pub fn within<T>(&self, limit: Duration, what: &'static str, f: impl FnOnce() -> T) -> T {
        self.0.lock().call = Some((what, limit, Instant::now() + limit));
        let outcome = f();
        self.0.lock().call = None;
        outcome
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.over.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Watched> {
        // No code panics while it holds the lock in a half-changed state.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_call_that_does_not_end_burns_the_fuse_and_one_that_ends_does_not() {
        let (burn, burnt) = mpsc::channel();
        let fuse = Fuse::new(move |what, _| burn.send(what).unwrap()).unwrap();
        assert_eq!(fuse.within(Duration::from_secs(20), "a short call", || 7), 7);
        let heard = fuse.within(Duration::from_millis(1), "a long call", || {
            burnt.recv_timeout(Duration::from_secs(20))
        });
        assert_eq!(heard, Ok("a long call"));
    }

    #[test]
    fn a_fuse_burns_once_for_a_call() {
        let (burn, burnt) = mpsc::channel();
        let fuse = Fuse::new(move |what, _| burn.send(what).unwrap()).unwrap();
        fuse.within(Duration::ZERO, "a call", || {
            burnt.recv_timeout(Duration::from_secs(20)).unwrap()
        });
        drop(fuse);
        // The thread has ended, and with it what it could have said more.
        assert!(
            burnt
                .recv_timeout(Duration::from_secs(20))
                .is_err_and(|e| e == mpsc::RecvTimeoutError::Disconnected)
        );
    }
}
