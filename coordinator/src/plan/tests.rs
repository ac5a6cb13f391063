use super::*;
use medley_protocol::hardware::{Gpu, Hardware};
use medley_protocol::staircase::{Stair, stairs};
use proptest::prelude::*;
use uuid::Uuid;

fn node(id: u128, fingerprint: &str, free: u32) -> Node {
    Node {
        id: NodeId::from_uuid(Uuid::from_u128(id)),
        fingerprint: fingerprint.into(),
        devices: free.max(4),
        free,
        means: Means::default(),
    }
}

fn stage(id: u128) -> StageId {
    StageId::from_uuid(Uuid::from_u128(id))
}

fn training(id: u128, min: u32, max: u32) -> Request {
    Request {
        stage: stage(id),
        priority: 0,
        min,
        max,
        lanes: Some(max),
        keeps: BTreeMap::new(),
        avoids: BTreeSet::new(),
        needs: Needs::default(),
    }
}

fn ranks(plan: &Plan, id: u128) -> u32 {
    plan.placements
        .get(&stage(id))
        .map_or(0, |p| p.iter().map(|(_, n)| n).sum())
}

#[test]
fn a_lonely_stage_gets_all_it_can_use() {
    let plan = plan(&[node(1, "a", 2), node(2, "a", 2)], &[training(1, 1, 8)]);
    assert_eq!(ranks(&plan, 1), 4);
}

#[test]
fn equal_stages_share_evenly_and_keep_to_a_node_each() {
    let nodes = [node(1, "a", 2), node(2, "a", 2)];
    let plan = plan(&nodes, &[training(1, 1, 8), training(2, 1, 8)]);
    assert_eq!(plan.placements[&stage(1)].len(), 1);
    assert_eq!(plan.placements[&stage(2)].len(), 1);
    assert_eq!((ranks(&plan, 1), ranks(&plan, 2)), (2, 2));
}

#[test]
fn a_higher_priority_is_served_first() {
    let urgent = Request {
        priority: 5,
        ..training(2, 1, 4)
    };
    let plan = plan(&[node(1, "a", 4)], &[training(1, 1, 4), urgent]);
    assert_eq!((ranks(&plan, 1), ranks(&plan, 2)), (0, 4));
    assert!(
        plan.waits[&stage(1)].contains("work for other stages"),
        "{:?}",
        plan.waits
    );
}

#[test]
fn a_gang_is_all_or_nothing_and_of_one_fingerprint() {
    let nodes = [node(1, "a", 2), node(2, "b", 3)];
    let placed = plan(&nodes, &[training(1, 3, 8)]);
    assert_eq!(placed.placements[&stage(1)], [(nodes[1].id, 3)]);
    let waits = plan(&nodes, &[training(1, 5, 8)]).waits;
    assert!(waits[&stage(1)].contains("numerics fingerprint"), "{waits:?}");
}

#[test]
fn ranks_that_make_no_step_faster_are_left_to_others() {
    // Seven ranks take ⌈8 / 7⌉ = 2 lanes of time, as four do.
    let plan = plan(&[node(1, "a", 7)], &[training(1, 1, 8)]);
    assert_eq!(ranks(&plan, 1), 4);
}

#[test]
fn a_stage_stays_where_its_ranks_hold_its_state() {
    let nodes = [node(1, "a", 4), node(2, "a", 2), node(3, "a", 4)];
    let keeps = BTreeMap::from([(nodes[1].id, 2)]);
    let request = Request {
        keeps,
        ..training(1, 1, 4)
    };
    let placed = plan(&nodes, std::slice::from_ref(&request));
    assert_eq!(placed.placements[&stage(1)], [(nodes[0].id, 2), (nodes[1].id, 2)]);
    let three = Request {
        min: 2,
        max: 3,
        lanes: Some(4),
        ..request
    };
    let placed = plan(&nodes, &[three]);
    assert_eq!(
        placed.placements[&stage(1)],
        [(nodes[1].id, 2)],
        "a third would make no step faster"
    );
}

#[test]
fn ranks_that_work_alone_may_be_of_any_fingerprint() {
    let tasks = Request {
        lanes: None,
        ..training(1, 1, 5)
    };
    let plan = plan(&[node(1, "a", 2), node(2, "b", 4)], &[tasks]);
    assert_eq!(ranks(&plan, 1), 5);
}

#[test]
fn without_nodes_the_reason_says_what_to_start() {
    let waits = plan(&[], &[training(1, 1, 8)]).waits;
    assert!(waits[&stage(1)].contains("medley-worker agent"), "{waits:?}");
}

/// A node whose ranks are on GPUs of so many GiB each.
fn with_gpus(node: Node, gib: u64) -> Node {
    let means = Means {
        gpu_bytes: Some(gib << 30),
        ..node.means
    };
    Node { means, ..node }
}

/// So many GiB of a GPU and as many of its machine, or three times as many of a machine.
fn memory(gib: u64) -> Memory {
    Memory {
        gpu_bytes: gib << 30,
        gpu_host_bytes: gib << 30,
        host_bytes: (3 * gib) << 30,
    }
}

/// What ranks need that take so much however many they are.
fn needs(gib: u64, bf16: bool) -> Needs {
    Needs {
        bf16,
        memory: MemoryByRanks(vec![(1, memory(gib))]),
        recomputing: None,
    }
}

/// What ranks need that take less the more they are.
fn needs_by_ranks(gib: &[(u32, u64)]) -> Needs {
    let by_ranks = gib.iter().map(|(from, gib)| (*from, memory(*gib)));
    Needs {
        memory: MemoryByRanks(by_ranks.collect()),
        ..Needs::default()
    }
}

#[test]
fn memory_is_counted_for_as_many_ranks_as_there_are() {
    let request = Request {
        needs: needs_by_ranks(&[(1, 30), (2, 20), (4, 15)]),
        ..training(1, 1, 4)
    };
    let gpus = |id, free| with_gpus(node(id, "g", free), 24);
    let alone = Node {
        devices: 1,
        ..gpus(1, 1)
    };
    let waits = plan(std::slice::from_ref(&alone), std::slice::from_ref(&request)).waits;
    let reason = &waits[&stage(1)];
    for part in [
        "2 free devices of one numerics fingerprint whose memory suffices",
        "have 1 in all",
        "with fewer ranks, a rank on a GPU needs about 30.0 GiB",
        "lower lanes.batch",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    assert!(
        !reason.contains("recompute") && !reason.contains("min_ranks"),
        "{reason}"
    );
    let nodes = [alone, gpus(2, 1)];
    let placed = plan(&nodes, std::slice::from_ref(&request));
    assert_eq!(placed.placements[&stage(1)], [(nodes[0].id, 1), (nodes[1].id, 1)]);
    let busy = [gpus(2, 1)];
    let waits = plan(&busy, std::slice::from_ref(&request)).waits;
    let reason = &waits[&stage(1)];
    assert!(
        reason.contains("2 free devices (each of fewer needs more memory than there is): 1 of 4 are free"),
        "{reason}"
    );
}

#[test]
fn ranks_that_need_more_than_the_first_did_do_not_join_where_that_is_not_there() {
    // Alone a rank sends nothing; two of them have sums that travel.
    let request = |needs| Request {
        needs,
        ..training(1, 1, 4)
    };
    let mut machine = with_gpus(node(1, "g", 4), 80);
    machine.means.host_bytes = Some(50 << 30);
    let placed = |needs| plan(std::slice::from_ref(&machine), &[request(needs)]).placements[&stage(1)].clone();
    assert_eq!(placed(needs_by_ranks(&[(1, 10), (2, 30), (4, 14)])), [(machine.id, 1)]);
    assert_eq!(placed(needs_by_ranks(&[(1, 10), (2, 20), (4, 14)])), [(machine.id, 2)]);
    let four = "neither two nor three would fit, but four";
    assert_eq!(
        placed(needs_by_ranks(&[(1, 10), (2, 30), (4, 12)])),
        [(machine.id, 4)],
        "{four}"
    );
    let on = |ranks| [(machine.means, ranks)];
    let needs = needs_by_ranks(&[(1, 10), (2, 30)]);
    assert!(needs.fit(&on(1)) && !needs.fit(&on(2)));
}

#[test]
fn activations_computed_again_are_advice_where_that_would_do() {
    let node = with_gpus(node(1, "g", 4), 24);
    let reason = |again: u64, min: u32| {
        let recomputing = Some(("filter.recompute".to_owned(), needs(again, false).memory));
        let request = Request {
            needs: Needs {
                recomputing,
                ..needs(30, false)
            },
            ..training(1, min, 8)
        };
        plan(std::slice::from_ref(&node), &[request]).waits[&stage(1)].clone()
    };
    let fits = reason(20, 1);
    assert!(
        fits.contains("; set filter.recompute to true, or lower lanes.batch"),
        "{fits}"
    );
    for other in [reason(28, 1), reason(20, 5)] {
        assert!(
            !other.contains("recompute") && other.contains("lower lanes.batch"),
            "{other}"
        );
    }
}

#[test]
fn bf16_is_computed_on_gpus_alone_and_waited_for() {
    let request = Request {
        needs: needs(1, true),
        ..training(1, 1, 8)
    };
    let processors = node(1, "a", 8);
    let waits = plan(std::slice::from_ref(&processors), std::slice::from_ref(&request)).waits;
    let reason = &waits[&stage(1)];
    assert!(
        reason.starts_with("waits for devices with bf16: pretrain.precision"),
        "{reason}"
    );
    let nodes = [processors, with_gpus(node(2, "g", 2), 80)];
    let placed = plan(&nodes, std::slice::from_ref(&request));
    assert_eq!(placed.placements[&stage(1)], [(nodes[1].id, 2)]);
    let nodes = [nodes[0].clone(), with_gpus(node(2, "g", 0), 80)];
    let waits = plan(&nodes, std::slice::from_ref(&request)).waits;
    let reason = &waits[&stage(1)];
    assert!(reason.contains("a free device with bf16: 0 of 4 are free"), "{reason}");
    let tasks = Request { lanes: None, ..request };
    assert!(
        plan(&nodes, &[tasks]).placements.is_empty(),
        "nor do tasks compute it elsewhere"
    );
}

#[test]
fn a_stage_that_begins_prefers_gpus_and_one_that_goes_on_what_it_has() {
    let nodes = [node(1, "a", 8), with_gpus(node(2, "g", 2), 80)];
    let request = training(1, 1, 8);
    let placed = plan(&nodes, std::slice::from_ref(&request));
    assert_eq!(placed.placements[&stage(1)], [(nodes[1].id, 2)]);
    let holds = Request {
        keeps: BTreeMap::from([(nodes[0].id, 1)]),
        ..request
    };
    assert_eq!(plan(&nodes, &[holds]).placements[&stage(1)], [(nodes[0].id, 8)]);
    let many = training(1, 3, 8);
    assert_eq!(plan(&nodes, &[many]).placements[&stage(1)], [(nodes[0].id, 8)]);
}

#[test]
fn ranks_are_put_only_where_their_memory_suffices() {
    let request = Request {
        needs: needs(30, false),
        ..training(1, 1, 8)
    };
    let small = with_gpus(node(1, "g", 4), 24);
    let waits = plan(std::slice::from_ref(&small), std::slice::from_ref(&request)).waits;
    let reason = &waits[&stage(1)];
    for part in ["more memory", "30.0 GiB", "24.0 GiB", "lower lanes.batch"] {
        assert!(reason.contains(part), "{reason}");
    }
    let mut machine = node(2, "a", 4);
    machine.means.host_bytes = Some(200 << 30);
    let nodes = [small, machine];
    let placed = plan(&nodes, std::slice::from_ref(&request));
    assert_eq!(
        placed.placements[&stage(1)],
        [(nodes[1].id, 2)],
        "a third would need 270 GiB of the machine"
    );
    let more = Request { min: 3, ..request };
    let waits = plan(&nodes, &[more]).waits;
    let reason = &waits[&stage(1)];
    assert!(
        reason.contains("3 free devices of one numerics fingerprint whose memory suffices"),
        "{reason}"
    );
}

#[test]
fn ranks_that_share_a_gpu_share_its_memory() {
    let gpu = |gib: u64| Gpu {
        memory_bytes: gib << 30,
        ..Gpu::default()
    };
    let hardware = Hardware {
        memory_bytes: Some(7),
        gpus: vec![gpu(80), gpu(40)],
    };
    let of = |devices| Means::of(&hardware, devices);
    assert_eq!((of(2).gpu_bytes, of(2).host_bytes), (Some(40 << 30), Some(7)));
    assert_eq!(of(4).gpu_bytes, Some(20 << 30));
    assert_eq!(Means::of(&Hardware::default(), 4), Means::default());
}

fn any_nodes() -> impl Strategy<Value = Vec<Node>> {
    let memory = prop::option::of(prop::sample::select(vec![2u64, 8]));
    let parts = (0..5u32, prop::sample::select(vec!["a", "b"]), memory.clone(), memory);
    let nodes = prop::collection::vec(parts, 0..6);
    nodes.prop_map(|parts| {
        type Parts<'a> = (u32, &'a str, Option<u64>, Option<u64>);
        let node = |(id, (free, print, gpu, host)): (u128, Parts)| {
            let mut node = node(id, print, free);
            node.means = Means {
                gpu_bytes: gpu.map(|gib| gib << 30),
                host_bytes: host.map(|gib| gib << 30),
            };
            node
        };
        (1u128..).zip(parts).map(node).collect()
    })
}

fn any_requests() -> impl Strategy<Value = Vec<Request>> {
    let parts = (
        1..5u32,
        0..5u32,
        -1..2i32,
        any::<bool>(),
        ([0..5u64, 0..5u64], any::<bool>()),
    );
    let requests = prop::collection::vec(parts, 0..6);
    type Parts = (u32, u32, i32, bool, ([u64; 2], bool));
    let request = |(id, (min, more, priority, gang, ([first, gib], bf16))): (u128, Parts)| {
        // One rank needs more or less than each of two, then less the more there are.
        let of = |stair: &Stair| {
            (
                stair.ranks,
                memory(if stair.ranks == 1 {
                    first
                } else {
                    gib * u64::from(stair.lanes) / 2
                }),
            )
        };
        let by_lanes = MemoryByRanks(stairs(min + more).iter().map(of).collect());
        Request {
            priority,
            lanes: gang.then_some(min + more),
            needs: Needs {
                bf16,
                memory: if gang { by_lanes } else { needs(gib, bf16).memory },
                recomputing: None,
            },
            ..training(id, min, min + more)
        }
    };
    requests.prop_map(move |parts| (1u128..).zip(parts).map(request).collect())
}

proptest! {
    #[test]
    fn plans_keep_to_what_is_free_and_asked(nodes in any_nodes(), requests in any_requests()) {
        let plan = plan(&nodes, &requests);
        let mut used: BTreeMap<NodeId, u32> = BTreeMap::new();
        for request in &requests {
            let placed = plan.placements.get(&request.stage);
            prop_assert!(placed.is_some() != plan.waits.contains_key(&request.stage));
            let Some(placed) = placed else { continue };
            let num_ranks = ranks(&plan, request.stage.as_uuid().as_u128());
            prop_assert!((request.min..=request.max).contains(&num_ranks));
            let of = |id: &NodeId| nodes.iter().find(|node| node.id == *id).unwrap();
            if request.lanes.is_some() {
                prop_assert!(placed.iter().all(|(id, _)| of(id).fingerprint == of(&placed[0].0).fingerprint));
            }
            for (id, ranks) in placed {
                *used.entry(*id).or_default() += ranks;
                let (means, needs) = (of(id).means, request.needs.memory.of(num_ranks));
                prop_assert!(!request.needs.bf16 || means.gpu_bytes.is_some());
                prop_assert!(means.gpu_bytes.is_none_or(|bytes| needs.gpu_bytes <= bytes));
                let needed = if means.gpu_bytes.is_some() { needs.gpu_host_bytes } else { needs.host_bytes };
                prop_assert!(means.host_bytes.is_none_or(|bytes| u64::from(*ranks) * needed <= bytes));
            }
        }
        for node in &nodes {
            prop_assert!(used.get(&node.id).copied().unwrap_or(0) <= node.free);
        }
    }

    #[test]
    fn going_on_where_the_last_device_was_taken_gives_what_a_look_at_all_nodes_would(
        nodes in any_nodes(), requests in any_requests(),
    ) {
        let with = |keeps: BTreeMap<NodeId, u32>| -> Vec<Request> {
            requests.iter().map(|request| Request { keeps: keeps.clone(), ..request.clone() }).collect()
        };
        // Whoever keeps a rank somewhere, if none, looks at all nodes each time.
        let looking = BTreeMap::from([(NodeId::from_uuid(Uuid::from_u128(999)), 0)]);
        prop_assert_eq!(plan(&nodes, &with(BTreeMap::new())), plan(&nodes, &with(looking)));
    }

    #[test]
    fn a_stage_waits_only_if_its_fewest_ranks_are_not_left(nodes in any_nodes(), requests in any_requests()) {
        let plan = plan(&nodes, &requests);
        for request in requests.iter().filter(|request| plan.waits.contains_key(&request.stage)) {
            for ranks in request.min..=request.max {
                let mut room = Room::with(ranks, &request.needs);
                let mut left: BTreeMap<&str, u32> = BTreeMap::new();
                for node in &nodes {
                    let used: u32 = plan.placements.values().flatten().filter(|(id, _)| *id == node.id).map(|(_, n)| n).sum();
                    *left.entry(&node.fingerprint).or_default() += (node.free - used).min(room.on(node.means));
                }
                let most = left.values().copied().max().unwrap_or(0);
                prop_assert!(most < ranks || request.lanes.is_none() && left.values().sum::<u32>() < ranks);
            }
        }
    }
}

#[test]
fn ranks_that_hold_the_state_are_kept_though_fewer_would_be_as_fast() {
    let nodes = [node(1, "a", 4), node(2, "b", 4)];
    let request = Request {
        keeps: BTreeMap::from([(nodes[0].id, 3)]),
        max: 3,
        lanes: Some(4),
        ..training(1, 1, 4)
    };
    let placed = plan(&nodes, std::slice::from_ref(&request));
    assert_eq!(
        placed.placements[&stage(1)],
        [(nodes[0].id, 3)],
        "three take two lanes of time, as two do"
    );
    let nodes = [node(1, "a", 3), node(2, "b", 4)];
    let placed = plan(&nodes, &[request]);
    assert_eq!(
        placed.placements[&stage(1)],
        [(nodes[0].id, 3)],
        "the other fingerprint has more devices, and no state"
    );
}
