//! The thin shell around the agent's [`core`](super::core): clock, processes and requests.
//!
//! One task owns the core and feeds it one input at a time. Every call to the coordinator is a task of its own that ends
//! by its deadline and puts the answer into the same channel, so nothing slow delays a beat. Rank processes have threads
//! of their own that put into it what ranks say; when it is full they wait, and so do their ranks.

use super::calls::Coordinators;
use super::core::{Input, Output, ProcessId, State, step};
use super::door;
use super::gpu::{self, Source};
use crate::supervise::{Event, RankProcess};
use medley_protocol::agent::{Register, ToRank};
use medley_protocol::hardware::Hardware;
use std::collections::{HashMap, VecDeque};
use std::fs::OpenOptions;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

/// Time between two looks at the clock.
const TICK: Duration = Duration::from_millis(25);
/// Inputs that may wait.
const MAX_INPUTS: usize = 1024;
/// Time for ranks to end and facts to arrive once the agent stops.
const STOP_PATIENCE: Duration = Duration::from_secs(4);

/// What an agent needs to run.
pub struct Settings {
    /// The coordinators, of which one leads.
    pub coordinators: Coordinators,
    /// What this node is.
    pub register: Register,
    /// What its ranks compute on.
    pub hardware: Hardware,
    /// What reads its GPUs, if it has any.
    pub source: Option<Box<dyn Source>>,
    /// The program that is a rank when called with the argument `rank`.
    pub program: PathBuf,
    /// Folder for the logs of ranks; without it they inherit the agent's standard error.
    pub log_dir: Option<PathBuf>,
    /// Time that ranks have to leave their stages when the agent is to end.
    pub grace: Duration,
}

/// The agent could not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Halted {
    /// Why and what to do.
    pub reason: String,
}

/// Serves the coordinator until `leave` or `stop` is ready: the one lets ranks leave their stages for as long as the agent's
/// grace, the other does not. All ranks are gone when this returns.
///
/// # Errors
/// [`Halted`] when the coordinator refuses this agent for good, or other nodes could not reach this one.
pub async fn serve(
    mut settings: Settings,
    leave: impl Future<Output = ()>,
    stop: impl Future<Output = ()>,
) -> Result<(), Halted> {
    let grace = settings.grace;
    let (inputs, mut inbox) = mpsc::channel(MAX_INPUTS);
    let host = &settings.register.host;
    let address = door::open(host).map_err(|e| Halted {
        reason: format!("cannot listen for other nodes on --host {host}: {e}"),
    })?;
    if let Some(source) = settings.source.take() {
        let watched = gpu::watch(source, settings.hardware.gpus.clone(), inputs.clone());
        watched.map_err(|e| Halted {
            reason: format!("no thread can be started that reads the GPUs: {e}"),
        })?;
    }
    let mut shell = Shell::new(settings, address, inputs);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(leave, stop);
    let mut leaves = false;
    let mut deadline = None;
    loop {
        let input = tokio::select! {
            biased;
            () = &mut stop, if deadline.is_none() => Input::Stop,
            () = &mut leave, if deadline.is_none() && !leaves => Input::Leave { grace },
            Some(input) = inbox.recv() => input,
            _ = ticks.tick() => Input::Tick,
        };
        leaves |= matches!(input, Input::Leave { .. });
        shell.feed(input);
        if deadline.is_none() && shell.stops() {
            tracing::info!("agent stops");
            deadline = Some(Instant::now() + STOP_PATIENCE);
        }
        if deadline.is_some_and(|deadline| shell.is_done() || Instant::now() >= deadline) {
            break;
        }
    }
    shell.halted.map_or(Ok(()), |reason| Err(Halted { reason }))
}

struct Shell {
    settings: Settings,
    started: Instant,
    /// None only while a step is taken.
    state: Option<State>,
    processes: HashMap<ProcessId, RankProcess>,
    inputs: mpsc::Sender<Input>,
    halted: Option<String>,
}

impl Shell {
    fn new(settings: Settings, address: String, inputs: mpsc::Sender<Input>) -> Self {
        let state = State::new(settings.register.clone());
        Self {
            started: Instant::now(),
            state: Some(state.reachable_at(address).equipped_with(settings.hardware.clone())),
            settings,
            processes: HashMap::new(),
            inputs,
            halted: None,
        }
    }

    fn stops(&self) -> bool {
        self.state.as_ref().is_none_or(State::stops)
    }

    fn is_done(&self) -> bool {
        self.state.as_ref().is_none_or(State::is_done)
    }

    /// Takes a step and carries out what it asks for; what that causes at once is fed as well.
    fn feed(&mut self, input: Input) {
        let mut waiting = VecDeque::from([input]);
        while let Some(input) = waiting.pop_front() {
            self.before(&input);
            let state = self.state.take().expect("every step puts the state back");
            let (state, outputs) = step(state, input, self.started.elapsed());
            self.state = Some(state);
            waiting.extend(outputs.into_iter().filter_map(|output| self.perform(output)));
        }
    }

    /// Lets go of processes that have ended.
    fn before(&mut self, input: &Input) {
        if let Input::Rank {
            process,
            event: Event::Exited(_),
        } = input
        {
            self.processes.remove(process);
        }
    }

    /// Carries out an output; returns what it causes at once.
    fn perform(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Register(body) => {
                self.call(async move |coordinators| Input::Registered(coordinators.register(&body).await));
            }
            Output::Beat { beat, patience } => {
                self.call(async move |coordinators| Input::Ordered(coordinators.beat(&beat, patience).await));
            }
            Output::Send { id, request } => self.call(async move |coordinators| {
                let answer = coordinators.send(&request).await;
                Input::Answered { id, answer }
            }),
            Output::Start { process, device, order } => return self.start(process, device, &order),
            Output::Tell { process, order } => self.tell(process, &order),
            Output::Kill { process } => self.kill(process),
            Output::Probe { node, address } => self.call(async move |_| {
                let reached = door::knock(&address).await;
                Input::Probed { node, reached }
            }),
            Output::Info(text) => tracing::info!("{text}"),
            Output::Warn(text) => tracing::warn!("{text}"),
            Output::Halt { reason } => self.halted = Some(reason),
        }
        None
    }

    /// Makes a call in a task of its own; it ends by the call's deadline, and with the agent.
    fn call<F: Future<Output = Input> + Send + 'static>(&self, call: impl FnOnce(Coordinators) -> F) {
        let (call, inputs) = (call(self.settings.coordinators.clone()), self.inputs.clone());
        tokio::spawn(async move {
            // Nobody listens any more when the agent has ended.
            let _ = inputs.send(call.await).await;
        });
    }

    fn start(&mut self, process: ProcessId, device: u32, order: &ToRank) -> Option<Input> {
        match self.spawn(process, device) {
            Ok(rank) => {
                if let ToRank::Start {
                    assignment,
                    rank: number,
                    ..
                } = order
                {
                    let (stage, generation, pid) = (&assignment.stage_name, assignment.generation, rank.pid());
                    tracing::info!(stage, generation, rank = number, device, pid, "rank starts");
                }
                self.processes.insert(process, rank);
                self.tell(process, order);
                None
            }
            Err(e) => {
                tracing::error!(device, "a rank cannot be started: {e}");
                let event = Event::Exited(format!("could not be started: {e}"));
                Some(Input::Rank { process, event })
            }
        }
    }

    fn spawn(&self, process: ProcessId, device: u32) -> io::Result<RankProcess> {
        let stderr = match &self.settings.log_dir {
            None => Stdio::inherit(),
            Some(dir) => {
                let path = dir.join(format!("rank-{device}.log"));
                let named = |e: io::Error| io::Error::new(e.kind(), format!("its log {}: {e}", path.display()));
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&path)
                    .map_err(named)?
                    .into()
            }
        };
        let inputs = self.inputs.clone();
        let gpus = &self.settings.hardware.gpus;
        let gpu = gpus
            .get(device as usize % gpus.len().max(1))
            .map(|gpu| gpu.uuid.as_str());
        RankProcess::spawn(&self.settings.program, gpu, stderr, move |event| {
            let _ = inputs.blocking_send(Input::Rank { process, event });
        })
    }

    fn tell(&self, process: ProcessId, order: &ToRank) {
        let Some(rank) = self.processes.get(&process) else {
            return;
        };
        if let Err(e) = rank.tell(order) {
            // What it said before, and its end, are still on their way.
            tracing::warn!(pid = rank.pid(), "a rank is killed because it takes no orders: {e}");
            rank.kill();
        }
    }

    fn kill(&self, process: ProcessId) {
        if let Some(rank) = self.processes.get(&process) {
            tracing::info!(pid = rank.pid(), "rank is no longer wanted");
            rank.kill();
        }
    }
}

#[cfg(test)]
mod tests;
