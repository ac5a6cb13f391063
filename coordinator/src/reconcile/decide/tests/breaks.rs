//! Generations that break while ranks hold the state of their stage in memory.

use super::*;

#[test]
fn a_lasting_failure_that_is_heard_late_still_fails_the_stage() {
    let mut world = World::running();
    world.fail_rank(3, "a sample changed", false);
    world.fail_rank(0, "lost rank 3", true);
    // Only the node of rank 0 beats in time.
    world.alive.remove(&node(2));
    world.round();
    assert_eq!(world.stage().generation, 2);
    // The other node beats once more with what it last knew.
    let id = (world.stage().id, 1, 3);
    let late = Beat {
        node: node(2),
        incarnation: world.sight.nodes[&node(2)].node.incarnation,
        revision: 1,
        ranks: vec![RankReport {
            stage: id.0,
            generation: id.1,
            rank: id.2,
            state: world.odd[&id].clone(),
            doing: None,
            quiet_ms: None,
            connecting: None,
        }],
        leaves_in_ms: None,
        address: None,
        reached: Vec::new(),
        hardware: Hardware::default(),
    };
    world.sight.beat(late, world.now).unwrap();
    world.decide();
    assert_eq!(world.jobs[0].state.label(), JobState::Failed);
    assert!(world.story("job-failed")[0].contains("a sample changed"));
}

#[test]
fn ranks_that_blame_each_other_wait_for_the_cause_and_get_no_seat_on_a_node_that_just_fell_silent() {
    let mut world = World::running();
    world.alive.remove(&node(2));
    world.break_rank(0, 1);
    world.break_rank(1, 1);
    world.round();
    assert_eq!(
        world.stage().generation,
        1,
        "the other node was heard half a second ago"
    );
    world.round();
    assert_eq!((world.stage().generation, world.seats()), (2, vec![node(1); 2]));
    let over = world.story("generation-over")[0];
    assert!(
        over.contains("over: node n2 has been silent for 1.0 s, and its peers miss it; rank 0 on n1 broke off"),
        "{over}"
    );
}

#[test]
fn ranks_that_blame_others_of_which_nobody_says_anything_go_on_once_every_agent_has_spoken() {
    let mut world = World::running();
    world.break_rank(0, 1);
    world.round();
    assert_eq!(world.stage().generation, 1, "the cause may be told any moment");
    world.round();
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 4));
}

#[test]
fn a_node_whose_ranks_have_said_that_they_lost_a_peer_is_late_and_not_lost() {
    let mut world = World::running();
    for rank in 0..3 {
        world.break_rank(rank, 1);
    }
    world.beat();
    world.alive.remove(&node(1));
    world.rounds(2);
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 4));
    let over = world.story("generation-over")[0];
    assert!(!over.contains("silent"), "{over}");
}

#[test]
fn a_failed_rank_explains_what_its_peers_say_and_they_go_on_without_it_in_the_same_decision() {
    let mut world = World::running();
    for rank in 0..3 {
        world.break_rank(rank, 7);
    }
    world.fail_rank(3, "its process was ended by signal 9", true);
    let events = world.events.len();
    world.round();
    assert_eq!(world.kinds_since(events), ["generation-over", "stage-placed"]);
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 3));
    let over = world.story("generation-over")[0];
    assert!(
        over.contains("over: rank 3 on n2 failed"),
        "the cause comes first: {over}"
    );
    let placed = world.story("stage-placed")[1];
    assert!(
        placed.ends_with("goes on from memory at step 7 or later with 3 of its ranks"),
        "{placed}"
    );
}

#[test]
fn what_a_stage_has_lost_it_gets_back_at_once_and_beside_its_steps() {
    let mut world = World::running();
    world.fail_rank(3, "its process was ended by signal 9", true);
    world.rounds(2);
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 3));
    assert_eq!(world.stage().state.label(), StageState::Running);
    world.round();
    let next = world.stage().next().map(|next| next.seats.len());
    assert_eq!(
        (world.num_ranks(), next),
        (3, Some(4)),
        "the moment that all of them train"
    );
    world.round();
    assert_eq!((world.stage().generation, world.num_ranks()), (3, 4));
    assert_eq!(world.story("generation-over").len(), 1);
}

#[test]
fn a_replacement_that_fails_again_and_again_is_tried_less_often_and_disturbs_nobody() {
    let mut world = World::running();
    world.fail_rank(3, "it broke", true);
    let failed = RankState::Failed {
        reason: "the device is gone".into(),
        retry: true,
    };
    for number in 3..20 {
        world.odd.insert((world.stage().id, number, 3), failed.clone());
    }
    world.rounds(200);
    assert_eq!((world.num_ranks(), world.jobs[0].state.label()), (3, JobState::Running));
    assert_eq!(world.story("generation-over").len(), 1);
    let tries = world.story("stage-grows").len();
    assert_eq!(tries, 3, "after pauses of 30 s and 60 s");
}

#[test]
fn a_stage_of_too_few_survivors_waits_for_whole_replacement() {
    let mut world = World::running_of(json!({"min_ranks": 4}));
    world.fail_rank(3, "it broke", true);
    world.round();
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 4));
}

#[test]
fn a_stage_may_wait_for_what_it_has_lost_and_then_goes_on_without() {
    let mut world = World::running_of(json!({"on_loss": {"wait_s": 8}}));
    world.fail_rank(3, "it broke", true);
    world.round();
    assert_eq!(
        (world.stage().generation, world.num_ranks()),
        (2, 4),
        "there is a device for a whole replacement"
    );
    world.rounds(3);
    world.alive.remove(&node(2));
    world.rounds(11);
    assert_eq!(world.stage().generation, 2);
    assert!(world.story("stage-waits")[0].contains("waits for 4 free devices"));
    world.rounds(15);
    assert_eq!(world.stage().generation, 2, "8 s are not over");
    world.rounds(2);
    assert_eq!((world.stage().generation, world.seats()), (3, vec![node(1); 2]));
}

#[test]
fn when_all_that_live_broke_off_there_is_nothing_to_wait_for() {
    let mut world = World::running();
    for rank in 0..4 {
        world.break_rank(rank, 3);
    }
    world.round();
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 4));
}

#[test]
fn without_memory_worth_more_a_stage_goes_on_from_its_checkpoint() {
    let mut world = World::running();
    world.commit_checkpoint(5);
    world.fail_rank(0, "it broke", true);
    world.round();
    assert_eq!(world.stage().generation, 2);
    assert!(world.story("stage-placed")[1].ends_with(", from step 5"));
}

#[test]
fn the_lowest_rank_is_on_the_node_of_longest_standing() {
    let mut world = World::running();
    world.join(1, 2, 11);
    world.rounds(5);
    assert_eq!(world.seats(), [node(2), node(2), node(1), node(1)]);
    world.fail_rank(3, "it broke", true);
    world.rounds(8);
    assert_eq!(
        world.seats(),
        [node(2), node(2), node(1), node(1)],
        "and it stays there"
    );
}

/// A stage that cannot work with the ranks of one node, of which two are left.
fn holding() -> World {
    let mut world = World::running_of(json!({"min_ranks": 3}));
    world.alive.remove(&node(2));
    world.break_rank(0, 6);
    world.break_rank(1, 6);
    world.rounds(20);
    world
}

#[test]
fn a_generation_that_cannot_be_replaced_holds_its_state_in_memory_and_says_once_what_it_waits_for() {
    let mut world = holding();
    assert_eq!((world.stage().generation, world.num_ranks()), (1, 4));
    let [said] = world.story("stage-waits")[..] else {
        panic!("{:?}", world.story("stage-waits"))
    };
    assert!(
        said.contains("hold step 6 in memory") && said.contains("waits for 3 free devices"),
        "{said}"
    );
    world.join(2, 2, 12);
    world.rounds(2);
    assert_eq!(world.stage().generation, 2);
    assert_eq!(world.seats(), [node(1), node(1), node(2), node(2)]);
    assert!(world.story("stage-placed")[1].contains("from memory at step 6 or later with 2 of its ranks"));
}

#[test]
fn a_generation_is_held_for_so_long_and_no_longer() {
    let mut world = holding();
    world.rounds(101);
    assert_eq!(world.stage().state.label(), StageState::Running, "60 s are not over");
    world.rounds(2);
    assert_eq!(world.stage().state.label(), StageState::Waiting);
    assert_eq!(world.story("generation-over").len(), 1);
}

#[test]
fn a_held_generation_keeps_its_devices_from_equals_and_leaves_them_to_a_higher_priority() {
    let mut world = holding();
    world.training_job();
    world.rounds(4);
    assert_eq!(world.jobs[1].stages[1].state.label(), StageState::Waiting);
    assert_eq!(world.num_ranks(), 4);
    world.training_job_of(json!({"priority": 1}));
    world.rounds(2);
    assert_eq!(world.stage().state.label(), StageState::Waiting);
    let urgent = world.jobs[2].stages[1].present().unwrap();
    assert_eq!(urgent.seats.len(), 2);
}

#[test]
fn a_new_coordinator_hears_every_node_before_it_gives_up_what_ranks_hold_in_memory() {
    let mut world = World::running();
    let before = std::mem::take(&mut world.sight);
    for seen in before.nodes.into_values() {
        world.sight.meet(seen.node, world.now);
    }
    world.memory = Memory::default();
    world.join(2, 2, 12);
    world.decide();
    assert_eq!(world.stage().generation, 1);
    world.round();
    assert_eq!(world.seats(), [node(1), node(1)]);
    assert!(world.story("stage-placed")[1].contains("from memory"));
    world.rounds(4);
    assert_eq!(world.seats(), [node(1), node(1), node(2), node(2)]);
}

#[test]
fn setbacks_without_progress_make_pauses_and_in_the_end_new_processes() {
    let mut world = World::running();
    let mut waited = Vec::new();
    for setback in 1..=5 {
        world.fail_rank(0, "it broke", true);
        let (generation, mut rounds) = (world.stage().generation, 0);
        while world.stage().generation == generation {
            world.round();
            rounds += 1;
            let is_kept = world.stage().present().is_some();
            assert_eq!(
                is_kept,
                setback < 5 || world.stage().generation > generation,
                "{setback}"
            );
        }
        waited.push(rounds);
        world.rounds(3);
    }
    assert_eq!(waited, [1, 4, 7, 13, 25]);
}

#[test]
fn a_rank_that_does_not_connect_although_it_could_ends_its_generation() {
    let mut world = World::running();
    let listening = RankState::Listening {
        address: "a:1".into(),
        committed: None,
    };
    world.settings.connect_limit = Duration::from_secs(10);
    world.odd.insert((world.stage().id, 1, 1), listening);
    world.rounds(21);
    assert_eq!(world.stage().generation, 1);
    world.round();
    assert_eq!(world.stage().generation, 2);
    assert!(world.story("generation-over")[0].contains("rank 1 on n1 has not connected with the others for 10 s"));
}

#[test]
fn an_agent_that_started_anew_gets_no_seat_of_a_generation_that_is_held() {
    let mut world = World::running_of(json!({"min_ranks": 4}));
    world.join(2, 1, 12);
    world.rounds(3);
    assert_eq!(world.stage().generation, 1, "three devices are too few");
    let listed = |id| {
        world
            .memory
            .told
            .orders
            .get(&node(id))
            .map_or(0, |orders| orders.assignments.len())
    };
    assert_eq!((listed(1), listed(2)), (1, 0));
}

#[test]
fn a_rank_that_alone_would_have_too_many_lanes_for_its_memory_waits_with_the_reason() {
    let mut world = World::new(&[1]);
    world.training_job_of(json!({"max_ranks": 2}));
    let memory = needs(&world.jobs[0].spec, StageKind::Pretrain).memory;
    let [alone, of_two] = [1, 2].map(|ranks| memory.of(ranks).host_bytes);
    assert!(of_two < alone);
    world.hardware.memory_bytes = Some(of_two);
    world.rounds(4);
    let State::Waiting { reason } = &world.stage().state else {
        panic!("one rank does not fit: {:?}", world.stage().state);
    };
    assert!(
        reason.contains(
            "2 free devices of one numerics fingerprint whose memory suffices: the nodes alive have 1 in all"
        ),
        "{reason}"
    );
    world.join(2, 1, 2);
    world.rounds(4);
    assert_eq!(
        (world.stage().state.label(), world.num_ranks()),
        (StageState::Running, 2)
    );
    world.alive.remove(&node(2));
    world.break_rank(0, 7);
    world.rounds(4);
    let waits = world.story("stage-waits").pop().unwrap();
    assert!(
        waits.contains("hold step 7 in memory")
            && waits.contains("waits for 2 free devices of one numerics fingerprint"),
        "{waits}"
    );
    assert_eq!(world.stage().generation, 1);
    world.join(3, 1, 3);
    world.rounds(2);
    let placed = world.story("stage-placed").pop().unwrap();
    assert!(
        placed.ends_with("goes on from memory at step 7 or later with 1 of its ranks"),
        "{placed}"
    );
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 2));
}
