//! What a rank works on: training in lock-step ([`train`]), or leased tasks ([`tasks`]); both start from [`inputs`], and have
//! [`patience`] with shards that cannot be read.

pub mod inputs;
pub mod patience;
pub mod tasks;
pub mod train;
