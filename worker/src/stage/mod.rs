//! What a rank works on: training in lock-step ([`train`]), or leased tasks ([`tasks`]).

pub mod tasks;
pub mod train;
