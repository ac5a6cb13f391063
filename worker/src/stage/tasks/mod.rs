//! Leased tasks as one rank works on them.
//!
//! A rank asks for a task, does it, hands in the result and asks for the next, until its agent ends it. What the tasks
//! of a stage have in common, such as models, is loaded by the first task that needs it and kept.
//!
//! A task is a function of the assignment and of the store. Nothing depends on which rank does it, in what order or how
//! often, and results are objects named by their content: the same task done twice makes the same object, and an
//! expired lease does no harm.

mod capfilt;
mod evaluate;
mod index;
pub(crate) mod pixels;
mod pulse;
mod trained;

use crate::objects::Objects;
use crate::rank::failure::Failure;
use crate::rank::memory::peak_bytes;
use crate::rank::pipes::Voice;
use crate::rank::process::Context;
use medley_model::device::Device;
use medley_protocol::agent::{FromRank, RankState, StageInputs, ToRank};
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::spec::Spec;
use medley_protocol::tasks::{Lease, ShardName, TaskOutput, TaskWork};
use pulse::Pulse;
use serde::Serialize;
use std::time::Duration;

/// Time between two looks for an order; the rank's end comes by its pipe, not by this.
const LISTEN: Duration = Duration::from_mins(1);
/// Longest part of an object's key that a shard's name makes up.
const MAX_NAME: usize = 100;

/// Asks for tasks and does them until the agent ends the rank.
///
/// # Errors
/// [`Failure`] when the rank cannot work at all; a task that fails is reported and the next one asked for.
pub fn run(context: &Context) -> Result<(), Failure> {
    let given = Given {
        spec: &context.assignment.spec,
        inputs: &context.assignment.inputs,
        objects: &context.objects,
        device: &context.device,
    };
    let mut desk = Desk::new(given);
    let voice = &context.voice;
    voice.state(RankState::Running { committed: 0 });
    voice.say(&FromRank::LeaseWanted);
    loop {
        // An answer without a lease needs none: the agent asks again for this rank.
        if let Some(ToRank::Lease { lease: Some(lease) }) = context.orders.next(LISTEN) {
            let said = work(&mut desk, lease, voice)?;
            let has_failed = matches!(said, FromRank::TaskFailed { .. });
            voice.say(&said);
            if has_failed {
                // A device that is lost to this process stays so: another one may do better.
                context.device.check()?;
            }
            voice.say(&FromRank::LeaseWanted);
        }
    }
}

/// Does a leased task, renewing its lease meanwhile.
fn work(desk: &mut Desk, lease: Lease, voice: &Voice) -> Result<FromRank, Failure> {
    tracing::info!(task = %lease.task, work = ?lease.work, "begins");
    let (renewed, voice) = (lease.clone(), voice.clone());
    let pulse = Pulse::start(move |done, total| {
        let lease = renewed.clone();
        voice.say(&FromRank::TaskProgress { lease, done, total });
    })?;
    let result = desk.perform(&lease.work, &mut |done, total| pulse.tell(done, total));
    // Nothing may be said about the task after its result.
    drop(pulse);
    Ok(report(lease, result))
}

fn report(lease: Lease, result: Result<TaskOutput, Failure>) -> FromRank {
    match result {
        Ok(output) => {
            tracing::info!(task = %lease.task, "is done");
            FromRank::TaskDone {
                lease,
                output,
                peak_bytes: peak_bytes(),
            }
        }
        Err(Failure { reason, retry, .. }) => {
            tracing::warn!(task = %lease.task, retry, "cannot be done: {reason}");
            FromRank::TaskFailed { lease, reason, retry }
        }
    }
}

/// What every task of a stage is given.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The spec of the job.
    pub spec: &'a Spec,
    /// What the stage starts from.
    pub inputs: &'a StageInputs,
    /// The object store.
    pub objects: &'a Objects,
    /// Where it computes.
    pub device: &'a Device,
}

/// Where tasks are done: keeps what was loaded for earlier ones.
pub struct Desk<'a> {
    given: Given<'a>,
    capfilt: Option<capfilt::Tools>,
}

impl<'a> Desk<'a> {
    /// Nothing is loaded yet.
    pub fn new(given: Given<'a>) -> Self {
        Self { given, capfilt: None }
    }

    /// Does a task. `progress` is told (done, total) as it goes on.
    ///
    /// # Errors
    /// [`Failure`]: why the task cannot be done, and whether another try may help.
    pub fn perform(&mut self, work: &TaskWork, progress: &mut dyn FnMut(u64, u64)) -> Result<TaskOutput, Failure> {
        let given = self.given;
        match work {
            TaskWork::IndexShard { shard } => index::shard(given, shard, progress),
            TaskWork::IndexMerge { shards } => index::merge(given, shards),
            TaskWork::CapfiltShard { shard } => {
                let mut tools = match self.capfilt.take() {
                    Some(tools) => tools,
                    None => capfilt::Tools::load(given)?,
                };
                // Where this fails they are not kept: a device may have left anything in them.
                let output = tools.shard(given, shard, progress)?;
                self.capfilt = Some(tools);
                Ok(output)
            }
            TaskWork::CapfiltMerge { overlays } => capfilt::merge(given, overlays),
            TaskWork::Evaluate => evaluate::run(given, progress),
        }
    }
}

/// Writes a value as a JSON object under a name that its content completes.
fn put_json(objects: &Objects, name: &str, value: &impl Serialize) -> Result<ObjectRef, Failure> {
    let bytes = serde_json::to_vec(value).map_err(|e| Failure::lasting(format!("{name}: {e}")))?;
    Ok(objects.put(name, bytes)?)
}

/// The name of an object made from a shard, for people who look into the store.
fn object_name(folder: &str, shard: &ShardName) -> String {
    let harmless = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '.' | '_' | '-') => c,
        _ => '-',
    };
    let file: String = shard.file.chars().take(MAX_NAME).map(harmless).collect();
    format!("{folder}/{}-{file}", shard.set.name())
}

#[cfg(test)]
mod tests;
