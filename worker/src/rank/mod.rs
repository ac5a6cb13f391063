//! A rank: the process that owns one device and runs a set of lanes, or works on leased tasks.

pub mod membership;
