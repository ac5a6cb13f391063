//! A rank's end of a communicator, and the waits for it.

use super::fuse::Fuse;
use super::offer::{Offer, SHARING, Version};
use super::{Library, Nccl};
use crate::collective::group::Group;
use crate::collective::tcp::{Lost, Mesh};
use medley_model::cuda::nccl::{Communicator, UniqueId, version};
use medley_model::cuda::{Cuda, CudaError};
use medley_model::device::{Device, Span, SpanMut};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Longest time that a call lasts which does not wait, and that giving up takes.
const CALL: Duration = Duration::from_secs(5);
/// Longest time for the calls that load plug-ins and look for networks.
const START: Duration = Duration::from_mins(1);
/// Longest time for all members to connect.
const CONNECT: Duration = Duration::from_mins(1);
/// Time between two looks at what the device has done.
const LOOK: Duration = Duration::from_micros(100);
/// If 0, all exchanges begin when the last lane is done.
const OVERLAP: &str = "MEDLEY_NCCL_OVERLAP";
/// Makes every call wait, which this room is not built for.
const BLOCKING: &str = "NCCL_COMM_BLOCKING";

impl Nccl {
    fn fuse(&self) -> Arc<Fuse> {
        Arc::clone(self.fuse.get_or_init(|| Arc::new(Fuse::of_process())))
    }

    fn able(&self) -> Result<Offer, String> {
        let Device::Cuda(cuda, _) = &self.device else {
            return Err("it computes on the processor".into());
        };
        if let Some(fault) = self.fault.get() {
            return Err(format!("NCCL failed there before: {fault}"));
        }
        let is_set = |name| std::env::var(name).is_ok_and(|value| value == "1");
        if is_set(BLOCKING) {
            return Err(format!(
                "{BLOCKING}=1 is set there, and a rank cannot wait like that: unset it"
            ));
        }
        let (found, _) = version().map_err(|error| error.to_string())?;
        Ok(Offer::Can {
            version: Version(found),
            gpu: cuda.uuid().map_err(|error| error.to_string())?,
            shares: is_set(SHARING),
        })
    }
}

impl Library for Nccl {
    fn offer(&self) -> Offer {
        self.able().unwrap_or_else(|why| Offer::Cannot { why })
    }

    fn id(&self) -> Result<Vec<u8>, String> {
        let made = self.fuse().within(START, "make an id", UniqueId::generate);
        made.map(|id| id.0.to_vec()).map_err(|error| error.to_string())
    }

    fn connect<'a>(&self, id: &[u8], mesh: &'a Mesh) -> Result<Result<Box<dyn Group + 'a>, String>, Lost> {
        let Device::Cuda(lanes, format) = &self.device else {
            return Ok(Err("it computes on the processor".into()));
        };
        let Ok(id) = id.try_into().map(UniqueId) else {
            return Ok(Err("rank 0 sent what is no id".into()));
        };
        let fuse = self.fuse();
        let place = (mesh.rank(), mesh.others().count() as u32 + 1);
        let beside = match lanes.beside() {
            Ok(beside) => beside,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let begun = fuse.within(START, "begin a communicator", || {
            Communicator::begin(&beside, id, place)
        });
        let mut link = Link {
            communicator: None,
            lanes: Arc::clone(lanes),
            device: Device::Cuda(Arc::clone(&beside), *format),
            beside,
            overlaps: std::env::var(OVERLAP).map_or(true, |value| value != "0"),
            mesh,
            fuse,
            fault: Arc::clone(&self.fault),
        };
        match begun {
            Ok(communicator) => link.communicator = Some(communicator),
            Err(error) => return Ok(Err(link.note(error.to_string()))),
        }
        let connected = link.until("connect", CONNECT, Communicator::is_ready);
        match connected {
            Ok(()) => Ok(Ok(Box::new(link))),
            Err(Ended::Lost(lost)) => Err(lost),
            Err(Ended::Failed(why)) => Ok(Err(link.note(why))),
        }
    }
}

/// A communicator between the members of the mesh.
struct Link<'a> {
    /// None once it was given up.
    communicator: Option<Communicator>,
    /// The GPU, as lanes use it.
    lanes: Arc<Cuda>,
    /// The same with a stream for exchanges and what is made of them.
    beside: Arc<Cuda>,
    device: Device,
    /// Whether exchanges go on while a lane is computed.
    overlaps: bool,
    mesh: &'a Mesh,
    fuse: Arc<Fuse>,
    fault: Arc<OnceLock<String>>,
}

/// Why a wait was given up, and the communicator with it.
enum Ended {
    /// A peer was lost.
    Lost(Lost),
    /// This rank's NCCL or device failed.
    Failed(String),
}

impl Link<'_> {
    /// Calls the library.
    fn call<T>(
        &mut self,
        what: &'static str,
        f: impl FnOnce(&mut Communicator) -> Result<T, CudaError>,
    ) -> Result<T, Ended> {
        let Some(communicator) = &mut self.communicator else {
            return Err(Ended::Failed("the communicator was given up before".into()));
        };
        let outcome = self.fuse.within(CALL, what, || f(communicator));
        outcome.map_err(|error| self.failed(error.to_string()))
    }

    /// Waits until `is_so`, and looks at the mesh meanwhile.
    fn until(
        &mut self,
        what: &'static str,
        patience: Duration,
        is_so: fn(&Communicator) -> Result<bool, CudaError>,
    ) -> Result<(), Ended> {
        let deadline = Instant::now() + patience;
        while !self.call(what, |communicator| is_so(communicator))? {
            if let Err(lost) = self.mesh.watch(LOOK) {
                self.end();
                return Err(Ended::Lost(lost));
            }
            if Instant::now() >= deadline {
                let why = format!("NCCL does not {what} within {} s", patience.as_secs());
                return Err(self.failed(why));
            }
        }
        Ok(())
    }

    /// Gives up after a failure. NCCL notices a dead peer earlier than the mesh does, so the mesh has time to tell.
    fn failed(&mut self, why: String) -> Ended {
        self.end();
        let timing = self.mesh.timing();
        let told = self.mesh.watch(timing.silence + timing.beat);
        told.map_or_else(Ended::Lost, |()| Ended::Failed(why))
    }

    /// Ends whatever is under way, on the device too; or ends the process.
    fn end(&mut self) {
        let Some(communicator) = self.communicator.take() else {
            return;
        };
        // An exchange may still be waiting for a lane. Lanes wait for no exchange, so they come to an end, and then all that is left
        // is NCCL's.
        let step = self.mesh.timing().step;
        self.fuse.within(step, "finish a lane", || self.lanes.synchronize());
        let left = self.fuse.within(CALL, "abort", || {
            drop(communicator);
            self.beside.check()
        });
        if let Err(error) = left {
            tracing::warn!("the device as NCCL has left it: {error}");
        }
    }

    /// Remembers what this process's NCCL failed at.
    fn note(&self, why: String) -> String {
        self.fault.get_or_init(|| why.clone());
        why
    }

    /// How the wait's end is told: as what a peer did, or what this rank's own end did.
    fn loss(&self, ended: Ended) -> Lost {
        match ended {
            Ended::Lost(lost) => lost,
            Ended::Failed(why) => Lost {
                rank: self.mesh.rank(),
                why: self.note(why),
            },
        }
    }

    /// Begins a round, if the one before is on its way, behind what lanes were asked so far. A lane that has failed tells so itself.
    fn open(&mut self, waits: bool) -> Result<bool, Ended> {
        let what = "begin an exchange";
        if waits {
            // A peer that it connects with for the first time may be in the middle of its lanes.
            self.until(what, self.mesh.timing().step, Communicator::is_ready)?;
        } else if !self.overlaps
            || self.lanes.has_failed()
            || !self.call(what, |communicator| communicator.is_ready())?
        {
            return Ok(false);
        }
        let (beside, lanes) = (Arc::clone(&self.beside), Arc::clone(&self.lanes));
        self.call("follow the lanes", move |_| beside.follow(&lanes))?;
        Ok(true)
    }

    fn move_all(&mut self, sends: &[(u32, Span)], receives: Vec<(u32, SpanMut)>) -> Result<(), Ended> {
        if sends.is_empty() && receives.is_empty() {
            return Ok(());
        }
        let sends: Vec<_> = sends.iter().map(|(to, x)| (*to, on_gpu(*x))).collect();
        let mut receives: Vec<_> = receives.into_iter().map(|(from, y)| (from, on_gpu_mut(y))).collect();
        self.call("ask for an exchange", |communicator| {
            communicator.exchange(&sends, &mut receives)
        })
    }

    fn settle(&mut self) -> Result<(), Ended> {
        self.call("mark the end of an exchange", Communicator::mark)?;
        self.until("finish an exchange", self.mesh.timing().step, Communicator::has_passed)?;
        // The stream is empty, so this does not wait: what was made of the last round may have failed.
        let made = self.beside.check();
        made.map_err(|error| self.failed(error.to_string()))
    }
}

impl Group for Link<'_> {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn begin(&mut self, waits: bool) -> Result<bool, Lost> {
        self.open(waits).map_err(|ended| self.loss(ended))
    }

    fn exchange(&mut self, sends: &[(u32, Span)], receives: Vec<(u32, SpanMut)>) -> Result<(), Lost> {
        self.move_all(sends, receives).map_err(|ended| self.loss(ended))
    }

    fn finish(&mut self) -> Result<(), Lost> {
        self.settle().map_err(|ended| self.loss(ended))
    }

    fn give_up(&mut self) {
        self.end();
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn on_gpu(span: Span<'_>) -> medley_model::cuda::Slice<'_> {
    match span {
        Span::Cuda(slice) => slice,
        Span::Host(_) => panic!("NCCL was given memory of the process"),
    }
}

fn on_gpu_mut(span: SpanMut<'_>) -> medley_model::cuda::SliceMut<'_> {
    match span {
        SpanMut::Cuda(slice) => slice,
        SpanMut::Host(_) => panic!("NCCL was given memory of the process"),
    }
}
