//! The few system calls that have no safe wrapper.
#![expect(
    unsafe_code,
    reason = "signals, and what a child does between fork and exec, go through libc"
)]

use std::ffi::CStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Asks a server to end: sessions are cut off, then it shuts down cleanly.
pub(super) const FAST: i32 = libc::SIGINT;
/// Tells a server to end at once; the next start recovers.
pub(super) const IMMEDIATE: i32 = libc::SIGQUIT;
/// Ends a process without asking.
pub(super) const KILL: i32 = libc::SIGKILL;

/// Asks any process to end.
pub(super) const TERMINATE: i32 = libc::SIGTERM;

/// Sends a signal to a process. That it is gone already is no error.
pub(super) fn signal(pid: u32, signal: i32) {
    // Zero and negative numbers would mean groups of processes.
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else {
        return;
    };
    // SAFETY: kill only sends a signal; it touches no memory.
    unsafe {
        libc::kill(pid, signal);
    }
}

/// Asks the kernel to send the child [`FAST`] when the thread that starts it ends.
pub(super) fn end_with_thread(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: the closure makes two async-signal-safe system calls and touches no memory of the parent.
    unsafe {
        command.pre_exec(move || {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, FAST))?;
            // The parent may have ended before the request.
            if libc::getppid().cast_unsigned() == parent {
                Ok(())
            } else {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        });
    }
}

/// Lets root's child believe that it is an ordinary user, in a user namespace of its own.
///
/// Outside the namespace it still is root, so it reaches root's files; PostgreSQL, which refuses to run as root, sees
/// user 1000.
pub(super) fn enter_namespace(command: &mut Command) {
    // SAFETY: the closure makes async-signal-safe system calls on static strings; it neither allocates nor locks.
    unsafe {
        command.pre_exec(|| {
            check(libc::unshare(libc::CLONE_NEWUSER))?;
            write(c"/proc/self/setgroups", b"deny")?;
            write(c"/proc/self/uid_map", b"1000 0 1\n")?;
            write(c"/proc/self/gid_map", b"1000 0 1\n")
        });
    }
}

/// Writes a file of `/proc`; usable between fork and exec.
fn write(path: &CStr, text: &[u8]) -> io::Result<()> {
    // SAFETY: `path` ends with a zero byte, `text` is valid for its length, and the descriptor is our own.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(file)?;
        let written = libc::write(file, text.as_ptr().cast(), text.len());
        let result = if written == text.len().cast_signed() {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        };
        libc::close(file);
        result
    }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
