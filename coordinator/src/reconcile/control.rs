//! The handle that endpoints and the leader's loop share: what nodes say goes in, orders come out.
//!
//! Everything here is in memory and answers at once; a beat never waits for a decision. A coordinator that does not
//! lead refuses beats, so agents find the one that does.

use super::Settings;
use super::orders::Told;
use super::sight::{Refused, Seen, Sight};
use crate::domain::Stage;
use crate::domain::node::KnownNode;
use medley_protocol::agent::{Beat, Orders, Probe};
use medley_protocol::hardware::Hardware;
use medley_protocol::ids::{IncarnationId, NodeId};
use medley_protocol::rest::Straggler;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Beats after which agents have heard of what was asked for, and told their ranks.
const BEATS_TO_HEAR: u32 = 3;

/// Why a beat or a registration cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unheard {
    /// This coordinator does not lead.
    NotLeading,
    /// The node is unknown, or another life of its agent has registered.
    Refused(Refused),
}

/// What is in memory about a node, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulse {
    /// Whether its agent beats.
    pub alive: bool,
    /// Devices it was told to use.
    pub busy: u32,
    /// Whether its agent is about to end.
    pub leaves: bool,
    /// What its ranks compute on; nothing unless it is alive.
    pub hardware: Hardware,
}

/// Shared by endpoints and loop. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    wake: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    leading: bool,
    sight: Sight,
    /// Orders for a life of each node's agent.
    orders: BTreeMap<NodeId, (IncarnationId, Arc<Orders>)>,
    stragglers: Vec<Straggler>,
    /// What every agent is to try.
    probes: BTreeMap<NodeId, Vec<Probe>>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    /// A handle with the system's monotonic clock.
    pub fn new(settings: Settings) -> Self {
        let started = Instant::now();
        Self::with_clock(settings, move || started.elapsed())
    }

    /// A handle with a clock of one's own.
    pub fn with_clock(settings: Settings, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let inner = Inner {
            settings,
            clock: Box::new(clock),
            wake: Notify::new(),
            state: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The limits in force.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The present, on the control plane's clock.
    pub fn now(&self) -> Duration {
        (self.inner.clock)()
    }

    /// Something changed that may call for a decision.
    pub fn wake(&self) {
        self.inner.wake.notify_one();
    }

    /// Waits until [`wake`](Self::wake) is called.
    pub async fn woken(&self) {
        self.inner.wake.notified().await;
    }

    /// Whether this coordinator leads.
    pub fn leads(&self) -> bool {
        self.state().leading
    }

    /// A node registered.
    pub fn meet(&self, node: KnownNode) {
        let now = self.now();
        self.state().sight.meet(node, now);
        self.wake();
    }

    /// A node beats; the answer is what it should be running.
    ///
    /// # Errors
    /// [`Unheard`].
    pub fn beat(&self, beat: Beat) -> Result<Arc<Orders>, Unheard> {
        let now = self.now();
        let (node, incarnation, seen) = (beat.node, beat.incarnation, beat.revision);
        let mut state = self.state();
        if !state.leading {
            return Err(Unheard::NotLeading);
        }
        let news = state.sight.beat(beat, now).map_err(Unheard::Refused)?;
        // Orders for an earlier life of the agent are not for this one.
        let told = state.orders.get(&node).filter(|(life, _)| *life == incarnation);
        let mut orders = match told.map(|(_, orders)| orders) {
            // An agent ignores what it has seen already, and orders are long: it need not read them again.
            Some(orders) if orders.revision > seen => Arc::clone(orders),
            _ => Arc::new(unchanged(seen)),
        };
        if let Some(probes) = state.probes.get(&node) {
            Arc::make_mut(&mut orders).probes.clone_from(probes);
        }
        drop(state);
        if news {
            self.wake();
        }
        Ok(orders)
    }

    /// What is in memory about a node.
    pub fn pulse(&self, node: NodeId) -> Pulse {
        let now = self.now();
        let state = self.state();
        let silence = self.inner.settings.silence;
        let is_alive = |seen: &&Seen| seen.has_beaten && now.saturating_sub(seen.heard_at) <= silence;
        let seen = state.sight.nodes.get(&node).filter(is_alive);
        let orders = state.orders.get(&node);
        Pulse {
            alive: seen.is_some(),
            busy: orders.map_or(0, |(_, orders)| orders.busy()),
            leaves: seen.is_some_and(|seen| seen.leaves),
            hardware: seen.map(|seen| seen.hardware.clone()).unwrap_or_default(),
        }
    }

    /// Steps that the ranks of a stage will have committed, as far as they say, by the time that all have heard of what is asked
    /// for now; 0 if this coordinator does not lead.
    pub fn committed_when_heard(&self, stage: &Stage) -> u64 {
        let heard = self.now() + self.inner.settings.beat * BEATS_TO_HEAR;
        let generation = stage.present().map_or(0, |generation| generation.number);
        self.state().sight.committed_at(stage.id, generation, heard)
    }

    /// What the nodes say, as of now.
    pub fn sight(&self) -> Sight {
        self.state().sight.clone()
    }

    /// Gives every node a whole silence from now.
    pub fn forgive(&self) {
        let now = self.now();
        self.state().sight.forgive(now);
    }

    /// This coordinator leads from now on, and knows these nodes.
    pub fn lead(&self, nodes: Vec<KnownNode>) {
        let now = self.now();
        let mut state = self.state();
        *state = State {
            leading: true,
            ..State::default()
        };
        for node in nodes {
            state.sight.meet(node, now);
        }
    }

    /// This coordinator does not lead any more.
    pub(super) fn resign(&self) {
        *self.state() = State::default();
    }

    /// Makes orders known that were decided from `sight`, and what agents are to try.
    pub fn publish(&self, told: &Told, probes: BTreeMap<NodeId, Vec<Probe>>, sight: &Sight) {
        let with_life = |(node, orders): (&NodeId, &Arc<Orders>)| {
            let life = sight.nodes.get(node)?.node.incarnation;
            Some((*node, (life, Arc::clone(orders))))
        };
        let mut state = self.state();
        state.orders = told.orders.iter().filter_map(with_life).collect();
        state.probes = probes;
    }

    /// Makes known which ranks hold their generations up.
    pub fn name_stragglers(&self, stragglers: Vec<Straggler>) {
        self.state().stragglers = stragglers;
    }

    /// The ranks that hold their generations up.
    pub fn stragglers(&self) -> Vec<Straggler> {
        self.state().stragglers.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change above is complete before anything that could panic.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No news for a node that has seen this revision.
fn unchanged(revision: u64) -> Orders {
    Orders {
        revision,
        assignments: Vec::new(),
        probes: Vec::new(),
    }
}
