//! NCCL between GPUs.

use super::Nccl;
use super::agree::{Connected, Library, Words};
use super::fuse::Fuse;
use super::link::{Limits, Link, START, Terms, Wire};
use super::offer::{Offer, SHARING, Version};
use super::past::{Fault, Record};
use crate::collective::group::Group;
use crate::collective::tcp::{Lost, Mesh};
use medley_model::cuda::nccl::{Communicator, UniqueId, version};
use medley_model::cuda::{Cuda, CudaError, Slice, SliceMut};
use medley_model::device::{Device, Span, SpanMut};
use std::sync::Arc;

/// If 0, all exchanges begin when the last lane is done.
const OVERLAP: &str = "MEDLEY_NCCL_OVERLAP";
/// Makes every call wait, which this room is not built for.
const BLOCKING: &str = "NCCL_COMM_BLOCKING";

impl Nccl {
    /// What watches all calls of the library.
    fn fuse(&self) -> Result<Arc<Fuse>, String> {
        let light = || match Fuse::of_process() {
            Ok(fuse) => Ok(Arc::new(fuse)),
            Err(error) => Err(format!("the thread that watches NCCL cannot start: {error}")),
        };
        self.fuse.get_or_init(light).clone()
    }

    fn able(&self) -> Result<Offer, String> {
        let Device::Cuda(cuda, _) = &self.device else {
            return Err("it computes on the processor".into());
        };
        let is_set = |name| std::env::var(name).is_ok_and(|value| value == "1");
        if is_set(BLOCKING) {
            return Err(format!(
                "{BLOCKING}=1 is set there, and a rank cannot wait like that: unset it"
            ));
        }
        let (found, _) = version().map_err(|error| error.to_string())?;
        self.fuse()?;
        Ok(Offer::Can {
            version: Version(found),
            gpu: cuda.uuid().map_err(|error| error.to_string())?,
            shares: is_set(SHARING),
            past: self.record.past(),
        })
    }

    /// Begins to connect.
    fn begin(&self, id: &[u8], mesh: &Mesh, terms: &Terms) -> Result<Gpu, Fault> {
        let Device::Cuda(lanes, format) = &self.device else {
            return Err(Fault::own("it computes on the processor"));
        };
        let id = id.try_into().map(UniqueId);
        let id = id.map_err(|_| Fault::of_anyone("rank 0 sent what is no id"))?;
        let place = (mesh.rank(), mesh.others().count() as u32 + 1);
        let beside = lanes.beside()?;
        let begin = || Communicator::begin(&beside, id, place);
        let communicator = terms.fuse.within(terms.limits.start, "begin a communicator", begin)?;
        Ok(Gpu {
            communicator,
            lanes: Arc::clone(lanes),
            device: Device::Cuda(Arc::clone(&beside), *format),
            beside,
        })
    }
}

impl Library for Nccl {
    fn offer(&self) -> Offer {
        self.able().unwrap_or_else(|why| Offer::Cannot { why })
    }

    fn record(&self) -> &Record {
        &self.record
    }

    fn id(&self) -> Result<Vec<u8>, Fault> {
        let fuse = self.fuse().map_err(Fault::own)?;
        let made = fuse.within(START, "make an id", UniqueId::generate)?;
        Ok(made.0.to_vec())
    }

    fn connect<'a>(&self, id: &[u8], mesh: &'a Mesh, words: &mut Words) -> Result<Connected<'a>, Lost> {
        let fuse = match self.fuse() {
            Ok(fuse) => fuse,
            Err(why) => return Ok(Err(Fault::own(why))),
        };
        let terms = Terms {
            limits: Limits::of(mesh.timing()),
            overlaps: std::env::var(OVERLAP).map_or(true, |value| value != "0"),
            fuse,
            record: self.record.clone(),
        };
        let gpu = match self.begin(id, mesh, &terms) {
            Ok(gpu) => gpu,
            Err(fault) => return Ok(Err(fault)),
        };
        let linked = Link::connect(gpu, mesh, words, terms)?;
        Ok(linked.map(|link| link.map(|link| Box::new(link) as Box<dyn Group + 'a>)))
    }
}

/// A GPU's end of a communicator.
struct Gpu {
    communicator: Communicator,
    /// The GPU, as lanes use it.
    lanes: Arc<Cuda>,
    /// The same with a stream for exchanges and what is made of them.
    beside: Arc<Cuda>,
    device: Device,
}

impl Wire for Gpu {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn is_ready(&mut self) -> Result<bool, Fault> {
        Ok(self.communicator.is_ready()?)
    }

    fn has_lane_failed(&self) -> bool {
        self.lanes.has_failed()
    }

    fn follow_lanes(&mut self) -> Result<(), Fault> {
        Ok(self.beside.follow(&self.lanes)?)
    }

    fn exchange(&mut self, sends: &[(u32, Span)], receives: Vec<(u32, SpanMut)>) -> Result<(), Fault> {
        let sends: Vec<_> = sends.iter().map(|(to, x)| (*to, on_gpu(*x))).collect();
        let mut receives: Vec<_> = receives.into_iter().map(|(from, y)| (from, on_gpu_mut(y))).collect();
        Ok(self.communicator.exchange(&sends, &mut receives)?)
    }

    fn mark(&mut self) -> Result<(), Fault> {
        Ok(self.communicator.mark()?)
    }

    fn has_passed(&mut self) -> Result<bool, Fault> {
        Ok(self.communicator.has_passed()?)
    }

    fn check(&mut self) -> Result<(), Fault> {
        Ok(self.beside.check()?)
    }

    fn finish_lanes(&mut self) {
        self.lanes.synchronize();
    }

    fn abort(self) -> Result<(), Fault> {
        drop(self.communicator);
        Ok(self.beside.check()?)
    }
}

impl From<CudaError> for Fault {
    fn from(error: CudaError) -> Self {
        Self {
            why: error.to_string(),
            is_own: !error.is_remote(),
        }
    }
}

fn on_gpu(span: Span<'_>) -> Slice<'_> {
    match span {
        Span::Cuda(slice) => slice,
        Span::Host(_) => panic!("NCCL was given memory of the process"),
    }
}

fn on_gpu_mut(span: SpanMut<'_>) -> SliceMut<'_> {
    match span {
        SpanMut::Cuda(slice) => slice,
        SpanMut::Host(_) => panic!("NCCL was given memory of the process"),
    }
}
