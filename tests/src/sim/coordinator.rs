//! A coordinator that leads, around the product's decisions. Its memory dies with it; the job table does not.

use super::leases::Stale;
use super::table::Table;
use medley_coordinator::domain::decision::Decision;
use medley_coordinator::reconcile::control::{Control, Unheard};
use medley_coordinator::reconcile::decide::{Memory, decide};
use medley_coordinator::reconcile::sight::Refused;
use medley_coordinator::reconcile::{Settings, orders};
use medley_protocol::agent::{Beat, Orders, Register, Registered};
use medley_protocol::error::Code;
use medley_protocol::metrics::MetricsThrough;
use medley_worker::agent::core::{Input, Reply, Request, RequestId, Trouble};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

/// Longest wait for the answer to anything but a beat.
const PATIENCE: Duration = Duration::from_secs(20);

/// Virtual time as the coordinator reads it.
#[derive(Clone, Default)]
pub(super) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(super) fn set(&self, now: Duration) {
        self.0.store(now.as_micros() as u64, Ordering::Relaxed);
    }

    fn read(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// A call to the coordinator.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    Register(Register),
    Beat { beat: Beat, patience: Duration },
    Send { id: RequestId, request: Request },
}

impl Ask {
    /// What the agent gets when there is no answer.
    pub(super) fn away(&self, why: &str) -> Input {
        self.refused(Trouble::Away(why.into()))
    }

    pub(super) fn patience(&self) -> Duration {
        match self {
            Self::Beat { patience, .. } => *patience,
            _ => PATIENCE,
        }
    }

    fn refused(&self, trouble: Trouble) -> Input {
        match self {
            Self::Register(_) => Input::Registered(Err(trouble)),
            Self::Beat { .. } => Input::Ordered(Err(trouble)),
            Self::Send { id, .. } => Input::Answered {
                id: *id,
                answer: Err(trouble),
            },
        }
    }
}

pub(super) struct Coordinator {
    control: Control,
    memory: Memory,
}

/// Limits of the product, the long ones shortened.
fn settings() -> Settings {
    Settings {
        start_limit: Duration::from_secs(20),
        step_limit: Duration::from_secs(20),
        connect_limit: Duration::from_secs(20),
        grow_after: Duration::from_millis(300),
        ..Settings::default()
    }
}

impl Coordinator {
    /// Time between two decisions when nothing calls for one.
    pub(super) fn tick() -> Duration {
        settings().tick
    }

    /// Takes the office over, as every coordinator does when it starts.
    pub(super) fn lead(table: &Table, clock: &Clock) -> Self {
        let clock = clock.clone();
        let control = Control::with_clock(settings(), move || clock.read());
        control.lead(table.known_nodes());
        Self {
            control,
            memory: Memory::default(),
        }
    }

    /// Whether something happened that calls for a decision.
    pub(super) fn was_woken(&self) -> bool {
        let woken = pin!(self.control.woken());
        woken.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Decides and writes the decision; publishes it unless this coordinator is to die in between.
    pub(super) fn decide(&mut self, table: &mut Table, publish: bool) -> Result<Decision, String> {
        let now = self.control.now();
        let mut sight = self.control.sight();
        sight.withhold(BTreeMap::new());
        let jobs = table.active_jobs(now);
        let settings = self.control.settings();
        let decided = decide(self.memory.clone(), &sight, jobs, now, settings, &mut table.mint);
        let (mut memory, decision) = decided.map_err(|invalid| invalid.to_string())?;
        let desired = orders::desired(&decision.jobs, &sight, "memory:///");
        let concerned = memory.told.concerned(&desired, sight.nodes.keys().copied());
        let revisions = table.save(&decision, &concerned);
        memory.told.tell(desired, &revisions);
        self.memory = memory;
        if publish {
            let probes = self.memory.reach.probes(&sight);
            self.control.publish(&self.memory.told, probes, &sight);
        }
        Ok(decision)
    }

    pub(super) fn answer(&self, ask: &Ask, table: &mut Table) -> Input {
        match ask {
            Ask::Register(register) => {
                let known = table.register(register);
                let settings = self.control.settings();
                let registered = Registered {
                    node: known.id,
                    beat_ms: settings.beat.as_millis() as u64,
                    silence_ms: settings.silence.as_millis() as u64,
                };
                self.control.meet(known);
                Input::Registered(Ok(registered))
            }
            Ask::Beat { beat, .. } => Input::Ordered(self.beat(beat)),
            Ask::Send { id, request } => Input::Answered {
                id: *id,
                answer: self.take(request, table),
            },
        }
    }

    fn beat(&self, beat: &Beat) -> Result<Orders, Trouble> {
        let orders = self.control.beat(beat.clone()).map_err(|unheard| match unheard {
            Unheard::NotLeading => refused(Code::Unavailable),
            Unheard::Refused(Refused::Unknown) => refused(Code::NotFound),
            Unheard::Refused(Refused::Stale) => refused(Code::Stale),
        })?;
        Ok((*orders).clone())
    }

    fn take(&self, request: &Request, table: &mut Table) -> Result<Reply, Trouble> {
        let now = self.control.now();
        let through = |next_step| Reply::Through(MetricsThrough { next_step });
        let counted = |counted: bool| {
            if counted {
                Ok(Reply::Done)
            } else {
                Err(refused(Code::Stale))
            }
        };
        match request {
            Request::MetricsThrough { stage } => Ok(through(table.metrics_through(*stage))),
            Request::Metrics { stage, chunk } => {
                let stored = table.add_metrics(*stage, chunk);
                stored.map(through).ok_or_else(|| refused(Code::Conflict))
            }
            Request::Part { stage, body } => {
                if table.add_part(*stage, body.generation, &body.part) {
                    self.control.wake();
                }
                Ok(Reply::Done)
            }
            // The played store takes everything.
            Request::Refused { .. } => Ok(Reply::Done),
            Request::Lease { stage, body, .. } => {
                let lease = table.claim(*stage, body, now);
                lease.map(Reply::Lease).map_err(|Stale| refused(Code::Stale))
            }
            Request::Renew { task, body } => counted(table.renew(*task, body.token, now)),
            Request::Finish { task, body } => {
                let finished = table.finish(*task, body.token, &body.output);
                self.control.wake();
                counted(finished)
            }
            Request::Fail { task, body } => {
                let given_up = table.give_up(*task, body.token, &body.reason, body.retry);
                self.control.wake();
                counted(given_up)
            }
        }
    }
}

fn refused(code: Code) -> Trouble {
    Trouble::Refused {
        code,
        detail: code.title().into(),
    }
}
