//! The world: one happening after the other until the job has succeeded, or a rule is broken.

use super::agenda::Agenda;
use super::coordinator::{Ask, Clock, Coordinator};
use super::dice::Dice;
use super::faults::{Fault, flips, schedule};
use super::network::Network;
use super::node::Node;
use super::objects::Objects;
use super::process::{Heard, Pid, Process};
use super::record::Record;
use super::table::Table;
use super::witness::Witness;
use super::{Outcome, Violation};
use medley_coordinator::domain::decision::Decision;
use medley_coordinator::domain::graph::Shards;
use medley_coordinator::domain::stage::Generation;
use medley_protocol::ids::StageId;
use medley_protocol::spec::Spec;
use medley_protocol::stage::JobState;
use medley_worker::agent::core::Input;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Time between two looks of an agent at its clock.
const TICK: Duration = Duration::from_millis(50);
/// Time within which the job must have succeeded once faults have ended.
const LIMIT: Duration = Duration::from_secs(150);
/// Time within which it is known everywhere that two nodes do not reach each other, however late beats are.
const KNOWN_WITHIN: Duration = Duration::from_secs(12);
/// Time within which all ranks must have ended after that.
const AFTERMATH: Duration = Duration::from_secs(25);

pub(super) enum Happening {
    /// A coordinator looks at its clock, or was woken.
    Decide {
        reign: u64,
        woken: bool,
    },
    CoordinatorStarts,
    AgentStarts {
        node: usize,
    },
    AgentTick {
        node: usize,
    },
    /// A call arrives at the coordinator.
    Asked {
        call: u64,
        node: usize,
        ask: Ask,
    },
    /// A call is answered, or given up; the first answer counts.
    Answered {
        call: u64,
        input: Input,
    },
    /// An agent hears one of its processes.
    Told {
        node: usize,
        life: u64,
        input: Input,
    },
    /// A process hears something.
    Heard {
        pid: Pid,
        heard: Heard,
    },
    /// A signal reaches a process.
    Dies {
        pid: Pid,
        how: &'static str,
    },
    Fails(Fault),
    /// An agent that was asked to leave ends in any case.
    GraceOver {
        node: usize,
        life: u64,
    },
    /// Somebody asks for a checkpoint.
    CheckpointWanted,
    /// By now somebody must have said that a rank computes for ever.
    IsNamed {
        pid: Pid,
        began: Duration,
        faults: u64,
    },
}

pub(super) struct World<'a> {
    pub(super) now: Duration,
    pub(super) agenda: Agenda<Happening>,
    pub(super) dice: Dice,
    pub(super) network: Network,
    pub(super) table: Table,
    pub(super) objects: Objects,
    clock: Clock,
    pub(super) coordinator: Option<Coordinator>,
    /// Number of the present coordinator.
    pub(super) reign: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) processes: Vec<Process>,
    /// Calls that wait for an answer, with node and life.
    pub(super) calls: BTreeMap<u64, (usize, u64)>,
    pub(super) num_calls: u64,
    pub(super) witness: Witness<'a>,
    /// When the last fault ends.
    pub(super) calm_at: Duration,
    /// Until when what happens may be due to a fault.
    pub(super) disturbed_until: Duration,
    pub(super) num_faults: u64,
    /// Generations that got ready beside others.
    prepared: BTreeSet<(StageId, u64)>,
}

/// Runs the job on the cluster of `seed`: with its faults if there is a reference to compare with.
pub(super) fn run(seed: u64, reference: Option<&Record>) -> Result<Outcome, Violation> {
    World::new(seed, reference, false).run().map_err(|_| {
        // The same run once more, for its trace.
        let mut again = World::new(seed, reference, true);
        let what = again.run().err();
        Violation {
            seed,
            what: what.unwrap_or_else(|| "a rule was broken, but not when the run was repeated".into()),
            trace: again.witness.trace.take().into_iter().flatten().collect(),
        }
    })
}

impl<'a> World<'a> {
    fn new(seed: u64, reference: Option<&'a Record>, traces: bool) -> Self {
        let mut shape = Dice::new(seed, 1);
        let nodes: Vec<Node> = (0..2 + shape.below(2))
            .map(|number| Node::new(number, 1 + shape.below(3) as u32))
            .collect();
        let mut world = Self {
            now: Duration::ZERO,
            agenda: Agenda::new(),
            dice: Dice::new(seed, 2),
            network: Network::default(),
            table: table(),
            objects: Objects::default(),
            clock: Clock::default(),
            coordinator: None,
            reign: 0,
            nodes,
            processes: Vec::new(),
            calls: BTreeMap::new(),
            num_calls: 0,
            witness: Witness::new(reference, traces),
            calm_at: Duration::ZERO,
            disturbed_until: Duration::ZERO,
            num_faults: 0,
            prepared: BTreeSet::new(),
        };
        world.agenda.put(world.now, Happening::CoordinatorStarts);
        for node in 0..world.nodes.len() {
            let starts = world.dice.ms(0, 1000);
            world.agenda.put(starts, Happening::AgentStarts { node });
            world.agenda.put(starts, Happening::AgentTick { node });
        }
        if reference.is_some() {
            world.plan_faults(seed);
        }
        world
    }

    fn plan_faults(&mut self, seed: u64) {
        let mut dice = Dice::new(seed, 3);
        let mut of_memory = Dice::new(seed, 4);
        let faults = if of_memory.chance(15) {
            flips(&mut of_memory)
        } else {
            schedule(&mut dice, self.nodes.len())
        };
        for (at, fault) in faults {
            self.calm_at = self.calm_at.max(at + fault.lasts());
            self.agenda.put(at, Happening::Fails(fault));
        }
        self.agenda.put(dice.ms(5000, 25_000), Happening::CheckpointWanted);
    }

    fn run(&mut self) -> Result<Outcome, String> {
        let mut took = None;
        while let Some((now, happening)) = self.agenda.next() {
            let since = took.unwrap_or(Duration::ZERO).max(self.calm_at);
            if took.is_some() && now > since + AFTERMATH {
                break;
            }
            if took.is_none() && now > since + LIMIT {
                self.witness.accuse(format!(
                    "the job has not succeeded {} s after the last fault",
                    LIMIT.as_secs()
                ));
            }
            self.now = now;
            self.clock.set(now);
            self.witness.at(now);
            self.happen(happening);
            if took.is_none() && self.table.job.state.label() == JobState::Succeeded {
                took = Some(now);
                self.witness.note(|| "the job has succeeded".into());
            }
            if let Some(what) = self.witness.violation.take() {
                return Err(what);
            }
        }
        if self.processes.iter().any(|process| process.actor.is_some()) {
            self.witness
                .accuse("ranks still run long after the job has succeeded".into());
        }
        self.witness.finally(&self.table);
        match self.witness.violation.take() {
            Some(what) => Err(what),
            None => Ok(Outcome {
                record: std::mem::take(&mut self.witness.record),
                coverage: std::mem::take(&mut self.witness.coverage),
                took: took.unwrap_or_default(),
            }),
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Decide { reign, woken } => {
                if reign == self.reign {
                    self.decide(true);
                    if !woken {
                        let decide = Happening::Decide { reign, woken };
                        self.agenda.put(self.now + Coordinator::tick(), decide);
                    }
                }
            }
            Happening::CoordinatorStarts => {
                self.coordinator = Some(Coordinator::lead(&self.table, &self.clock));
                self.reign += 1;
                self.witness.count("coordinator began a term");
                let decide = Happening::Decide {
                    reign: self.reign,
                    woken: false,
                };
                self.agenda.put(self.now + Coordinator::tick(), decide);
            }
            Happening::AgentStarts { node } => {
                if self.nodes[node].agent.is_none() {
                    self.nodes[node].start(self.now);
                }
            }
            Happening::AgentTick { node } => {
                self.agenda.put(self.now + TICK, Happening::AgentTick { node });
                self.feed(node, Input::Tick);
            }
            Happening::Asked { call, node, ask } => self.asked(call, node, &ask),
            Happening::Answered { call, input } => {
                if let Some((node, life)) = self.calls.remove(&call) {
                    self.tell(node, life, input);
                }
            }
            Happening::Told { node, life, input } => self.tell(node, life, input),
            Happening::Heard { pid, heard } => self.hear(pid, heard),
            Happening::Dies { pid, how } => self.end(pid, how),
            Happening::Fails(fault) => self.fail(fault),
            Happening::GraceOver { node, life } => self.grace_over(node, life),
            Happening::CheckpointWanted => self.table.want_checkpoint(),
            Happening::IsNamed { pid, began, faults } => self.is_named(pid, began, faults),
        }
    }

    /// The coordinator decides; without `publish` it dies before anyone learns of it.
    pub(super) fn decide(&mut self, publish: bool) {
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        match coordinator.decide(&mut self.table, publish) {
            Ok(decision) => {
                self.witness.decided(&decision);
                self.nobody_joins_over_a_cut(&decision);
            }
            Err(invalid) => self.witness.accuse(invalid),
        }
    }

    /// A generation that gets ready beside another lets no node in that has been cut off from one of it for some time.
    fn nobody_joins_over_a_cut(&mut self, decision: &Decision) {
        for stage in decision.jobs.iter().flat_map(|job| &job.stages) {
            let (Some(present), Some(next)) = (stage.present(), stage.next()) else {
                continue;
            };
            if !self.prepared.insert((stage.id, next.number)) {
                continue;
            }
            let nodes = |generation: &Generation| -> BTreeSet<usize> {
                let seats = generation.seats.iter();
                seats.filter_map(|seat| self.table.number_of(seat.node)).collect()
            };
            let (had, all) = (nodes(present), nodes(next));
            let then = self.now.saturating_sub(KNOWN_WITHIN);
            for joins in all.difference(&had) {
                let is_cut = |other: &&usize| self.network.is_cut_since(*joins, **other, then, self.now);
                if let Some(other) = all.iter().find(is_cut) {
                    let (name, number) = (&stage.name, next.number);
                    self.witness.accuse(format!(
                        "{name}: n{joins} is let into generation {number}, and does not reach n{other}"
                    ));
                }
            }
        }
    }

    /// An agent learns something, if it still lives that life.
    fn tell(&mut self, node: usize, life: u64, input: Input) {
        if self.nodes[node].life == life {
            self.feed(node, input);
        }
    }
}

/// A bootstrap job on two human and five web shards.
fn table() -> Table {
    let document = json!({
        "name": "sim", "kind": "bootstrap", "preset": "nano", "data": {"root": "/data"},
    });
    let spec = Spec::from_document(&document).expect("the preset is complete");
    let files = |set: &str, count: u32| (0..count).map(|i| format!("{set}{i}.tar")).collect();
    let shards = Shards {
        human: files("h", 2),
        web: files("w", 5),
        test: Vec::new(),
    };
    Table::new(spec, &shards)
}
