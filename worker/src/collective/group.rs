//! What moves numbers from device to device: sums of gradients, and states of those who join.

use super::tcp::Lost;
use medley_model::device::{Device, Span, SpanMut};

/// Moves numbers between devices. What all ranks ask for in a round goes at once, and a rank's round ends when its peers' have
/// begun. After an error nothing is under way.
pub trait Group: Send {
    /// What adds sums that are moved, each when it is there: in the order in which all is asked for.
    fn device(&self) -> Device;

    /// Begins a round behind all that was asked of the lanes' device so far. The round before must be on its way; until then this
    /// waits, or returns false.
    ///
    /// # Errors
    /// [`Lost`] when a peer, or this rank's part of the group, fails.
    fn begin(&mut self, waits: bool) -> Result<bool, Lost>;

    /// Asks for the transfers of the round: what is sent to whom, and what is received from whom; between two ranks in this order.
    /// Until the next round has begun all of it stays where it is, and nothing is asked of the device.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    fn exchange(&mut self, sends: &[(u32, Span)], receives: Vec<(u32, SpanMut)>) -> Result<(), Lost>;

    /// Waits until everything has been moved, and made of what was moved; the last round is on its way.
    ///
    /// # Errors
    /// [`Lost`] when something was not: what was received is worthless.
    fn finish(&mut self) -> Result<(), Lost>;

    /// Ends whatever is under way.
    fn give_up(&mut self);
}

/// A group that gives up what it was not waited for.
pub struct Guarded<'a> {
    group: &'a mut dyn Group,
    is_over: bool,
}

impl<'a> Guarded<'a> {
    /// Guards what the group is asked from now on.
    pub fn new(group: &'a mut dyn Group) -> Self {
        Self { group, is_over: false }
    }

    /// See [`Group::begin`].
    ///
    /// # Errors
    /// [`Lost`].
    pub fn begin(&mut self, waits: bool) -> Result<bool, Lost> {
        self.group.begin(waits)
    }

    /// See [`Group::exchange`].
    ///
    /// # Errors
    /// [`Lost`].
    pub fn exchange(&mut self, sends: &[(u32, Span)], receives: Vec<(u32, SpanMut)>) -> Result<(), Lost> {
        self.group.exchange(sends, receives)
    }

    /// See [`Group::finish`]: then nothing is left to be given up.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn finish(&mut self) -> Result<(), Lost> {
        self.group.finish()?;
        self.is_over = true;
        Ok(())
    }
}

impl Drop for Guarded<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.group.give_up();
        }
    }
}
