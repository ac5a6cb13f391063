//! What rank processes of both kinds have in common: how they are spoken to and what they do.

use super::clerk::Clerk;
use super::dice::Dice;
use super::objects::Objects;
use super::toy::Toy;
use super::trainee::Trainee;
use medley_protocol::agent::{FromRank, ToRank};
use medley_protocol::ids::StageId;
use medley_worker::agent::core::ProcessId;
use medley_worker::rank::membership;
use std::time::Duration;

/// A process in the whole world, never used twice.
pub(super) type Pid = usize;

/// What ranks of one generation send to each other.
#[derive(Debug, Clone)]
pub(super) enum Wire {
    /// The first message of a connection.
    Hello {
        stage: StageId,
        generation: u64,
        secret: String,
    },
    /// What the sender's lanes contribute to a step, as (lane, contribution).
    Share { step: u64, lanes: Vec<(u32, u64)> },
    /// Of the membership.
    Control(membership::Message),
    /// All steps are committed.
    Bye,
}

/// What a process told itself to do later.
#[derive(Debug, Clone)]
pub(super) enum Alarm {
    /// Data and weights are loaded.
    Loaded,
    /// It is late for members that have not connected.
    ConnectLate,
    /// Time passes.
    Tick,
    /// The own lanes of a step are computed.
    Computed { step: u64 },
    /// A part of this state is written.
    Written(Toy),
    /// It is late for goodbyes.
    GoodbyeLate,
    /// Half of the task is done, or all.
    Worked { whole: bool },
}

/// What a process hears.
#[derive(Debug)]
pub(super) enum Heard {
    Order(ToRank),
    Alarm(Alarm),
    Wire { from: u32, wire: Wire },
    Gone { rank: u32, why: String },
}

/// What a process does.
#[derive(Debug)]
pub(super) enum Deed {
    /// It says something to its agent.
    Say(FromRank),
    /// It sends something to a peer.
    Send { to: Pid, wire: Wire },
    /// It hears this after a while.
    Later { after: Duration, alarm: Alarm },
    /// It has committed a step.
    Committed(Toy),
    /// It has found that a rule is broken.
    Accuse(String),
    /// It ends.
    Exit(&'static str),
}

/// What processes have at hand.
pub(super) struct Tools<'a> {
    pub(super) now: Duration,
    pub(super) dice: &'a mut Dice,
    pub(super) objects: &'a mut Objects,
}

/// Where, and as what, a process runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) node: usize,
    /// The life of the node's agent.
    pub(super) life: u64,
    /// How its agent speaks of it.
    pub(super) id: ProcessId,
    pub(super) device: u32,
    pub(super) stage: StageId,
    pub(super) generation: u64,
    pub(super) rank: u32,
}

pub(super) struct Process {
    pub(super) place: Place,
    /// None once it has ended.
    pub(super) actor: Option<Actor>,
    /// Stopped until then.
    pub(super) frozen_until: Duration,
}

pub(super) enum Actor {
    Trainee(Box<Trainee>),
    Clerk(Clerk),
}

impl Actor {
    /// A process that has just got its first order, and what it does at once.
    pub(super) fn start(pid: Pid, order: ToRank, tools: &mut Tools) -> Option<(Self, Vec<Deed>)> {
        let ToRank::Start { assignment, rank, .. } = order else {
            return None;
        };
        if assignment.kind.is_training() {
            let (trainee, deeds) = Trainee::start(pid, *assignment, rank, tools);
            Some((Self::Trainee(Box::new(trainee)), deeds))
        } else {
            let (clerk, deeds) = Clerk::start(tools);
            Some((Self::Clerk(clerk), deeds))
        }
    }

    pub(super) fn hear(&mut self, heard: Heard, tools: &mut Tools) -> Vec<Deed> {
        match self {
            Self::Trainee(trainee) => trainee.hear(heard, tools),
            Self::Clerk(clerk) => clerk.hear(heard, tools),
        }
    }

    /// Processes with which it is, or wants to be, connected.
    pub(super) fn peers(&self) -> Vec<Pid> {
        match self {
            Self::Trainee(trainee) => trainee.peers(),
            Self::Clerk(_) => Vec::new(),
        }
    }
}
