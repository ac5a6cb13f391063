//! A step: the own lanes, the exchange with the others, and the commit once the membership says so.

use super::{Lanes, Phase, Trainee, later};
use crate::sim::process::{Alarm, Deed, Tools, Wire};
use crate::sim::toy::data;
use medley_protocol::agent::{FromRank, RankState};
use medley_worker::rank::membership::{self, Input, Output};

impl Trainee {
    /// Computes the next step, or closes after the last.
    pub(super) fn go_on(&mut self, tools: &mut Tools, out: &mut Vec<Deed>) {
        let (Some(toy), Some(part)) = (self.toy, &self.part) else {
            return;
        };
        if toy.step < self.total() {
            let (seat, step) = (part.seat, toy.step);
            self.since = tools.now;
            out.push(later(tools.dice.ms(30, 150), Alarm::Computed { seat, step }));
        } else {
            self.phase = Phase::Closing;
            self.close(out);
        }
    }

    pub(super) fn own_lanes(&self) -> Lanes {
        let (Some(part), Some(toy)) = (&self.part, self.toy) else {
            return Lanes::new();
        };
        let data = data(&part.assignment);
        let own = part.deal.lanes(part.seat.rank);
        own.map(|lane| (lane, toy.lane(data, lane))).collect()
    }

    /// Says that it is prepared, once it is.
    pub(super) fn prepare(&mut self, tools: &mut Tools, out: &mut Vec<Deed>) {
        let (Some(part), Some(toy)) = (&mut self.part, self.toy) else {
            return;
        };
        let step = toy.step;
        let mut ranks = 0..part.assignment.world;
        let computing = part.member.as_ref().is_some_and(|member| !member.is_prepared());
        if !computing || !ranks.all(|rank| part.shares.contains_key(&(step, rank))) {
            return;
        }
        let later_shares = part.shares.split_off(&(step + 1, 0));
        let shares = std::mem::replace(&mut part.shares, later_shares);
        let of_step = shares.into_iter().filter(|((of, _), _)| *of == step);
        self.prepared = Some(of_step.flat_map(|(_, lanes)| lanes).collect());
        self.since = tools.now;
        let joined = part.seat.generation;
        let wanted = self.calls.take_wanted().map(|step| Input::CheckpointWanted { step });
        let ready = self
            .calls
            .next_after(joined)
            .map(|generation| Input::Ready { generation });
        let prepared = Input::Prepared {
            digest: toy.digest(self.total()),
            planned: self.is_planned(step + 1),
        };
        for input in wanted.into_iter().chain(ready).chain([prepared]) {
            self.feed(input, tools, out);
        }
    }

    /// Feeds the membership and does what it says.
    pub(super) fn feed(&mut self, input: Input, tools: &mut Tools, out: &mut Vec<Deed>) {
        let training = self.phase == Phase::Training;
        let Some(part) = self.part.as_mut().filter(|_| training) else {
            return;
        };
        let Some(member) = part.member.take() else { return };
        let (member, outputs) = membership::step(member, input, tools.now);
        part.member = Some(member);
        for output in outputs {
            match output {
                Output::Send { to, message } => self.send(to, Wire::Control(message), out),
                Output::Commit { checkpoint, then } => {
                    if let Some(lanes) = self.prepared.take() {
                        self.commit(lanes, out);
                    }
                    let leaves = then.and_then(|next| self.calls.leaves_before(next));
                    if checkpoint || leaves == Some(true) {
                        self.take_checkpoint(tools, out);
                    }
                    if then.is_some() {
                        self.leave(out);
                        self.parting = leaves.is_some();
                        self.part(out);
                    } else {
                        self.go_on(tools, out);
                    }
                }
                Output::Fail { reason, doubt: None } => self.break_off(reason, out),
                Output::Fail { doubt: Some(doubt), .. } => {
                    self.say(RankState::Doubtful { doubt }, out);
                    self.parting = true;
                    out.push(Deed::Exit);
                }
            }
        }
    }

    pub(super) fn commit(&mut self, mut lanes: Lanes, out: &mut Vec<Deed>) {
        let (Some(part), Some(before)) = (&self.part, self.toy) else {
            return;
        };
        lanes.sort_unstable();
        let all = 0..part.assignment.spec.lanes.count;
        if !lanes.iter().map(|(lane, _)| *lane).eq(all) {
            let step = before.step;
            out.push(Deed::Accuse(format!(
                "step {step} is committed with the lanes {lanes:?}"
            )));
        }
        let values: Vec<u64> = lanes.into_iter().map(|(_, value)| value).collect();
        let toy = before.commit(&values);
        self.toy = Some(toy);
        let (seat, world) = (part.seat, part.assignment.world);
        out.push(Deed::Committed { seat, world, toy });
        let metrics = toy.metrics();
        out.push(Deed::Say(FromRank::Committed { metrics, ledger: None }));
    }
}
