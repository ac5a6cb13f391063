//! The loop that looks at a job until it is over.

use super::progress::{Bar, Progress};
use crate::connect::explain;
use crate::console::{Screen, clock, duration};
use anyhow::{Result, bail};
use indicatif::ProgressBar;
use medley_protocol::client::{Client, Error};
use medley_protocol::ids::{JobId, StageId};
use medley_protocol::rest::{EventView, JobDetail, MetricsPage};
use medley_protocol::stage::{JobState, StageState};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time between looks.
const LOOK: Duration = Duration::from_secs(1);
/// Time between plain lines where there is no terminal.
const PLAIN: Duration = Duration::from_secs(5);
/// A coordinator that has been away for so long is given up; the job itself may go on.
const PATIENCE: Duration = Duration::from_mins(15);
/// Rows of one request.
const MAX_ROWS: u64 = 500;
/// Losses are shown from so many steps before the present one.
const LOOK_BACK: u64 = 20;

/// A job that is over.
#[derive(Debug)]
pub(crate) struct Watched {
    /// The job as it ended.
    pub(crate) job: JobDetail,
}

impl Watched {
    /// Whether it succeeded.
    pub(crate) fn succeeded(&self) -> bool {
        self.job.job.state == JobState::Succeeded
    }

    /// How it ended, for people.
    pub(crate) fn summary(&self) -> String {
        let job = &self.job.job;
        let took = job
            .finished_at
            .map(|to| duration(crate::console::seconds_between(job.submitted_at, to)));
        let took = took.map(|took| format!(" after {took}")).unwrap_or_default();
        match job.state {
            JobState::Succeeded => format!("job {} succeeded{took}", job.name),
            JobState::Cancelled => format!("job {} was cancelled{took}", job.name),
            _ => format!("job {} failed{took}: {}", job.name, job.reason),
        }
    }
}

/// Shows a job's progress until it is over. Survives restarts of the coordinator.
///
/// # Errors
/// When the coordinator refuses, or has been away for too long.
pub(crate) async fn watch(client: &Client, job: JobId, screen: &Screen) -> Result<Watched> {
    watch_every(client, job, screen, LOOK).await
}

async fn watch_every(client: &Client, job: JobId, screen: &Screen, pause: Duration) -> Result<Watched> {
    let mut view = View::new(screen);
    let mut follower = Follower {
        client,
        job,
        events_after: 0,
        next_step: BTreeMap::new(),
        progress: Progress::default(),
        began: Instant::now(),
    };
    let mut away_since: Option<Instant> = None;
    loop {
        match follower.look(&mut view).await {
            Ok(detail) => {
                if away_since.take().is_some() {
                    screen.line("the coordinator answers again");
                }
                if detail.job.state.is_final() {
                    view.finish();
                    return Ok(Watched { job: detail });
                }
            }
            Err(error) if error.is_transient() => {
                let since = *away_since.get_or_insert_with(|| {
                    screen.line("the coordinator does not answer; training goes on without it, trying again");
                    Instant::now()
                });
                if since.elapsed() > PATIENCE {
                    bail!(
                        "{:#}; given up after {}",
                        explain(error),
                        duration(PATIENCE.as_secs_f64())
                    );
                }
            }
            Err(error) => return Err(explain(error)),
        }
        tokio::time::sleep(pause).await;
    }
}

struct Follower<'a> {
    client: &'a Client,
    job: JobId,
    events_after: i64,
    next_step: BTreeMap<StageId, u64>,
    progress: Progress,
    began: Instant,
}

impl Follower<'_> {
    async fn look(&mut self, view: &mut View<'_>) -> Result<JobDetail, Error> {
        let detail: JobDetail = self.client.get(&format!("/jobs/{}", self.job)).await?;
        self.progress.see(&detail, self.began.elapsed());
        let training = detail
            .stages
            .iter()
            .filter(|s| s.kind.is_training() && s.state == StageState::Running);
        for (stage, done) in training.map(|s| (s.id, s.done)) {
            self.look_at_metrics(stage, done).await?;
        }
        // Events are read after the job, so that the last ones of a finished job are not missed.
        for event in self.events().await? {
            view.event(&event);
        }
        view.show(&self.progress.bars(&detail));
        Ok(detail)
    }

    async fn look_at_metrics(&mut self, stage: StageId, done: u64) -> Result<(), Error> {
        let from = *self.next_step.entry(stage).or_insert(done.saturating_sub(LOOK_BACK));
        let path = format!(
            "/jobs/{}/metrics?stage={stage}&from_step={from}&limit={MAX_ROWS}",
            self.job
        );
        let page: MetricsPage = self.client.get(&path).await?;
        self.progress.measure(stage, &page.rows);
        self.next_step.insert(stage, page.next_step);
        Ok(())
    }

    async fn events(&mut self) -> Result<Vec<EventView>, Error> {
        let path = format!("/jobs/{}/events?after={}&limit={MAX_ROWS}", self.job, self.events_after);
        let events: Vec<EventView> = self.client.get(&path).await?;
        self.events_after = events.iter().map(|event| event.id).fold(self.events_after, i64::max);
        Ok(events)
    }
}

/// Bars on a terminal; elsewhere a line per stage now and then.
struct View<'a> {
    screen: &'a Screen,
    bars: BTreeMap<StageId, ProgressBar>,
    said: BTreeMap<StageId, (Instant, Bar)>,
}

impl<'a> View<'a> {
    fn new(screen: &'a Screen) -> Self {
        Self {
            screen,
            bars: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    fn event(&self, event: &EventView) {
        self.screen.line(&format!("{}  {}", clock(event.at), event.message));
    }

    fn show(&mut self, bars: &[Bar]) {
        for bar in bars {
            if self.screen.is_live() {
                self.draw(bar);
            } else {
                self.say(bar);
            }
        }
    }

    fn draw(&mut self, bar: &Bar) {
        let drawn = self
            .bars
            .entry(bar.stage)
            .or_insert_with(|| self.screen.bar(&bar.name, bar.total));
        Screen::set_total(drawn, bar.total);
        drawn.set_position(bar.done);
        let text = bar.text(self.screen.room(&bar.name, bar.total));
        if bar.over && !drawn.is_finished() {
            drawn.abandon_with_message(text);
        } else if !bar.over {
            drawn.set_message(text);
        }
    }

    fn say(&mut self, bar: &Bar) {
        let due = match self.said.get(&bar.stage) {
            None => true,
            Some((_, said)) if said == bar => false,
            Some((at, said)) => at.elapsed() >= PLAIN || said.over != bar.over,
        };
        if due {
            let total = bar.total.map_or_else(String::new, |total| format!("/{total}"));
            self.screen
                .line(&format!("{:12} {}{total}  {}", bar.name, bar.done, bar.text(None)));
            self.said.insert(bar.stage, (Instant::now(), bar.clone()));
        }
    }

    /// Leaves the bars as they are on the screen.
    fn finish(&self) {
        let unfinished = self.bars.values().filter(|bar| !bar.is_finished());
        unfinished.for_each(ProgressBar::abandon);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Coordinator};
    use medley_protocol::stage::StageKind;

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(30), future).await.unwrap()
    }

    fn running() -> JobDetail {
        let mut job = fake::job("j");
        job.job.state = JobState::Running;
        job.stages = vec![fake::stage("pretrain-0", StageKind::Pretrain, StageState::Running)];
        job
    }

    fn ended(mut job: JobDetail, state: JobState) -> JobDetail {
        job.job.state = state;
        job.stages[0].state = StageState::Done;
        job
    }

    #[tokio::test]
    async fn a_job_is_followed_to_its_end_with_events_and_stages_as_lines() {
        let coordinator = Coordinator::start().await;
        let job = running();
        coordinator.put_job(&job);
        coordinator.put_event(1, "node-2 is lost: silent for 5 s");
        let (screen, mut lines) = Screen::captured();
        let (client, id) = (coordinator.client(), job.job.id);
        let watching = tokio::spawn(async move { watch_every(&client, id, &screen, Duration::from_millis(5)).await });
        assert!(
            soon(lines.recv())
                .await
                .unwrap()
                .ends_with("node-2 is lost: silent for 5 s")
        );
        assert!(soon(lines.recv()).await.unwrap().starts_with("pretrain-0"));
        coordinator.put_job(&ended(job, JobState::Succeeded));
        let watched = soon(watching).await.unwrap().unwrap();
        assert!(watched.succeeded());
        assert!(soon(lines.recv()).await.unwrap().contains("done"));
        assert!(soon(lines.recv()).await.is_none(), "an event is shown once");
    }

    #[tokio::test]
    async fn a_coordinator_that_is_away_for_a_while_is_waited_for() {
        let coordinator = Coordinator::start().await;
        let job = running();
        coordinator.put_job(&job);
        coordinator.set_away(true);
        let (screen, mut lines) = Screen::captured();
        let (client, id) = (coordinator.client(), job.job.id);
        let watching = tokio::spawn(async move { watch_every(&client, id, &screen, Duration::from_millis(5)).await });
        assert!(soon(lines.recv()).await.unwrap().contains("does not answer"));
        coordinator.put_job(&ended(job, JobState::Failed));
        coordinator.set_away(false);
        let watched = soon(watching).await.unwrap().unwrap();
        assert!(!watched.succeeded());
        assert!(watched.summary().contains("failed"));
        let mut rest = Vec::new();
        while let Some(line) = soon(lines.recv()).await {
            rest.push(line);
        }
        assert!(
            rest.iter().any(|line| line == "the coordinator answers again"),
            "{rest:?}"
        );
    }

    #[tokio::test]
    async fn an_unknown_job_ends_the_watch() {
        let coordinator = Coordinator::start().await;
        let (screen, _lines) = Screen::captured();
        let error = soon(watch(&coordinator.client(), JobId::generate(), &screen)).await;
        assert!(error.unwrap_err().to_string().contains("no such job"));
    }
}
