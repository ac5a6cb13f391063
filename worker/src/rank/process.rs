//! `medley-worker rank`: one rank, from its first order to its last report.

use super::failure::Failure;
use super::pipes::{Orders, Voice};
use crate::objects::Objects;
use crate::stage;
use medley_model::device::Device;
use medley_protocol::agent::{Assignment, RankState, ToRank};
use medley_protocol::spec::Precision;
use std::process::ExitCode;
use std::time::Duration;

/// Time for the first order.
const START_PATIENCE: Duration = Duration::from_mins(1);

/// All that a stage's work needs to know.
#[derive(Debug)]
pub struct Context {
    /// The assignment.
    pub assignment: Assignment,
    /// This rank's number.
    pub rank: u32,
    /// Host under which peers reach this rank.
    pub host: String,
    /// Orders of the agent.
    pub orders: Orders,
    /// Reports to the agent.
    pub voice: Voice,
    /// The object store.
    pub objects: Objects,
    /// Where it computes.
    pub device: Device,
    /// Its numerics fingerprint.
    pub fingerprint: String,
}

/// Runs the rank. The agent has been told why if the exit code is not 0.
pub fn run() -> ExitCode {
    medley_model::ops::keep_freed_memory();
    let voice = Voice::new();
    match work(&voice) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(retry = failure.retry, "{failure}");
            voice.state(failure.state());
            ExitCode::FAILURE
        }
    }
}

fn work(voice: &Voice) -> Result<(), Failure> {
    let orders = Orders::listen()?;
    let first = orders.next(START_PATIENCE);
    let Some(ToRank::Start {
        assignment,
        rank,
        host,
        threads,
        device: name,
    }) = first
    else {
        return Err(Failure::passing(format!(
            "the first order must be to start, within {} s",
            START_PATIENCE.as_secs()
        )));
    };
    voice.enter(assignment.generation);
    voice.state(RankState::Starting);
    voice.pulse()?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1) as usize)
        .build_global()
        .map_err(|e| Failure::passing(format!("cannot start {threads} threads: {e}")))?;
    let objects = Objects::open(&assignment.store)?;
    let device: Device = name.parse()?;
    if assignment.kind.computes() && assignment.spec.precision() == Precision::Bf16 && !device.rounds() {
        return Err(Failure::passing(format!(
            "pretrain.precision is bf16, which GPUs alone compute in, and this rank was put on {name}"
        )));
    }
    let context = Context {
        assignment: *assignment,
        rank,
        host,
        orders,
        voice: voice.clone(),
        objects,
        fingerprint: super::fingerprint(&name)?,
        device,
    };
    let (stage, generation) = (&context.assignment.stage_name, context.assignment.generation);
    tracing::info!(stage, generation, rank, threads, device = name, "starts");
    if context.assignment.kind.is_training() {
        stage::train::run(context)
    } else {
        stage::tasks::run(&context)
    }
}
