//! How the members of a generation come to a communicator, or to the mesh, all alike.

use super::offer::{Choice, Offer, decide, pasts};
use super::past::{Fault, Record};
use crate::collective::group::Group;
use crate::collective::reduce::tell_all;
use crate::collective::tcp::{Kind, Lost, Mesh, Tag};
use bytes::Bytes;
use medley_protocol::spec::Collective;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What the members tell each other, in this order.
#[derive(Debug, Clone, Copy)]
enum Word {
    /// What each can do.
    Offer,
    /// What they know each other by.
    Id,
    /// Who could not connect, and why.
    Obstacle,
}

impl Word {
    fn tag(self) -> Tag {
        Tag {
            exchange: self as u64,
            ..Tag::plain(Kind::Road)
        }
    }
}

/// A group of devices; none if a peer has said that it could not connect, before this rank was. Or why this rank could not.
pub type Connected<'a> = Result<Option<Box<dyn Group + 'a>>, Fault>;

/// A library that makes groups of devices.
pub trait Library {
    /// What this rank can do.
    fn offer(&self) -> Offer;

    /// What has become of it so far.
    fn record(&self) -> &Record;

    /// What the members of a new group know each other by.
    ///
    /// # Errors
    /// [`Fault`].
    fn id(&self) -> Result<Vec<u8>, Fault>;

    /// Connects with the other members, who have the same id, and listens to their words meanwhile.
    ///
    /// # Errors
    /// [`Lost`] when one of them is lost meanwhile.
    fn connect<'a>(&self, id: &[u8], mesh: &'a Mesh, words: &mut Words) -> Result<Connected<'a>, Lost>;
}

/// Why a generation cannot work as its job asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A peer was lost.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// Some rank has not what it takes, now and later, or it was tried often enough.
    #[error(
        "cluster.collective is \"nccl\", which cannot be: {0}; use \"auto\" or \"tcp\", or see `medley-worker doctor`"
    )]
    Impossible(String),
    /// The library failed; the next generation tries again.
    #[error("NCCL failed on {0}; it is tried again, because cluster.collective is \"nccl\": \"auto\" would use TCP")]
    Failed(String),
}

/// Agrees with the other members of the generation on a group of devices; none if gradients go over the mesh.
///
/// # Errors
/// [`Refused`].
pub fn agree<'a>(
    wish: Collective,
    library: &dyn Library,
    mesh: &'a Mesh,
) -> Result<Option<Box<dyn Group + 'a>>, Refused> {
    let offers = ask_all(&library.offer(), Word::Offer, mesh)?;
    library.record().learn(pasts(&offers));
    match decide(wish, &offers) {
        Choice::Nccl(which) => tracing::info!("gradients travel over {which}"),
        Choice::Mesh(why) => {
            tracing::info!("gradients travel over TCP: {why}");
            return Ok(None);
        }
        Choice::Impossible(why) => return Err(Refused::Impossible(why)),
    }
    let began = Instant::now();
    let mut words = Words::of_peers(mesh);
    let connected = connect(library, mesh, &mut words)?;
    let own = connected.as_ref().err().map(|fault| fault.why.clone());
    let Some(obstacle) = words.all(own)? else {
        let ms = began.elapsed().as_millis() as u64;
        tracing::info!(ms, "all ranks are connected over NCCL");
        // Nobody has met an obstacle, so there is one.
        return Ok(connected.ok().flatten());
    };
    // Only now: had a peer been lost, that would be why.
    library.record().failed(obstacle.clone());
    if let Err(Fault { why, is_own: true }) = connected {
        library.record().blame(why);
    }
    if wish == Collective::Nccl {
        return Err(Refused::Failed(obstacle));
    }
    tracing::warn!("gradients travel over TCP after all: {obstacle}");
    Ok(None)
}

/// Takes the id from the lowest rank and connects.
fn connect<'a>(library: &dyn Library, mesh: &'a Mesh, words: &mut Words) -> Result<Connected<'a>, Lost> {
    let tag = Word::Id.tag();
    let id = if mesh.rank() == 0 {
        let id = library.id();
        // Nobody waits for an id that cannot be: an empty one says so.
        let said = Bytes::from(id.clone().unwrap_or_default());
        mesh.others().for_each(|to| mesh.send(to, tag, said.clone()));
        id
    } else {
        let id = mesh.receive(0, tag)?;
        if id.is_empty() {
            Err(Fault::of_anyone("rank 0 has no id"))
        } else {
            Ok(id)
        }
    };
    match id {
        Ok(id) => library.connect(&id, mesh, words),
        Err(fault) => Ok(Err(fault)),
    }
}

/// What peers say of how they connected: nothing, or their obstacle.
pub struct Words<'a> {
    mesh: &'a Mesh,
    said: BTreeMap<u32, Option<String>>,
}

impl<'a> Words<'a> {
    fn of_peers(mesh: &'a Mesh) -> Self {
        let said = BTreeMap::new();
        Self { mesh, said }
    }

    /// Listens for `patience` at most. Returns whether a peer has met an obstacle, so that it is no use to go on.
    ///
    /// # Errors
    /// [`Lost`] as soon as any peer is lost.
    pub fn tell_of_obstacle(&mut self, patience: Duration) -> Result<bool, Lost> {
        if let Some((from, said)) = self.mesh.receive_any(Word::Obstacle.tag(), patience)? {
            self.said.insert(from, read(from, &said)?);
        }
        Ok(self.said.values().any(Option::is_some))
    }

    /// Says how this rank connected and waits for what the others say. Returns the obstacle of the lowest rank that met one.
    fn all(mut self, own: Option<String>) -> Result<Option<String>, Lost> {
        let tag = Word::Obstacle.tag();
        let bytes = Bytes::from(serde_json::to_vec(&own).expect("words are plain data"));
        self.mesh.others().for_each(|to| self.mesh.send(to, tag, bytes.clone()));
        for from in self.mesh.others() {
            if !self.said.contains_key(&from) {
                self.said.insert(from, read(from, &self.mesh.receive(from, tag)?)?);
            }
        }
        self.said.insert(self.mesh.rank(), own);
        let named = |(rank, said): (u32, Option<String>)| said.map(|why| format!("rank {rank}: {why}"));
        Ok(self.said.into_iter().find_map(named))
    }
}

/// Everyone's word, by rank.
fn ask_all<T: Serialize + DeserializeOwned>(own: &T, word: Word, mesh: &Mesh) -> Result<Vec<T>, Lost> {
    let own = serde_json::to_vec(own).expect("words are plain data");
    let all = tell_all(own, word.tag(), mesh)?;
    all.into_iter().map(|(rank, said)| read(rank, &said)).collect()
}

fn read<T: DeserializeOwned>(rank: u32, said: &[u8]) -> Result<T, Lost> {
    serde_json::from_slice(said).map_err(|error| Lost {
        rank,
        why: format!("it says what cannot be read: {error}"),
    })
}

#[cfg(test)]
mod tests;
