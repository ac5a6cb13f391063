//! All connections of one rank.

use super::connect::Call;
use super::fence::Fence;
use super::frame::{self, Kind, Tag};
use super::handshake::Hello;
use super::inbox::{Inbox, Lost};
use crate::rank::beginning::Memory;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, BufWriter, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Bytes of small frames that are written at once.
const WRITE_BUFFER: usize = 256 << 10;
/// Bytes that are read at once, if they are not all of one payload: those are copied a second time.
const READ_BUFFER: usize = 32 << 10;

/// Deadlines of a mesh.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// For all connections of a generation to come about; some members may be in the middle of a step of the one before.
    pub connect: Duration,
    /// For one hello and its answer.
    pub hello: Duration,
    /// Between two signs of life of this rank.
    pub beat: Duration,
    /// Silence after which a peer is lost.
    pub silence: Duration,
    /// For a living peer to deliver its part of a step.
    pub step: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_mins(10),
            hello: Duration::from_secs(5),
            beat: Duration::from_secs(1),
            silence: Duration::from_secs(15),
            step: Duration::from_mins(10),
        }
    }
}

/// Bounds on what peers may send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest payload of one frame.
    pub frame_bytes: usize,
    /// Most payload of one peer that may wait: what a step can need.
    pub waiting_bytes: usize,
}

type Outgoing = (Tag, Bytes);

/// Connections to all other ranks of a generation.
#[derive(Debug)]
pub struct Mesh {
    rank: u32,
    timing: Timing,
    inbox: Arc<Inbox>,
    peers: BTreeMap<u32, Peer>,
    memories: Vec<Option<Memory>>,
}

#[derive(Debug)]
struct Peer {
    stream: TcpStream,
    outgoing: Sender<Outgoing>,
    /// Returns how many bytes it has written.
    writer: JoinHandle<u64>,
}

impl Mesh {
    /// Connects to all members: `addresses[r]` is where rank `r` listens, `listener` where this one does. `told` hears which
    /// ranks there is no connection with yet, at first and whenever there are fewer.
    ///
    /// # Errors
    /// When some member cannot be reached, or refuses, within `timing.connect`; when `fence` passes the generation.
    pub fn connect(
        listener: &TcpListener,
        hello: &Hello,
        addresses: &[String],
        (timing, limits): (Timing, Limits),
        fence: &Fence,
        told: &dyn Fn(&BTreeSet<u32>),
    ) -> io::Result<Self> {
        let joined = Call::new(hello, timing, fence).make(listener, addresses, told)?;
        let inbox = Arc::new(Inbox::new(
            limits.waiting_bytes,
            (hello.rank, hello.generation),
            fence.clone(),
        ));
        let mut peers = BTreeMap::new();
        let mut memories = vec![hello.memory; hello.world as usize];
        for (other, stream) in joined {
            memories[other.rank as usize] = other.memory;
            peers.insert(other.rank, Peer::start(other.rank, stream, timing, limits, &inbox)?);
        }
        Ok(Self {
            rank: hello.rank,
            timing,
            inbox,
            peers,
            memories,
        })
    }

    /// What each rank, this one included, brings along from an earlier generation.
    pub fn memories(&self) -> &[Option<Memory>] {
        &self.memories
    }

    /// This rank.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Its deadlines.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// All other ranks.
    pub fn others(&self) -> impl Iterator<Item = u32> + '_ {
        self.peers.keys().copied()
    }

    /// Hands a frame to the thread that writes; a peer that is gone is noticed when something is awaited.
    pub fn send(&self, to: u32, tag: Tag, payload: Bytes) {
        if let Some(peer) = self.peers.get(&to) {
            // Fails only when the writer has ended, which it reported to the inbox.
            let _ = peer.outgoing.send((tag, payload));
        }
    }

    /// Waits for a frame.
    ///
    /// # Errors
    /// [`Lost`] as soon as any peer is lost, or if `from` lets a step's deadline pass.
    pub fn receive(&self, from: u32, tag: Tag) -> Result<Vec<u8>, Lost> {
        self.inbox.take(from, tag, self.timing.step)
    }

    /// Waits at most `patience` for a frame of this tag from any peer.
    ///
    /// # Errors
    /// [`Lost`] as soon as any peer is lost and no such frame waits.
    pub fn receive_any(&self, tag: Tag, patience: Duration) -> Result<Option<(u32, Vec<u8>)>, Lost> {
        self.inbox.take_any(tag, patience)
    }

    /// Waits at most `patience` for a control message.
    ///
    /// # Errors
    /// [`Lost`] as soon as any peer is lost and no message waits.
    pub fn receive_control(&self, patience: Duration) -> Result<Option<(u32, Vec<u8>)>, Lost> {
        self.inbox.take_control(patience)
    }

    /// Waits for `patience`, while something else than a frame is awaited.
    ///
    /// # Errors
    /// [`Lost`] as soon as any peer is lost.
    pub fn watch(&self, patience: Duration) -> Result<(), Lost> {
        self.inbox.watch(patience)
    }

    /// Says goodbye, waits for the others' goodbyes (at most `patience`), and closes, as [`close`](Self::close).
    pub fn leave(self, patience: Duration) -> BTreeMap<u32, u64> {
        for peer in self.peers.values() {
            let _ = peer.outgoing.send((Tag::plain(Kind::Bye), Bytes::new()));
        }
        self.inbox.wait_for_goodbyes(self.peers.len(), patience);
        self.close()
    }

    /// Sends what is queued and closes; peers that have not said goodbye are lost to each other. Returns the bytes that
    /// were written to each peer's socket since the hello, headers and signs of life included.
    pub fn close(self) -> BTreeMap<u32, u64> {
        let close = |(rank, peer): (u32, Peer)| {
            drop(peer.outgoing);
            // The writer ends by itself: every write has a deadline.
            let written = peer.writer.join().unwrap_or(0);
            let _ = peer.stream.shutdown(Shutdown::Both);
            (rank, written)
        };
        self.peers.into_iter().map(close).collect()
    }
}

impl Peer {
    fn start(rank: u32, stream: TcpStream, timing: Timing, limits: Limits, inbox: &Arc<Inbox>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timing.silence))?;
        stream.set_write_timeout(Some(timing.silence))?;
        let (outgoing, queue) = mpsc::channel();
        let (reading, writing) = (stream.try_clone()?, stream.try_clone()?);
        let (reader_inbox, writer_inbox) = (Arc::clone(inbox), Arc::clone(inbox));
        thread::Builder::new()
            .name(format!("from-rank-{rank}"))
            .spawn(move || {
                let ended = read_all(rank, reading, limits.frame_bytes, &reader_inbox);
                reader_inbox.lose(rank, explain(&ended, timing.silence));
            })?;
        let writer = thread::Builder::new().name(format!("to-rank-{rank}")).spawn(move || {
            let mut output = BufWriter::with_capacity(WRITE_BUFFER, Counted::new(writing));
            if let Err(e) = write_all(&mut output, &queue, timing.beat) {
                writer_inbox.lose(rank, explain(&e, timing.silence));
            }
            output.get_ref().written
        })?;
        Ok(Self {
            stream,
            outgoing,
            writer,
        })
    }
}

/// Reads until the connection ends.
fn read_all(rank: u32, stream: TcpStream, limit: usize, inbox: &Inbox) -> io::Error {
    let mut input = BufReader::with_capacity(READ_BUFFER, stream);
    loop {
        match frame::read(&mut input, limit) {
            Ok((tag, payload)) => {
                if !inbox.put(rank, tag, payload) {
                    return io::Error::other("it broke the rules");
                }
            }
            Err(e) => return e,
        }
    }
}

/// Writes what is queued, and a sign of life when there is nothing, until the mesh closes.
fn write_all(output: &mut impl Write, queue: &Receiver<Outgoing>, beat: Duration) -> io::Result<()> {
    loop {
        match queue.recv_timeout(beat) {
            Ok((tag, payload)) => frame::write(output, tag, &payload)?,
            Err(RecvTimeoutError::Timeout) => frame::write(output, Tag::plain(Kind::Ping), &[])?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// A writer that counts what it has written.
struct Counted<W> {
    inner: W,
    written: u64,
}

impl<W> Counted<W> {
    fn new(inner: W) -> Self {
        Self { inner, written: 0 }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn explain(error: &io::Error, silence: Duration) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "its connection ended".into(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("silent for {} s", silence.as_secs()),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
