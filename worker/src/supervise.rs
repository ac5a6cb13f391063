//! Rank processes seen from outside: start, talk, notice the end, kill.
//!
//! The agent and `medley-worker train` supervise ranks in the same way. Each process has one thread of its own that
//! starts it, reads what it says and reaps it; that thread lives as long as the process, because Linux sends the
//! parent-death signal when the *thread* that forked ends, not the process. A rank therefore dies with its supervisor
//! in three ways: by that signal, by the end of its standard input, and by [`RankProcess`] being dropped.

use medley_protocol::agent::{FromRank, ToRank};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Longest line a rank may say, in bytes: bounds what a broken rank makes its supervisor allocate.
const MAX_LINE_BYTES: u64 = 4 << 20;
/// Orders that may wait for a rank to read them.
const MAX_ORDERS: usize = 64;
/// Time between the end of a rank's output and the end of its process, after which it is killed.
const EXIT_GRACE: Duration = Duration::from_secs(5);

/// What a supervisor learns from a rank process.
#[derive(Debug)]
pub enum Event {
    /// The rank said something.
    Said(FromRank),
    /// The rank said something that is not a message; it is being killed.
    Babbled(String),
    /// The process ended; the last event. The text says how, for people.
    Exited(String),
}

/// A running rank process. Dropping it kills the process.
#[derive(Debug)]
pub struct RankProcess {
    child: Arc<Mutex<Child>>,
    orders: SyncSender<Vec<u8>>,
    pid: u32,
}

impl RankProcess {
    /// Starts `program rank` (`program` is a `medley-worker` binary) with piped standard input and output.
    ///
    /// `gpu` is the UUID of the only one that it sees, as its first; without, it sees what this process does. `stderr` receives
    /// the rank's log. `sink` is called for every [`Event`], from the rank's own thread.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(
        program: &Path,
        gpu: Option<&str>,
        stderr: Stdio,
        sink: impl FnMut(Event) + Send + 'static,
    ) -> io::Result<Self> {
        let mut command = Command::new(program);
        command
            .envs(gpu.map(|uuid| ("CUDA_VISIBLE_DEVICES", uuid)))
            .arg("rank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr);
        end_with_parent(&mut command);
        let (started_tx, started_rx) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name("rank-watch".into())
            .spawn(move || watch(command, started_tx, sink))?;
        let ended = || Err(io::Error::other("the thread that starts a rank ended"));
        let (child, stdin) = started_rx.recv().unwrap_or_else(|_| ended())?;
        let pid = lock(&child).id();
        let (orders, waiting) = mpsc::sync_channel(MAX_ORDERS);
        thread::Builder::new()
            .name("rank-orders".into())
            .spawn(move || deliver(stdin, &waiting))?;
        Ok(Self { child, orders, pid })
    }

    /// The process id, for logs.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends an order; never blocks.
    ///
    /// # Errors
    /// When the process has closed its input, or leaves too many orders unread.
    pub fn tell(&self, order: &ToRank) -> io::Result<()> {
        let mut line = serde_json::to_vec(order).map_err(io::Error::other)?;
        line.push(b'\n');
        let refused = |why| io::Error::new(io::ErrorKind::BrokenPipe, why);
        self.orders.try_send(line).map_err(|e| match e {
            mpsc::TrySendError::Full(_) => refused("the rank does not read its orders"),
            mpsc::TrySendError::Disconnected(_) => refused("the rank has closed its input"),
        })
    }

    /// Kills the process; [`Event::Exited`] follows. Harmless if it has ended.
    pub fn kill(&self) {
        // Fails only when the process was reaped already.
        let _ = lock(&self.child).kill();
    }
}

impl Drop for RankProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

type Started = io::Result<(Arc<Mutex<Child>>, std::process::ChildStdin)>;

/// Starts the process, forwards what it says, reaps it.
fn watch(mut command: Command, started: SyncSender<Started>, mut sink: impl FnMut(Event)) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            let _ = started.send(Err(e));
            return;
        }
    };
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        let _ = child.kill();
        let _ = started.send(Err(io::Error::other("a started rank has no pipes")));
        return;
    };
    let child = Arc::new(Mutex::new(child));
    if started.send(Ok((Arc::clone(&child), stdin))).is_err() {
        let _ = lock(&child).kill();
    }
    listen(stdout, &child, &mut sink);
    sink(Event::Exited(reap(&child)));
}

/// Forwards messages until the output ends.
fn listen(stdout: ChildStdout, child: &Mutex<Child>, sink: &mut impl FnMut(Event)) {
    let mut output = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        match output.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        match serde_json::from_slice(&line) {
            Ok(message) => sink(Event::Said(message)),
            Err(e) => {
                // The beginning of a message may hold a lease's token, which is nobody else's to see.
                let what = if line.len() as u64 == MAX_LINE_BYTES {
                    format!("a line of more than {} MiB", MAX_LINE_BYTES >> 20)
                } else {
                    let shown = String::from_utf8_lossy(&line[..line.len().min(200)]);
                    format!("not a message ({e}): {shown}")
                };
                sink(Event::Babbled(what));
                let _ = lock(child).kill();
                return;
            }
        }
    }
}

/// Waits for the end of the process, helping it along after the grace period.
fn reap(child: &Mutex<Child>) -> String {
    let deadline = Instant::now() + EXIT_GRACE;
    loop {
        // Polled rather than waited for, so that `kill` is never locked out.
        match lock(child).try_wait() {
            Ok(Some(status)) => return describe(status),
            Ok(None) if Instant::now() >= deadline => {
                let _ = lock(child).kill();
            }
            Ok(None) => {}
            Err(e) => return format!("its end cannot be observed: {e}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended".into(),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended for an unknown reason".into(),
    }
}

/// Writes orders until the supervisor hangs up, which closes the rank's input, or the rank does.
fn deliver(mut stdin: std::process::ChildStdin, orders: &Receiver<Vec<u8>>) {
    while let Ok(line) = orders.recv() {
        if stdin.write_all(&line).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

fn lock(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    // A panic elsewhere leaves the child as usable as before.
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the kernel to kill the process when the thread that starts it ends.
#[expect(unsafe_code, reason = "prctl has no safe wrapper; it runs between fork and exec")]
fn end_with_parent(command: &mut Command) {
    // SAFETY: the closure makes one async-signal-safe system call and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A stand-in for `medley-worker`: a shell script.
    fn script(dir: &Path, body: &str) -> std::path::PathBuf {
        let path = dir.join("worker");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn start(body: &str) -> (tempfile::TempDir, RankProcess, Receiver<Event>) {
        let dir = tempfile::tempdir().unwrap();
        let (tx, rx) = mpsc::channel();
        let program = script(dir.path(), body);
        let rank = RankProcess::spawn(&program, Some("GPU-1"), Stdio::null(), move |event| {
            let _ = tx.send(event);
        });
        (dir, rank.unwrap(), rx)
    }

    fn next(events: &Receiver<Event>) -> Event {
        events.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn what_a_rank_says_arrives_and_then_its_end() {
        let (_dir, _rank, events) = start(r#"echo '{"from":"lease-wanted"}'; exit 3"#);
        assert!(matches!(next(&events), Event::Said(FromRank::LeaseWanted)));
        let Event::Exited(how) = next(&events) else { panic!() };
        assert!(how.contains("exit code 3"), "{how}");
    }

    #[test]
    fn orders_reach_the_rank() {
        let (_dir, rank, events) = start(r#"read line; test "$line" = '{"to":"stop"}' && exit 7"#);
        rank.tell(&ToRank::Stop).unwrap();
        let Event::Exited(how) = next(&events) else { panic!() };
        assert!(how.contains("exit code 7"), "{how}");
    }

    #[test]
    fn a_rank_sees_its_own_gpu_alone() {
        let (_dir, _rank, events) = start(r#"test "$CUDA_VISIBLE_DEVICES" = GPU-1 && exit 7"#);
        let Event::Exited(how) = next(&events) else { panic!() };
        assert!(how.contains("exit code 7"), "{how}");
    }

    #[test]
    fn a_dropped_rank_is_killed() {
        let (_dir, rank, events) = start("exec sleep 600");
        drop(rank);
        let Event::Exited(how) = next(&events) else { panic!() };
        assert!(how.contains("signal 9"), "{how}");
    }

    #[test]
    fn a_rank_that_babbles_is_killed() {
        let (_dir, _rank, events) = start("echo hello; exec sleep 600");
        assert!(matches!(next(&events), Event::Babbled(what) if what.contains("hello")));
        assert!(matches!(next(&events), Event::Exited(_)));
    }

    #[test]
    fn a_line_without_end_is_not_repeated() {
        let (_dir, _rank, events) = start("printf secret; exec cat /dev/zero");
        let Event::Babbled(what) = next(&events) else { panic!() };
        assert_eq!(what, "a line of more than 4 MiB");
    }
}
