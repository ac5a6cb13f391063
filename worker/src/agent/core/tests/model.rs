//! An agent between a coordinator and ranks that do anything in any order.

use super::world::{assignment, id, lease, orders, part, registered, row, shard_output, stage, steps};
use super::*;
use medley_protocol::agent::Assignment;
use medley_protocol::ids::{LeaseToken, StageId};
use medley_protocol::tasks::Lease;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A training stage of which rank 0, and at times rank 1, runs here.
const TRAINING: u64 = 1;
/// A stage of tasks.
const TASKS: u64 = 2;
const DEVICES: u32 = 3;

#[derive(Debug, Clone)]
enum Happening {
    /// The coordinator changes its mind: which ranks run, whether the generation changes, and whether the training's goes on
    /// while the next gets ready.
    Decide {
        training: u32,
        tasks: u32,
        again: bool,
        beside: bool,
    },
    /// A beat is answered with the newest orders, or late ones.
    Beat {
        late: Option<prop::sample::Index>,
    },
    /// A beat is not answered.
    BeatLost,
    /// The coordinator has forgotten the node.
    Forgotten,
    /// A rank that was started, or called to another generation, begins to work in it.
    Enter(prop::sample::Index),
    /// A rank commits its next step, takes a checkpoint, asks for a task, hands in its task, or ends.
    Commit(prop::sample::Index),
    Checkpoint(prop::sample::Index),
    Want(prop::sample::Index),
    Done(prop::sample::Index),
    Exit(prop::sample::Index),
    /// A request is answered.
    Answer(prop::sample::Index, Fate),
    Pass(u64),
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Accepted,
    /// It never reached the coordinator.
    Lost,
    /// It reached the coordinator, whose answer was lost.
    Unheard,
    Stumbled,
}

fn happening() -> impl Strategy<Value = Happening> {
    let index = any::<prop::sample::Index>;
    let fate = prop_oneof![
        6 => Just(Fate::Accepted), 1 => Just(Fate::Lost), 1 => Just(Fate::Unheard), 1 => Just(Fate::Stumbled)
    ];
    prop_oneof![
        2 => (0u32..3, 0u32..3, any::<bool>(), any::<bool>())
            .prop_map(|(training, tasks, again, beside)| Happening::Decide { training, tasks, again, beside }),
        6 => prop::option::weighted(0.3, index()).prop_map(|late| Happening::Beat { late }),
        1 => Just(Happening::BeatLost),
        1 => Just(Happening::Forgotten),
        4 => index().prop_map(Happening::Enter),
        12 => index().prop_map(Happening::Commit),
        3 => index().prop_map(Happening::Checkpoint),
        4 => index().prop_map(Happening::Want),
        4 => index().prop_map(Happening::Done),
        3 => index().prop_map(Happening::Exit),
        12 => (index(), fate).prop_map(|(which, fate)| Happening::Answer(which, fate)),
        8 => (1u64..2000).prop_map(Happening::Pass),
    ]
}

/// A live process.
#[derive(Debug, Clone)]
struct Process {
    stage: StageId,
    generation: u64,
    rank: u32,
    device: u32,
    /// Generation and rank to which it was called.
    called: Option<(u64, u32)>,
    killed: bool,
    /// Whether it has begun to work in its generation.
    works: bool,
    committed: u64,
    lease: Option<Lease>,
}

#[derive(Default)]
struct World {
    now: Duration,
    state: Option<State>,
    processes: BTreeMap<ProcessId, Process>,
    // The coordinator.
    history: Vec<Orders>,
    generations: BTreeMap<u64, u64>,
    stored: u64,
    checkpoint: u64,
    leases: u64,
    parts: BTreeSet<(u64, u32)>,
    results: BTreeSet<LeaseToken>,
    // What is under way.
    registering: bool,
    beating: bool,
    requests: Vec<(RequestId, Request)>,
    // What was said, and seen.
    seen: Option<u64>,
    said_rows: u64,
    /// The last generation that a process has begun to work in, and the step from which it went on.
    lineage: u64,
    begun: u64,
    said_parts: BTreeSet<(u64, u32)>,
    said_results: BTreeSet<LeaseToken>,
}

impl World {
    fn new() -> Self {
        let register = Register {
            name: "n1".into(),
            incarnation: id(1),
            host: "h".into(),
            devices: DEVICES,
            threads: 1,
            fingerprint: "f".into(),
        };
        let mut world = Self {
            state: Some(State::new(register)),
            history: vec![orders(0, Vec::new())],
            ..Self::default()
        };
        world.feed(Input::Tick);
        world
    }

    fn feed(&mut self, input: Input) {
        let (state, outputs) = step(self.state.take().unwrap(), input, self.now);
        self.state = Some(state);
        for output in outputs {
            self.perform(output);
        }
        self.check();
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Register(_) => assert!(!std::mem::replace(&mut self.registering, true)),
            Output::Beat { beat, .. } => {
                assert!(!std::mem::replace(&mut self.beating, true));
                assert_eq!(beat.revision, self.seen.unwrap_or(0));
            }
            Output::Start { process, device, order } => self.start(process, device, order),
            Output::Tell { process, order } => {
                let told = self.processes.get_mut(&process).unwrap();
                match order {
                    ToRank::Lease { lease } => told.lease = lease.or(told.lease.take()),
                    ToRank::Regroup {
                        assignment,
                        rank,
                        at_once,
                    } => {
                        assert!(!told.killed && told.stage == assignment.stage && told.stage == stage(TRAINING));
                        let latest = told.called.map_or(told.generation, |(generation, _)| generation);
                        assert!(assignment.generation > latest, "called to later generations only");
                        let old = told.generation;
                        told.called = Some((assignment.generation, rank));
                        assert_eq!(at_once, !self.lists(stage(TRAINING), old));
                    }
                    _ => {}
                }
            }
            Output::Kill { process } => {
                let killed = &mut self.processes.get_mut(&process).unwrap().killed;
                assert!(!std::mem::replace(killed, true), "killed once");
            }
            Output::Send { id, request } => self.requests.push((id, request)),
            Output::Info(_) | Output::Warn(_) | Output::Probe { .. } => {}
            Output::Halt { reason } => panic!("{reason}"),
        }
    }

    fn start(&mut self, process: ProcessId, device: u32, order: ToRank) {
        let ToRank::Start { assignment, rank, .. } = order else {
            panic!()
        };
        let (stage, generation) = (assignment.stage, assignment.generation);
        for other in self.processes.values() {
            assert!(other.device != device && device < DEVICES, "a device has one rank");
            let of_stage = other.stage == stage;
            assert!(!of_stage || !other.killed, "those that are unwanted have ended");
            let seats = [Some((other.generation, other.rank)), other.called];
            assert!(
                !of_stage || !seats.contains(&Some((generation, rank))),
                "two live processes of one rank"
            );
            let is_training = assignment.kind.is_training();
            assert!(
                !of_stage || is_training || other.generation == generation,
                "the old generation has ended"
            );
        }
        let started = Process {
            stage,
            generation,
            rank,
            device,
            called: None,
            killed: false,
            works: false,
            committed: self.checkpoint,
            lease: None,
        };
        assert!(self.is_listed(&started), "only the highest orders start ranks");
        assert!(
            self.processes.insert(process, started).is_none(),
            "names are never used twice"
        );
    }

    fn highest(&self) -> Option<&Orders> {
        self.history.iter().find(|orders| Some(orders.revision) == self.seen)
    }

    fn lists(&self, stage: StageId, generation: u64) -> bool {
        let of = |assignment: &Assignment| (assignment.stage, assignment.generation) == (stage, generation);
        self.highest().is_some_and(|orders| orders.assignments.iter().any(of))
    }

    /// Whether a seat of the process is listed.
    fn is_listed(&self, process: &Process) -> bool {
        let seats = [Some((process.generation, process.rank)), process.called];
        let listed = |assignment: &Assignment, (generation, rank): (u64, u32)| {
            let same = (assignment.stage, assignment.generation) == (process.stage, generation);
            same && assignment.ranks.contains(&rank)
        };
        self.highest().is_some_and(|orders| {
            let mut assignments = orders.assignments.iter();
            assignments.any(|assignment| seats.iter().flatten().any(|seat| listed(assignment, *seat)))
        })
    }

    fn check(&self) {
        for process in self.processes.values() {
            assert!(
                process.killed || self.is_listed(process),
                "what is not listed is killed: {process:?}"
            );
        }
    }

    fn pick(&self, which: prop::sample::Index, stage_number: u64) -> Option<ProcessId> {
        let of_stage = |(_, process): &(&ProcessId, &Process)| process.stage == stage(stage_number);
        let all: Vec<ProcessId> = self.processes.iter().filter(of_stage).map(|(id, _)| *id).collect();
        (!all.is_empty()).then(|| all[which.index(all.len())])
    }

    fn say(&mut self, process: ProcessId, message: FromRank) {
        let event = Event::Said(message);
        self.feed(Input::Rank { process, event });
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Decide {
                training,
                tasks,
                again,
                beside,
            } => self.decide(training, tasks, again, beside),
            Happening::Beat { late } => {
                let last = self.history.len() - 1;
                let index = late.map_or(last, |late| late.index(last + 1));
                self.answer_beat(Ok(self.history[index].clone()));
            }
            Happening::BeatLost => self.answer_beat(Err(away())),
            Happening::Forgotten => self.answer_beat(Err(refused(Code::NotFound))),
            Happening::Enter(which) => self.enter(which),
            Happening::Commit(which) => self.commit(which),
            Happening::Checkpoint(which) => self.take_checkpoint(which),
            Happening::Want(which) => {
                if let Some(process) = self.pick(which, TASKS).filter(|id| self.processes[id].lease.is_none()) {
                    self.say(process, FromRank::LeaseWanted);
                }
            }
            Happening::Done(which) => self.hand_in(which),
            Happening::Exit(which) => {
                let all: Vec<ProcessId> = self.processes.keys().copied().collect();
                if !all.is_empty() {
                    let process = all[which.index(all.len())];
                    self.processes.remove(&process);
                    let event = Event::Exited("ended".into());
                    self.feed(Input::Rank { process, event });
                }
            }
            Happening::Answer(which, fate) => {
                if !self.requests.is_empty() {
                    let (id, request) = self.requests.remove(which.index(self.requests.len()));
                    let answer = self.serve(request, fate);
                    self.feed(Input::Answered { id, answer });
                }
            }
            Happening::Pass(ms) => self.pass(ms),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        if std::mem::take(&mut self.registering) {
            self.feed(Input::Registered(Ok(registered(1))));
        }
        self.feed(Input::Tick);
    }

    fn decide(&mut self, training: u32, tasks: u32, again: bool, beside: bool) {
        let revision = self.history.len() as u64;
        let mut assignments = Vec::new();
        for (number, ranks, kind) in [
            (TRAINING, training, StageKind::Pretrain),
            (TASKS, tasks, StageKind::Capfilt),
        ] {
            let generation = self.generations.entry(number).or_insert(1);
            let before = self.history[self.history.len() - 1].assignments.clone();
            let goes_on = before
                .into_iter()
                .rev()
                .find(|assignment| assignment.stage == stage(number));
            let is_new = again || ranks == 0;
            *generation += u64::from(is_new);
            if is_new && beside && number == TRAINING && ranks > 0 {
                assignments.extend(goes_on);
            }
            if ranks > 0 {
                let ranks: Vec<u32> = (0..ranks).collect();
                assignments.push(assignment(number, *generation, &ranks, kind));
            }
        }
        self.history.push(orders(revision, assignments));
    }

    fn answer_beat(&mut self, answer: Result<Orders, Trouble>) {
        if !std::mem::take(&mut self.beating) {
            return;
        }
        if let Ok(orders) = &answer {
            self.seen = self.seen.max(Some(orders.revision));
        }
        self.feed(Input::Ordered(answer));
    }

    fn enter(&mut self, which: prop::sample::Index) {
        let Some(id) = self.pick(which, TRAINING) else { return };
        let process = self.processes.get_mut(&id).unwrap();
        let called = process.called.take();
        let first = (!process.works).then_some((process.generation, process.rank));
        let Some((generation, rank)) = called.or(first) else {
            return;
        };
        if process.killed {
            let committed = process.committed;
            let state = RankState::Running { committed };
            return self.say(id, FromRank::State { generation, state });
        }
        // It goes on from where the others do.
        if generation == self.lineage {
            process.committed = self.begun;
        } else if process.generation < self.lineage {
            process.committed = process.committed.min(self.begun);
        }
        (process.generation, process.rank, process.works) = (generation, rank, true);
        if generation > self.lineage {
            // Steps from there on are computed again, and what earlier generations did beyond does not count.
            (self.lineage, self.begun) = (generation, process.committed);
            self.said_rows = self.said_rows.min(self.begun);
            self.said_parts.retain(|(step, _)| *step <= self.begun);
        }
        let committed = process.committed;
        let state = RankState::Running { committed };
        self.say(id, FromRank::State { generation, state });
    }

    fn commit(&mut self, which: prop::sample::Index) {
        let Some(id) = self.pick(which, TRAINING).filter(|id| self.processes[id].works) else {
            return;
        };
        let process = self.processes.get_mut(&id).unwrap();
        let metrics = row(process.committed);
        // What is heard late of a generation that a later one has taken over from changes nothing.
        if process.generation >= self.lineage || process.committed < self.begun {
            process.committed += 1;
            if process.rank == 0 && !process.killed {
                self.said_rows = process.committed;
            }
        }
        self.say(id, FromRank::Committed { metrics, ledger: None });
    }

    /// Whether a later generation computes again what the process has.
    fn is_superseded(&self, process: &Process) -> bool {
        process.generation < self.lineage && process.committed > self.begun
    }

    fn take_checkpoint(&mut self, which: prop::sample::Index) {
        let Some(id) = self.pick(which, TRAINING).filter(|id| self.processes[id].works) else {
            return;
        };
        let process = self.processes[&id].clone();
        if !process.killed && !self.is_superseded(&process) {
            self.said_parts.insert((process.committed, process.rank));
        }
        let part = part(process.committed, process.rank);
        self.say(id, FromRank::Part { part, peak_bytes: PEAK });
    }

    fn hand_in(&mut self, which: prop::sample::Index) {
        let Some(id) = self.pick(which, TASKS) else { return };
        if let Some(lease) = self.processes.get_mut(&id).unwrap().lease.take() {
            self.said_results.insert(lease.token);
            let output = shard_output();
            self.say(
                id,
                FromRank::TaskDone {
                    lease,
                    output,
                    peak_bytes: PEAK,
                },
            );
        }
    }

    /// The coordinator's part.
    fn serve(&mut self, request: Request, fate: Fate) -> Result<Reply, Trouble> {
        match fate {
            Fate::Accepted => self.accept(request),
            Fate::Lost => Err(away()),
            Fate::Unheard => {
                let _ = self.accept(request);
                Err(away())
            }
            Fate::Stumbled => Err(refused(Code::Internal)),
        }
    }

    fn accept(&mut self, request: Request) -> Result<Reply, Trouble> {
        match request {
            Request::Metrics { .. } => {
                let (first, end) = steps(&request);
                if first > self.stored {
                    return Err(refused(Code::Conflict));
                }
                self.stored = self.stored.max(end);
            }
            Request::MetricsThrough { .. } => {}
            Request::Part { body, .. } => {
                let part = &body.part;
                self.parts.insert((part.step, part.part));
                if part.part == 0 {
                    assert!(self.stored >= part.step, "a checkpoint never outruns the metrics");
                    self.checkpoint = self.checkpoint.max(part.step);
                }
                return Ok(Reply::Done);
            }
            Request::Lease { .. } => {
                self.leases += 1;
                return Ok(Reply::Lease(
                    (!self.leases.is_multiple_of(3)).then(|| lease(self.leases)),
                ));
            }
            Request::Finish { body, .. } => {
                self.results.insert(body.token);
                return Ok(Reply::Done);
            }
            Request::Renew { .. } | Request::Fail { .. } | Request::Refused { .. } => return Ok(Reply::Done),
        }
        let next_step = self.stored;
        Ok(Reply::Through(MetricsThrough { next_step }))
    }

    /// The coordinator is well and answers everything, no generation goes on beside another; killed processes end.
    fn settle(&mut self) {
        let last = self.history[self.history.len() - 1].clone();
        let mut latest: BTreeMap<StageId, Assignment> = BTreeMap::new();
        for listed in last.assignments {
            let other = latest.get(&listed.stage).map_or(0, |other| other.generation);
            if listed.generation > other {
                latest.insert(listed.stage, listed);
            }
        }
        let revision = last.revision + 1;
        self.history.push(orders(revision, latest.into_values().collect()));
        for _ in 0..400 {
            self.answer_beat(Ok(self.history[self.history.len() - 1].clone()));
            let killed: Vec<ProcessId> = self
                .processes
                .iter()
                .filter(|(_, process)| process.killed)
                .map(|(id, _)| *id)
                .collect();
            for process in killed {
                self.processes.remove(&process);
                let event = Event::Exited("was killed by signal 9".into());
                self.feed(Input::Rank { process, event });
            }
            for (id, request) in std::mem::take(&mut self.requests) {
                let answer = self.accept(request);
                self.feed(Input::Answered { id, answer });
            }
            self.pass(100);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Two processes never own one rank or device, lower revisions are never obeyed (both checked at every step), and
    /// every fact arrives.
    #[test]
    fn whatever_happens_ranks_are_unique_and_facts_arrive(
        happenings in prop::collection::vec(happening(), 1..150)
    ) {
        let mut world = World::new();
        world.pass(0);
        for happening in happenings {
            world.happen(happening);
        }
        world.settle();
        prop_assert!(world.said_parts.is_subset(&world.parts), "{:?} of {:?}", world.parts, world.said_parts);
        prop_assert!(world.said_results.is_subset(&world.results));
        prop_assert!(world.stored >= world.said_rows, "{} of {} rows", world.stored, world.said_rows);
        let last = &world.history[world.history.len() - 1];
        let listed: usize = last.assignments.iter().map(|assignment| assignment.ranks.len()).sum();
        let reports = world.state.unwrap().ranks.reports(world.now);
        prop_assert_eq!(reports.len(), listed, "every listed rank is reported");
        let is_over = |report: &&medley_protocol::agent::RankReport| matches!(report.state, RankState::Failed { .. });
        let living = reports.len() - reports.iter().filter(is_over).count();
        let running = living.min(DEVICES as usize);
        prop_assert_eq!(world.processes.len(), running, "and runs, unless it ended or waits for a device");
    }
}
