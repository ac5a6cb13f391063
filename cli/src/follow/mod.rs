//! Following a job: what each look at it brought ([`progress`], pure), and the loop that looks ([`mod@watch`]).

mod progress;
mod watch;

pub(crate) use watch::watch;
