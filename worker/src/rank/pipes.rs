//! The pipes between a rank and its agent: orders on standard input, reports on standard output, one JSON line each.
//!
//! The end of either pipe means that the agent is gone; the rank ends at once. So does the order to stop: nothing needs
//! to be saved that is not in a checkpoint. The end of a generation is noted at once too, so that whoever waits for its members
//! is called off.

use super::activity::Activity;
use crate::collective::tcp::Fence;
use medley_protocol::agent::{FromRank, RankState, ToRank};
use std::io::{self, BufRead, Read, Write};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Longest order in bytes.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// Time between two pulses of a rank.
pub const PULSE: Duration = Duration::from_millis(100);
/// Exit code after an order that cannot be read.
const BAD_ORDER: i32 = 2;

/// Orders as they come in, except the order to stop, which is obeyed at once.
#[derive(Debug)]
pub struct Orders {
    heard: Receiver<ToRank>,
    fence: Fence,
}

impl Orders {
    /// Starts to read standard input.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn listen() -> io::Result<Self> {
        let (say, heard) = mpsc::channel();
        let fence = Fence::default();
        let over = fence.clone();
        let listen = move || {
            for order in Lines(io::stdin().lock()) {
                if let ToRank::Regroup {
                    assignment,
                    at_once: true,
                    ..
                } = &order
                {
                    over.raise(assignment.generation);
                }
                // Sending fails when the rank has already decided to end.
                if order == ToRank::Stop || say.send(order).is_err() {
                    break;
                }
            }
            process::exit(0);
        };
        thread::Builder::new().name("orders".into()).spawn(listen)?;
        Ok(Self { heard, fence })
    }

    /// The lowest generation that is not over.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// The next order; none within `patience`.
    pub fn next(&self, patience: Duration) -> Option<ToRank> {
        match self.heard.recv_timeout(patience) {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Timeout) => None,
            // The reading thread ends the process; there is nothing left to wait for.
            Err(RecvTimeoutError::Disconnected) => loop {
                thread::park();
            },
        }
    }

    /// Orders that wait.
    pub fn waiting(&self) -> impl Iterator<Item = ToRank> + '_ {
        self.heard.try_iter()
    }
}

/// Orders line by line; ends with the input.
struct Lines<R>(R);

impl<R: BufRead> Iterator for Lines<R> {
    type Item = ToRank;

    fn next(&mut self) -> Option<ToRank> {
        let mut line = Vec::new();
        let read = (&mut self.0).take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) {
            return None;
        }
        match serde_json::from_slice(&line) {
            Ok(order) => Some(order),
            Err(e) => {
                tracing::error!("an order cannot be read: {e}");
                process::exit(BAD_ORDER);
            }
        }
    }
}

/// Says things to the agent. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Voice {
    out: Arc<Mutex<io::Stdout>>,
    /// The generation that it speaks of.
    generation: Arc<AtomicU64>,
    activity: Activity,
}

impl Voice {
    /// The rank's only voice: nothing else may write to standard output.
    pub fn new() -> Self {
        Self {
            out: Arc::new(Mutex::new(io::stdout())),
            generation: Arc::default(),
            activity: Activity::default(),
        }
    }

    /// What the rank is doing, told with every pulse.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Says from now on, again and again, that the process runs.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn pulse(&self) -> io::Result<()> {
        let voice = self.clone();
        let beat = move || {
            loop {
                let (doing, connecting) = (voice.activity.look(), voice.activity.connecting());
                voice.say(&FromRank::Pulse { doing, connecting });
                thread::sleep(PULSE);
            }
        };
        thread::Builder::new().name("pulse".into()).spawn(beat).map(drop)
    }

    /// From now on the rank works in this generation.
    pub fn enter(&self, generation: u64) {
        self.generation.store(generation, Ordering::SeqCst);
    }

    /// Says something.
    pub fn say(&self, what: &FromRank) {
        let mut line = serde_json::to_vec(what).expect("messages are plain data");
        line.push(b'\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if out.write_all(&line).and_then(|()| out.flush()).is_err() {
            process::exit(0);
        }
    }

    /// Says that the rank's state changed, in the generation that it works in.
    pub fn state(&self, state: RankState) {
        self.state_in(self.generation.load(Ordering::SeqCst), state);
    }

    /// Says what the rank's state in a generation is.
    pub fn state_in(&self, generation: u64, state: RankState) {
        self.say(&FromRank::State { generation, state });
    }
}

impl Default for Voice {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_line_by_line_until_the_input_ends() {
        let text = b"{\"to\":\"lease\",\"lease\":null}\n{\"to\":\"stop\"}\n";
        let orders: Vec<ToRank> = Lines(&text[..]).collect();
        assert_eq!(orders, [ToRank::Lease { lease: None }, ToRank::Stop]);
    }
}
