//! What the world does for its inhabitants, and to them: calls, processes, faults.

use super::coordinator::Ask;
use super::faults::{FOR_GOOD, Fault};
use super::network::End;
use super::process::{Actor, Alarm, Deed, Heard, Pid, Place, Process, Seat, Tools};
use super::witness::describe;
use super::world::{Happening, World};
use medley_protocol::agent::{FromRank, ToRank};
use medley_worker::agent::core::{Input, Output, ProcessId};
use medley_worker::collective::tcp::Timing;
use medley_worker::supervise::Event;
use std::time::Duration;

/// Time for ranks to end and facts to arrive once an agent stops.
const STOP_PATIENCE: Duration = Duration::from_secs(4);

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
                Deed::Send { to, from, wire } => {
                    let at = self
                        .network
                        .arrival(End::Rank(pid), End::Rank(to), self.now, &mut self.dice);
                    let heard = Heard::Wire { from, wire };
                    self.agenda.put(at, Happening::Heard { pid: to, heard });
                }
                Deed::Close { seat, peers } => {
                    for peer in peers {
                        self.lose((pid, seat), peer, Duration::ZERO, "its connection ended");
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
                self.lose((pid, seat), peer, Duration::ZERO, "its connection ended");
            }
        }
    }

    /// A process notices that a peer is gone.
    fn lose(&mut self, (gone, seat): (Pid, Seat), pid: Pid, after: Duration, why: &str) {
        let now = self.now + after;
        let at = self
            .network
            .arrival(End::Rank(gone), End::Rank(pid), now, &mut self.dice);
        let why = why.into();
        let heard = Heard::Gone { seat, why };
        self.agenda.put(at, Happening::Heard { pid, heard });
    }

    pub(super) fn fail(&mut self, fault: Fault) {
        self.witness.note(|| format!("FAULT {fault:?}"));
        self.witness.count(fault.name());
        match fault {
            Fault::KillRank => {
                if let Some(pid) = self.some_rank() {
                    self.end(pid, "was ended by signal 9");
                }
            }
            Fault::FreezeRank { lasts } => {
                let Some(pid) = self.some_rank() else { return };
                self.processes[pid].frozen_until = self.now.saturating_add(lasts);
                let silence = Timing::default().silence;
                if lasts > silence
                    && let Some((seat, peers)) = self.seat(pid)
                {
                    for peer in peers {
                        self.lose((pid, seat), peer, silence, "silent");
                    }
                }
            }
            Fault::Spin { lasts } => {
                if let Some(pid) = self.some_rank().filter(|pid| self.seat(*pid).is_some()) {
                    self.processes[pid].spins_until = self.now.saturating_add(lasts);
                }
            }
            Fault::Reset => {
                let Some(pid) = self.some_rank() else { return };
                let Some((seat, peers)) = self.seat(pid) else { return };
                let Some(peer) = peers.first().copied() else { return };
                self.lose((pid, seat), peer, Duration::ZERO, "connection reset");
                if let Some((of_peer, _)) = self.seat(peer) {
                    self.lose((peer, of_peer), pid, Duration::ZERO, "connection reset");
                }
            }
            Fault::KillAgent { node, down } => self.kill_agent(node, down),
            Fault::Leave { node, grace, down } => {
                self.nodes[node].leaves(down);
                let life = self.nodes[node].life;
                let over = self.now + grace + STOP_PATIENCE;
                self.agenda.put(over, Happening::GraceOver { node, life });
                self.feed(node, Input::Leave { grace });
            }
            Fault::Silence { node, silence, lasts } => self.network.silence(node, silence, self.now + lasts),
            Fault::KillCoordinator { down, torn } => {
                if torn {
                    self.decide(false);
                }
                self.coordinator = None;
                self.agenda.put(self.now + down, Happening::CoordinatorStarts);
            }
        }
    }

    /// A rank that runs now, if any does.
    fn some_rank(&mut self) -> Option<Pid> {
        let running: Vec<Pid> = (0..self.processes.len())
            .filter(|pid| self.processes[*pid].actor.is_some())
            .collect();
        (!running.is_empty()).then(|| running[self.dice.below(running.len())])
    }

    fn seat(&self, pid: Pid) -> Option<(Seat, Vec<Pid>)> {
        self.processes[pid].actor.as_ref()?.seat()
    }

    /// An agent ends that was asked to leave, if it still lives that life.
    pub(super) fn grace_over(&mut self, node: usize, life: u64) {
        if self.nodes[node].life == life
            && let Some(down) = self.nodes[node].left()
        {
            self.kill_agent(node, down);
        }
    }

    /// An agent dies, its ranks with it; it starts again after a while, unless it is gone for good.
    fn kill_agent(&mut self, node: usize, down: Duration) {
        if self.nodes[node].agent.take().is_some() && down < FOR_GOOD {
            self.agenda.put(self.now + down, Happening::AgentStarts { node });
        }
        for pid in 0..self.processes.len() {
            if self.processes[pid].place.node == node {
                self.end(pid, "died with its agent");
            }
        }
    }
}
