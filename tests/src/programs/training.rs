//! A training on two nodes of a site, under way.

use super::{Agent, Api, Coordinator, Machine, Service, Site, committed, has_committed};
use medley_protocol::ids::JobId;
use serde_json::Value;

/// Steps that a training has committed when a test gets it.
pub const BEFORE: u64 = 20;
/// More steps than a machine does during a test: such a training goes on until the test has seen enough, however fast the machine
/// is.
pub const ENDLESS: u64 = 50_000;

/// A training on two nodes.
#[derive(Debug)]
pub struct Training {
    /// Of `node-a` and `node-b`.
    pub agents: [Service; 2],
    /// Its job.
    pub job: JobId,
    document: Value,
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
        let document = site.training(steps, None);
        under.leader.api().nodes_heard(2).await;
        let job = under.door.api().submit(&document).await;
        for agent in &agents {
            has_committed(agent, BEFORE).await;
        }
        Self { agents, job, document }
    }

    /// Waits until all nodes have committed so many steps more than any has by now: whoever was away takes part again.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn all_go_on(&self, steps: u64) {
        let now = self.agents.iter().map(committed).max().unwrap_or(0);
        for agent in &self.agents {
            has_committed(agent, now + steps).await;
        }
    }

    /// Ends an endless training: so far its bytes are those of one that nothing disturbs.
    ///
    /// # Panics
    /// When they are others, or the training does not go on.
    pub async fn is_undisturbed(&self, site: &Site, api: &Api) {
        let (steps, state) = api.stopped(self.job).await;
        let undisturbed = site.undisturbed_after(steps, &self.document);
        assert_eq!(state, undisturbed, "after {steps} steps");
    }

    /// Waits until a training of few steps succeeds: its bytes are those of one that nothing disturbs.
    ///
    /// # Panics
    /// When they are others, or it does not succeed.
    pub async fn succeeds_undisturbed(&self, site: &Site, api: &Api) {
        assert_eq!(api.trained(self.job).await, site.undisturbed(&self.document));
    }
}
