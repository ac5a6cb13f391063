//! The way from one rank to another, where a test can lose a word or make all of them slow.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are passed on at once.
const CHUNK: usize = 16 << 10;
/// Chunks on their way: what a long way holds.
const ON_THE_WAY: usize = 64;

/// What a way is like.
#[derive(Debug, Clone, Default)]
pub(crate) struct Way {
    /// Time that every byte takes.
    pub(crate) delay: Duration,
    /// How many bytes get through in a second; without it all.
    pub(crate) bytes_per_second: Option<u32>,
    /// Once the rank that is called says this, neither that nor anything after it gets through.
    pub(crate) loses: Option<String>,
}

impl Way {
    /// Opens a way to an address; the answer is where it begins. It is there as long as the test.
    pub(crate) fn to(self, address: &str) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let begin = listener.local_addr().unwrap();
        let address = address.to_owned();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // Whoever is called may be gone.
                let Ok(far) = TcpStream::connect(&address) else {
                    continue;
                };
                let there = Way {
                    loses: None,
                    ..self.clone()
                };
                there.carry(near.try_clone().unwrap(), far.try_clone().unwrap());
                self.clone().carry(far, near);
            }
        });
        begin
    }

    /// Carries what one stream brings to the other, and its end.
    fn carry(self, mut from: TcpStream, mut to: TcpStream) {
        let (sender, receiver) = mpsc::sync_channel(ON_THE_WAY);
        let delay = self.delay;
        let mut ends = from.try_clone().unwrap();
        thread::spawn(move || read(&mut from, delay, &sender));
        thread::spawn(move || {
            self.write(&receiver, &mut to);
            for stream in [&mut to, &mut ends] {
                // It may have ended by itself.
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }

    fn write(&self, chunks: &Receiver<(Instant, Vec<u8>)>, to: &mut TcpStream) {
        let mut said = Vec::new();
        for (due, bytes) in chunks {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if let Some(rate) = self.bytes_per_second {
                thread::sleep(Duration::from_secs_f64(bytes.len() as f64 / f64::from(rate)));
            }
            if let Some(lost) = &self.loses {
                said.extend_from_slice(&bytes);
                if said.windows(lost.len()).any(|words| words == lost.as_bytes()) {
                    // Until the end of the connection.
                    return chunks.iter().for_each(drop);
                }
                said.drain(..said.len().saturating_sub(lost.len()));
            }
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
    }
}

/// Reads to the end; each chunk is due after the delay.
fn read(from: &mut TcpStream, delay: Duration, chunks: &SyncSender<(Instant, Vec<u8>)>) {
    let mut bytes = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if chunks.send((Instant::now() + delay, bytes[..count].to_vec())).is_err() {
            return;
        }
    }
}
