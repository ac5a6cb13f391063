//! A supervised process: start, notice the end, ask to stop, kill.
//!
//! Each process has one thread of its own that starts it and waits for it, and that lives as long as the process: Linux
//! sends the parent-death signal when the *thread* that forked ends. So a process dies with the command in two ways: by
//! that signal, however the command ends, and by [`Process`] being dropped. It has a process group of its own, so that
//! Ctrl-C in a terminal reaches only the command, which then stops everything in order.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Lines of standard output that may wait to be read; more are only logged.
const MAX_LINES: usize = 64;
/// Time between looks at whether a process has ended.
const POLL: Duration = Duration::from_millis(25);
/// Longest wait for the end of a killed process.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// A running process. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Arc<Mutex<Child>>,
    ended: watch::Receiver<Option<String>>,
    lines: mpsc::Receiver<String>,
}

/// Where standard output goes.
#[derive(Debug)]
pub(crate) enum Output {
    /// Into the same file as standard error.
    Log,
    /// Line by line to [`Process::line`], and into the file.
    Lines,
}

impl Process {
    /// Starts a process that logs to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(mut command: Command, log: std::fs::File, output: Output) -> io::Result<Self> {
        let (line_sender, lines) = mpsc::channel(MAX_LINES);
        let pump = match output {
            Output::Log => {
                command.stdout(log.try_clone()?);
                None
            }
            Output::Lines => {
                command.stdout(Stdio::piped());
                Some((log.try_clone()?, line_sender))
            }
        };
        command.stdin(Stdio::null()).stderr(log).process_group(0);
        end_with_parent(&mut command);
        let (ended_sender, ended) = watch::channel(None);
        let (started_sender, started) = std_mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("process-watch".into())
            .spawn(move || {
                let Some(child) = begin(command, pump, &started_sender) else {
                    return;
                };
                // Nobody may be left to hear it.
                let _ = ended_sender.send(Some(reap(&child)));
            })?;
        let gone = || Err(io::Error::other("the thread that starts a process ended"));
        let child = started.recv().unwrap_or_else(|_| gone())?;
        Ok(Self { child, ended, lines })
    }

    /// Waits for the end of the process; says how it ended.
    pub(crate) async fn ended(&mut self) -> String {
        match self.ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            Err(_) => "ended unobserved".into(),
        }
    }

    /// The next line of its standard output; none once that is closed.
    pub(crate) async fn line(&mut self) -> Option<String> {
        self.lines.recv().await
    }

    /// Asks the process to end, kills it when it has not after `grace`, and waits for its end.
    pub(crate) async fn stop(mut self, grace: Duration) {
        terminate(&mut lock(&self.child));
        if tokio::time::timeout(grace, self.ended()).await.is_err() {
            self.kill();
            // A killed process that does not end hangs in the kernel; there is nothing more to do for it.
            let _ = tokio::time::timeout(KILL_PATIENCE, self.ended()).await;
        }
    }

    fn kill(&self) {
        // Fails only when the process was reaped already.
        let _ = lock(&self.child).kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

type Started = io::Result<Arc<Mutex<Child>>>;
type Pump = (std::fs::File, mpsc::Sender<String>);

fn begin(
    mut command: Command,
    pump: Option<Pump>,
    started: &std_mpsc::SyncSender<Started>,
) -> Option<Arc<Mutex<Child>>> {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return None;
        }
    };
    // Closes our copies of the log.
    drop(command);
    if let (Some((log, lines)), Some(stdout)) = (pump, child.stdout.take()) {
        let pumping = std::thread::Builder::new().name("process-output".into());
        if let Err(error) = pumping.spawn(move || forward(stdout, log, &lines)) {
            let _ = child.kill();
            let _ = started.send(Err(error));
            return None;
        }
    }
    let child = Arc::new(Mutex::new(child));
    if started.send(Ok(Arc::clone(&child))).is_err() {
        let _ = lock(&child).kill();
    }
    Some(child)
}

/// Copies lines to the log and, as long as somebody listens, to the channel.
fn forward(stdout: ChildStdout, mut log: std::fs::File, lines: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        // A full disk must not stop the process that logs.
        let _ = log.write_all(&line);
        let _ = lines.try_send(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
}

fn reap(child: &Mutex<Child>) -> String {
    loop {
        // Polled rather than waited for, so that signals are never locked out and never sent to a reused process id.
        match lock(child).try_wait() {
            Ok(Some(status)) => return describe(status),
            Ok(None) => {}
            Err(error) => return format!("ended unobserved: {error}"),
        }
        std::thread::sleep(POLL);
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended".into(),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended for an unknown reason".into(),
    }
}

fn lock(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    // A panic elsewhere leaves the child as usable as before.
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends SIGTERM, unless the process has ended. Its lock is held and it was not reaped, so its id is still its own.
fn terminate(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        send(child.id(), libc::SIGTERM);
    }
}

/// Sends a signal to a process that is known to be there.
#[expect(unsafe_code, reason = "the standard library can only send SIGKILL, and to children")]
pub(crate) fn send(pid: u32, signal: i32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: kill(2) touches no memory of ours.
        unsafe {
            libc::kill(pid, signal);
        }
    }
}

/// Asks the kernel to kill the process when the thread that starts it ends.
#[expect(unsafe_code, reason = "prctl has no safe wrapper; it runs between fork and exec")]
pub(crate) fn end_with_parent(command: &mut Command) {
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

    fn start(script: &str) -> Process {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Process::start(command, tempfile::tempfile().unwrap(), Output::Lines).unwrap()
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), future).await.unwrap()
    }

    #[tokio::test]
    async fn its_lines_arrive_and_then_how_it_ended() {
        let mut process = start("echo hello; exit 3");
        assert_eq!(soon(process.line()).await.as_deref(), Some("hello"));
        assert_eq!(soon(process.ended()).await, "ended with exit code 3");
    }

    #[tokio::test]
    async fn a_process_that_ignores_the_request_to_stop_is_killed() {
        let mut process = start("trap '' TERM; echo ready; while :; do sleep 1; done");
        soon(process.line()).await;
        let mut ended = process.ended.clone();
        soon(process.stop(Duration::from_millis(50))).await;
        let how = soon(ended.wait_for(Option::is_some)).await.unwrap().clone();
        assert_eq!(how.as_deref(), Some("was killed by signal 9"));
    }

    #[tokio::test]
    async fn a_process_may_take_its_time_to_stop_in_order() {
        let mut process = start("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done");
        soon(process.line()).await;
        let mut ended = process.ended.clone();
        soon(process.stop(Duration::from_secs(20))).await;
        assert_eq!(
            soon(ended.wait_for(Option::is_some)).await.unwrap().as_deref(),
            Some("ended")
        );
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let command = Command::new("/nonexistent/program");
        assert!(Process::start(command, tempfile::tempfile().unwrap(), Output::Log).is_err());
    }
}
