//! What rank processes of both kinds have in common: how they are spoken to and what they do.

use super::clerk::Clerk;
use super::dice::Dice;
use super::objects::Objects;
use super::toy::Toy;
use super::trainee::Trainee;
use medley_protocol::agent::{Connecting, Doing, FromRank, ToRank};
use medley_protocol::ids::StageId;
use medley_worker::agent::core::ProcessId;
use medley_worker::rank::beginning::{Memory, Path};
use medley_worker::rank::membership;
use std::time::Duration;

/// A process in the whole world, never used twice.
pub(super) type Pid = usize;

/// A rank's place in a generation, by which others know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seat {
    pub(super) generation: u64,
    pub(super) rank: u32,
}

/// What ranks of one generation send to each other.
#[derive(Debug, Clone)]
pub(super) enum Wire {
    /// The first message of a connection.
    Hello {
        stage: StageId,
        secret: String,
        memory: Option<Memory>,
    },
    /// The whole state, for a rank that joins.
    State(Toy),
    /// What the sender's lanes contribute to a step, as (lane, contribution).
    Share { step: u64, lanes: Vec<(u32, u64)> },
    /// Of the membership.
    Control(membership::Message),
    /// The sender leaves in peace.
    Bye,
}

/// What a process told itself to do later.
#[derive(Debug, Clone)]
pub(super) enum Alarm {
    /// Data and weights are loaded.
    Loaded,
    /// Time passes in a generation.
    Tick { seat: Seat },
    /// The own lanes of a step are computed.
    Computed { seat: Seat, step: u64 },
    /// This part of a checkpoint is written.
    Written { toy: Toy, part: u32, parts: u32 },
    /// It is time to say that the process runs.
    Pulse,
    /// Half of the task is done, or all.
    Worked { whole: bool },
}

/// What a process hears.
#[derive(Debug)]
pub(super) enum Heard {
    Order(ToRank),
    Alarm(Alarm),
    Wire { from: Seat, wire: Wire },
    Gone { seat: Seat, why: String },
}

/// What a process does.
#[derive(Debug)]
pub(super) enum Deed {
    /// It says something to its agent.
    Say(FromRank),
    /// It sends something to a peer.
    Send { to: Pid, from: Seat, wire: Wire },
    /// It closes its connections.
    Close { seat: Seat, peers: Vec<Pid> },
    /// It hears this after a while.
    Later { after: Duration, alarm: Alarm },
    /// It has begun to train in a generation, in this way.
    Began { seat: Seat, how: How, step: u64 },
    /// It has committed a step, as a member of a generation of so many.
    Committed { seat: Seat, world: u32, toy: Toy },
    /// It ends by itself.
    Exit,
    /// It has found that a rule is broken.
    Accuse(String),
}

/// Where a rank has its state from when its generation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// The last checkpoint, or the stage's start.
    Stored,
    /// Its own memory, in this way; or its peers' where it joins.
    Memory(Path),
}

/// Time between two pulses; longer than in truth, which is often enough.
pub(super) const PULSE: Duration = Duration::from_millis(300);

/// A process says that it runs.
pub(super) fn pulse(doing: Option<Doing>, connecting: Option<Connecting>) -> Vec<Deed> {
    let again = Deed::Later {
        after: PULSE,
        alarm: Alarm::Pulse,
    };
    vec![Deed::Say(FromRank::Pulse { doing, connecting }), again]
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
    /// Until then it does nothing but say that it runs.
    pub(super) spins_until: Duration,
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
            let (clerk, deeds) = Clerk::start(assignment.generation, tools);
            Some((Self::Clerk(clerk), deeds))
        }
    }

    pub(super) fn hear(&mut self, heard: Heard, tools: &mut Tools) -> Vec<Deed> {
        match self {
            Self::Trainee(trainee) => trainee.hear(heard, tools),
            Self::Clerk(clerk) => clerk.hear(heard, tools),
        }
    }

    /// Whether it is in the midst of steps that it takes with others.
    pub(super) fn trains(&self) -> bool {
        matches!(self, Self::Trainee(trainee) if trainee.trains())
    }

    /// A bit flips in the state that it trains: false if it was not to be found out any more, or trains none.
    pub(super) fn flip(&mut self, bit: u32) -> bool {
        match self {
            Self::Trainee(trainee) => trainee.flip(bit),
            Self::Clerk(_) => false,
        }
    }

    /// Its place among the processes with which it is, or wants to be, connected.
    pub(super) fn seat(&self) -> Option<(Seat, Vec<Pid>)> {
        match self {
            Self::Trainee(trainee) => trainee.seat(),
            Self::Clerk(_) => None,
        }
    }
}
