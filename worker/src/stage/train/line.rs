//! A rank's line to its agent while it trains: what it is called to, and that it listens.

use crate::collective::tcp::Fence;
use crate::rank::calls::{Call, Calls, Heard};
use crate::rank::failure::Failure;
use crate::rank::pipes::{Orders, Voice};
use medley_protocol::agent::{Assignment, RankState, ToRank};
use std::time::Duration;

/// Time between two words about a wait, for people.
const REMINDER: Duration = Duration::from_mins(1);

/// The line.
pub(super) struct Line {
    orders: Orders,
    voice: Voice,
    /// Where the rank listens, in every generation.
    address: String,
    calls: Calls,
    /// The generation that the rank works in, or worked in last; 0 before the first.
    joined: u64,
}

impl Line {
    pub(super) fn new(
        (orders, voice): (Orders, Voice),
        address: String,
        (assignment, rank): (Box<Assignment>, u32),
    ) -> Self {
        Self {
            orders,
            voice,
            address,
            calls: Calls::new(assignment, rank),
            joined: 0,
        }
    }

    /// Says that the rank listens for the members of the generation it is called to.
    pub(super) fn listen(&self, committed: Option<u64>) {
        let address = self.address.clone();
        let listening = RankState::Listening { address, committed };
        self.voice.state_in(self.calls.generation(), listening);
    }

    /// Waits until the members of a generation after the present one are known; its agent may end the rank meanwhile.
    ///
    /// # Errors
    /// [`Failure`] for an order that does not fit.
    pub(super) fn await_members(&mut self, committed: Option<u64>) -> Result<Call, Failure> {
        loop {
            if let Some(call) = self.calls.ready_after(self.joined) {
                let call = call.clone();
                self.joined = call.assignment.generation;
                return Ok(call);
            }
            if let Some(order) = self.orders.next(REMINDER) {
                self.hear(order, committed)?;
            } else {
                tracing::info!("waits for the members of a generation after {}", self.joined);
            }
        }
    }

    /// Takes in what has been said.
    ///
    /// # Errors
    /// [`Failure`] for an order that does not fit.
    pub(super) fn catch_up(&mut self, committed: Option<u64>) -> Result<(), Failure> {
        let waiting: Vec<ToRank> = self.orders.waiting().collect();
        waiting.into_iter().try_for_each(|order| self.hear(order, committed))
    }

    fn hear(&mut self, order: ToRank, committed: Option<u64>) -> Result<(), Failure> {
        if self.calls.hear(order).map_err(Failure::passing)? == Heard::Called {
            self.listen(committed);
        }
        Ok(())
    }

    /// The later generation that this rank is ready for.
    pub(super) fn next(&self) -> Option<u64> {
        self.calls.next_after(self.joined)
    }

    /// Whether the rank has no part in this later generation, and then whether it leaves a checkpoint.
    pub(super) fn leaves_before(&self, generation: u64) -> Option<bool> {
        self.calls.leaves_before(generation)
    }

    /// The checkpoint that was asked for, once.
    pub(super) fn take_wanted(&mut self) -> Option<u64> {
        self.calls.take_wanted()
    }

    /// The lowest generation that is not over.
    pub(super) fn fence(&self) -> &Fence {
        self.orders.fence()
    }
}
