//! The first message of a connection: who speaks, for which generation, and from which step on.
//!
//! The rank with the higher number connects; both sides say hello and check the other's. A stranger, or a member of an
//! old generation, is told why it is refused and changes nothing.

use super::frame::{self, Kind, Tag};
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
    /// Number of steps the sender has committed.
    pub committed: u64,
    /// Whether it is prepared for the next.
    pub prepared: bool,
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
        if self.fingerprint != other.fingerprint {
            return Some(format!(
                "ranks would compute other bits: {} here, {} there",
                self.fingerprint, other.fingerprint
            ));
        }
        (self.committed != other.committed).then(|| {
            format!(
                "rank {} has committed {} steps, rank {} {}",
                self.rank, self.committed, other.rank, other.committed
            )
        })
    }
}

/// Speaks first: says hello as a higher rank to `expected`, a lower one.
///
/// # Errors
/// IO errors, among them timeouts of the stream; `PermissionDenied` when either side refuses the other.
pub fn introduce(stream: &mut TcpStream, hello: &Hello, expected: u32) -> io::Result<()> {
    say(stream, hello)?;
    let other = hear(stream)?;
    if other.rank != expected {
        return Err(refused(format!(
            "rank {expected} was expected, rank {} answered",
            other.rank
        )));
    }
    match hello.objection(&other) {
        None => Ok(()),
        Some(why) => Err(refused(why)),
    }
}

/// Answers: returns the rank that introduced itself, one above `hello.rank`.
///
/// # Errors
/// As for [`introduce`]; the other side is told.
pub fn welcome(stream: &mut TcpStream, hello: &Hello) -> io::Result<u32> {
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
    Ok(other.rank)
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
