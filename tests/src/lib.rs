//! Placeholder until the crate's first room is furnished.
