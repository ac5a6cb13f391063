//! The collective over NCCL: gradients stay on the GPUs and go from one to the other, with the bits that the mesh would give, and so
//! do the states of those who join.
//!
//! Every generation has a communicator of its own, made anew before anybody is fed. Its members [`agree`](agree::agree) over the mesh whether to
//! make one: each says what it can do, a pure function of all answers decides ([`offer`]), the lowest rank makes the id, all connect, and all say
//! whether they did. Membership, agreement on commits, features and losses stay on the mesh.
//!
//! Exchanges of gradients begin while the last lane is computed ([`underway`](super::underway)), in a stream of their own beside that of the lanes.
//!
//! No call of the library waits; whoever waits for its work looks at the mesh meanwhile, so a lost peer or a generation that was
//! called off ends the wait, and the communicator is aborted. A collective that was aborted *returns as if it had succeeded*. Nothing
//! comes of it: the wait has already ended with the loss, so this rank is never prepared for the step, and none commits what not
//! all are prepared for. And in case that a call does wait, each is on a [`fuse`]: when it burns, the process ends, and its agent
//! starts another one, which takes the state from the others.
//!
//! A generation in which NCCL fails is over like any other: its ranks keep their memory. What comes next depends on its
//! [`past`]. A rank whose own NCCL or device was to blame is not asked to use it again, as long as its process lives, where the job may do
//! without; what nobody can be blamed for is tried in three generations. Under `"nccl"` that is all, and then the stage is refused.

pub mod agree;
pub mod fuse;
#[cfg(feature = "cuda")]
mod gpu;
pub mod link;
pub mod offer;
pub mod past;

pub use agree::{Library, Refused, agree};
pub use offer::Offer;

#[cfg(feature = "cuda")]
use fuse::Fuse;
use medley_model::device::Device;
use past::Record;
#[cfg(feature = "cuda")]
use std::sync::{Arc, OnceLock};

/// NCCL as this process has it.
#[derive(Debug)]
pub struct Nccl {
    #[cfg_attr(
        not(feature = "cuda"),
        expect(dead_code, reason = "no device of this build has NCCL")
    )]
    device: Device,
    record: Record,
    /// Lit when the library is first asked for; or why it cannot be.
    #[cfg(feature = "cuda")]
    fuse: OnceLock<Result<Arc<Fuse>, String>>,
}

impl Nccl {
    /// For gradients on this device.
    pub fn on(device: Device) -> Self {
        Self {
            device,
            record: Record::default(),
            #[cfg(feature = "cuda")]
            fuse: OnceLock::new(),
        }
    }
}

#[cfg(not(feature = "cuda"))]
impl Library for Nccl {
    fn offer(&self) -> Offer {
        let why = "it computes on the processor".into();
        Offer::Cannot { why }
    }

    fn record(&self) -> &Record {
        &self.record
    }

    fn id(&self) -> Result<Vec<u8>, past::Fault> {
        Err(past::Fault::own("this program was built without GPUs"))
    }

    fn connect<'a>(
        &self,
        _id: &[u8],
        _mesh: &'a super::tcp::Mesh,
        _words: &mut agree::Words,
    ) -> Result<agree::Connected<'a>, super::tcp::Lost> {
        Ok(Err(past::Fault::own("this program was built without GPUs")))
    }
}
