//! A training on two nodes of a site, under way.

use super::{Agent, Coordinator, Machine, Service, Site, has_committed};
use blake3::Hash;
use medley_protocol::ids::JobId;

/// Steps that a training has committed when a test gets it.
pub const BEFORE: u64 = 20;

/// A training on two nodes.
#[derive(Debug)]
pub struct Training {
    /// Of `node-a` and `node-b`.
    pub agents: [Service; 2],
    /// Its job.
    pub job: JobId,
    /// The final state of one like it that nothing disturbs.
    pub undisturbed: Hash,
}

/// Who runs a training, and where.
#[derive(Debug)]
pub struct Under<'a> {
    /// The coordinator that leads.
    pub leader: &'a Coordinator,
    /// The one that lets the nodes in and takes the job: any does.
    pub door: &'a Coordinator,
    /// Where agents look for coordinators, with commas between them.
    pub coordinators: String,
    /// The machines of the nodes, if they are not this one.
    pub machines: [Option<&'a Machine>; 2],
    /// Ranks of each node.
    pub devices: u32,
}

impl<'a> Under<'a> {
    /// One coordinator, and all on this machine.
    pub fn one(coordinator: &'a Coordinator) -> Self {
        Self {
            leader: coordinator,
            door: coordinator,
            coordinators: coordinator.url(),
            machines: [None; 2],
            devices: 1,
        }
    }
}

impl Training {
    /// Starts the nodes and the training, and waits until both have committed [`BEFORE`] steps.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn start(site: &Site, under: &Under<'_>, steps: u64) -> Self {
        let agent = |(name, machine)| {
            site.agent(&Agent {
                name,
                coordinators: &under.coordinators,
                token_of: under.door,
                devices: under.devices,
                machine,
            })
        };
        let [a, b] = under.machines;
        let agents = [("node-a", a), ("node-b", b)].map(agent);
        let training = site.training(steps, None);
        let undisturbed = site.undisturbed(&training);
        under.leader.api().nodes_heard(2).await;
        let job = under.door.api().submit(&training).await;
        for agent in &agents {
            has_committed(agent, BEFORE).await;
        }
        Self {
            agents,
            job,
            undisturbed,
        }
    }
}
