//! The making of a generation's connections.
//!
//! Each is made in a thread of its own: a member that cannot be reached delays no other connection, and who is missing is
//! known at any time. Nobody waits for these threads. One whose peer does not answer would outlast its generation by seconds,
//! in which its rank has to answer to the next; it ends by itself, and what it still brings is dropped.

use super::fence::{self, Fence};
use super::handshake::{self, Hello};
use super::mesh::Timing;
use std::collections::BTreeSet;
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks at a listener.
const LOOK: Duration = Duration::from_millis(5);
/// Shortest and longest pause between two attempts to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// One rank's part in it. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Call(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hello: Hello,
    timing: Timing,
    deadline: Instant,
    fence: Fence,
    /// Nobody wants further connections.
    is_over: AtomicBool,
}

/// Who has answered, or called, and the connection.
pub(super) type Joined = (Hello, TcpStream);
/// Where the threads bring what they have: a connection, or why a member refuses.
type Bring = Sender<io::Result<Joined>>;

impl Call {
    pub(super) fn new(hello: &Hello, timing: Timing, fence: &Fence) -> Self {
        Self(Arc::new(Inner {
            hello: hello.clone(),
            timing,
            deadline: Instant::now() + timing.connect,
            fence: fence.clone(),
            is_over: AtomicBool::new(false),
        }))
    }

    /// Makes a connection with every other member. Strangers are turned away meanwhile.
    ///
    /// # Errors
    /// When one refuses, or there is no use in waiting for some any more.
    pub(super) fn make(
        &self,
        listener: &TcpListener,
        addresses: &[String],
        told: &dyn Fn(&BTreeSet<u32>),
    ) -> io::Result<Vec<Joined>> {
        let made = self.make_all(listener, addresses, told);
        self.0.is_over.store(true, Ordering::Relaxed);
        made
    }

    fn make_all(
        &self,
        listener: &TcpListener,
        addresses: &[String],
        told: &dyn Fn(&BTreeSet<u32>),
    ) -> io::Result<Vec<Joined>> {
        let Hello { rank: own, world, .. } = self.0.hello;
        listener.set_nonblocking(true)?;
        let (bring, brought) = mpsc::channel();
        for (rank, address) in (0..own).zip(addresses) {
            self.call(rank, address.clone(), bring.clone())?;
        }
        let mut joined: Vec<Joined> = Vec::new();
        let mut missing: BTreeSet<u32> = (0..world).filter(|rank| *rank != own).collect();
        told(&missing);
        while !missing.is_empty() {
            self.ended().map_err(|e| without(&missing, &e))?;
            self.accept(listener, &bring);
            match brought.recv_timeout(LOOK) {
                Ok(Ok((hello, stream))) => {
                    if missing.remove(&hello.rank) {
                        told(&missing);
                    }
                    // One that calls again has given its first connection up.
                    joined.retain(|(other, _)| other.rank != hello.rank);
                    joined.push((hello, stream));
                }
                Ok(Err(refused)) => return Err(refused),
                // `bring` is here as well: it cannot be disconnected.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        Ok(joined)
    }

    /// Why not to go on, if there is a reason.
    fn ended(&self) -> io::Result<()> {
        if self.0.fence.is_past(self.0.hello.generation) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, fence::REASON));
        }
        if Instant::now() >= self.0.deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Calls a lower rank until it answers, refuses, or there is no use in it any more.
    fn call(&self, rank: u32, address: String, bring: Bring) -> io::Result<()> {
        let call = self.clone();
        let try_on = move || {
            let mut pause = PAUSE.0;
            while !call.0.is_over.load(Ordering::Relaxed) {
                match call.try_once(rank, &address) {
                    Err(e) if e.kind() != io::ErrorKind::PermissionDenied => {
                        tracing::debug!("cannot connect to rank {rank} at {address} yet: {e}");
                        thread::sleep(pause);
                        pause = (pause * 2).min(PAUSE.1);
                    }
                    outcome => {
                        let named = |e: io::Error| {
                            io::Error::new(e.kind(), format!("cannot connect to rank {rank} at {address}: {e}"))
                        };
                        // Fails when nobody wants it any more.
                        let _ = bring.send(outcome.map_err(named));
                        return;
                    }
                }
            }
        };
        let name = format!("call-rank-{rank}");
        thread::Builder::new().name(name).spawn(try_on).map(drop)
    }

    /// Connects to a lower rank, once.
    pub(super) fn try_once(&self, rank: u32, address: &str) -> io::Result<Joined> {
        let mut error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.0.timing.hello) {
                Ok(mut stream) => {
                    prepare(&stream, self.0.timing)?;
                    let answer = handshake::introduce(&mut stream, &self.0.hello, rank)?;
                    return Ok((answer, stream));
                }
                Err(e) => error = e,
            }
        }
        Err(error)
    }

    /// Greets whoever calls now. Whom this process has no descriptor or thread left for calls again: too many callers must not end
    /// a generation.
    fn accept(&self, listener: &TcpListener, bring: &Bring) {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) => {
                    if e.kind() != io::ErrorKind::WouldBlock {
                        tracing::debug!("a connection cannot be taken yet: {e}");
                    }
                    return;
                }
            };
            let (call, bring) = (self.clone(), bring.clone());
            let greet = move || match call.greet(stream) {
                // Fails when nobody wants it any more.
                Ok(joined) => drop(bring.send(Ok(joined))),
                Err(e) => tracing::warn!("turned a connection away: {e}"),
            };
            if let Err(e) = thread::Builder::new().name("greet-rank".into()).spawn(greet) {
                tracing::debug!("a connection is given up, as no thread can be started for it: {e}");
            }
        }
    }

    fn greet(&self, mut stream: TcpStream) -> io::Result<Joined> {
        stream.set_nonblocking(false)?;
        prepare(&stream, self.0.timing)?;
        let hello = handshake::welcome(&mut stream, &self.0.hello)?;
        Ok((hello, stream))
    }
}

/// Why there are no connections with these ranks.
fn without(missing: &BTreeSet<u32>, cause: &io::Error) -> io::Error {
    let missing: Vec<String> = missing.iter().map(u32::to_string).collect();
    io::Error::new(
        cause.kind(),
        format!("no connection with rank {}: {cause}", missing.join(", ")),
    )
}

fn prepare(stream: &TcpStream, timing: Timing) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timing.hello))?;
    stream.set_write_timeout(Some(timing.hello))
}
