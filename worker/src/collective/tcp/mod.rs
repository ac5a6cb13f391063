//! The TCP transport: a connection between every two ranks of a generation.
//!
//! For CPUs, laptops and tests. Each connection has a thread that writes and one that reads, none of which computes: a
//! rank in the middle of a long step still answers, so silence means that a peer is gone and can have a short
//! deadline. The end of a connection wakes everyone who waits, and so does the end of the generation ([`fence`]).
//!
//! All connections are made at once ([`connect`]). The first message of a connection proves that its sender belongs to the generation ([`handshake`]); after that come
//! bounded frames ([`frame`]), which wait in the [`inbox`] until someone asks for them.

mod connect;
pub mod fence;
pub mod frame;
pub mod handshake;
pub mod inbox;
pub mod mesh;

pub use fence::Fence;
pub use frame::{Kind, Tag};
pub use handshake::Hello;
pub use inbox::Lost;
pub use mesh::{Mesh, Timing};
