//! A step's collective between devices, under way while the rank's last lane still goes backward.
//!
//! As soon as so much of the last lane's gradient is final that a [`Round`] can begin, that part is added to what waits for it, and
//! the round is asked for: at once if the group can take it, else at the next opportunity. Nobody waits for an exchange as long as
//! there is something to compute. Rounds are asked for in one order on all ranks, whenever that is.
//!
//! Lanes and exchanges go on at once, so they share no memory that either writes. A lane writes its own gradient alone,
//! which no exchange touches; where it is a sum already it is copied. Sums are added to, for lanes, in parts that no round
//! has needed yet; from then on a part is the exchanges' alone, until all of them are over.

use super::gradients::Gradients;
use super::group::{Group, Guarded};
use super::reduce::{Plan, Sums, sum_of};
use super::rounds::{Round, open};
use super::route::Partial;
use super::tcp::Lost;
use medley_model::device::{Buffer, Device, Span};
use medley_model::tape::Gradient;
use std::ops::Range;

/// The rank's part in a step's collective.
pub struct Underway<'a> {
    // Dropped first: nothing is under way any more when memory is freed.
    group: Guarded<'a>,
    rounds: &'a [Round],
    sums: Sums<'a>,
    last: LastLane,
    /// Rounds that were asked for.
    asked: usize,
    /// What the last of them receives.
    received: Vec<Buffer>,
    lost: Option<Lost>,
}

impl<'a> Underway<'a> {
    /// Runs `lane` for each own lane in order, as [`Local::collect`](super::reduce::Local::collect), and begins with the rounds
    /// during the last one.
    ///
    /// # Errors
    /// The first error of `lane`. A lost peer is told later.
    pub fn collect<E>(
        group: &'a mut dyn Group,
        (plan, rounds): (&'a Plan, &'a [Round]),
        gradients: &mut Gradients,
        mut lane: impl FnMut(u32, Gradient) -> Result<(), E>,
    ) -> Result<Self, E> {
        let (last, before) = plan.own.split_last().expect("every rank has a subtree");
        let sums = before.iter().map(|subtree| sum_of(*subtree, gradients, &mut lane));
        let mut own: Vec<Buffer> = sums.collect::<Result<_, E>>()?;
        let (mut node, mut waiting) = (*last, Vec::new());
        while let Some((left, right)) = node.children() {
            waiting.push(sum_of(left, gradients, &mut lane)?);
            node = right;
        }
        let is_sum = waiting.is_empty();
        let mut waiting = waiting.into_iter();
        own.push(waiting.next().unwrap_or_else(|| gradients.take()));
        let mut gradient = gradients.take();
        let mut this = Self {
            sums: Sums::new(plan, group.device(), own),
            group: Guarded::new(group),
            rounds,
            last: LastLane {
                device: gradients.device().clone(),
                waiting: waiting.collect(),
                is_sum,
                added: gradient.len(),
            },
            asked: 0,
            received: Vec::new(),
            lost: None,
        };
        let mut watch = |from: usize, values: Span| this.reach(from, values);
        let watched = Gradient {
            values: gradient.span_mut(),
            watch: Some(&mut watch),
        };
        lane(node.first, watched)?;
        this.reach(0, gradient.span());
        tracing::debug!(asked = this.asked, of = rounds.len(), "begun with the last lane");
        let over = this.last.waiting.drain(..).chain([gradient]);
        over.for_each(|buffer| gradients.give(buffer));
        Ok(this)
    }

    /// Asks for the rest of the rounds, which may have to wait for each other to get on their way.
    ///
    /// # Errors
    /// [`Lost`] when a peer was lost, also before.
    pub fn ask_all(&mut self) -> Result<(), Lost> {
        match self.lost.take() {
            Some(lost) => Err(lost),
            None => self.ask(self.rounds.len(), true),
        }
    }

    /// Waits for the sum over all lanes, the same bits on every rank and as [`total`](super::reduce::total) makes them. It lies on
    /// the lanes' device.
    ///
    /// # Errors
    /// [`Lost`] when a peer does not deliver.
    pub fn finish(mut self, gradients: &mut Gradients) -> Result<Buffer, Lost> {
        self.ask_all()?;
        self.group.begin(true)?;
        self.conclude();
        self.group.finish()?;
        Ok(self.sums.into_total(gradients))
    }

    /// The last lane's gradient, `values`, is final from this element on.
    fn reach(&mut self, from: usize, values: Span) {
        let open = open(self.rounds, from);
        let needed = self.rounds[..open].last().map(|round| round.first);
        let first = if from == 0 { Some(0) } else { needed };
        let sum = self.sums.own.last_mut().expect("every rank has a subtree");
        self.last.add(first.unwrap_or(values.len()), values, sum);
        if self.lost.is_none() {
            self.lost = self.ask(open, false).err();
        }
    }

    /// Asks for rounds until so many were asked for; without waiting, as many of them as can be.
    fn ask(&mut self, until: usize, waits: bool) -> Result<(), Lost> {
        while self.asked < until && self.group.begin(waits)? {
            self.conclude();
            let round = &self.rounds[self.asked];
            let Sums { plan, device, .. } = &self.sums;
            let room = |(_, what): &(u32, Partial)| device.buffer(plan.slices.range(what.slice).len());
            self.received = round.receives.iter().map(room).collect();
            round.adds.iter().for_each(|what| self.sums.make(*what));
            let send = |(to, what): &(u32, Partial)| (*to, self.sums.value(*what));
            let sends: Vec<_> = round.sends.iter().map(send).collect();
            let receives = round.receives.iter().zip(&mut self.received);
            let receives = receives.map(|((from, _), buffer)| (*from, buffer.span_mut())).collect();
            self.group.exchange(&sends, receives)?;
            self.asked += 1;
        }
        Ok(())
    }

    /// Takes in what the round that was asked for last brings, now that it is on its way.
    fn conclude(&mut self) {
        let Some(round) = self.asked.checked_sub(1).map(|last| &self.rounds[last]) else {
            return;
        };
        // What was made to be sent is not needed here any more.
        for (_, what) in &round.sends {
            self.sums.made.remove(what);
        }
        for ((_, what), buffer) in round.receives.iter().zip(self.received.drain(..)) {
            self.sums.keep(*what, buffer);
        }
    }
}

/// What the last lane is added to.
struct LastLane {
    device: Device,
    /// Sums of left siblings, from the largest subtree to the smallest; the largest one's is elsewhere.
    waiting: Vec<Buffer>,
    /// Whether the lane is a subtree of its own, so that nothing waits for it.
    is_sum: bool,
    /// From this element on it is added.
    added: usize,
}

impl LastLane {
    /// Adds the lane's `values` from this element on, as far as that was not done: to its left sibling, that to its own left
    /// sibling, and so on up to `sum`. This is how the tree adds them, part by part.
    fn add(&mut self, first: usize, values: Span, sum: &mut Buffer) {
        let part: Range<usize> = first..self.added.max(first);
        if part.is_empty() {
            return;
        }
        self.added = first;
        let mut right = values;
        for left in self.waiting.iter_mut().rev() {
            self.device
                .add(right.range(part.clone()), left.span_mut().range(part.clone()));
            right = left.span();
        }
        let (right, sum) = (right.range(part.clone()), sum.span_mut().range(part));
        if self.is_sum {
            self.device.copy(right, sum);
        } else {
            self.device.add(right, sum);
        }
    }
}

#[cfg(test)]
mod tests;
