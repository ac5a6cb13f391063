//! `medley chaos`: a training whose processes are killed and stopped, compared with one that is left alone.
//!
//! It is what a user could do by hand: start a cluster, submit a job, and send signals to its processes ([`processes`]) as a seed
//! says ([`faults`]). What the ranks logged tells how long each fault held the training up ([`timeline`]); at the end both
//! trainings must hold the same bytes.

mod args;
mod faults;
mod processes;
mod summary;
mod timeline;

pub(crate) use args::Args;

use crate::Ending;
use crate::cluster::{Cluster, Programs, Restarts, Settings, address, make_state_dir};
use crate::connect::explain;
use crate::console::{Screen, duration, print, print_json};
use crate::jobs::events;
use crate::signals::Signals;
use crate::submit::{fresh_key, submit};
use crate::up::{await_nodes, stop};
use anyhow::{Context, Result, anyhow, bail};
use chrono::Utc;
use faults::{Fault, Plan};
use medley_data::synth::{self, SynthSpec};
use medley_protocol::client::Client;
use medley_protocol::ids::JobId;
use medley_protocol::rest::{CheckpointView, JobDetail};
use medley_protocol::stage::{JobState, StageState};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use summary::{Blow, Effects, Summary};
use timeline::Timeline;

/// Steps of the training that measures the speed.
const TRIAL_STEPS: u64 = 60;
/// Time in which a fault shows in what the coordinator says of the job, such as a rank that hangs.
const SHOWN: Duration = Duration::from_secs(2);
/// Part of the time asked for that an undisturbed training would take.
const SHARE: f64 = 0.7;
/// Longest wait for a job, beyond the time asked for.
const PATIENCE: Duration = Duration::from_mins(10);
const LOOK: Duration = Duration::from_millis(200);
/// What ranks log besides the usual: each committed step.
const LOG: &str = "info,medley_worker::stage::train=debug";

/// Runs the command.
///
/// # Errors
/// When the cluster does not start, a job fails, no fault struck, or the trainings end with different bytes.
pub(crate) async fn run(args: Args, json: bool) -> Result<Ending> {
    args.check_lanes()?;
    let mut signals = Signals::listen()?;
    let screen = Screen::stderr();
    clear(&args.state_dir)?;
    let settings = Settings {
        programs: Programs::beside_this_one()?,
        state_dir: make_state_dir(&args.state_dir)?,
        nodes: args.nodes,
        devices: Some(args.devices),
        threads: 1,
        listen: address(None),
        restarts: Restarts::Always,
        log: Some(LOG.into()),
    };
    screen.line(&format!(
        "starting a coordinator and {} nodes with {} ranks each on this machine",
        args.nodes, args.devices
    ));
    let mut cluster = tokio::select! {
        started = Cluster::start(&settings, &screen) => started?,
        () = signals.next() => return Ok(Ending::Interrupted),
    };
    let chaos = Chaos {
        client: cluster.client()?,
        settings: &settings,
        args: &args,
        screen: &screen,
    };
    let outcome = tokio::select! {
        outcome = chaos.run() => outcome.map(Some),
        failure = cluster.failure() => Err(anyhow!(failure)),
        () = signals.next() => Ok(None),
    };
    stop(cluster, &screen, &mut signals).await;
    let Some(summary) = outcome? else {
        return Ok(Ending::Interrupted);
    };
    if json {
        print_json(&summary)?;
    } else {
        print(&summary.text())?;
    }
    if !summary.equal {
        bail!(
            "the disturbed training ended with other bytes; all is kept in {}",
            settings.state_dir.display()
        );
    }
    Ok(Ending::Success)
}

/// Removes what an earlier run has left; nothing else.
fn clear(state_dir: &Path) -> Result<()> {
    let is_ours = state_dir.join("tokens").is_dir() && state_dir.join("chaos").is_dir();
    let is_empty = std::fs::read_dir(state_dir).map_or(true, |mut entries| entries.next().is_none());
    if is_ours {
        let context = || format!("cannot remove {}", state_dir.display());
        std::fs::remove_dir_all(state_dir).with_context(context)?;
    } else if !is_empty {
        bail!(
            "--state-dir: {} was not made by this command; name another one",
            state_dir.display()
        );
    }
    std::fs::create_dir_all(state_dir.join("chaos"))?;
    Ok(())
}

struct Chaos<'a> {
    client: Client,
    settings: &'a Settings,
    args: &'a Args,
    screen: &'a Screen,
}

impl Chaos<'_> {
    async fn run(&self) -> Result<Summary> {
        let data = self.settings.state_dir.join("chaos/data");
        synth::generate(&corpus(self.args.lanes()), &data, &mut |_, _| {})
            .with_context(|| format!("cannot generate the corpus in {}", data.display()))?;
        await_nodes(&self.client, self.settings, self.screen).await;

        let trial = self.train("trial", TRIAL_STEPS, &data).await?;
        self.finish(trial).await?;
        // Its first steps take longer: with the mean, the trainings would end before all faults are struck.
        let step = self.timeline()?.median_step();
        let speed = 1.0 / step.context("the trial's ranks logged no step")?;
        let steps = (self.quiet_seconds() * speed).ceil().max(TRIAL_STEPS as f64) as u64;
        self.screen.line(&format!(
            "{speed:.1} steps/s; {steps} steps follow, disturbed and then undisturbed"
        ));

        let began = Utc::now();
        let disturbed = self.train("disturbed", steps, &data).await?;
        let blows = self.disturb(disturbed).await?;
        let disturbed_digest = self.finish(disturbed).await?;
        if blows.is_empty() {
            bail!("no fault struck, so that nothing was tried: give more --minutes or a smaller --every");
        }
        let (timeline, ended) = (self.timeline()?.since(began), Utc::now());
        let events = events(&self.client, disturbed, 0).await?;
        let effects = Effects::of(&blows, &timeline, &events, &self.args.faults);
        let faults = blows.len();
        self.screen
            .line(&format!("over, after {faults} faults; now the same without any"));

        let undisturbed = self.train("undisturbed", steps, &data).await?;
        let undisturbed_digest = self.finish(undisturbed).await?;
        let quiet = self.timeline()?.since(ended);
        let equal = disturbed_digest == undisturbed_digest;
        Ok(Summary::new(effects, &timeline, &quiet, &events, equal))
    }

    /// Time that the training would take if it were left alone.
    fn quiet_seconds(&self) -> f64 {
        let Args {
            count, every, faults, ..
        } = self.args;
        // A node that stands still leaves its processors to the others: they are faster meanwhile.
        let counted = count.map(|count| {
            let times = faults.iter().map(|kind| every + kind.heals_after());
            f64::from(count) * times.sum::<f64>()
        });
        counted.unwrap_or(self.args.minutes * 60.0 * SHARE)
    }

    async fn train(&self, name: &str, steps: u64, data: &Path) -> Result<JobId> {
        let document = json!({
            "name": name, "kind": "pretrain", "preset": self.args.preset,
            "data": { "root": data, "web": "", "test": "" },
            "lanes": { "count": self.args.lanes(), "batch": 2 },
            "cluster": { "max_ranks": self.args.ranks() },
            "pretrain": { "length": { "by": "steps", "count": steps }, "warmup_steps": 10 },
            "checkpoint": { "every_steps": 500 },
        });
        let job = submit(&self.client, &document, &fresh_key()).await?.job;
        self.screen.line(&format!("job {} ({name}): {steps} steps", job.id));
        Ok(job.id)
    }

    /// Strikes until the job is over. Faults that are counted are measured one by one: the training first has all its ranks again.
    async fn disturb(&self, job: JobId) -> Result<Vec<Blow>> {
        let mut plan = Plan::new(self.args.seed, self.args.every, &self.args.faults, self.args.count);
        let mut blows = Vec::new();
        let deadline = Instant::now() + self.patience();
        let mut pause = plan.pause();
        let mut next = Instant::now() + pause;
        let mut stopped: Vec<(Instant, Vec<u32>)> = Vec::new();
        loop {
            let detail = self.look(job).await?;
            let is_over = detail.as_ref().is_some_and(|detail| detail.job.state.is_final());
            if is_over || Instant::now() > deadline {
                if plan.is_counting() {
                    self.screen
                        .line("the training ended before all faults were struck: ask for a larger --every");
                }
                processes::go_on(&stopped.into_iter().flat_map(|(_, pids)| pids).collect::<Vec<_>>());
                return Ok(blows);
            }
            for (_, pids) in stopped.extract_if(.., |(until, _)| *until <= Instant::now()) {
                processes::go_on(&pids);
            }
            let is_whole = stopped.is_empty() && detail.is_some_and(|detail| self.has_all_ranks(&detail));
            if self.args.count.is_some() && !is_whole {
                next = Instant::now() + pause;
            }
            if Instant::now() >= next {
                if let Some(fault) = plan.fault()
                    && let Some(pids) = processes::strike(fault, self.settings)
                {
                    plan.struck(fault.kind);
                    let at = Utc::now();
                    self.screen.line(&format!("{}  {fault}", at.format("%H:%M:%S%.3f")));
                    blows.push(Blow { fault, at });
                    if let Fault { lasts: Some(lasts), .. } = fault {
                        stopped.push((Instant::now() + lasts, pids));
                    }
                }
                pause = plan.pause();
                let shown = if self.args.count.is_some() {
                    SHOWN
                } else {
                    Duration::ZERO
                };
                next = Instant::now() + pause.max(shown);
            }
            tokio::time::sleep(LOOK.min(next.saturating_duration_since(Instant::now()))).await;
        }
    }

    fn has_all_ranks(&self, detail: &JobDetail) -> bool {
        let mut running = detail.stages.iter().filter(|stage| stage.state == StageState::Running);
        running.any(|stage| stage.kind.is_training() && stage.world == self.args.ranks())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.quiet_seconds() / SHARE * 3.0) + PATIENCE
    }

    /// The job, unless the coordinator is down just now.
    async fn look(&self, job: JobId) -> Result<Option<JobDetail>> {
        match self.client.get(&format!("/jobs/{job}")).await {
            Ok(detail) => Ok(Some(detail)),
            Err(error) if error.is_transient() => Ok(None),
            Err(error) => Err(explain(error)),
        }
    }

    /// Waits for the end of a job; the digest of its last state.
    async fn finish(&self, job: JobId) -> Result<blake3::Hash> {
        let deadline = Instant::now() + self.patience();
        let detail = loop {
            if let Some(detail) = self.look(job).await?.filter(|detail| detail.job.state.is_final()) {
                break detail;
            }
            if Instant::now() > deadline {
                bail!("job {job} is not over in time: see {}", self.settings.logs().display());
            }
            tokio::time::sleep(LOOK).await;
        };
        if detail.job.state != JobState::Succeeded {
            bail!("job {job} failed: {}", detail.job.reason);
        }
        let path = format!("/jobs/{job}/checkpoints");
        let all: Vec<CheckpointView> = self.client.get(&path).await.map_err(explain)?;
        let last = all.into_iter().max_by_key(|checkpoint| checkpoint.step);
        let last = last.with_context(|| format!("job {job} has no checkpoint"))?;
        let mut hasher = blake3::Hasher::new();
        for part in &last.parts {
            let path = self.settings.state_dir.join("store").join(&part.object.key);
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            hasher.update(&bytes);
        }
        let digest = hasher.finalize();
        self.screen
            .line(&format!("step {} has state {}", last.step, &digest.to_hex()[..16]));
        Ok(digest)
    }

    fn timeline(&self) -> Result<Timeline> {
        Timeline::read(&self.settings.logs())
    }
}

/// Enough pairs for a step; what they show does not matter here.
fn corpus(lanes: u32) -> SynthSpec {
    SynthSpec {
        seed: 7,
        human: (4 * lanes).max(64),
        web: 0,
        test: 0,
        shard: 64,
        other: 0.0,
        half_true: 0.0,
        boilerplate: 0.0,
    }
}

/// A duration in milliseconds, for people.
fn span(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds < 60.0 {
        format!("{seconds:.2} s")
    } else {
        duration(seconds)
    }
}
