//! Real connections, made-up gradients: every rank must hold the tree's sum, bit for bit.

use super::*;
use crate::collective::deal::deal;
use crate::collective::tcp::{Fence, Hello, Timing};
use medley_protocol::ids::StageId;
use std::convert::Infallible;
use std::net::TcpListener;
use std::time::Duration;

const LEN: usize = 100_000;

/// Values of very different size, so that another order of addition gives other bits.
fn gradient(lane: u32, out: &mut [f32]) {
    for (i, value) in out.iter_mut().enumerate() {
        let word = (i as u32 ^ lane.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
        *value = (word as f32 - 2e9) * 2_f32.powi((word % 23) as i32 - 11);
    }
}

fn expected(lanes: u32) -> Vec<u32> {
    let mut leaf = |lane| {
        let mut values = vec![0.0; LEN];
        gradient(lane, &mut values);
        Ok::<_, Infallible>(values)
    };
    let sum = fold(Subtree::root(lanes), &mut leaf, &mut |mut left: Vec<f32>, right| {
        add_into(&mut left, &right);
        left
    });
    bits(&sum.unwrap())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
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
    let listeners: Vec<_> = (0..deal.ranks())
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
    let stage = StageId::generate();
    let one = |rank: u32| {
        let hello = Hello {
            stage,
            generation: 1,
            secret: "s".into(),
            memory: None,
            rank,
            world: deal.ranks(),
            fingerprint: String::new(),
        };
        let plan = Plan::new(&deal, rank, LEN);
        let limits = plan.limits(LEN, 4);
        let terms = (Timing::default(), limits);
        let mesh = Mesh::connect(
            &listeners[rank as usize],
            &hello,
            &addresses,
            terms,
            &Fence::default(),
            &|_| (),
        )
        .unwrap();
        let mut pool = Pool::default();
        let mut totals = Vec::new();
        for step in 0..2 {
            let local = Local::collect(&plan, LEN, &mut pool, |lane, out| {
                gradient(lane, out);
                Ok::<_, Infallible>(())
            });
            let total = total(&plan, local.unwrap(), step, &mesh, &mut pool).unwrap();
            totals.extend(bits(&total));
            let shared = share(vec![rank as u8], step, &mesh).unwrap();
            assert_eq!(
                shared.into_values().flatten().collect::<Vec<_>>(),
                (0..deal.ranks() as u8).collect::<Vec<_>>()
            );
            pool.give(total);
        }
        let written = mesh.leave(Duration::from_secs(20));
        Outcome { totals, written }
    };
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..deal.ranks()).map(|rank| scope.spawn(move || one(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn the_sum_has_the_same_bits_on_any_number_of_ranks_and_nodes() {
    for (lanes, maps) in [
        (
            8,
            vec![
                vec![1],
                vec![2],
                vec![3],
                vec![2, 2],
                vec![5],
                vec![1, 3, 1],
                vec![4, 4],
            ],
        ),
        (7, vec![vec![1], vec![2, 1], vec![7]]),
    ] {
        let want = expected(lanes).repeat(2);
        for map in maps {
            for (rank, got) in run(lanes, &map).into_iter().enumerate() {
                assert!(
                    got.totals == want,
                    "{lanes} lanes on {map:?}: rank {rank} has other bits"
                );
            }
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
