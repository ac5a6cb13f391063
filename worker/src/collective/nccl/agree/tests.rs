//! Ranks with pretended libraries, over real connections.

use super::*;
use crate::collective::nccl::offer::Version;
use crate::collective::nccl::past::Past;
use crate::collective::reduce::tests::meshed;
use crate::collective::tcp::mesh::Limits;
use medley_model::device::{Device, Span, SpanMut};

const LIMITS: Limits = Limits {
    frame_bytes: 1 << 16,
    waiting_bytes: 1 << 20,
};

/// A rank's library, and what becomes of it.
#[derive(Clone)]
struct Pretended {
    rank: u32,
    lacks: Option<&'static str>,
    id: Result<Vec<u8>, Fault>,
    meets: Meets,
    record: Record,
}

/// What a rank meets when it connects.
#[derive(Clone)]
enum Meets {
    Nothing,
    /// It cannot.
    Obstacle(Fault),
    /// It does not end.
    Eternity,
}

impl Pretended {
    fn sound(rank: u32) -> Self {
        Self {
            rank,
            lacks: None,
            id: Ok(vec![7, rank as u8]),
            meets: Meets::Nothing,
            record: Record::default(),
        }
    }
}

impl Library for Pretended {
    fn offer(&self) -> Offer {
        if let Some(why) = self.lacks {
            return Offer::Cannot { why: why.into() };
        }
        Offer::Can {
            version: Version(23_007),
            gpu: format!("GPU-{}", self.rank),
            shares: false,
            past: self.record.past(),
        }
    }

    fn record(&self) -> &Record {
        &self.record
    }

    fn id(&self) -> Result<Vec<u8>, Fault> {
        self.id.clone()
    }

    fn connect<'a>(&self, id: &[u8], _mesh: &'a Mesh, words: &mut Words) -> Result<Connected<'a>, Lost> {
        assert_eq!(id, [7, 0], "the lowest rank makes the id of all");
        match &self.meets {
            Meets::Nothing => Ok(Ok(Some(Box::new(Idle)))),
            Meets::Obstacle(fault) => Ok(Err(fault.clone())),
            Meets::Eternity => {
                let began = Instant::now();
                while !words.tell_of_obstacle(Duration::from_millis(1))? {
                    assert!(began.elapsed() < Duration::from_secs(20), "nobody tells it");
                }
                Ok(Ok(None))
            }
        }
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

/// A generation of three ranks: whether each of them has a group, or why it refuses.
fn generation(wish: Collective, ranks: &[Pretended]) -> Vec<Result<bool, Refused>> {
    meshed(3, LIMITS, |mesh| {
        let library = &ranks[mesh.rank() as usize];
        let outcome = agree(wish, library, &mesh).map(|group| group.is_some());
        mesh.leave(Duration::from_secs(20));
        outcome
    })
}

fn agreed(wish: Collective, library: impl Fn(u32) -> Pretended) -> Vec<Result<bool, Refused>> {
    generation(wish, &three(library))
}

fn three(library: impl Fn(u32) -> Pretended) -> Vec<Pretended> {
    (0..3).map(library).collect()
}

/// Rank 1 has no network, and the others wait for it.
fn without_network(rank: u32) -> Pretended {
    let meets = if rank == 1 {
        Meets::Obstacle(Fault::own("no network"))
    } else {
        Meets::Eternity
    };
    Pretended {
        meets,
        ..Pretended::sound(rank)
    }
}

fn pasts_of(ranks: &[Pretended]) -> Vec<Past> {
    ranks.iter().map(|rank| rank.record.past()).collect()
}

#[test]
fn ranks_that_all_can_have_a_group() {
    assert_eq!(agreed(Collective::Auto, Pretended::sound), vec![Ok(true); 3]);
    assert_eq!(agreed(Collective::Tcp, Pretended::sound), vec![Ok(false); 3]);
}

#[test]
fn a_rank_that_cannot_connect_ends_the_others_waits_and_is_alone_to_blame() {
    let ranks = three(without_network);
    assert_eq!(generation(Collective::Auto, &ranks), vec![Ok(false); 3]);
    let last = "rank 1: no network".to_owned();
    let blamed = |rank| Past {
        fault: (rank == 1).then(|| "no network".into()),
        failures: 1,
        last: last.clone(),
    };
    assert_eq!(pasts_of(&ranks), [blamed(0), blamed(1), blamed(2)]);
}

#[test]
fn when_the_one_to_blame_has_gone_the_others_use_nccl_again() {
    let ranks = three(without_network);
    assert_eq!(generation(Collective::Auto, &ranks), vec![Ok(false); 3]);
    let sound = |rank: u32| Pretended {
        meets: Meets::Nothing,
        ..ranks[rank as usize].clone()
    };
    assert_eq!(agreed(Collective::Auto, sound), vec![Ok(false); 3], "it is still there");
    let replaced = |rank| if rank == 1 { Pretended::sound(1) } else { sound(rank) };
    assert_eq!(agreed(Collective::Auto, replaced), vec![Ok(true); 3]);
}

#[test]
fn a_job_that_asks_for_nccl_is_refused_after_three_generations_in_a_row_without_a_step() {
    let ranks = three(without_network);
    let fails = || {
        for outcome in generation(Collective::Nccl, &ranks) {
            assert_eq!(outcome, Err(Refused::Failed("rank 1: no network".into())));
        }
    };
    fails();
    fails();
    ranks.iter().for_each(|rank| rank.record.committed());
    fails();
    fails();
    fails();
    for outcome in generation(Collective::Nccl, &ranks) {
        let refused = outcome.unwrap_err();
        let said = refused.to_string();
        assert!(matches!(refused, Refused::Impossible(_)));
        assert!(
            ["cluster.collective", "rank 1: no network", "3 generations", "\"tcp\""]
                .iter()
                .all(|part| said.contains(part)),
            "{said}"
        );
    }
}

#[test]
fn what_one_rank_alone_saw_is_counted_by_all() {
    let ranks = three(Pretended::sound);
    for _ in 0..3 {
        ranks[2].record.failed("rank 2: late");
    }
    assert!(matches!(
        generation(Collective::Nccl, &ranks)[0],
        Err(Refused::Impossible(_))
    ));
    assert_eq!(ranks[0].record.past().failures, 3);
}

#[test]
fn a_peer_that_is_lost_meanwhile_is_no_failure_of_nccl() {
    let ranks = three(without_network);
    let outcomes = meshed(3, LIMITS, |mesh| {
        if mesh.rank() == 2 {
            ask_all(&ranks[2].offer(), Word::Offer, &mesh).unwrap();
            mesh.close();
            return Ok(true);
        }
        agree(Collective::Nccl, &ranks[mesh.rank() as usize], &mesh).map(|group| group.is_some())
    });
    for outcome in &outcomes[..2] {
        assert!(matches!(outcome, Err(Refused::Lost(_))), "{outcome:?}");
    }
    assert_eq!(pasts_of(&ranks), vec![Past::default(); 3]);
}

#[test]
fn without_an_id_nobody_waits() {
    let library = |rank| Pretended {
        id: Err(Fault::own("no plug-in")),
        ..Pretended::sound(rank)
    };
    let refused = Refused::Failed("rank 0: no plug-in".into());
    assert_eq!(agreed(Collective::Nccl, library), vec![Err(refused); 3]);
}

#[test]
fn a_job_that_asks_for_nccl_says_which_rank_has_none() {
    let library = |rank| Pretended {
        lacks: Some("it computes on the processor"),
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
