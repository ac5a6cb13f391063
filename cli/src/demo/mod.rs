//! `medley demo`: the whole recipe on a generated corpus, on a cluster of this machine, with a report at the end.
//!
//! It is what a user could do by hand: start a cluster ([`crate::cluster`]), submit a job over REST, follow it, read its
//! results. Interrupted, it goes on where it was ([`memory`]).

mod memory;
mod recipe;

use crate::Ending;
use crate::cluster::{Cluster, Programs, Restarts, Settings, address, make_state_dir};
use crate::connect::{DEFAULT_STATE_DIR, explain};
use crate::console::{Screen, print, print_json};
use crate::follow::watch;
use crate::report::{self, Places, Report};
use crate::signals::Signals;
use crate::submit::{fresh_key, submit};
use crate::up::{await_nodes, stop};
use anyhow::{Context, Result, anyhow, bail};
use medley_data::synth;
use medley_protocol::client::Client;
use medley_protocol::error::Code;
use medley_protocol::ids::JobId;
use medley_protocol::rest::JobDetail;
use medley_protocol::stage::JobState;
use memory::{Decision, Memory, decide};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;

const MORE: &str = "\
The corpus is drawn: coloured shapes with right texts (human), with texts of which more than half are wrong in known ways
(web), and a held-out set. One bootstrap job pre-trains on it, fine-tunes captioner and filter, captions and filters the
web texts, pre-trains again and evaluates both models. Because the truth is known, the report can say what was kept rightly.

Interrupted with Ctrl-C, it goes on from its last checkpoint when it is run again.";

/// Arguments of `medley demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = MORE)]
pub(crate) struct Args {
    /// A handful of images and steps: shows that everything runs, in about a minute.
    #[arg(long)]
    quick: bool,
    /// Where corpus, checkpoints, report and logs are kept.
    #[arg(long, env = "MEDLEY_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Leave the cluster and its dashboard running until Ctrl-C.
    #[arg(long)]
    keep_running: bool,
    /// Address of the coordinator [default: 127.0.0.1:7700, or a free port if that is taken].
    #[arg(long, env = "MEDLEY_LISTEN")]
    listen: Option<SocketAddr>,
}

/// Runs the command.
///
/// # Errors
/// When the cluster does not start or the job fails.
pub(crate) async fn run(args: Args, json: bool) -> Result<Ending> {
    let mut signals = Signals::listen()?;
    let screen = Screen::stderr();
    let state_dir = make_state_dir(&args.state_dir)?;
    let settings = Settings {
        programs: Programs::beside_this_one()?,
        state_dir,
        nodes: 2,
        devices: Some(2),
        threads: 1,
        listen: address(args.listen),
        restarts: Restarts::Some,
        log: None,
    };
    screen.line("starting a coordinator and two nodes with two ranks each on this machine");
    let mut cluster = tokio::select! {
        started = Cluster::start(&settings, &screen) => started?,
        () = signals.next() => return Ok(Ending::Interrupted),
    };
    let demo = Demo {
        settings: &settings,
        client: cluster.client()?,
        screen: &screen,
        quick: args.quick,
    };
    screen.line(&format!(
        "dashboard: {}\nlogs: {}",
        cluster.dashboard(screen.is_live())?,
        settings.logs().display()
    ));
    let outcome = tokio::select! {
        outcome = demo.run(json) => outcome.map(|()| Ending::Success),
        failure = cluster.failure() => Err(anyhow!(failure)),
        () = signals.next() => {
            screen.line("interrupted; run the same command again to go on");
            Ok(Ending::Interrupted)
        }
    };
    if args.keep_running && matches!(outcome, Ok(Ending::Success)) {
        screen.line(&format!(
            "the cluster keeps running until Ctrl-C: {}",
            cluster.dashboard(screen.is_live())?
        ));
        tokio::select! {
            failure = cluster.failure() => screen.line(&failure),
            () = signals.next() => {}
        }
    }
    stop(cluster, &screen, &mut signals).await;
    outcome
}

struct Demo<'a> {
    settings: &'a Settings,
    client: Client,
    screen: &'a Screen,
    quick: bool,
}

impl Demo<'_> {
    /// Corpus, job, report.
    async fn run(&self, json: bool) -> Result<()> {
        let data = self.settings.state_dir.join("data");
        let (decision, known) = self.decide().await?;
        generate(data.clone(), self.quick, self.screen).await?;
        await_nodes(&self.client, self.settings, self.screen).await;
        let mut memory = self.job(decision, known, &data).await?;
        let Some(job) = memory.job else {
            bail!("a submitted demo has no job");
        };
        let watched = watch(&self.client, job, self.screen).await?;
        if !watched.succeeded() {
            bail!("{}; logs: {}", watched.summary(), self.settings.logs().display());
        }
        self.screen.line(&watched.summary());
        self.report(job, data, json).await?;
        memory.reported = true;
        memory::write(&self.settings.state_dir, &memory)
    }

    async fn decide(&self) -> Result<(Decision, Option<Memory>)> {
        let known = memory::read(&self.settings.state_dir)?;
        let state = match known.as_ref().and_then(|memory| memory.job) {
            Some(job) => self.state_of(job).await?,
            None => None,
        };
        Ok((decide(known.as_ref(), state, self.quick)?, known))
    }

    async fn state_of(&self, job: JobId) -> Result<Option<JobState>> {
        match self.client.get::<JobDetail>(&format!("/jobs/{job}")).await {
            Ok(job) => Ok(Some(job.job.state)),
            Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
            Err(error) => Err(explain(error)),
        }
    }

    /// The job to follow, submitted if it is not yet.
    async fn job(&self, decision: Decision, known: Option<Memory>, data: &Path) -> Result<Memory> {
        let state_dir = &self.settings.state_dir;
        let mut memory = match (decision, known) {
            (Decision::Continue(job), Some(memory)) => {
                self.screen.line(&format!("going on with job {job}"));
                return Ok(memory);
            }
            (Decision::SubmitAgain, Some(memory)) => memory,
            _ => Memory {
                quick: self.quick,
                key: fresh_key(),
                job: None,
                reported: false,
            },
        };
        memory::write(state_dir, &memory)?;
        let job = submit(&self.client, &recipe::document(data, self.quick), &memory.key).await?;
        memory.job = Some(job.job.id);
        memory::write(state_dir, &memory)?;
        self.screen
            .line(&format!("submitted job {} ({})", job.job.id, job.job.name));
        Ok(memory)
    }

    async fn report(&self, job: JobId, data: PathBuf, json: bool) -> Result<()> {
        let inputs = report::gather(&self.client, job).await?;
        let state_dir = &self.settings.state_dir;
        let places = Places {
            report: state_dir.join("report"),
            store: state_dir.join("store"),
            logs: self.settings.logs(),
            data,
        };
        let report = Report::new(&inputs, places, self.quick)?;
        report::write(&report, &inputs, &report.places.report)?;
        if json {
            print_json(&report)
        } else {
            print(&report::markdown(&report))
        }
    }
}

/// Draws the corpus, unless it is there, on a thread of its own.
async fn generate(data: PathBuf, quick: bool, screen: &Screen) -> Result<()> {
    let corpus = recipe::corpus(quick);
    let total = u64::from(corpus.human + corpus.web + corpus.test);
    let bar = screen.bar("corpus", Some(total));
    let (sender, done) = oneshot::channel();
    let progress = bar.clone();
    std::thread::Builder::new().name("corpus".into()).spawn(move || {
        let result = synth::generate(&corpus, &data, &mut |done, _| progress.set_position(done));
        // Nobody waits for it after an interruption.
        let _ = sender.send(result.with_context(|| format!("cannot generate the corpus in {}", data.display())));
    })?;
    done.await.context("the thread that draws the corpus ended")??;
    bar.finish_and_clear();
    screen.line(&format!(
        "corpus: {total} generated images, with their truth beside them"
    ));
    Ok(())
}
