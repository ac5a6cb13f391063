//! `medley-worker rank`: one rank, from its first order to its last report.

use super::failure::Failure;
use super::pipes::{Orders, Voice};
use crate::objects::Objects;
use crate::stage;
use medley_model::device::Device;
use medley_protocol::agent::{Assignment, RankState, ToRank};
use medley_protocol::spec::{Precision, Spec};
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
    if assignment.kind.computes() {
        suits(&assignment.spec, (device.is_gpu(), device.rounds()), &name)?;
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

/// Refuses a device that cannot compute what the job asks for, whoever starts there again.
fn suits(spec: &Spec, (is_gpu, rounds): (bool, bool), name: &str) -> Result<(), Failure> {
    if spec.precision() == Precision::Bf16 && !rounds {
        return Err(Failure::lasting(format!(
            "pretrain.precision is bf16, which GPUs alone compute in, and this rank was put on {name}"
        )));
    }
    match spec.model.not_for_gpus().into_iter().next() {
        Some(problem) if is_gpu => Err(Failure::lasting(format!(
            "{} {}, or run the job on processors; this rank was put on {name}",
            problem.path, problem.message
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_device_that_cannot_compute_the_job_is_refused_for_good_and_why() {
        let spec = |model: serde_json::Value, precision: &str| {
            let document = json!({"name": "j", "kind": "pretrain", "preset": "tiny", "data": {"root": "/d"},
                "model": model, "pretrain": {"precision": precision}});
            Spec::from_document(&document).unwrap()
        };
        let refusal = |spec: &Spec, device, name| {
            let failure = suits(spec, device, name).unwrap_err();
            assert!(!failure.retry && failure.reason.contains(name), "{failure}");
            failure.reason
        };
        let plain = spec(json!({}), "bf16");
        assert!(refusal(&plain, (false, false), "cpu").starts_with("pretrain.precision is bf16"));
        assert_eq!(suits(&plain, (true, true), "cuda:0:bf16"), Ok(()));
        let wide = spec(json!({"vision": {"width": 384, "heads": 4}}), "fp32");
        assert_eq!(suits(&wide, (false, false), "cpu"), Ok(()));
        let reason = refusal(&wide, (true, false), "cuda:0");
        assert!(
            reason.starts_with("model.vision.heads is 4: GPUs compute heads of at most 64"),
            "{reason}"
        );
    }
}
