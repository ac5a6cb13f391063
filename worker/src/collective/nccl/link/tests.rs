//! Links over a pretended communicator: what ends their waits, and whom they blame.

use super::*;
use crate::collective::nccl::agree::{Connected, Library, Refused, agree};
use crate::collective::nccl::offer::{Offer, Version};
use crate::collective::nccl::past::Past;
use crate::collective::reduce::tests::meshed;
use crate::collective::tcp::mesh;
use medley_protocol::spec::Collective;
use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Condvar, Mutex};

const MESH: mesh::Limits = mesh::Limits {
    frame_bytes: 1 << 16,
    waiting_bytes: 1 << 20,
};
/// Nothing that goes well takes so long.
const LONG: Duration = Duration::from_secs(20);
/// What does not go well ends after this time, which no call takes that comes back.
const SHORT: Duration = Duration::from_millis(200);

const LIMITS: Limits = Limits {
    call: LONG,
    start: LONG,
    connect: LONG,
    lane: LONG,
    step: LONG,
    grace: Duration::ZERO,
    own_grace: Duration::ZERO,
    look: Duration::from_micros(100),
};

/// What a call does instead of what it should.
#[derive(Debug, Clone, Copy)]
enum Odd {
    /// It says that it is not so, each time.
    Never,
    /// It does not come back before the fuse burns.
    Hangs,
    RemoteError,
    OwnError,
}

/// Where transfers meet.
#[derive(Default)]
struct Road {
    sent: Mutex<BTreeMap<(u32, u32), Vec<f32>>>,
    changed: Condvar,
}

/// A rank's pretended library, and what became of it.
#[derive(Clone)]
struct Rank {
    number: u32,
    odd: &'static [(&'static str, Odd)],
    limits: Limits,
    record: Record,
    road: Arc<Road>,
    calls: Arc<Mutex<Vec<&'static str>>>,
    /// Calls that have burnt the fuse.
    burnt: Arc<Mutex<Vec<&'static str>>>,
}

/// Its end of a communicator.
struct Fake {
    rank: Rank,
    looks: u32,
    /// Tells that the fuse has burnt.
    ended: Receiver<()>,
}

impl Library for Rank {
    fn offer(&self) -> Offer {
        Offer::Can {
            version: Version(23_007),
            gpu: format!("GPU-{}", self.number),
            shares: false,
            past: self.record.past(),
        }
    }

    fn record(&self) -> &Record {
        &self.record
    }

    fn id(&self) -> Result<Vec<u8>, Fault> {
        Ok(vec![7])
    }

    fn connect<'a>(&self, _id: &[u8], mesh: &'a Mesh, words: &mut Words) -> Result<Connected<'a>, Lost> {
        let (end, ended) = mpsc::channel();
        let burnt = Arc::clone(&self.burnt);
        let burn = move |what, _| {
            burnt.lock().unwrap().push(what);
            // Fails only if nothing hangs any more.
            let _ = end.send(());
        };
        let wire = Fake {
            rank: self.clone(),
            looks: 0,
            ended,
        };
        let terms = Terms {
            limits: self.limits,
            overlaps: true,
            fuse: Arc::new(Fuse::new(burn).unwrap()),
            record: self.record.clone(),
        };
        let linked = Link::connect(wire, mesh, words, terms)?;
        Ok(linked.map(|link| link.map(|link| Box::new(link) as Box<dyn Group + 'a>)))
    }
}

impl Fake {
    /// Whether it is so, if the call asks for anything.
    fn call(&self, name: &'static str) -> Result<bool, Fault> {
        self.rank.calls.lock().unwrap().push(name);
        let odd = self.rank.odd.iter().find(|(odd, _)| *odd == name);
        match odd.map(|(_, odd)| odd) {
            None => Ok(true),
            Some(Odd::Never) => Ok(false),
            Some(Odd::RemoteError) => Err(Fault::of_anyone("a peer failed")),
            Some(Odd::OwnError) => Err(Fault::own("no memory")),
            Some(Odd::Hangs) => {
                self.ended.recv_timeout(LONG).unwrap();
                Ok(true)
            }
        }
    }
}

impl Wire for Fake {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn is_ready(&mut self) -> Result<bool, Fault> {
        self.call("is ready")
    }

    fn has_lane_failed(&self) -> bool {
        false
    }

    fn follow_lanes(&mut self) -> Result<(), Fault> {
        self.call("follow lanes").map(|_| ())
    }

    fn exchange(&mut self, sends: &[(u32, Span)], receives: Vec<(u32, SpanMut)>) -> Result<(), Fault> {
        self.call("exchange")?;
        let Road { sent, changed } = &*self.rank.road;
        let mut sent = sent.lock().unwrap();
        for (to, values) in sends {
            sent.insert((self.rank.number, *to), values.host().to_vec());
        }
        changed.notify_all();
        for (from, place) in receives {
            let way = (from, self.rank.number);
            sent = changed
                .wait_timeout_while(sent, LONG, |sent| !sent.contains_key(&way))
                .unwrap()
                .0;
            place.host().copy_from_slice(&sent[&way]);
        }
        Ok(())
    }

    fn mark(&mut self) -> Result<(), Fault> {
        self.call("mark").map(|_| ())
    }

    fn has_passed(&mut self) -> Result<bool, Fault> {
        self.looks += 1;
        Ok(self.call("has passed")? && self.looks > 2)
    }

    fn check(&mut self) -> Result<(), Fault> {
        self.call("check").map(|_| ())
    }

    fn finish_lanes(&mut self) {
        assert_eq!(self.call("finish lanes"), Ok(true));
    }

    fn abort(self) -> Result<(), Fault> {
        self.call("abort").map(|_| ())
    }
}

impl Rank {
    fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }

    fn burnt(&self) -> Vec<&'static str> {
        self.burnt.lock().unwrap().clone()
    }

    /// Whether it connects.
    fn agrees(&self, wish: Collective, mesh: Mesh) -> Result<bool, Refused> {
        let agreed = agree(wish, self, &mesh).map(|group| group.is_some());
        mesh.leave(LONG);
        agreed
    }

    /// What it receives from the other rank, if its wait ends well.
    fn swaps(&self, mesh: &Mesh) -> Result<Vec<f32>, Lost> {
        let mut group = agree(Collective::Auto, self, mesh).unwrap().expect("all connect");
        let other = 1 - self.number;
        let (given, mut taken) = ([self.number as f32 + 0.5; 3], vec![0.0; 3]);
        assert!(group.begin(true)?);
        let sends = [(other, Span::Host(&given))];
        group.exchange(&sends, vec![(other, SpanMut::Host(&mut taken))])?;
        assert!(group.begin(true)?);
        group.finish()?;
        Ok(taken)
    }
}

/// Two ranks, whose calls do something odd.
fn two(odd: [&'static [(&'static str, Odd)]; 2], limits: Limits) -> [Rank; 2] {
    let road = Arc::<Road>::default();
    [0, 1].map(|number: u32| Rank {
        number,
        odd: odd[number as usize],
        limits,
        record: Record::default(),
        road: Arc::clone(&road),
        calls: Arc::default(),
        burnt: Arc::default(),
    })
}

/// Runs `f` as each of them, connected.
fn run<T: Send>(ranks: &[Rank; 2], f: impl Fn(&Rank, Mesh) -> T + Sync) -> Vec<T> {
    meshed(2, MESH, |mesh| f(&ranks[mesh.rank() as usize], mesh))
}

/// What each receives; whoever fails closes its connections.
fn swap(ranks: &[Rank; 2]) -> Vec<Result<Vec<f32>, Lost>> {
    run(ranks, |rank, mesh| {
        let swapped = rank.swaps(&mesh);
        if swapped.is_ok() {
            mesh.leave(LONG);
        } else {
            mesh.close();
        }
        swapped
    })
}

fn failed_once(last: &str, fault: Option<&str>) -> Past {
    Past {
        fault: fault.map(str::to_owned),
        failures: 1,
        last: last.into(),
    }
}

#[test]
fn what_is_exchanged_arrives_behind_the_lanes_and_nothing_is_held_against_anyone() {
    let ranks = two([&[], &[]], LIMITS);
    assert_eq!(swap(&ranks), [Ok(vec![1.5; 3]), Ok(vec![0.5; 3])]);
    let begun = ["is ready", "follow lanes"];
    let finished = ["mark", "has passed", "has passed", "has passed", "check"];
    let ended = ["finish lanes", "abort"];
    let calls = [&["is ready"][..], &begun, &["exchange"], &begun, &finished, &ended];
    for rank in &ranks {
        assert_eq!(rank.calls(), calls.concat());
        assert_eq!((rank.burnt(), rank.record.past()), (Vec::new(), Past::default()));
    }
}

#[test]
fn an_exchange_that_never_ends_is_given_up_and_nobodys_fault() {
    let limits = Limits { step: SHORT, ..LIMITS };
    let ranks = two([&[], &[("has passed", Odd::Never)]], limits);
    let lost = swap(&ranks)[1].clone().unwrap_err();
    assert_eq!(lost.why, "NCCL does not finish an exchange within 0.2 s");
    assert!(ranks[1].calls().ends_with(&["finish lanes", "abort"]));
    let last = "rank 1: NCCL does not finish an exchange within 0.2 s";
    assert_eq!(ranks[1].record.past(), failed_once(last, None));
}

#[test]
fn a_call_that_does_not_come_back_burns_the_fuse() {
    let ranks = two([&[], &[("mark", Odd::Hangs)]], Limits { call: SHORT, ..LIMITS });
    run(&ranks, |rank, mesh| {
        // Without an exchange: that would make the ranks wait for each other within a call.
        let mut group = agree(Collective::Auto, rank, &mesh).unwrap().unwrap();
        group.finish().unwrap();
        drop(group);
        mesh.leave(LONG);
    });
    assert_eq!(ranks[1].burnt(), ["mark the end of an exchange"]);
    assert!(ranks[0].burnt().is_empty());
}

#[test]
fn lanes_and_an_abort_that_do_not_come_back_burn_the_fuse_each_after_its_own_time() {
    let calls = Limits { call: SHORT, ..LIMITS };
    let lanes = Limits { lane: SHORT, ..LIMITS };
    let hangs = |odd, limits| {
        let ranks = two([&[], odd], limits);
        run(&ranks, |rank, mesh| rank.agrees(Collective::Auto, mesh).unwrap());
        ranks[1].burnt()
    };
    assert_eq!(hangs(&[("abort", Odd::Hangs)], calls), ["abort"]);
    assert_eq!(hangs(&[("finish lanes", Odd::Hangs)], lanes), ["finish a lane"]);
}

#[test]
fn what_is_given_up_while_it_connects_has_as_much_time_as_a_start() {
    let limits = Limits {
        connect: Duration::from_millis(1),
        start: SHORT,
        ..LIMITS
    };
    let never_connects = &[("is ready", Odd::Never), ("abort", Odd::Hangs)];
    let ranks = two([never_connects, never_connects], limits);
    run(&ranks, |rank, mesh| rank.agrees(Collective::Auto, mesh).unwrap());
    assert_eq!(ranks[0].burnt(), ["abort"]);
}

#[test]
fn an_error_of_its_own_is_held_against_a_rank_and_a_remote_one_is_not() {
    let past = |odd| {
        let ranks = two([&[], odd], LIMITS);
        swap(&ranks)[1].clone().unwrap_err();
        ranks[1].record.past()
    };
    let remote = failed_once("rank 1: a peer failed", None);
    assert_eq!(past(&[("has passed", Odd::RemoteError)]), remote);
    let own = failed_once("rank 1: no memory", Some("no memory"));
    assert_eq!(past(&[("has passed", Odd::OwnError)]), own);
}

#[test]
fn whoever_is_to_blame_tells_those_whom_it_disturbs() {
    let limits = Limits { grace: LONG, ..LIMITS };
    let ranks = two(
        [&[("has passed", Odd::RemoteError)], &[("has passed", Odd::OwnError)]],
        limits,
    );
    for outcome in swap(&ranks) {
        assert_eq!(outcome.unwrap_err().rank, 1);
    }
    assert_eq!(ranks[0].record.past(), Past::default());
    assert_eq!(ranks[1].record.past().fault.as_deref(), Some("no memory"));
}

#[test]
fn a_lost_peer_ends_a_wait_and_is_no_failure_of_nccl() {
    let waits: [&'static [_]; 2] = [&[("has passed", Odd::Never)], &[("has passed", Odd::RemoteError)]];
    for odd in waits {
        let ranks = two([&[], odd], Limits { grace: LONG, ..LIMITS });
        let outcomes = run(&ranks, |rank, mesh| {
            let swapped = rank.swaps(&mesh);
            mesh.close();
            swapped
        });
        assert_eq!(outcomes[1].clone().unwrap_err().rank, 0);
        assert_eq!(ranks[1].record.past(), Past::default());
        assert!(ranks[1].calls().ends_with(&["finish lanes", "abort"]));
    }
}

#[test]
fn an_obstacle_of_a_peer_ends_connecting_at_once() {
    let ranks = two([&[("is ready", Odd::Never)], &[("is ready", Odd::OwnError)]], LIMITS);
    let agreed = run(&ranks, |rank, mesh| rank.agrees(Collective::Auto, mesh));
    assert_eq!(agreed, [Ok(false), Ok(false)]);
    // Had rank 0 waited to the end, its own obstacle would come first.
    let last = "rank 1: no memory";
    assert_eq!(ranks[0].record.past(), failed_once(last, None));
    assert_eq!(ranks[1].record.past(), failed_once(last, Some("no memory")));
    assert!(ranks[0].calls().ends_with(&["finish lanes", "abort"]));
}

#[test]
fn connecting_that_never_ends_is_nobodys_fault() {
    let limits = Limits {
        connect: SHORT,
        ..LIMITS
    };
    let ranks = two([&[("is ready", Odd::Never)]; 2], limits);
    for agreed in run(&ranks, |rank, mesh| rank.agrees(Collective::Nccl, mesh)) {
        assert!(matches!(agreed, Err(Refused::Failed(why)) if why.contains("does not connect within 0.2 s")));
    }
    for rank in &ranks {
        let Past { fault, failures, .. } = rank.record.past();
        assert_eq!((fault, failures), (None, 1));
    }
}
