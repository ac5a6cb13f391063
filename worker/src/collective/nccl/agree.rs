//! How the members of a generation come to a communicator, or to the mesh, all alike.

use super::offer::{Choice, Offer, decide};
use crate::collective::group::Group;
use crate::collective::reduce::tell_all;
use crate::collective::tcp::{Kind, Lost, Mesh, Tag};
use bytes::Bytes;
use medley_protocol::spec::Collective;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Instant;

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

/// A library that makes groups of devices.
pub trait Library {
    /// What this rank can do.
    fn offer(&self) -> Offer;

    /// What the members of a new group know each other by.
    ///
    /// # Errors
    /// Why there is none, for people.
    fn id(&self) -> Result<Vec<u8>, String>;

    /// Connects with the other members, who have the same id.
    ///
    /// # Errors
    /// [`Lost`] when one of them is lost meanwhile; within, why it cannot be done, for people.
    fn connect<'a>(&self, id: &[u8], mesh: &'a Mesh) -> Result<Result<Box<dyn Group + 'a>, String>, Lost>;
}

/// Why a generation cannot work as its job asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A peer was lost.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// Some rank has not what it takes, now and later.
    #[error(
        "cluster.collective is \"nccl\", which cannot be: {0}; use \"auto\" or \"tcp\", or see `medley-worker doctor`"
    )]
    Impossible(String),
    /// The library failed.
    #[error("cluster.collective is \"nccl\", which failed: {0}")]
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
    match decide(wish, &offers) {
        Choice::Nccl(which) => tracing::info!("gradients travel over {which}"),
        Choice::Mesh(why) => {
            tracing::info!("gradients travel over TCP: {why}");
            return Ok(None);
        }
        Choice::Impossible(why) => return Err(Refused::Impossible(why)),
    }
    let began = Instant::now();
    let (group, obstacle) = match connect(library, mesh)? {
        Ok(group) => (Some(group), None),
        Err(why) => (None, Some(why)),
    };
    let obstacles: Vec<Option<String>> = ask_all(&obstacle, Word::Obstacle, mesh)?;
    let named = |(rank, obstacle): (usize, Option<String>)| obstacle.map(|why| format!("rank {rank}: {why}"));
    match obstacles.into_iter().enumerate().find_map(named) {
        None => {
            tracing::info!(
                ms = began.elapsed().as_millis() as u64,
                "all ranks are connected over NCCL"
            );
            Ok(group)
        }
        Some(why) if wish == Collective::Nccl => Err(Refused::Failed(why)),
        Some(why) => {
            tracing::warn!("gradients travel over TCP after all: {why}");
            Ok(None)
        }
    }
}

/// Takes the id from the lowest rank and connects.
fn connect<'a>(library: &dyn Library, mesh: &'a Mesh) -> Result<Result<Box<dyn Group + 'a>, String>, Lost> {
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
            Err("rank 0 has no id".into())
        } else {
            Ok(id)
        }
    };
    match id {
        Ok(id) => library.connect(&id, mesh),
        Err(why) => Ok(Err(why)),
    }
}

/// Everyone's word, by rank.
fn ask_all<T: Serialize + DeserializeOwned>(own: &T, word: Word, mesh: &Mesh) -> Result<Vec<T>, Lost> {
    let own = serde_json::to_vec(own).expect("words are plain data");
    let all = tell_all(own, word.tag(), mesh)?;
    let read = |(rank, said): (u32, Vec<u8>)| {
        serde_json::from_slice(&said).map_err(|error| Lost {
            rank,
            why: format!("it says what cannot be read: {error}"),
        })
    };
    all.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::nccl::offer::Version;
    use crate::collective::reduce::tests::meshed;
    use crate::collective::tcp::mesh::Limits;
    use medley_model::device::{Device, Span, SpanMut};
    use std::time::Duration;

    const LIMITS: Limits = Limits {
        frame_bytes: 1 << 16,
        waiting_bytes: 1 << 20,
    };

    /// A rank's library: what it can do, and why it cannot connect.
    struct Pretended {
        offer: Offer,
        id: Result<Vec<u8>, String>,
        obstacle: Option<String>,
    }

    impl Pretended {
        fn sound(rank: u32) -> Self {
            Self {
                offer: Offer::Can {
                    version: Version(23_007),
                    gpu: format!("GPU-{rank}"),
                    shares: false,
                },
                id: Ok(vec![7, rank as u8]),
                obstacle: None,
            }
        }
    }

    impl Library for Pretended {
        fn offer(&self) -> Offer {
            self.offer.clone()
        }

        fn id(&self) -> Result<Vec<u8>, String> {
            self.id.clone()
        }

        fn connect<'a>(&self, id: &[u8], _mesh: &'a Mesh) -> Result<Result<Box<dyn Group + 'a>, String>, Lost> {
            assert_eq!(id, [7, 0], "the lowest rank makes the id of all");
            let connected = || Box::new(Idle) as Box<dyn Group>;
            Ok(self.obstacle.clone().map_or_else(|| Ok(connected()), Err))
        }
    }

    struct Idle;

    impl Group for Idle {
        fn device(&self) -> Device {
            Device::Cpu
        }

        fn begin(&mut self, _waits: bool) -> Result<bool, Lost> {
            Ok(true)
        }

        fn exchange(&mut self, _sends: &[(u32, Span)], _receives: Vec<(u32, SpanMut)>) -> Result<(), Lost> {
            Ok(())
        }

        fn finish(&mut self) -> Result<(), Lost> {
            Ok(())
        }

        fn give_up(&mut self) {}
    }

    /// Whether each of three ranks has a group, or why it refuses.
    fn agreed(wish: Collective, library: impl Fn(u32) -> Pretended + Sync) -> Vec<Result<bool, Refused>> {
        meshed(3, LIMITS, |mesh| {
            let outcome = agree(wish, &library(mesh.rank()), &mesh).map(|group| group.is_some());
            mesh.leave(Duration::from_secs(20));
            outcome
        })
    }

    #[test]
    fn ranks_that_all_can_have_a_group() {
        assert_eq!(agreed(Collective::Auto, Pretended::sound), vec![Ok(true); 3]);
        assert_eq!(agreed(Collective::Tcp, Pretended::sound), vec![Ok(false); 3]);
    }

    #[test]
    fn a_rank_that_cannot_connect_keeps_all_on_the_mesh_or_stops_a_job_that_asks_for_nccl() {
        let library = |rank| Pretended {
            obstacle: (rank == 1).then(|| "no network".into()),
            ..Pretended::sound(rank)
        };
        assert_eq!(agreed(Collective::Auto, library), vec![Ok(false); 3]);
        let refused = Refused::Failed("rank 1: no network".into());
        assert_eq!(agreed(Collective::Nccl, library), vec![Err(refused); 3]);
    }

    #[test]
    fn without_an_id_nobody_waits() {
        let library = |rank| Pretended {
            id: Err("no plug-in".into()),
            ..Pretended::sound(rank)
        };
        let refused = Refused::Failed("rank 0: no plug-in".into());
        assert_eq!(agreed(Collective::Nccl, library), vec![Err(refused); 3]);
    }

    #[test]
    fn a_job_that_asks_for_nccl_says_which_rank_has_none() {
        let library = |rank| Pretended {
            offer: Offer::Cannot {
                why: "it computes on the processor".into(),
            },
            ..Pretended::sound(rank)
        };
        for outcome in agreed(Collective::Nccl, library) {
            let said = outcome.unwrap_err().to_string();
            assert!(
                said.contains("cluster.collective") && said.contains("rank 0: it computes"),
                "{said}"
            );
        }
        assert_eq!(agreed(Collective::Auto, library), vec![Ok(false); 3]);
    }
}
