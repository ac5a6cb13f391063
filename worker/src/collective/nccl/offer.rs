//! Whether a generation's gradients travel over NCCL: a function of what the spec asks for and what all ranks can do.

use super::past::Past;
use medley_protocol::spec::Collective;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Lets several ranks of a communicator share a GPU, which NCCL otherwise refuses.
pub const SHARING: &str = "NCCL_MULTI_RANK_GPU_ENABLE";
/// The first version that knows [`SHARING`].
const FIRST_TO_SHARE: Version = Version(23_003);
/// Generations in a row in which NCCL may fail before it is not tried any more.
const TRIES: u32 = 3;

/// A version of NCCL, in its own coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0 / 10_000, self.0 % 10_000 / 100, self.0 % 100)
    }
}

/// What a rank can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offer {
    /// It has NCCL and a GPU.
    Can {
        /// Version of the library.
        version: Version,
        /// UUID of the GPU.
        gpu: String,
        /// Whether [`SHARING`] is set.
        shares: bool,
        /// What has become of it so far.
        past: Past,
    },
    /// It has not.
    Cannot {
        /// Why, for people.
        why: String,
    },
}

/// How gradients travel, and why, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Over NCCL.
    Nccl(String),
    /// Over the mesh.
    Mesh(String),
    /// Not at all: the spec asks for what cannot be.
    Impossible(String),
}

/// What all ranks decide, from the same answers alike. `offers` are in the order of ranks.
pub fn decide(wish: Collective, offers: &[Offer]) -> Choice {
    let obstacle = || obstacle(offers);
    match wish {
        Collective::Tcp => Choice::Mesh("the job asks for it (cluster.collective)".into()),
        Collective::Auto => match obstacle().or_else(|| fault(offers)).or_else(|| weariness(offers)) {
            Some(why) => Choice::Mesh(why),
            None if offers.len() < 2 => Choice::Mesh("one rank has nobody to send to".into()),
            None => Choice::Nccl(describe(offers)),
        },
        // What failed may do so again, but nothing else is allowed.
        Collective::Nccl => match obstacle().or_else(|| weariness(offers)) {
            Some(why) => Choice::Impossible(why),
            None => Choice::Nccl(describe(offers)),
        },
    }
}

/// Which rank's own NCCL failed before, and how.
fn fault(offers: &[Offer]) -> Option<String> {
    offers.iter().enumerate().find_map(|(rank, offer)| match offer {
        Offer::Can {
            past: Past { fault: Some(why), .. },
            ..
        } => Some(format!("rank {rank}: NCCL failed there before: {why}")),
        _ => None,
    })
}

/// Why it is not tried once more.
fn weariness(offers: &[Offer]) -> Option<String> {
    let most = pasts(offers).max_by_key(|past| past.failures)?;
    let Past { failures, last, .. } = most;
    (*failures >= TRIES).then(|| format!("NCCL failed in {failures} generations in a row, at last on {last}"))
}

/// The pasts of all that have one.
pub(super) fn pasts(offers: &[Offer]) -> impl Iterator<Item = &Past> {
    offers.iter().filter_map(|offer| match offer {
        Offer::Can { past, .. } => Some(past),
        Offer::Cannot { .. } => None,
    })
}

/// Why these ranks cannot have a communicator.
fn obstacle(offers: &[Offer]) -> Option<String> {
    let mut by_gpu: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut first = None;
    for (rank, offer) in offers.iter().enumerate() {
        match offer {
            Offer::Cannot { why } => return Some(format!("rank {rank}: {why}")),
            Offer::Can { version, gpu, .. } => {
                let (lowest, expected) = *first.get_or_insert((rank, *version));
                if *version != expected {
                    return Some(format!(
                        "rank {lowest} has NCCL {expected} and rank {rank} {version}: install one version on all nodes"
                    ));
                }
                by_gpu.entry(gpu).or_default().push(rank);
            }
        }
    }
    let shared = by_gpu.into_values().find(|ranks| ranks.len() > 1)?;
    cannot_share(offers).map(|why| format!("ranks {} and {} share a GPU, and {why}", shared[0], shared[1]))
}

/// Why no two of these ranks may have one GPU.
fn cannot_share(offers: &[Offer]) -> Option<String> {
    offers.iter().enumerate().find_map(|(rank, offer)| match offer {
        Offer::Can { shares: false, .. } => Some(format!("{SHARING}=1 is not set where rank {rank} runs")),
        Offer::Can { version, .. } if *version < FIRST_TO_SHARE => {
            Some(format!("NCCL {version} cannot do that before {FIRST_TO_SHARE}"))
        }
        _ => None,
    })
}

fn describe(offers: &[Offer]) -> String {
    match offers.first() {
        Some(Offer::Can { version, .. }) => format!("NCCL {version} on all {} ranks", offers.len()),
        _ => "there is no rank".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn can(version: u32, gpu: &str, shares: bool) -> Offer {
        Offer::Can {
            version: Version(version),
            gpu: gpu.into(),
            shares,
            past: Past::default(),
        }
    }

    /// On a GPU of its own.
    fn with_past(gpu: &str, past: Past) -> Offer {
        Offer::Can {
            version: Version(22_809),
            gpu: gpu.into(),
            shares: false,
            past,
        }
    }

    fn cannot() -> Offer {
        Offer::Cannot { why: "no GPU".into() }
    }

    fn why(choice: Choice) -> String {
        match choice {
            Choice::Mesh(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ranks_on_gpus_of_their_own_take_nccl_unless_the_job_asks_for_tcp() {
        let offers = [can(22_809, "a", false), can(22_809, "b", false)];
        let chosen = Choice::Nccl("NCCL 2.28.9 on all 2 ranks".into());
        assert_eq!(decide(Collective::Auto, &offers), chosen);
        assert_eq!(decide(Collective::Nccl, &offers), chosen);
        assert!(why(decide(Collective::Tcp, &offers)).contains("cluster.collective"));
    }

    #[test]
    fn one_rank_that_cannot_keeps_all_on_the_mesh_and_is_named() {
        let offers = [can(22_809, "a", false), cannot()];
        assert_eq!(why(decide(Collective::Auto, &offers)), "rank 1: no GPU");
        assert_eq!(
            decide(Collective::Nccl, &offers),
            Choice::Impossible("rank 1: no GPU".into())
        );
    }

    #[test]
    fn versions_must_be_one() {
        let offers = [can(22_809, "a", false), can(23_007, "b", false)];
        let why = why(decide(Collective::Auto, &offers));
        assert!(why.contains("2.28.9") && why.contains("rank 1 2.30.7"), "{why}");
    }

    #[test]
    fn a_gpu_is_shared_only_where_all_allow_it_and_the_library_can() {
        let two = |version, shares| [can(version, "a", true), can(version, "a", shares)];
        assert!(matches!(decide(Collective::Auto, &two(23_003, true)), Choice::Nccl(_)));
        let not_set = why(decide(Collective::Auto, &two(23_007, false)));
        assert!(
            not_set.contains("ranks 0 and 1") && not_set.contains("rank 1 runs"),
            "{not_set}"
        );
        let old = why(decide(Collective::Auto, &two(22_907, true)));
        assert!(old.contains("2.29.7") && old.contains("2.30.3"), "{old}");
    }

    #[test]
    fn a_rank_alone_has_a_communicator_only_if_asked_to() {
        let alone = [can(23_007, "a", false)];
        assert!(matches!(decide(Collective::Auto, &alone), Choice::Mesh(_)));
        assert!(matches!(decide(Collective::Nccl, &alone), Choice::Nccl(_)));
    }

    #[test]
    fn a_rank_that_is_to_blame_keeps_a_job_that_may_do_without_nccl_on_the_mesh() {
        let fault = Some("out of memory".into());
        let blamed = Past {
            fault,
            ..Past::default()
        };
        let offers = [can(22_809, "a", false), with_past("b", blamed)];
        assert_eq!(
            why(decide(Collective::Auto, &offers)),
            "rank 1: NCCL failed there before: out of memory"
        );
        assert!(matches!(decide(Collective::Nccl, &offers), Choice::Nccl(_)));
    }

    #[test]
    fn what_nobody_is_to_blame_for_is_tried_three_times_and_then_not_any_more() {
        let failed = |failures| {
            let last = "rank 5: no answer".into();
            let past = Past {
                failures,
                last,
                ..Past::default()
            };
            [can(22_809, "a", false), with_past("b", past)]
        };
        for wish in [Collective::Auto, Collective::Nccl] {
            assert!(matches!(decide(wish, &failed(2)), Choice::Nccl(_)));
        }
        let tired = "NCCL failed in 3 generations in a row, at last on rank 5: no answer";
        assert_eq!(why(decide(Collective::Auto, &failed(3))), tired);
        let refused = Choice::Impossible(tired.into());
        assert_eq!(decide(Collective::Nccl, &failed(3)), refused);
    }

    #[test]
    fn an_answer_survives_the_mesh() {
        let past = Past {
            fault: Some("no memory".into()),
            failures: 2,
            last: "rank 3: late".into(),
        };
        for offer in [can(23_007, "GPU-1", true), with_past("GPU-1", past), cannot()] {
            let text = serde_json::to_vec(&offer).unwrap();
            assert_eq!(serde_json::from_slice::<Offer>(&text).unwrap(), offer);
        }
    }
}
