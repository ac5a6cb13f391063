use super::*;
use proptest::prelude::*;
use uuid::Uuid;

fn node(id: u128, fingerprint: &str, free: u32) -> Node {
    Node {
        id: NodeId::from_uuid(Uuid::from_u128(id)),
        fingerprint: fingerprint.into(),
        devices: free.max(4),
        free,
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

fn any_nodes() -> impl Strategy<Value = Vec<Node>> {
    let parts = (0..5u32, prop::sample::select(vec!["a", "b"]));
    let nodes = prop::collection::vec(parts, 0..6);
    nodes.prop_map(|parts| {
        (1u128..)
            .zip(parts)
            .map(|(id, (free, print))| node(id, print, free))
            .collect()
    })
}

fn any_requests() -> impl Strategy<Value = Vec<Request>> {
    let parts = (1..5u32, 0..5u32, -1..2i32, any::<bool>());
    let requests = prop::collection::vec(parts, 0..6);
    let request = |(id, (min, more, priority, gang)): (u128, (u32, u32, i32, bool))| Request {
        priority,
        lanes: gang.then_some(min + more),
        ..training(id, min, min + more)
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
            let ranks = ranks(&plan, request.stage.as_uuid().as_u128());
            prop_assert!((request.min..=request.max).contains(&ranks));
            let of = |id: &NodeId| nodes.iter().find(|node| node.id == *id).unwrap();
            if request.lanes.is_some() {
                prop_assert!(placed.iter().all(|(id, _)| of(id).fingerprint == of(&placed[0].0).fingerprint));
            }
            for (id, ranks) in placed {
                *used.entry(*id).or_default() += ranks;
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
        let mut left: BTreeMap<&str, u32> = BTreeMap::new();
        for node in &nodes {
            let used: u32 = plan.placements.values().flatten().filter(|(id, _)| *id == node.id).map(|(_, n)| n).sum();
            *left.entry(&node.fingerprint).or_default() += node.free - used;
        }
        for request in requests.iter().filter(|request| plan.waits.contains_key(&request.stage)) {
            // An equal that came later may have given back what this one could not get in its turn.
            let trimmed = requests.iter().any(|other| other.lanes.is_some() && other.stage != request.stage);
            let most = left.values().copied().max().unwrap_or(0);
            prop_assert!(trimmed || most < request.min || request.lanes.is_none() && left.values().sum::<u32>() < request.min);
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
