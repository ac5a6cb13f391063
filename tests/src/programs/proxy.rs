//! A place on the way between two programs where a test can cut connections, or hold everything that is said.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Where connections lead.
#[derive(Debug, Clone)]
pub enum Target {
    /// An address.
    Address(SocketAddr),
    /// A socket among the files.
    Socket(PathBuf),
}

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// They work.
    Open,
    /// Nothing gets through, and nobody is told: as if every packet were lost.
    Silent,
    /// They are ended, and so is every new one.
    Cut,
}

/// A listener whose connections lead elsewhere.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    way: Way,
    /// Both ends of every connection so far.
    streams: Vec<Stream>,
}

impl Proxy {
    /// A proxy on a free port of this machine.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(target: Target) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a test may listen");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                way: Way::Open,
                streams: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        // It ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                of_thread.join(stream, &target);
            }
        });
        Self { address, shared }
    }

    /// Changes what becomes of connections, those that there are included.
    pub fn set(&self, way: Way) {
        let mut state = self.shared.state();
        state.way = way;
        if way == Way::Cut {
            state.streams.drain(..).for_each(|stream| stream.end());
        }
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while nothing gets through; false once the way is cut.
    fn may_pass(&self) -> bool {
        let silent = |state: &mut State| state.way == Way::Silent;
        let state = self.changed.wait_while(self.state(), silent);
        state.unwrap_or_else(PoisonError::into_inner).way == Way::Open
    }

    /// Joins a connection with one to the target. Either may be gone already.
    fn join(self: &Arc<Self>, near: TcpStream, target: &Target) {
        let near = Stream::Tcp(near);
        if self.state().way == Way::Cut {
            return near.end();
        }
        let Ok(far) = Stream::connect(target) else {
            return near.end();
        };
        let clones = [&near, &far].map(Stream::copy);
        self.state().streams.extend(clones.into_iter().flatten());
        for (from, to) in [(near.copy(), far.copy()), (Ok(far), Ok(near))] {
            if let (Ok(from), Ok(to)) = (from, to) {
                let shared = Arc::clone(self);
                thread::spawn(move || shared.pump(from, to));
            }
        }
    }

    fn pump(&self, mut from: Stream, mut to: Stream) {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let count = from.read(&mut bytes).unwrap_or(0);
            if count == 0 || !self.may_pass() || to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        // An end is news as well.
        self.may_pass();
        from.end();
        to.end();
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(target: &Target) -> io::Result<Self> {
        match target {
            Target::Address(address) => TcpStream::connect(address).map(Self::Tcp),
            Target::Socket(path) => UnixStream::connect(path).map(Self::Unix),
        }
    }

    fn copy(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    fn end(&self) {
        // It may have ended by itself.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }
}
