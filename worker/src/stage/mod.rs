//! What a rank works on: training in lock-step ([`train`]), or leased tasks ([`tasks`]); both start from [`inputs`].

pub mod inputs;
pub mod tasks;
pub mod train;
