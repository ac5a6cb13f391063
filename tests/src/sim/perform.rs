//! What the world does for its inhabitants: calls, messages, processes.

use super::coordinator::Ask;
use super::faults::FOR_GOOD;
use super::network::End;
use super::process::{Actor, Alarm, Deed, Heard, Pid, Place, Process, Seat, Tools};
use super::witness::describe;
use super::world::{Happening, World};
use medley_protocol::agent::{FromRank, ToRank};
use medley_protocol::ids::NodeId;
use medley_worker::agent::core::{Input, Output, ProcessId};
use medley_worker::supervise::Event;
use std::time::Duration;

/// Time after which a try to reach another agent is given up.
const KNOCK: Duration = Duration::from_secs(2);

impl World<'_> {
    /// An agent takes a step, and what it asks for is done.
    pub(super) fn feed(&mut self, node: usize, input: Input) {
        for output in self.nodes[node].step(input, self.now) {
            match output {
                Output::Register(register) => self.ask(node, Ask::Register(register)),
                Output::Beat { beat, patience } => {
                    self.witness.obeys(node, self.nodes[node].life, beat.revision);
                    self.ask(node, Ask::Beat { beat, patience });
                }
                Output::Send { id, request } => self.ask(node, Ask::Send { id, request }),
                Output::Start { process, device, order } => self.start(node, process, device, order),
                Output::Tell { process, order } => {
                    let end = End::Agent(node, self.nodes[node].life);
                    if let Some(pid) = self.nodes[node].pid(process) {
                        let at = self.network.arrival(end, End::Rank(pid), self.now, &mut self.dice);
                        let heard = Heard::Order(order);
                        self.agenda.put(at, Happening::Heard { pid, heard });
                    }
                }
                Output::Kill { process } => {
                    if let Some(pid) = self.nodes[node].pid(process) {
                        let at = self.now + self.dice.ms(0, 300);
                        self.agenda.put(at, Happening::Dies { pid, how: "was killed" });
                    }
                }
                Output::Probe { node: id, address } => self.probe(node, id, &address),
                Output::Info(text) | Output::Warn(text) => self.witness.note(|| format!("n{node}: {text}")),
                Output::Halt { reason } => {
                    self.witness.note(|| format!("n{node} halts: {reason}"));
                    self.witness.count("halt");
                    let down = self.dice.ms(500, 2000);
                    self.kill_agent(node, down);
                    return;
                }
            }
        }
        if self.nodes[node].has_left() {
            self.witness.count("agent has left");
            self.grace_over(node, self.nodes[node].life);
        }
    }

    /// An agent tries to reach another one.
    fn probe(&mut self, node: usize, id: NodeId, address: &str) {
        let Some(other) = address.parse().ok().filter(|other| *other < self.nodes.len()) else {
            return self.witness.accuse(format!("there is no node at {address}"));
        };
        let joins = self.network.joins(node, other, self.now);
        let after = if joins { self.dice.ms(0, 10) } else { KNOCK };
        let reached = joins && self.nodes[other].agent.is_some();
        let input = Input::Probed { node: id, reached };
        let life = self.nodes[node].life;
        self.agenda.put(self.now + after, Happening::Told { node, life, input });
    }

    /// A call to the coordinator sets out. It gets one answer, or is given up.
    fn ask(&mut self, node: usize, ask: Ask) {
        self.num_calls += 1;
        let call = self.num_calls;
        self.calls.insert(call, (node, self.nodes[node].life));
        let input = ask.away("no answer in time");
        self.agenda
            .put(self.now + ask.patience(), Happening::Answered { call, input });
        let Some(delay) = self.network.request(node, self.now, &mut self.dice) else {
            return;
        };
        if self.dice.chance(1) {
            // It arrives a second time, as from a connection that was thought to be broken.
            let (ask, again) = (ask.clone(), self.dice.ms(0, 3000));
            self.agenda
                .put(self.now + delay + again, Happening::Asked { call, node, ask });
            self.witness.count("doubled-call");
        }
        self.agenda.put(self.now + delay, Happening::Asked { call, node, ask });
    }

    /// A call arrives at the coordinator, or where it should be.
    pub(super) fn asked(&mut self, call: u64, node: usize, ask: &Ask) {
        let waits = self.calls.contains_key(&call);
        let input = match &self.coordinator {
            None => ask.away("connection refused"),
            Some(coordinator) => {
                let input = coordinator.answer(ask, &mut self.table);
                if coordinator.was_woken() {
                    let (reign, woken) = (self.reign, true);
                    self.agenda.put(self.now, Happening::Decide { reign, woken });
                }
                if !waits {
                    self.witness.count("late-call");
                }
                input
            }
        };
        self.witness.inspect(&self.table, &self.objects);
        match &input {
            Input::Ordered(Err(trouble)) if self.coordinator.is_some() => {
                self.witness
                    .note(|| format!("a beat of n{node} is refused: {trouble:?}"));
                self.witness.count("refused-beat");
            }
            Input::Answered {
                answer: Err(trouble), ..
            } if self.coordinator.is_some() => {
                self.witness.note(|| format!("n{node} is refused {ask:?}: {trouble:?}"));
                self.witness.count("refused-claim");
            }
            _ => {}
        }
        if let Some(delay) = self.network.answer(node, self.now, &mut self.dice) {
            self.agenda.put(self.now + delay, Happening::Answered { call, input });
        }
    }

    fn start(&mut self, node: usize, id: ProcessId, device: u32, order: ToRank) {
        let ToRank::Start { assignment, rank, .. } = &order else {
            return;
        };
        let (pid, life) = (self.processes.len(), self.nodes[node].life);
        let place = Place {
            node,
            life,
            id,
            device,
            stage: assignment.stage,
            generation: assignment.generation,
            rank: *rank,
        };
        self.witness.starts(place, &self.processes);
        self.witness.note(|| format!("{} starts", describe(pid, place)));
        let mut tools = Tools {
            now: self.now,
            dice: &mut self.dice,
            objects: &mut self.objects,
        };
        let started = Actor::start(pid, order, &mut tools);
        let (actor, deeds) = started.map_or((None, Vec::new()), |(actor, deeds)| (Some(actor), deeds));
        self.processes.push(Process {
            place,
            actor,
            frozen_until: Duration::ZERO,
            spins_until: Duration::ZERO,
        });
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.processes.insert(id, pid);
        }
        self.carry_out(pid, deeds);
    }

    /// A process hears something; one that stands still hears it later, or never.
    pub(super) fn hear(&mut self, pid: Pid, heard: Heard) {
        let process = &mut self.processes[pid];
        if self.now < process.frozen_until {
            if process.frozen_until < FOR_GOOD {
                self.agenda.put(process.frozen_until, Happening::Heard { pid, heard });
            }
            return;
        }
        if self.now < process.spins_until && !matches!(heard, Heard::Alarm(Alarm::Pulse)) {
            if process.spins_until < FOR_GOOD {
                self.agenda.put(process.spins_until, Happening::Heard { pid, heard });
            }
            return;
        }
        let Some(actor) = &mut process.actor else { return };
        let mut tools = Tools {
            now: self.now,
            dice: &mut self.dice,
            objects: &mut self.objects,
        };
        let deeds = actor.hear(heard, &mut tools);
        self.carry_out(pid, deeds);
    }

    fn carry_out(&mut self, pid: Pid, deeds: Vec<Deed>) {
        let place = self.processes[pid].place;
        for deed in deeds {
            match deed {
                Deed::Say(message) => {
                    if let FromRank::State { generation, state } = &message {
                        self.witness
                            .note(|| format!("{} in generation {generation}: {state:?}", describe(pid, place)));
                    }
                    self.say(pid, Event::Said(message));
                }
                Deed::Send { to, from, wire } => self.send(pid, to, Heard::Wire { from, wire }),
                Deed::Close { seat, peers } => {
                    for peer in peers {
                        self.lose((pid, seat), peer, "its connection ended");
                    }
                }
                Deed::Later { after, alarm } => {
                    let heard = Heard::Alarm(alarm);
                    self.agenda.put(self.now + after, Happening::Heard { pid, heard });
                }
                Deed::Began { seat, how, step } => {
                    let name = self.table.stage_name(place.stage);
                    self.witness.begins((pid, place.stage), seat, how, (&name, step));
                }
                Deed::Committed { seat, world, toy } => {
                    let name = self.table.stage_name(place.stage);
                    self.witness
                        .note(|| format!("{}: {name} step {}", describe(pid, place), toy.step));
                    self.witness.commits((pid, place.stage), seat, world, (&name, toy));
                }
                Deed::Exit => self.end(pid, "has ended"),
                Deed::Accuse(what) => self.witness.accuse(format!("{}: {what}", describe(pid, place))),
            }
        }
    }

    /// What a process says, or that it has ended, reaches its agent in order.
    fn say(&mut self, pid: Pid, event: Event) {
        let Place { node, life, id, .. } = self.processes[pid].place;
        let at = self
            .network
            .arrival(End::Rank(pid), End::Agent(node, life), self.now, &mut self.dice);
        let input = Input::Rank { process: id, event };
        self.agenda.put(at, Happening::Told { node, life, input });
    }

    /// A process ends: its agent and its peers notice.
    pub(super) fn end(&mut self, pid: Pid, how: &'static str) {
        let place = self.processes[pid].place;
        let Some(actor) = self.processes[pid].actor.take() else {
            return;
        };
        self.witness.note(|| format!("{} {how}", describe(pid, place)));
        self.say(pid, Event::Exited(how.into()));
        if let Some((seat, peers)) = actor.seat() {
            for peer in peers {
                self.lose((pid, seat), peer, "its connection ended");
            }
        }
    }

    /// A process hears from a peer that it is gone.
    pub(super) fn lose(&mut self, (gone, seat): (Pid, Seat), pid: Pid, why: &str) {
        let why = why.into();
        self.send(gone, pid, Heard::Gone { seat, why });
    }

    /// Something goes from one process to another, and arrives once the way is open.
    fn send(&mut self, from: Pid, pid: Pid, heard: Heard) {
        let [here, there] = [from, pid].map(|pid| self.processes[pid].place.node);
        let Some(open_at) = self.network.open_at(here, there, self.now) else {
            return;
        };
        let at = self
            .network
            .arrival(End::Rank(from), End::Rank(pid), open_at, &mut self.dice);
        self.agenda.put(at, Happening::Heard { pid, heard });
    }
}
