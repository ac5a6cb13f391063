//! Whole jobs through the router, with agents and ranks played by the test and a clock that it moves.

mod cluster;
mod damage;
mod doubt;
mod failures;
mod hardware;
mod hostile;
mod node;
mod refusals;
mod retention;
mod retry;
mod whole_jobs;
