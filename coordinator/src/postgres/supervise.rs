//! The server's supervisor: a thread that starts the server, watches it, starts it again, and stops it.
//!
//! It is a thread and not a task, because Linux ties the signal that ends the server to the thread that started it.
//! [`Server`] is a handle: dropping it stops the server, [`Server::stop`] also waits for that.

use super::find::find;
use super::identity::Identity;
use super::layout::{DATABASE, Layout, Notes, PORT, USER, remove_socket};
use super::run::{Durability, LOOK, Setup, stop};
use super::{Doing, Error, Result, init, leftovers};
use sqlx::postgres::PgConnectOptions;
use std::cell::Cell;
use std::fmt::Write;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// A server that lived this long was well; its end is no reason to doubt the next.
const STEADY: Duration = Duration::from_mins(1);
/// Ends in a row, without a steady life between, after which no other start is tried.
const MAX_ENDS: u32 = 5;

/// How the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It accepts connections.
    Ready {
        /// Its process.
        pid: u32,
    },
    /// It died and is being started again.
    Restarting,
    /// It is not running and will not be started again. The text says why, for people.
    Ended(String),
}

/// A running server. Dropping the handle stops it.
#[derive(Debug)]
pub struct Server {
    /// Closed to stop the server.
    stop: Sender<()>,
    health: watch::Receiver<Health>,
    options: PgConnectOptions,
    url: String,
}

impl Server {
    /// Starts the server on the files under `root`, which are made if there are none.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn start(root: &Path, durability: Durability) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let (ready, started) = oneshot::channel();
        let root = root.to_owned();
        thread::Builder::new()
            .name("postgres".into())
            .spawn(move || supervise(&root, durability, &stopped, ready))
            .doing("start", Path::new("a thread for the database"))?;
        let gone = |_| Error::Init("the thread that starts the database ended".into());
        let Started { options, url, health } = started.await.map_err(gone)??;
        Ok(Self {
            stop,
            health,
            options,
            url,
        })
    }

    /// How to connect.
    pub fn connect_options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// How to connect, as a URL with the password in it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How the server is, from now on.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Stops the server and waits for its end, ten seconds at most.
    pub async fn stop(self) {
        let Self { stop, mut health, .. } = self;
        drop(stop);
        // An error means that the thread is gone, and the server with it.
        let _ = health.wait_for(|health| matches!(health, Health::Ended(_))).await;
    }
}

/// How to connect to a server on these files that another process supervises; none if there is none.
///
/// # Errors
/// When the files cannot be read.
pub fn running(root: &Path) -> Result<Option<PgConnectOptions>> {
    if !root.is_dir() {
        return Ok(None);
    }
    let layout = Layout::open(root)?;
    match lock(&layout) {
        Ok(_) => return Ok(None),
        Err(Error::InUse(_)) => {}
        Err(other) => return Err(other),
    }
    let notes = Notes::read(&layout.postmaster()).filter(|notes| notes.ready);
    let socket_dir = notes.and_then(|notes| notes.socket_dir);
    socket_dir.map(|dir| layout.connect_options(&dir)).transpose()
}

/// What the thread tells once the server is ready.
struct Started {
    options: PgConnectOptions,
    url: String,
    health: watch::Receiver<Health>,
}

/// The whole life of the thread.
fn supervise(root: &Path, durability: Durability, stopped: &Receiver<()>, ready: oneshot::Sender<Result<Started>>) {
    let stopping = Stopping {
        stopped,
        seen: Cell::new(false),
    };
    let prepared = prepare(root, durability).and_then(|(lock, setup)| {
        let child = start(&setup, &stopping)?;
        Ok((lock, setup, child))
    });
    // The lock is held as long as the server may run.
    let (lock, setup, child) = match prepared {
        Ok(prepared) => prepared,
        Err(e) => {
            let _ = ready.send(Err(e));
            return;
        }
    };
    let (tell, health) = watch::channel(Health::Ready { pid: child.id() });
    let told = describe(&setup).map(|(options, url)| Started { options, url, health });
    // Whoever asked for the server may have gone meanwhile, which shows as a stop.
    let _ = ready.send(told);
    let ended = keep_running(&setup, child, &stopping, &tell);
    remove_socket(&setup.socket_dir);
    // Whoever hears of the end may start again at once.
    drop(lock);
    tell.send_replace(Health::Ended(ended));
}

/// Everything before the first start.
fn prepare(root: &Path, durability: Durability) -> Result<(File, Setup)> {
    let layout = Layout::open(root)?;
    let lock = lock(&layout)?;
    let binaries = find(layout.made_by()?, &layout.data())?;
    let identity = Identity::choose(&layout, &binaries)?;
    leftovers::clear(&layout)?;
    init::init(&layout, &binaries, &identity, durability)?;
    let socket_dir = layout.make_socket_dir()?;
    identity.give(&socket_dir)?;
    tracing::info!(data = %layout.data().display(), version = binaries.major, ?identity, "starting the database");
    let setup = Setup {
        layout,
        binaries,
        identity,
        durability,
        socket_dir,
    };
    Ok((lock, setup))
}

fn lock(layout: &Layout) -> Result<File> {
    let path = layout.lock();
    let file = File::create(&path).doing("make", &path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(layout.root().to_owned())),
        Err(TryLockError::Error(e)) => Err(e).doing("lock", &path),
    }
}

/// Starts the server and waits until it is ready; one that is not is ended.
fn start(setup: &Setup, stopping: &Stopping) -> Result<Child> {
    let mut child = setup.spawn()?;
    match setup.wait_until_ready(&mut child, || stopping.within(Duration::ZERO)) {
        Ok(()) => Ok(child),
        Err(e) => {
            stop(&mut child);
            Err(e)
        }
    }
}

/// Watches the server and starts it again when it dies; returns why it no longer runs.
fn keep_running(setup: &Setup, mut child: Child, stopping: &Stopping, tell: &watch::Sender<Health>) -> String {
    let mut ends = 0;
    loop {
        let since = Instant::now();
        let status = match wait(&mut child, stopping) {
            Ok(Some(status)) => status,
            Ok(None) => {
                let status = stop(&mut child);
                return status.map_or("stopped, after a struggle".into(), |status| {
                    format!("stopped with {status}")
                });
            }
            Err(e) => return format!("the server cannot be observed: {e}"),
        };
        ends = if since.elapsed() >= STEADY { 1 } else { ends + 1 };
        tracing::error!(%status, ends, "the database server died; starting it again");
        if ends >= MAX_ENDS {
            return format!("the server died {ends} times in a row, at last with {status}");
        }
        tell.send_replace(Health::Restarting);
        let next = leftovers::clear(&setup.layout).and_then(|()| start(setup, stopping));
        child = match next {
            Ok(next) => next,
            Err(e) => return e.to_string(),
        };
        tracing::info!(pid = child.id(), "the database server is ready again");
        tell.send_replace(Health::Ready { pid: child.id() });
    }
}

/// Waits for the server's end; none if it is to be stopped before.
fn wait(child: &mut Child, stopping: &Stopping) -> io::Result<Option<std::process::ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if stopping.within(LOOK * 5) {
            return Ok(None);
        }
    }
}

/// Whether the handle is gone.
struct Stopping<'a> {
    stopped: &'a Receiver<()>,
    seen: Cell<bool>,
}

impl Stopping<'_> {
    fn within(&self, patience: Duration) -> bool {
        let disconnected = matches!(self.stopped.recv_timeout(patience), Err(RecvTimeoutError::Disconnected));
        self.seen.set(self.seen.get() || disconnected);
        self.seen.get()
    }
}

fn describe(setup: &Setup) -> Result<(PgConnectOptions, String)> {
    let options = setup.layout.connect_options(&setup.socket_dir)?;
    let path = setup.layout.password();
    let password = std::fs::read_to_string(&path).doing("read", &path)?;
    Ok((options, url(password.trim(), &setup.socket_dir)))
}

/// A URL in the form that both libpq and sqlx read.
fn url(password: &str, socket_dir: &Path) -> String {
    let mut url = format!("postgres://{USER}:{password}@localhost:{PORT}/{DATABASE}?host=");
    for byte in socket_dir.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => url.push(char::from(*byte)),
            other if other.is_ascii_alphanumeric() => url.push(char::from(*other)),
            other => {
                // Writing to a string does not fail.
                let _ = write!(url, "%{other:02X}");
            }
        }
    }
    url
}
