//! Nodes that operators take out of service, and nodes whose agents are about to end.

use super::*;
use crate::domain::node::Withheld;

const CORDONED: Withheld = Withheld {
    drains: false,
    is_due: false,
    leaves: false,
};
const DRAINED: Withheld = Withheld {
    drains: true,
    is_due: false,
    leaves: false,
};
const DUE: Withheld = Withheld {
    drains: true,
    is_due: true,
    leaves: false,
};
const LEAVES: Withheld = Withheld {
    drains: true,
    is_due: false,
    leaves: true,
};

/// What a node is told to run, as (generation, ranks, ranks that leave).
fn listed(world: &World, number: u128) -> Vec<(u64, Vec<u32>, Vec<u32>)> {
    let orders = world.memory.told.orders.get(&node(number));
    let assignments = orders.into_iter().flat_map(|orders| &orders.assignments);
    assignments
        .map(|a| {
            let leaving = a.parting.iter().flat_map(|parting| parting.ranks.clone());
            (a.generation, a.ranks.clone(), leaving.collect())
        })
        .collect()
}

#[test]
fn a_training_leaves_a_drained_node_between_two_steps() {
    let mut world = World::running();
    world.round();
    world.sight.withheld.insert(node(2), DRAINED);
    let events = world.events.len();
    world.round();
    assert_eq!(world.kinds_since(events), ["stage-shrinks"]);
    assert_eq!(world.num_ranks(), 4, "the steps go on");
    assert_eq!(listed(&world, 1), [(1, vec![0, 1], vec![]), (2, vec![0, 1], vec![])]);
    assert_eq!(listed(&world, 2), [(1, vec![2, 3], vec![])]);
    world.round();
    assert_eq!(world.seats(), [node(1); 2]);
    assert_eq!(listed(&world, 1), [(1, vec![0, 1], vec![]), (2, vec![0, 1], vec![])]);
    assert_eq!(
        listed(&world, 2),
        [(1, vec![2, 3], vec![2, 3])],
        "they leave by themselves"
    );
    world.round();
    assert_eq!(listed(&world, 1), [(2, vec![0, 1], vec![])]);
    assert_eq!(listed(&world, 2), []);
    assert_eq!(
        world.kinds_since(events),
        ["stage-shrinks", "stage-running", "stage-left"]
    );
    assert!(world.story("stage-left")[0].ends_with("node n2 is drained"));
    world.rounds(20);
    assert_eq!(world.seats(), [node(1); 2], "it takes nothing new");
    world.sight.withheld.clear();
    world.rounds(20);
    assert_eq!(world.num_ranks(), 4, "it serves again");
    assert_eq!(world.story("generation-over"), [""; 0]);
}

#[test]
fn a_cordoned_node_keeps_what_it_has_until_that_breaks() {
    let mut world = World::running();
    world.sight.withheld.insert(node(2), CORDONED);
    world.rounds(20);
    assert_eq!((world.stage().generation, world.num_ranks()), (1, 4));
    world.fail_rank(0, "its process was ended by signal 9", true);
    world.round();
    assert_eq!(world.seats(), [node(1)], "the one that is left goes on at once");
    world.rounds(10);
    assert_eq!(world.seats(), [node(1); 2]);
}

#[test]
fn a_training_that_cannot_do_without_a_drained_node_keeps_it_until_the_deadline() {
    let mut world = World::running_of(json!({"min_ranks": 3}));
    world.sight.withheld.insert(node(2), DRAINED);
    world.rounds(20);
    assert_eq!((world.stage().generation, world.num_ranks()), (1, 4));
    world.sight.withheld.insert(node(2), DUE);
    world.rounds(2 + 2 * 60);
    assert_eq!(world.stage().state.label(), StageState::Waiting);
    world.join(3, 1, 3);
    world.rounds(2);
    assert_eq!(world.seats(), [node(1), node(1), node(3)]);
}

#[test]
fn ranks_that_are_needed_join_before_the_others_leave() {
    let mut world = World::running_of(json!({"min_ranks": 3, "max_ranks": 4}));
    world.join(3, 2, 3);
    world.round();
    world.sight.withheld.insert(node(2), DRAINED);
    world.round();
    assert_eq!(listed(&world, 3), [(2, vec![2, 3], vec![])]);
    world.rounds(2);
    assert_eq!(world.seats(), [node(1), node(1), node(3), node(3)]);
    assert_eq!(listed(&world, 2), []);
    assert_eq!(world.story("generation-over"), [""; 0]);
}

#[test]
fn a_training_moves_as_a_whole_while_one_of_its_ranks_stays_to_feed_the_others() {
    let mut world = World::new(&[2]);
    world.training_job_of(json!({"min_ranks": 2, "max_ranks": 2}));
    world.rounds(4);
    world.join(2, 2, 2);
    world.round();
    world.sight.withheld.insert(node(1), DRAINED);
    world.rounds(3);
    assert_eq!(world.seats(), [node(1), node(2)]);
    world.rounds(4);
    assert_eq!(world.seats(), [node(2); 2]);
    assert_eq!(listed(&world, 1), []);
    assert_eq!(world.story("generation-over"), [""; 0]);
    assert_eq!(world.story("stage-moves").len(), 2, "each generation is made once");
    assert_eq!(world.story("stage-stays"), [""; 0]);
}

#[test]
fn a_training_pauses_with_a_checkpoint_when_the_agents_of_all_its_nodes_end() {
    let mut world = World::running();
    world.round();
    world.sight.withheld.insert(node(1), LEAVES);
    world.sight.withheld.insert(node(2), LEAVES);
    let events = world.events.len();
    world.round();
    assert_eq!(world.kinds_since(events), ["stage-pauses"]);
    assert_eq!(listed(&world, 1), [(1, vec![0, 1], vec![0, 1])]);
    let parting = world.memory.told.orders[&node(2)].assignments[0].parting.clone();
    assert!(parting.is_some_and(|parting| parting.saves && parting.next == 2));
    world.rounds(3);
    assert_eq!(
        world.stage().state.label(),
        StageState::Running,
        "its checkpoint is not whole"
    );
    world.commit_checkpoint(1);
    world.round();
    let State::Waiting { reason } = &world.stage().state else {
        panic!("{:?}", world.stage())
    };
    assert!(reason.starts_with("waits for a node"), "{reason}");
    assert!(
        world.story("stage-paused")[0]
            .contains("paused at step 1: the agent of node n1 ends and the agent of node n2 ends")
    );
    assert_eq!(listed(&world, 1), []);
    assert_eq!(world.stage().setbacks.in_a_row, 0);
    world.sight.withheld.clear();
    world.round();
    let resumed = world.stage().present().and_then(|generation| generation.resume.clone());
    assert_eq!(resumed.map(|manifest| manifest.step), Some(1));
}

#[test]
fn a_rank_that_fails_while_others_leave_ends_the_generation_that_they_leave() {
    let mut world = World::running();
    world.round();
    world.sight.withheld.insert(node(2), DRAINED);
    let stage = world.stage().id;
    let stuck = RankState::Listening {
        address: "a:0".into(),
        committed: Some(1),
    };
    // The ranks that stay have not changed over when one of those that leave is killed.
    world.odd.extend([0, 1].map(|rank| ((stage, 2, rank), stuck.clone())));
    let trains = RankState::Running { committed: 1 };
    world.odd.extend([2, 3].map(|rank| ((stage, 1, rank), trains.clone())));
    world.rounds(4);
    assert!(world.stage().former().is_some());
    let reason = "its process was ended by signal 9".into();
    world
        .odd
        .insert((stage, 1, 3), RankState::Failed { reason, retry: true });
    world.round();
    assert!(world.story("generation-over")[0].contains("generation 1 is over: rank 3 on n2 failed"));
    assert_eq!(world.seats(), [node(1); 2]);
    assert_eq!(world.stage().present().map(|generation| generation.number), Some(3));
    assert!(world.story("stage-placed")[1].contains("goes on from memory at step 1"));
}

#[test]
fn a_node_that_is_to_be_left_takes_no_part_in_a_generation_that_gets_ready() {
    let mut world = World::new(&[2]);
    world.training_job();
    world.rounds(4);
    world.join(2, 2, 2);
    world.rounds(5);
    assert!(world.stage().next().is_some(), "it grows to the second node");
    world.sight.withheld.insert(node(2), LEAVES);
    world.decide();
    assert_eq!(world.stage().next(), None);
    assert!(world.story("stage-stays")[0].ends_with("generation 2 does not follow: the agent of node n2 ends"));
    world.rounds(3);
    assert_eq!(world.seats(), [node(1); 2]);
    assert_eq!(world.story("stage-shrinks"), [""; 0]);
}

#[test]
fn a_node_whose_agent_has_left_is_not_lost() {
    let mut world = World::running();
    world.sight.nodes.get_mut(&node(2)).unwrap().leaves = true;
    world.alive.remove(&node(2));
    world.rounds(12);
    assert!(world.story("node-left")[0].contains("node n2 has left"));
    assert_eq!(world.story("node-lost"), [""; 0]);
}
