//! How wide the terminal is.

use std::io::IsTerminal;
use std::os::fd::AsRawFd;

/// Columns of the terminal that standard output is; none if it is none.
pub(crate) fn stdout_width() -> Option<usize> {
    width(&std::io::stdout())
}

/// Columns of the terminal that standard error is; none if it is none.
pub(super) fn stderr_width() -> Option<usize> {
    width(&std::io::stderr())
}

#[expect(unsafe_code, reason = "the standard library does not know how wide a terminal is")]
fn width(stream: &(impl AsRawFd + IsTerminal)) -> Option<usize> {
    if !stream.is_terminal() {
        return None;
    }
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open as long as the stream is borrowed, and TIOCGWINSZ writes a `winsize`, which outlives the call.
    let told = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    // A terminal that does not know has no columns.
    (told == 0 && size.ws_col > 0).then_some(size.ws_col.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_terminal_has_no_width() {
        assert_eq!(width(&std::fs::File::open("/dev/null").unwrap()), None);
    }
}
