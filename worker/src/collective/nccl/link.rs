//! A rank's end of a communicator, and the waits for it.
//!
//! What is behind it, a library and a device, is a [`Wire`]; so how a link ends, and by whose fault, is tried without either.

use super::agree::Words;
use super::fuse::Fuse;
use super::past::{Fault, Record};
use crate::collective::group::Group;
use crate::collective::tcp::{Lost, Mesh, Timing};
use medley_model::device::{Device, Span, SpanMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A communicator and the devices at this rank's end of it. No call waits, but for [`finish_lanes`](Self::finish_lanes),
/// [`check`](Self::check) and [`abort`](Self::abort).
pub trait Wire: Send {
    /// The device that exchanges and what is made of them are asked of, in order.
    fn device(&self) -> Device;

    /// Whether what was asked so far has been handed to the device; at first, whether all members are connected.
    ///
    /// # Errors
    /// [`Fault`]: what was received so far is worthless.
    fn is_ready(&mut self) -> Result<bool, Fault>;

    /// Whether a lane has failed on its device.
    fn has_lane_failed(&self) -> bool;

    /// What is asked next comes behind all that lanes were asked so far.
    ///
    /// # Errors
    /// [`Fault`].
    fn follow_lanes(&mut self) -> Result<(), Fault>;

    /// Asks for transfers, as [`Group::exchange`].
    ///
    /// # Errors
    /// [`Fault`].
    fn exchange(&mut self, sends: &[(u32, Span)], receives: Vec<(u32, SpanMut)>) -> Result<(), Fault>;

    /// Marks the end of what was asked so far.
    ///
    /// # Errors
    /// [`Fault`].
    fn mark(&mut self) -> Result<(), Fault>;

    /// Whether all before the mark was done, and done well.
    ///
    /// # Errors
    /// [`Fault`]: what was received is worthless.
    fn has_passed(&mut self) -> Result<bool, Fault>;

    /// Waits for what was made of what was received.
    ///
    /// # Errors
    /// [`Fault`].
    fn check(&mut self) -> Result<(), Fault>;

    /// Waits for all that lanes were asked so far.
    fn finish_lanes(&mut self);

    /// Gives up whatever is under way, for peers too, and waits until nothing of it is left on the device.
    ///
    /// # Errors
    /// [`Fault`] that this has left the device with.
    fn abort(self) -> Result<(), Fault>;
}

/// Longest time for calls that load plug-ins and look for networks.
pub const START: Duration = Duration::from_mins(1);

/// Longest times.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a call that does not wait, and to give up what is connected.
    pub call: Duration,
    /// For calls that load plug-ins and look for networks, and to give up what is in the middle of that.
    pub start: Duration,
    /// For all members to connect.
    pub connect: Duration,
    /// For what lanes were asked so far.
    pub lane: Duration,
    /// For an exchange.
    pub step: Duration,
    /// For the mesh to tell of a lost peer after a failure of which it may be the cause: NCCL notices it earlier.
    pub grace: Duration,
    /// The same after a failure of this rank's own, which the end of a peer's process may have caused, but no silence.
    pub own_grace: Duration,
    /// Between two looks at what the device has done.
    pub look: Duration,
}

impl Limits {
    /// Those of a mesh with these deadlines.
    pub const fn of(timing: Timing) -> Self {
        Self {
            call: Duration::from_secs(5),
            start: START,
            connect: Duration::from_mins(1),
            lane: Duration::from_mins(1),
            step: timing.step,
            grace: timing.silence.saturating_add(timing.beat),
            own_grace: timing.beat,
            look: Duration::from_micros(100),
        }
    }
}

/// What a link has of its process.
#[derive(Debug, Clone)]
pub struct Terms {
    /// How long it waits.
    pub limits: Limits,
    /// Whether exchanges go on while a lane is computed.
    pub overlaps: bool,
    /// What watches its calls.
    pub fuse: Arc<Fuse>,
    /// What hears how it fails.
    pub record: Record,
}

/// A communicator between the members of the mesh.
pub struct Link<'a, W: Wire> {
    /// None once it was given up.
    wire: Option<W>,
    is_connected: bool,
    device: Device,
    mesh: &'a Mesh,
    terms: Terms,
}

/// Why a wait was given up, and the communicator with it.
enum Ended {
    /// A peer was lost.
    Lost(Lost),
    /// NCCL or a device failed.
    Failed(Fault),
}

impl From<Lost> for Ended {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl<'a, W: Wire> Link<'a, W> {
    /// Waits until all members are connected, and listens to them meanwhile; none as soon as one of them could not connect.
    ///
    /// # Errors
    /// [`Lost`] when one of them is lost meanwhile; within, why this rank cannot connect.
    pub fn connect(
        wire: W,
        mesh: &'a Mesh,
        words: &mut Words,
        terms: Terms,
    ) -> Result<Result<Option<Self>, Fault>, Lost> {
        let mut link = Self {
            device: wire.device(),
            wire: Some(wire),
            is_connected: false,
            mesh,
            terms,
        };
        let patience = link.terms.limits.connect;
        let listen = |patience: Duration| words.tell_of_obstacle(patience);
        match link.until_or("connect", patience, W::is_ready, listen) {
            Ok(is_connected) => {
                link.is_connected = is_connected;
                Ok(Ok(is_connected.then_some(link)))
            }
            Err(Ended::Lost(lost)) => Err(lost),
            // Whether it is because of a lost peer shows when all have said how it went.
            Err(Ended::Failed(fault)) => Ok(Err(fault)),
        }
    }

    /// Calls the library; a failure ends the link.
    fn call<T>(&mut self, what: &'static str, f: impl FnOnce(&mut W) -> Result<T, Fault>) -> Result<T, Fault> {
        let Some(wire) = &mut self.wire else {
            return Err(Fault::of_anyone("the communicator was given up before"));
        };
        let Terms { fuse, limits, .. } = &self.terms;
        fuse.within(limits.call, what, || f(wire)).inspect_err(|_| self.end())
    }

    /// Waits until `is_so`, and `looks` at the peers meanwhile. Returns false if that says that it is no use. If so, and after an
    /// error, the link has ended.
    fn until_or(
        &mut self,
        what: &'static str,
        patience: Duration,
        is_so: fn(&mut W) -> Result<bool, Fault>,
        mut looks: impl FnMut(Duration) -> Result<bool, Lost>,
    ) -> Result<bool, Ended> {
        let deadline = Instant::now() + patience;
        while !self.call(what, is_so)? {
            let is_no_use = looks(self.terms.limits.look).inspect_err(|_| self.end())?;
            if is_no_use {
                self.end();
                return Ok(false);
            }
            if Instant::now() >= deadline {
                self.end();
                let why = format!("NCCL does not {what} within {} s", patience.as_secs_f64());
                return Err(Fault::of_anyone(why).into());
            }
        }
        Ok(true)
    }

    /// Waits for a step's end until `is_so`, and looks at the mesh meanwhile.
    fn until(&mut self, what: &'static str, is_so: fn(&mut W) -> Result<bool, Fault>) -> Result<(), Ended> {
        let mesh = self.mesh;
        let watch = |patience: Duration| mesh.watch(patience).map(|()| false);
        self.until_or(what, self.terms.limits.step, is_so, watch).map(|_| ())
    }

    /// Ends whatever is under way, on the device too; or ends the process.
    fn end(&mut self) {
        let Some(mut wire) = self.wire.take() else {
            return;
        };
        let Terms { fuse, limits, .. } = &self.terms;
        // Lanes first, although peers wait for the abort. An exchange may be queued behind a lane, and an abort waits until the device is
        // done with all that was asked of the communicator: to abort first would not be faster, but count the lane's time as the library's. And where
        // lanes take longer than a call, a lost peer would then end the processes of all ranks, and so all their memories. Lanes wait for no
        // exchange, so on a device that works they end.
        fuse.within(limits.lane, "finish a lane", || wire.finish_lanes());
        let limit = if self.is_connected { limits.call } else { limits.start };
        if let Err(fault) = fuse.within(limit, "abort", || wire.abort()) {
            tracing::warn!("the device as NCCL has left it: {}", fault.why);
        }
    }

    /// How the end of a step's wait is told: as what a peer did, or as what this rank's end did. Who is to blame tells it first, so
    /// that those whom its abort disturbs hear of it while they still wait.
    fn loss(&self, ended: Ended) -> Lost {
        let Fault { why, is_own } = match ended {
            Ended::Lost(lost) => return lost,
            Ended::Failed(fault) => fault,
        };
        let Terms { limits, record, .. } = &self.terms;
        let grace = if is_own { limits.own_grace } else { limits.grace };
        if let Err(lost) = self.mesh.watch(grace) {
            return lost;
        }
        let rank = self.mesh.rank();
        record.failed(format!("rank {rank}: {why}"));
        if is_own {
            record.blame(why.clone());
        }
        Lost { rank, why }
    }

    /// Begins a round, if the one before is on its way, behind what lanes were asked so far. A lane that has failed tells so itself.
    fn open(&mut self, waits: bool) -> Result<bool, Ended> {
        let what = "begin an exchange";
        if waits {
            // A peer that it connects with for the first time may be in the middle of its lanes.
            self.until(what, W::is_ready)?;
        } else if !self.terms.overlaps
            || self.wire.as_ref().is_some_and(W::has_lane_failed)
            || !self.call(what, W::is_ready)?
        {
            return Ok(false);
        }
        self.call("follow the lanes", W::follow_lanes)?;
        Ok(true)
    }

    fn settle(&mut self) -> Result<(), Ended> {
        self.call("mark the end of an exchange", W::mark)?;
        self.until("finish an exchange", W::has_passed)?;
        // All is done, so this does not wait: what was made of the last round may have failed.
        Ok(self.call("check the device", W::check)?)
    }
}

impl<W: Wire> Group for Link<'_, W> {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn begin(&mut self, waits: bool) -> Result<bool, Lost> {
        self.open(waits).map_err(|ended| self.loss(ended))
    }

    fn exchange(&mut self, sends: &[(u32, Span)], receives: Vec<(u32, SpanMut)>) -> Result<(), Lost> {
        if sends.is_empty() && receives.is_empty() {
            return Ok(());
        }
        let asked = self.call("ask for an exchange", |wire| wire.exchange(sends, receives));
        asked.map_err(|fault| self.loss(fault.into()))
    }

    fn finish(&mut self) -> Result<(), Lost> {
        self.settle().map_err(|ended| self.loss(ended))
    }

    fn give_up(&mut self) {
        self.end();
    }
}

impl<W: Wire> Drop for Link<'_, W> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
