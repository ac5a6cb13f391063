//! Scheduling: pure decisions, and the loop around them.
//!
//! [`sight`] is what nodes say, [`evidence`] the verdict on a generation, [`findings`] what speaks against one, [`standstill`] on one that makes no step though
//! nobody has lost anybody, [`decide`] what becomes of every job, [`breaks`] what becomes of a generation that broke,
//! [`doubts`] of one whose ranks' states differ,
//! [`drain`] what becomes of one on a node that is drained, [`placing`] the planner's part in it, [`waiting`] what waits and why ([`mod@needs`] is what devices must be), [`growth`] how a stage gets
//! more ranks while it trains, [`parting`] how ranks leave it, [`apart`] which nodes a generation finds that do not reach each
//! other, [`reach`] what is known of that, [`stragglers`] which ranks hold others up, [`orders`] what every node is to run: all
//! pure. [`control`] is the handle that endpoints share with the leader's [`run`] loop, which loads, decides, saves and publishes.

pub mod apart;
pub mod breaks;
pub mod control;
pub mod decide;
pub mod doubts;
pub mod drain;
pub mod evidence;
pub mod findings;
pub mod growth;
pub mod needs;
pub mod orders;
pub mod parting;
pub mod placing;
pub mod reach;
pub mod sight;
pub mod standstill;
pub mod stragglers;
pub mod waiting;

mod leader;

pub use control::Control;
pub use leader::{Leader, run};
pub use needs::needs;

use std::time::Duration;

/// Limits of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Time between beats of an agent.
    pub beat: Duration,
    /// Silence after which a node is lost.
    pub silence: Duration,
    /// Silence after which a node is given up whose ranks are missed by their peers: both sides say the same.
    pub doubt: Duration,
    /// A stage whose generation failed is placed only on nodes that were heard so recently.
    pub fresh: Duration,
    /// Longest time that placing waits for the first beat of a node which registered, or was there before this
    /// coordinator led.
    pub first_beat_grace: Duration,
    /// Time after which an agent must have said that a rank of its has ended, once others have lost a peer.
    pub settle: Duration,
    /// Shortest pause between generations that fail one after the other.
    pub pause: Duration,
    /// Longest time that a broken generation keeps its devices, because its ranks hold more in memory than the last
    /// checkpoint has.
    pub hold: Duration,
    /// Longest time that a rank may load data and weights.
    pub start_limit: Duration,
    /// Longest time that a rank may take for one step.
    pub step_limit: Duration,
    /// Longest time that a rank may take to connect once it can: it may have a step of the generation before to end.
    pub connect_limit: Duration,
    /// Time after which two ranks that both try to connect, and do not, say that their nodes do not reach each other; and two
    /// agents that try. A packet that gets lost is sent again after one second, and after two more.
    pub reach_limit: Duration,
    /// Time for which devices are free that would make a stage faster, before it grows.
    pub grow_after: Duration,
    /// Time after all ranks are finished in which their last metrics may come.
    pub facts_grace: Duration,
    /// Time after all ranks are finished in which the last checkpoint must become whole.
    pub last_checkpoint_limit: Duration,
    /// Time between two decisions when nothing calls for one.
    pub tick: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            beat: Duration::from_millis(250),
            silence: Duration::from_secs(5),
            doubt: Duration::from_millis(500),
            fresh: Duration::from_millis(1500),
            first_beat_grace: Duration::from_secs(5),
            settle: Duration::from_millis(200),
            pause: Duration::from_millis(1500),
            hold: Duration::from_mins(1),
            start_limit: Duration::from_mins(15),
            step_limit: Duration::from_mins(30),
            connect_limit: Duration::from_mins(30),
            reach_limit: Duration::from_secs(3),
            grow_after: Duration::from_secs(2),
            facts_grace: Duration::from_secs(5),
            last_checkpoint_limit: Duration::from_mins(1),
            tick: Duration::from_millis(250),
        }
    }
}
