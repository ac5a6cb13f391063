//! A rank's place in a generation: its peers, and how gradients travel between them.

use crate::collective::deal::Deal;
use crate::collective::group::Group;
use crate::collective::reduce::{Local, Plan};
use crate::collective::rounds::Round;
use crate::collective::tcp::Mesh;
use crate::collective::underway::Underway;

/// A rank's place in a generation.
pub(super) struct Place<'a> {
    pub(super) deal: Deal,
    pub(super) plan: Plan,
    pub(super) mesh: &'a Mesh,
    /// What moves gradients between GPUs, if they do not go over the mesh.
    pub(super) devices: Option<(Vec<Round>, Box<dyn Group + 'a>)>,
    /// Number of collectives begun: a redone step does not meet frames of its first try.
    pub(super) exchange: u64,
}

impl<'a> Place<'a> {
    pub(super) fn new(deal: Deal, plan: Plan, mesh: &'a Mesh) -> Self {
        Self {
            deal,
            plan,
            mesh,
            devices: None,
            exchange: 0,
        }
    }

    /// Gradients are moved by this group; over the mesh if there is none.
    pub(super) fn move_by(&mut self, group: Option<Box<dyn Group + 'a>>) {
        self.devices = group.map(|group| (self.plan.rounds(&self.deal), group));
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = u32> + '_ {
        self.deal.lanes(self.mesh.rank())
    }

    /// Whether sums never pass through the memory of the process: they go from GPU to GPU, or there is nobody to send them to.
    pub(super) fn sums_on_devices(&self) -> bool {
        self.devices.is_some() || self.deal.ranks() == 1
    }
}

/// A step's gradients on their way to their sum.
pub(super) enum Way<'a> {
    /// Of the rank's lanes, for the mesh.
    Mesh(Local),
    /// Between GPUs.
    Devices(Underway<'a>),
}
