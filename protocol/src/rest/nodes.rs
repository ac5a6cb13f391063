//! A node as people see it, and whether it takes work.

use super::Straggler;
use crate::hardware::Hardware;
use crate::ids::NodeId;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Identity.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Host under which its ranks are reached.
    pub host: String,
    /// Whether its agent beats.
    pub alive: bool,
    /// Ranks it can run at once.
    pub devices: u32,
    /// Devices in use.
    pub busy: u32,
    /// Threads of each rank.
    pub threads: u32,
    /// Numerics fingerprint.
    pub fingerprint: String,
    /// Ranks on it that others wait for in every step.
    #[serde(default)]
    pub stragglers: Vec<Straggler>,
    /// When its agent last registered.
    pub registered_at: DateTime<Utc>,
    /// Whether it takes work.
    #[serde(default)]
    pub duty: Duty,
    /// What its ranks compute on, as its agent last said; empty while it does not beat.
    #[serde(default)]
    pub hardware: Hardware,
}

/// Whether a node takes work. It stays so when its agent starts again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duty {
    /// It does.
    #[default]
    Serving,
    /// It keeps what it has and takes nothing new.
    Cordoned,
    /// It takes nothing new, and what it has goes to other nodes. Once it has nothing left it is drained.
    Draining,
}

impl Duty {
    /// Its name, as on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
        }
    }
}

/// Another duty for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DutyChange {
    /// From now on.
    pub duty: Duty,
    /// A node that is drained gives up by then what nobody else can take. Without it, it waits until somebody can.
    #[serde(default)]
    pub deadline_s: Option<u32>,
}
