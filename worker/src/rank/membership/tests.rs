//! A generation simulated message by message, with members lost at any moment.

use super::*;
use crate::rank::beginning::{Beginning, Memory, Path, begin};
use proptest::prelude::*;
use std::collections::VecDeque;

const NOW: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_mins(1);

/// Members and the connections between them; each connection keeps its order.
struct Generation {
    members: Vec<Option<State>>,
    wires: BTreeMap<(u32, u32), VecDeque<Message>>,
    /// Per member: what it committed, and whether with a checkpoint.
    commits: Vec<Vec<bool>>,
    /// Per member: the generation in which it goes on.
    next: Vec<Option<u64>>,
    failures: Vec<Option<String>>,
    doubts: Vec<Option<Doubt>>,
}

impl Generation {
    fn new(world: u32) -> Self {
        Self {
            members: (0..world)
                .map(|rank| Some(State::new(rank, world, 7, 0, PATIENCE)))
                .collect(),
            wires: BTreeMap::new(),
            commits: vec![Vec::new(); world as usize],
            next: vec![None; world as usize],
            failures: vec![None; world as usize],
            doubts: vec![None; world as usize],
        }
    }

    fn feed(&mut self, rank: u32, input: Input, now: Duration) {
        let Some(state) = self.members[rank as usize].take() else {
            return;
        };
        let (state, outputs) = step(state, input, now);
        self.members[rank as usize] = Some(state);
        for output in outputs {
            match output {
                Output::Send { to, message } => self.wires.entry((rank, to)).or_default().push_back(message),
                Output::Commit { checkpoint, then } => {
                    self.commits[rank as usize].push(checkpoint);
                    self.next[rank as usize] = then;
                }
                Output::Fail { reason, doubt } => {
                    self.failures[rank as usize] = Some(reason);
                    self.doubts[rank as usize] = doubt;
                }
            }
        }
    }

    fn prepare(&mut self, rank: u32, digest: u64) {
        let member = self.members[rank as usize].as_ref();
        if member.is_some_and(|member| matches!(member.phase, Phase::Computing)) {
            let planned = false;
            self.feed(rank, Input::Prepared { digest, planned }, NOW);
        }
    }

    fn deliver(&mut self, from: u32, to: u32) {
        let Some(message) = self.wires.entry((from, to)).or_default().pop_front() else {
            return;
        };
        self.feed(to, Input::Said { from, message }, NOW);
    }

    fn lose(&mut self, rank: u32) {
        self.members[rank as usize] = None;
        for other in 0..self.members.len() as u32 {
            let why = "reset".into();
            self.feed(other, Input::Lost { rank, why }, NOW);
        }
    }

    fn deliver_all(&mut self) {
        while let Some((from, to)) = self
            .wires
            .iter()
            .find(|(_, wire)| !wire.is_empty())
            .map(|(pair, _)| *pair)
        {
            self.deliver(from, to);
        }
    }

    fn memories(&self) -> Vec<Option<Memory>> {
        let memory = |state: &State| Memory {
            committed: state.committed(),
            prepared: state.is_prepared(),
        };
        self.members.iter().map(|member| member.as_ref().map(memory)).collect()
    }

    fn check(&self) {
        let memories = self.memories();
        let committed = || memories.iter().flatten().map(|memory| memory.committed);
        let (Some(low), Some(high)) = (committed().min(), committed().max()) else {
            return;
        };
        assert!(high - low <= 1, "members are at most one step apart: {memories:?}");
        let Beginning::Memory { paths, .. } = begin(&memories, None) else {
            panic!("survivors hold a state: {memories:?}")
        };
        for (path, memory) in paths.iter().zip(&memories) {
            let joins = *path == Path::Join;
            assert_eq!(joins, memory.is_none(), "no survivor copies a state: {memories:?}");
        }
        let names: Vec<u64> = self.next.iter().flatten().copied().collect();
        assert!(names.windows(2).all(|pair| pair[0] == pair[1]), "{:?}", self.next);
    }
}

#[derive(Debug, Clone)]
enum Event {
    Prepare(u32),
    Deliver(u32, u32),
    Ready(u32, u64),
    Lose(u32),
}

fn events(world: u32) -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => (0..world).prop_map(Event::Prepare),
        16 => (0..world, 0..world).prop_map(|(from, to)| Event::Deliver(from, to)),
        2 => (0..world, 8_u64..10).prop_map(|(rank, generation)| Event::Ready(rank, generation)),
        1 => (0..world).prop_map(Event::Lose),
    ];
    proptest::collection::vec(event, 1..200)
}

proptest! {
    #[test]
    fn no_schedule_takes_members_more_than_one_step_apart(
        (world, events) in (1_u32..6).prop_flat_map(|world| (Just(world), events(world)))
    ) {
        let mut generation = Generation::new(world);
        for event in events {
            match event {
                Event::Prepare(rank) => generation.prepare(rank, 1),
                Event::Deliver(from, to) => generation.deliver(from, to),
                Event::Ready(rank, next) => generation.feed(rank, Input::Ready { generation: next }, NOW),
                Event::Lose(rank) => generation.lose(rank),
            }
            generation.check();
        }
    }

    #[test]
    fn nobody_commits_what_a_member_was_not_prepared_for(
        (world, order, absent) in (2_u32..6).prop_flat_map(|world| {
            let order = Just((0..world).collect::<Vec<_>>()).prop_shuffle();
            (Just(world), order, 0..world)
        })
    ) {
        let mut generation = Generation::new(world);
        for rank in order.into_iter().filter(|rank| *rank != absent) {
            generation.prepare(rank, 1);
            generation.deliver_all();
        }
        prop_assert!(generation.commits.iter().all(Vec::is_empty));
        generation.prepare(absent, 1);
        generation.deliver_all();
        prop_assert!(generation.commits.iter().all(|commits| commits.len() == 1));
    }
}

fn whole_step(generation: &mut Generation) {
    for rank in 0..generation.members.len() as u32 {
        generation.prepare(rank, 1);
    }
    generation.deliver_all();
}

#[test]
fn a_rank_alone_commits_at_once() {
    let mut generation = Generation::new(1);
    generation.prepare(0, 9);
    assert_eq!(generation.commits[0], [false]);
}

#[test]
fn a_checkpoint_wanted_by_one_is_taken_by_all_at_its_step_and_once() {
    let mut generation = Generation::new(3);
    generation.feed(2, Input::CheckpointWanted { step: 2 }, NOW);
    for _ in 0..4 {
        whole_step(&mut generation);
    }
    for commits in generation.commits {
        assert_eq!(commits, [false, true, false, false]);
    }
}

#[test]
fn a_rank_that_hears_of_a_checkpoint_when_it_was_taken_asks_for_no_second_one() {
    let mut generation = Generation::new(3);
    generation.feed(2, Input::CheckpointWanted { step: 2 }, NOW);
    whole_step(&mut generation);
    whole_step(&mut generation);
    generation.feed(0, Input::CheckpointWanted { step: 2 }, NOW);
    whole_step(&mut generation);
    generation.feed(1, Input::CheckpointWanted { step: 4 }, NOW);
    whole_step(&mut generation);
    for commits in generation.commits {
        assert_eq!(commits, [false, true, false, true]);
    }
}

#[test]
fn a_rank_whose_state_differs_is_named() {
    let mut generation = Generation::new(3);
    generation.prepare(0, 1);
    generation.prepare(1, 2);
    generation.prepare(2, 1);
    generation.deliver_all();
    assert!(generation.commits.iter().all(Vec::is_empty));
    let doubt = Doubt::new(0, 0, vec![1]);
    assert_eq!(
        generation.doubts,
        vec![Some(doubt); 3],
        "all are told, and nobody's memory is sound"
    );
}

#[test]
fn without_a_majority_nobodys_state_is_trusted() {
    let mut generation = Generation::new(2);
    generation.prepare(0, 1);
    generation.prepare(1, 2);
    generation.deliver_all();
    let doubt = Doubt::new(0, 0, Vec::new());
    assert_eq!(generation.doubts, vec![Some(doubt); 2]);
}

#[test]
fn what_is_proven_depends_on_the_step_and_on_what_all_have_loaded() {
    let proven = |committed, loaded| {
        let mut generation = Generation::new(2);
        for member in generation.members.iter_mut().flatten() {
            let fresh = State::new(member.rank, 2, 7, committed, PATIENCE);
            *member = fresh.loaded(loaded);
        }
        generation.prepare(1, 2);
        generation.prepare(0, 1);
        generation.deliver_all();
        generation.doubts[0].as_ref().map(|doubt| (doubt.step, doubt.proven))
    };
    assert_eq!(proven(10, 0), Some((10, 0)));
    assert_eq!(proven(200, 0), Some((200, 135)));
    assert_eq!(proven(200, 160), Some((200, 160)));
}

#[test]
fn a_lost_peer_says_nothing_against_anybodys_state() {
    let mut generation = Generation::new(3);
    generation.prepare(1, 1);
    generation.lose(2);
    assert_eq!(generation.doubts, [None, None, None]);
}

#[test]
fn a_generation_ends_between_two_steps_once_all_members_know_the_next() {
    let mut generation = Generation::new(3);
    for rank in 0..2 {
        generation.feed(rank, Input::Ready { generation: 9 }, NOW);
    }
    whole_step(&mut generation);
    assert_eq!(generation.next, [None; 3], "one of them does not know it yet");
    generation.feed(2, Input::Ready { generation: 9 }, NOW);
    whole_step(&mut generation);
    assert_eq!(generation.next, [Some(9); 3]);
    whole_step(&mut generation);
    assert!(generation.commits.iter().all(|commits| commits.len() == 2));
}

#[test]
fn a_lost_peer_ends_the_generation_for_all() {
    let mut generation = Generation::new(3);
    generation.prepare(1, 1);
    generation.lose(2);
    assert!(generation.failures[0].as_ref().unwrap().contains("lost rank 2"));
    assert!(generation.failures[1].is_some());
    whole_step(&mut generation);
    assert!(generation.commits.iter().all(Vec::is_empty));
}

#[test]
fn a_silent_member_is_named_when_patience_ends() {
    let mut generation = Generation::new(2);
    generation.prepare(0, 1);
    generation.feed(0, Input::Tick, NOW + PATIENCE);
    assert_eq!(generation.failures[0], None);
    generation.feed(0, Input::Tick, NOW + PATIENCE + Duration::from_secs(1));
    assert!(
        generation.failures[0]
            .as_ref()
            .unwrap()
            .contains("rank 1 did not answer")
    );
}

#[test]
fn messages_of_another_generation_are_ignored() {
    let mut generation = Generation::new(2);
    generation.prepare(1, 1);
    let body = Body::Go {
        step: 0,
        checkpoint: false,
        then: None,
    };
    let message = Message { generation: 6, body };
    generation.feed(1, Input::Said { from: 0, message }, NOW);
    assert_eq!(generation.failures[1], None);
    assert!(generation.commits[1].is_empty());
}

#[test]
fn a_survivor_that_missed_the_go_commits_from_memory() {
    let mut generation = Generation::new(3);
    for rank in 0..3 {
        generation.prepare(rank, 1);
    }
    generation.deliver(1, 0);
    generation.deliver(2, 0);
    generation.deliver(0, 1);
    let beginning = begin(&generation.memories(), None);
    let paths = vec![Path::Ready, Path::Ready, Path::CommitPrepared];
    assert_eq!(beginning, Beginning::Memory { committed: 1, paths });
}

#[test]
fn old_memory_joins_and_prepared_work_that_nobody_committed_is_dropped() {
    let memory = |committed, prepared| Some(Memory { committed, prepared });
    let members = [memory(4, true), memory(4, false), memory(2, true), None];
    let paths = vec![Path::Ready, Path::Ready, Path::Join, Path::Join];
    assert_eq!(begin(&members, Some(4)), Beginning::Memory { committed: 4, paths });
}

#[test]
fn a_checkpoint_counts_where_nobody_holds_a_later_state() {
    let old = Memory {
        committed: 2,
        prepared: true,
    };
    assert_eq!(begin(&[None, None], None), Beginning::Stored);
    assert_eq!(begin(&[Some(old), None], Some(3)), Beginning::Stored);
}
