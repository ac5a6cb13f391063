//! The first messages of a connection: who speaks, for which generation, and what it holds in memory.
//!
//! The rank with the higher number connects; both sides say hello and check the other's, and the one that connected confirms:
//! a connection that was given up meanwhile, and waited to be accepted, is thereby told from one that lives. A stranger, or a
//! member of an old generation, is told why it is refused and changes nothing.

use super::frame::{self, Kind, Tag};
use crate::rank::beginning::Memory;
use medley_protocol::ids::StageId;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::TcpStream;

/// Longest hello, or refusal, in bytes.
const MAX_HELLO: usize = 4 << 10;

/// What each side of a new connection says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The stage.
    pub stage: StageId,
    /// Fencing number of the membership.
    pub generation: u64,
    /// Shared by the members of the generation.
    pub secret: String,
    /// What the sender brings along from an earlier generation.
    pub memory: Option<Memory>,
    /// The sender's rank.
    pub rank: u32,
    /// Ranks of the generation.
    pub world: u32,
    /// Numerics fingerprint: one generation computes the same bits.
    pub fingerprint: String,
}

impl Hello {
    /// Why the other's hello does not fit this one.
    fn objection(&self, other: &Self) -> Option<String> {
        // Hashes compare in constant time.
        if blake3::hash(self.secret.as_bytes()) != blake3::hash(other.secret.as_bytes()) {
            return Some("the secret of the generation is another".into());
        }
        if self.stage != other.stage || self.generation != other.generation || self.world != other.world {
            return Some(format!(
                "generation {} of stage {} with {} ranks meets generation {} of stage {} with {} ranks",
                self.generation, self.stage, self.world, other.generation, other.stage, other.world
            ));
        }
        (self.fingerprint != other.fingerprint).then(|| {
            format!(
                "ranks would compute other bits: {} here, {} there",
                self.fingerprint, other.fingerprint
            )
        })
    }
}

/// Speaks first: says hello as a higher rank to `expected`, a lower one, and returns its answer.
///
/// # Errors
/// IO errors, among them timeouts of the stream; `PermissionDenied` when either side refuses the other.
pub fn introduce(stream: &mut TcpStream, hello: &Hello, expected: u32) -> io::Result<Hello> {
    say(stream, hello)?;
    let other = hear(stream)?;
    if other.rank != expected {
        return Err(refused(format!(
            "rank {expected} was expected, rank {} answered",
            other.rank
        )));
    }
    if let Some(why) = hello.objection(&other) {
        return Err(refused(why));
    }
    frame::write(stream, Tag::plain(Kind::Ping), &[])?;
    Ok(other)
}

/// Answers: returns the hello of the rank that introduced itself, one above `hello.rank`.
///
/// # Errors
/// As for [`introduce`]; the other side is told.
pub fn welcome(stream: &mut TcpStream, hello: &Hello) -> io::Result<Hello> {
    let other = hear(stream)?;
    let out_of_place = || {
        let fits = (hello.rank + 1..hello.world).contains(&other.rank);
        (!fits).then(|| format!("rank {} does not connect to rank {}", other.rank, hello.rank))
    };
    if let Some(why) = hello.objection(&other).or_else(out_of_place) {
        frame::write(stream, Tag::plain(Kind::Refused), why.as_bytes())?;
        return Err(refused(why));
    }
    say(stream, hello)?;
    match frame::read(stream, 0)? {
        (tag, _) if tag.kind == Kind::Ping => Ok(other),
        _ => Err(refused("a hello that was answered must be confirmed".into())),
    }
}

fn say(stream: &mut TcpStream, hello: &Hello) -> io::Result<()> {
    let text = serde_json::to_vec(hello).map_err(io::Error::other)?;
    frame::write(stream, Tag::plain(Kind::Hello), &text)
}

fn hear(stream: &mut TcpStream) -> io::Result<Hello> {
    let (tag, payload) = frame::read(stream, MAX_HELLO)?;
    match tag.kind {
        Kind::Hello => serde_json::from_slice(&payload).map_err(io::Error::other),
        Kind::Refused => Err(refused(String::from_utf8_lossy(&payload).into_owned())),
        _ => Err(refused("the first frame is not a hello".into())),
    }
}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}
