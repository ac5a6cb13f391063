//! When a step may be committed: the pure core of a generation's membership.
//!
//! A rank that holds the complete gradient, features and losses of step `s` is *prepared* and says so to the
//! generation's lowest rank, the *leader*; the leader answers *go* once all members have. Only then does a rank commit,
//! as one local act. So when a member dies, no survivor is more than one step ahead of another, and whoever is one
//! behind is prepared for what the other has committed ([`begin`](super::beginning::begin)).
//!
//! With *prepared* goes a digest of a part of the state. If one differs, the leader ends the generation with a [`Doubt`], which
//! says what is proven all the same; nobody's memory is.
//!
//! A generation also ends by plan: once every member knows the members of the same later generation, *go* names it, and the
//! step that it commits is the last one.
//!
//! Every message carries the generation; one of another generation is ignored. There is no IO here: a caller feeds
//! [`Input`]s with the time and carries out the [`Output`]s in order.

use medley_protocol::doubt::Doubt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The lowest rank of every generation.
pub const LEADER: u32 = 0;

/// What members say to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The generation of the sender.
    pub generation: u64,
    /// What it says.
    pub body: Body,
}

/// Content of a [`Message`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum Body {
    /// To the leader: all that step `step` needs is here and checked.
    Prepared {
        /// The step, counted from 0.
        step: u64,
        /// Digest of a rotating part of the state before this step.
        digest: u64,
        /// A checkpoint is wanted once this many steps are committed.
        wanted: Option<u64>,
        /// A later generation that the sender is ready to go on in.
        ready: Option<u64>,
    },
    /// From the leader: everyone is prepared, commit.
    Go {
        /// The step.
        step: u64,
        /// Whether a checkpoint is taken of the state after it.
        checkpoint: bool,
        /// The generation that the next step belongs to, if it is another one.
        then: Option<u64>,
    },
    /// The sender gives up.
    Abort {
        /// Why, for people.
        reason: String,
        /// What is to be doubted, if that is why.
        doubt: Option<Doubt>,
    },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// This rank is prepared for its next step.
    Prepared {
        /// Digest of a rotating part of the state before the step.
        digest: u64,
        /// Whether the spec plans a checkpoint after the step.
        planned: bool,
    },
    /// A message arrived.
    Said {
        /// Sender, as proved by its connection.
        from: u32,
        /// The message.
        message: Message,
    },
    /// A peer is gone.
    Lost {
        /// The peer.
        rank: u32,
        /// How it was noticed.
        why: String,
    },
    /// This rank's agent wants a checkpoint once so many steps are committed.
    CheckpointWanted {
        /// Number of committed steps.
        step: u64,
    },
    /// This rank knows all members of a later generation, and where they listen.
    Ready {
        /// The generation.
        generation: u64,
    },
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a message.
    Send {
        /// Receiver.
        to: u32,
        /// The message.
        message: Message,
    },
    /// Commit the step this rank is prepared for.
    Commit {
        /// Whether a checkpoint is taken of the state after it.
        checkpoint: bool,
        /// The generation in which this rank goes on, if the present one ends here.
        then: Option<u64>,
    },
    /// The generation is over for this rank.
    Fail {
        /// Why, for people.
        reason: String,
        /// What is to be doubted, if that is why: this rank's state must not be used again, nor anybody else's.
        doubt: Option<Doubt>,
    },
}

/// A member's view.
#[derive(Debug, Clone)]
pub struct State {
    rank: u32,
    world: u32,
    generation: u64,
    /// Longest wait for the other members once this one is prepared.
    patience: Duration,
    committed: u64,
    /// Steps committed by the state that all have loaded from one checkpoint; 0 if this rank knows of none.
    loaded: u64,
    phase: Phase,
    /// Requested by this rank's agent.
    wanted: Option<u64>,
    /// Committed steps of the last checkpoint that was taken; 0 before the first.
    saved: u64,
    /// The latest generation that this rank can go on in.
    ready: Option<u64>,
    /// Leader only: who is prepared for the next step.
    claims: BTreeMap<u32, Claim>,
}

#[derive(Debug, Clone)]
enum Phase {
    Computing,
    Prepared {
        since: Duration,
        planned: bool,
    },
    /// The generation broke; what this rank was prepared for stays in its memory.
    Over {
        prepared: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    digest: u64,
    wanted: Option<u64>,
    ready: Option<u64>,
}

impl State {
    /// A member that has committed `committed` steps and computes the next.
    pub fn new(rank: u32, world: u32, generation: u64, committed: u64, patience: Duration) -> Self {
        Self {
            rank,
            world,
            generation,
            patience,
            committed,
            loaded: 0,
            phase: Phase::Computing,
            wanted: None,
            saved: 0,
            ready: None,
            claims: BTreeMap::new(),
        }
    }

    /// The same, whose first so many steps are those of a checkpoint that all have loaded.
    #[must_use]
    pub fn loaded(self, loaded: u64) -> Self {
        Self { loaded, ..self }
    }

    /// Number of committed steps.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Whether this rank holds all that its next step needs.
    pub fn is_prepared(&self) -> bool {
        matches!(self.phase, Phase::Prepared { .. } | Phase::Over { prepared: true })
    }

    fn over(&self) -> Phase {
        let prepared = self.is_prepared();
        Phase::Over { prepared }
    }

    fn message(&self, body: Body) -> Message {
        let generation = self.generation;
        Message { generation, body }
    }

    fn to_others(&self, body: &Body) -> Vec<Output> {
        let others = (0..self.world).filter(|rank| *rank != self.rank);
        let send = |to| Output::Send {
            to,
            message: self.message(body.clone()),
        };
        others.map(send).collect()
    }
}

/// The transition function.
pub fn step(state: State, input: Input, now: Duration) -> (State, Vec<Output>) {
    if matches!(state.phase, Phase::Over { .. }) {
        return (state, Vec::new());
    }
    match input {
        Input::Prepared { digest, planned } => prepared(state, digest, planned, now),
        Input::Said { from, message } if message.generation == state.generation => said(state, from, message.body),
        Input::Said { .. } => (state, Vec::new()),
        Input::Lost { rank, why } => give_up(state, format!("lost rank {rank}: {why}")),
        // Another rank has heard of it before, and all have taken it.
        Input::CheckpointWanted { step } if step <= state.saved => (state, Vec::new()),
        Input::CheckpointWanted { step } => {
            let wanted = Some(state.wanted.map_or(step, |earlier| earlier.min(step)));
            (State { wanted, ..state }, Vec::new())
        }
        Input::Ready { generation } => {
            let ready = state.ready.max(Some(generation));
            (State { ready, ..state }, Vec::new())
        }
        Input::Tick => tick(state, now),
    }
}

fn prepared(mut state: State, digest: u64, planned: bool, now: Duration) -> (State, Vec<Output>) {
    state.phase = Phase::Prepared { since: now, planned };
    let (wanted, ready) = (state.wanted, state.ready);
    if state.rank == LEADER {
        let claim = Claim { digest, wanted, ready };
        state.claims.insert(LEADER, claim);
        return decide(state);
    }
    let step = state.committed;
    let message = state.message(Body::Prepared {
        step,
        digest,
        wanted,
        ready,
    });
    (state, vec![Output::Send { to: LEADER, message }])
}

fn said(mut state: State, from: u32, body: Body) -> (State, Vec<Output>) {
    match body {
        Body::Prepared {
            step,
            digest,
            wanted,
            ready,
        } => {
            if state.rank != LEADER || step != state.committed || state.claims.contains_key(&from) {
                return give_up(state, format!("rank {from} claims step {step} out of turn"));
            }
            let claim = Claim { digest, wanted, ready };
            state.claims.insert(from, claim);
            decide(state)
        }
        Body::Go { step, checkpoint, then } => {
            if from != LEADER || step != state.committed || !state.is_prepared() {
                return give_up(state, format!("rank {from} says go for step {step} out of turn"));
            }
            commit(state, checkpoint, then)
        }
        Body::Abort { reason, doubt } => {
            state.phase = state.over();
            let reason = format!("rank {from} gave up: {reason}");
            (state, vec![Output::Fail { reason, doubt }])
        }
    }
}

/// Leader: says *go* if all members, this one included, are prepared and agree.
fn decide(state: State) -> (State, Vec<Output>) {
    let Phase::Prepared { planned, .. } = state.phase else {
        return (state, Vec::new());
    };
    if state.claims.len() < state.world as usize {
        return (state, Vec::new());
    }
    let digests: Vec<u64> = state.claims.values().map(|claim| claim.digest).collect();
    if let Some(minority) = dissenters(&digests) {
        let doubt = Doubt::new(state.committed, state.loaded, minority);
        return abort(state, doubt.to_string(), Some(doubt));
    }
    let due = |claim: &Claim| claim.wanted.is_some_and(|step| step <= state.committed + 1);
    let checkpoint = planned || state.claims.values().any(due);
    let step = state.committed;
    let mut ready = state.claims.values().map(|claim| claim.ready);
    let then = ready
        .next()
        .flatten()
        .filter(|next| ready.all(|other| other == Some(*next)));
    let mut outputs = state.to_others(&Body::Go { step, checkpoint, then });
    let (state, committing) = commit(state, checkpoint, then);
    outputs.extend(committing);
    (state, outputs)
}

fn commit(mut state: State, checkpoint: bool, then: Option<u64>) -> (State, Vec<Output>) {
    state.committed += 1;
    state.phase = match then {
        None => Phase::Computing,
        Some(_) => Phase::Over { prepared: false },
    };
    state.claims.clear();
    if checkpoint {
        state.saved = state.committed;
        state.wanted = state.wanted.filter(|step| *step > state.committed);
    }
    (state, vec![Output::Commit { checkpoint, then }])
}

fn tick(state: State, now: Duration) -> (State, Vec<Output>) {
    let Phase::Prepared { since, .. } = state.phase else {
        return (state, Vec::new());
    };
    if now.saturating_sub(since) <= state.patience {
        return (state, Vec::new());
    }
    let missing: Vec<u32> = match state.rank {
        LEADER => (0..state.world)
            .filter(|rank| !state.claims.contains_key(rank))
            .collect(),
        _ => vec![LEADER],
    };
    let reason = format!(
        "{} did not answer for step {} within {} s",
        names(&missing),
        state.committed,
        state.patience.as_secs()
    );
    give_up(state, reason)
}

fn give_up(state: State, reason: String) -> (State, Vec<Output>) {
    abort(state, reason, None)
}

fn abort(mut state: State, reason: String, doubt: Option<Doubt>) -> (State, Vec<Output>) {
    state.phase = state.over();
    let mut outputs = state.to_others(&Body::Abort {
        reason: reason.clone(),
        doubt: doubt.clone(),
    });
    outputs.push(Output::Fail { reason, doubt });
    (state, outputs)
}

/// Of the ranks with these digests in order those whose digest is not that of the majority; empty where there is no majority,
/// and none if all digests are the same.
pub fn dissenters(digests: &[u64]) -> Option<Vec<u32>> {
    let votes = |digest: u64| digests.iter().filter(|other| **other == digest).count();
    let ranks = (0..).zip(digests);
    let dissenters = ranks.filter(|(_, digest)| 2 * votes(**digest) <= digests.len());
    let dissenters: Vec<u32> = dissenters.map(|(rank, _)| rank).collect();
    match dissenters.len() {
        0 => None,
        all if all == digests.len() => Some(Vec::new()),
        _ => Some(dissenters),
    }
}

fn names(ranks: &[u32]) -> String {
    let names: Vec<String> = ranks.iter().map(|rank| format!("rank {rank}")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
