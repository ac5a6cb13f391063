//! What a rank leaves behind, and how it leaves: parts of checkpoints, the end of all steps, parting by plan, and a generation
//! that breaks.

use super::{Phase, Trainee, later};
use crate::sim::process::{Alarm, Deed, Seat, Tools, Wire};
use crate::sim::toy::{STATE_BYTES, Toy};
use medley_protocol::agent::{FromRank, RankState};
use medley_protocol::checkpoint::CheckpointPart;
use medley_worker::checkpoint::part_range;
use medley_worker::rank::membership::Input;

impl Trainee {
    pub(super) fn take_checkpoint(&mut self, tools: &mut Tools, out: &mut Vec<Deed>) {
        if let (Some(part), Some(toy)) = (&self.part, self.toy) {
            self.writing += 1;
            let written = Alarm::Written {
                toy,
                part: part.seat.rank,
                parts: part.assignment.world,
            };
            out.push(later(tools.dice.ms(20, 400), written));
        }
    }

    pub(super) fn written(&mut self, toy: Toy, (part, parts): (u32, u32), tools: &mut Tools, out: &mut Vec<Deed>) {
        let range = part_range(STATE_BYTES, part, parts);
        let bytes = toy.bytes();
        let part = CheckpointPart {
            step: toy.step,
            part,
            parts,
            offset_bytes: range.start,
            state_bytes: STATE_BYTES,
            object: tools
                .objects
                .put("part", &bytes[range.start as usize..range.end as usize]),
            tensors: None,
        };
        self.writing -= 1;
        out.push(Deed::Say(FromRank::Part { part, peak_bytes: None }));
        self.close(out);
        self.part(out);
    }

    /// Is finished once all steps are committed and all parts written.
    pub(super) fn close(&mut self, out: &mut Vec<Deed>) {
        if self.phase != Phase::Closing || self.writing > 0 {
            return;
        }
        let committed = self.committed().unwrap_or(0);
        self.say(RankState::Finished { committed }, out);
        self.leave(out);
    }

    /// Leaves its generation in peace.
    pub(super) fn leave(&mut self, out: &mut Vec<Deed>) {
        self.send_all(&Wire::Bye, out);
        self.phase = Phase::Waiting;
    }

    /// Ends once all parts are written, if it has left for good.
    pub(super) fn part(&mut self, out: &mut Vec<Deed>) {
        if self.parting && self.writing == 0 {
            let committed = self.committed().unwrap_or(0);
            self.say(RankState::Left { committed }, out);
            out.push(Deed::Exit);
        }
    }

    /// Its generation is over for it; what it holds in memory stays.
    pub(super) fn break_off(&mut self, reason: String, out: &mut Vec<Deed>) {
        let committed = self.committed().unwrap_or(0);
        self.say(RankState::Broken { committed, reason }, out);
        if let Some((seat, peers)) = self.seat() {
            out.push(Deed::Close { seat, peers });
        }
        self.phase = Phase::Waiting;
    }

    pub(super) fn gone(&mut self, seat: Seat, why: String, tools: &mut Tools, out: &mut Vec<Deed>) {
        let of_this = self
            .part
            .as_ref()
            .filter(|part| part.seat.generation == seat.generation);
        if of_this.is_none_or(|part| part.left.contains(&seat.rank)) {
            return;
        }
        match self.phase {
            // What was said before it went counts.
            Phase::Training => {
                while self.phase == Phase::Training && self.take_in(tools, out) {}
                let rank = seat.rank;
                self.feed(Input::Lost { rank, why }, tools, out);
            }
            Phase::Joining => self.break_off(format!("lost rank {}: {why}", seat.rank), out),
            // Until everyone is connected, peers are waited for.
            _ => {}
        }
    }
}
