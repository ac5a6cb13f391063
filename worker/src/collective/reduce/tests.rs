//! Real connections, made-up gradients: every rank must hold the tree's sum, bit for bit.

use super::*;
use crate::collective::deal::deal;
use crate::collective::tcp::{Fence, Hello, Timing};
use medley_protocol::ids::StageId;
use std::convert::Infallible;
use std::net::TcpListener;
use std::time::Duration;

pub(crate) const LEN: usize = 100_000;

/// Values of very different size, so that another order of addition gives other bits.
pub(crate) fn gradient(lane: u32, out: &mut [f32]) {
    for (i, value) in out.iter_mut().enumerate() {
        let word = (i as u32 ^ lane.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
        *value = (word as f32 - 2e9) * 2_f32.powi((word % 23) as i32 - 11);
    }
}

pub(crate) fn expected(lanes: u32) -> Vec<u32> {
    let mut leaf = |lane| {
        let mut values = vec![0.0; LEN];
        gradient(lane, &mut values);
        Ok::<_, Infallible>(values)
    };
    let sum = fold(Subtree::root(lanes), &mut leaf, &mut |left: Vec<f32>, right| {
        left.iter().zip(right).map(|(left, right)| left + right).collect()
    });
    bits(&sum.unwrap())
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Connects so many ranks and runs `f` as each of them.
pub(crate) fn meshed<T: Send>(ranks: u32, limits: Limits, f: impl Fn(Mesh) -> T + Sync) -> Vec<T> {
    let listeners: Vec<_> = (0..ranks).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
    let stage = StageId::generate();
    let one = |rank: u32| {
        let hello = Hello {
            stage,
            generation: 1,
            secret: "s".into(),
            memory: None,
            rank,
            world: ranks,
            fingerprint: String::new(),
        };
        let terms = (Timing::default(), limits);
        let listener = &listeners[rank as usize];
        f(Mesh::connect(listener, &hello, &addresses, terms, &Fence::default(), &|_| ()).unwrap())
    };
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..ranks).map(|rank| scope.spawn(move || one(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// The sums of a rank's lanes.
fn local(plan: &Plan, gradients: &mut Gradients) -> Local {
    let Ok(local) = Local::collect(plan, gradients, |lane, out| {
        gradient(lane, out.values.host());
        Ok::<_, Infallible>(())
    });
    local
}

/// What a rank has after two steps.
struct Outcome {
    /// Bits of both totals.
    totals: Vec<u32>,
    /// Bytes written to each peer's socket.
    written: BTreeMap<u32, u64>,
}

fn run(lanes: u32, nodes: &[u32]) -> Vec<Outcome> {
    let deal = deal(lanes, nodes).unwrap();
    let limits = Plan::new(&deal, 0, LEN).limits(LEN, 4);
    meshed(deal.ranks(), limits, |mesh| {
        let rank = mesh.rank();
        let plan = Plan::new(&deal, rank, LEN);
        let mut gradients = Gradients::new(LEN);
        let mut totals = Vec::new();
        for step in 0..2 {
            let local = local(&plan, &mut gradients);
            let total = total(&plan, local, step, &mesh, &mut gradients).unwrap();
            totals.extend(bits(total.span().host()));
            let shared = share(vec![rank as u8], step, &mesh).unwrap();
            assert_eq!(
                shared.into_values().flatten().collect::<Vec<_>>(),
                (0..deal.ranks() as u8).collect::<Vec<_>>()
            );
            gradients.give(total);
        }
        let written = mesh.leave(Duration::from_secs(20));
        Outcome { totals, written }
    })
}

/// Lanes, and the ranks of nodes that they are dealt to.
pub(crate) fn worlds() -> impl Iterator<Item = (u32, Vec<u32>)> {
    let eight: [&[u32]; 8] = [&[1], &[2], &[3], &[1, 1], &[2, 2], &[5], &[1, 3, 1], &[4, 4]];
    let seven: [&[u32]; 4] = [&[1], &[2, 1], &[7], &[1; 7]];
    let of = |lanes, map: &[u32]| (lanes, map.to_vec());
    let eight = eight.into_iter().map(move |map| of(8, map));
    eight.chain(seven.into_iter().map(move |map| of(7, map)))
}

#[test]
fn the_sum_has_the_same_bits_on_any_number_of_ranks_and_nodes() {
    for (lanes, map) in worlds() {
        let want = expected(lanes).repeat(2);
        for (rank, outcome) in run(lanes, &map).into_iter().enumerate() {
            assert!(
                outcome.totals == want,
                "{lanes} lanes on {map:?}: rank {rank} has other bits"
            );
        }
    }
}

#[test]
fn what_nodes_write_to_sockets_is_bounded_by_a_rings_bytes() {
    for (lanes, map, bound) in [
        (8, vec![2, 2], 1.1),
        (8, vec![1; 4], 1.1),
        (7, vec![2, 1], 2.0),
        (31, vec![4, 1], 2.0),
        (32, vec![3, 2], 2.0),
    ] {
        let deal = deal(lanes, &map).unwrap();
        let mut written = vec![0; map.len()];
        for (rank, outcome) in (0..).zip(run(lanes, &map)) {
            let home = deal.node_of(rank);
            let abroad = outcome.written.iter().filter(|(to, _)| deal.node_of(**to) != home);
            written[home] += abroad.map(|(_, bytes)| bytes).sum::<u64>();
        }
        // Two steps; a tenth for headers, what is shared and signs of life.
        let ring = (2 * 2 * LEN * size_of::<f32>() * (map.len() - 1) / map.len()) as f64;
        for bytes in written {
            let ratio = bytes as f64 / ring;
            assert!(
                0.4 < ratio && ratio <= bound * 1.1,
                "{lanes} lanes on {map:?}: {ratio} times a ring's bytes"
            );
        }
    }
}
