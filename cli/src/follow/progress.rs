//! What people see of a job that runs: a bar for each stage that has started.
//!
//! Pure: fed with looks at the job and the time, it knows rates, losses and what each bar says.

use crate::console::{duration, seconds_between};
use medley_protocol::ids::StageId;
use medley_protocol::metrics::StepMetrics;
use medley_protocol::rest::{JobDetail, StageView};
use medley_protocol::stage::StageState;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Rates are measured over this time.
const RATE_WINDOW: Duration = Duration::from_secs(20);
/// Shown losses are means over at most so many steps.
const LOSS_WINDOW: usize = 20;

/// A stage's bar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bar {
    /// The stage.
    pub(crate) stage: StageId,
    /// Its name.
    pub(crate) name: String,
    /// Steps or tasks done.
    pub(crate) done: u64,
    /// In all, where known.
    pub(crate) total: Option<u64>,
    /// Its losses; empty if it has none.
    pub(crate) losses: String,
    /// What it does, in words and figures.
    pub(crate) note: String,
    /// Whether it will not change again.
    pub(crate) over: bool,
}

impl Bar {
    /// All that is said of the stage; without its losses where there is no room for them.
    pub(crate) fn text(&self, room: Option<usize>) -> String {
        if self.losses.is_empty() {
            return self.note.clone();
        }
        let text = format!("{}  {}", self.losses, self.note);
        let fits = room.is_none_or(|room| text.chars().count() <= room);
        if fits { text } else { self.note.clone() }
    }
}

/// Everything seen of a job so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    stages: BTreeMap<StageId, Seen>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    /// (when, done), oldest first.
    pace: VecDeque<(Duration, u64)>,
    rows: VecDeque<StepMetrics>,
}

impl Progress {
    /// Takes a look at `now`.
    pub(crate) fn see(&mut self, job: &JobDetail, now: Duration) {
        for stage in &job.stages {
            let pace = &mut self.stages.entry(stage.id).or_default().pace;
            // A stage that went back to a checkpoint begins a new measurement.
            if stage.state != StageState::Running || pace.back().is_some_and(|(_, done)| *done > stage.done) {
                pace.clear();
            }
            if stage.state == StageState::Running {
                pace.push_back((now, stage.done));
            }
            while pace.len() > 2 && pace.front().is_some_and(|(at, _)| *at + RATE_WINDOW < now) {
                pace.pop_front();
            }
        }
    }

    /// Takes new metrics of a stage.
    pub(crate) fn measure(&mut self, stage: StageId, rows: &[StepMetrics]) {
        let seen = &mut self.stages.entry(stage).or_default().rows;
        seen.extend(rows);
        while seen.len() > LOSS_WINDOW {
            seen.pop_front();
        }
    }

    /// The bars of all stages that are no longer blocked, in the job's order.
    pub(crate) fn bars(&self, job: &JobDetail) -> Vec<Bar> {
        let begun = job.stages.iter().filter(|stage| is_shown(stage));
        begun
            .map(|stage| Bar {
                stage: stage.id,
                name: stage.name.clone(),
                done: stage.done,
                total: stage.total,
                losses: self.losses(stage).unwrap_or_default(),
                note: self.note(stage),
                over: stage.state.is_final(),
            })
            .collect()
    }

    fn note(&self, stage: &StageView) -> String {
        match stage.state {
            StageState::Blocked => String::new(),
            StageState::Waiting if stage.reason.is_empty() => "waits for ranks".into(),
            StageState::Waiting => format!("waits: {}", stage.reason),
            StageState::Starting => format!("starts on {}", ranks(stage.world)),
            StageState::Running => self.running(stage),
            StageState::Done => done(stage),
            StageState::Failed => format!("failed: {}", stage.reason),
            StageState::Cancelled => "cancelled".into(),
        }
    }

    fn losses(&self, stage: &StageView) -> Option<String> {
        let seen = self.stages.get(&stage.id);
        let seen = seen.filter(|_| stage.state == StageState::Running)?;
        losses(&seen.rows)
    }

    fn running(&self, stage: &StageView) -> String {
        let mut parts = Vec::new();
        if let Some(rate) = self.stages.get(&stage.id).and_then(|seen| rate(&seen.pace)) {
            let unit = if stage.kind.is_training() { "steps" } else { "tasks" };
            parts.push(format!("{rate:.1} {unit}/s"));
            let left = stage.total.map(|total| total.saturating_sub(stage.done));
            parts.extend(left.and_then(|left| remaining(left, rate)));
        }
        parts.push(ranks(stage.world));
        parts.join("  ")
    }
}

fn is_shown(stage: &StageView) -> bool {
    match stage.state {
        StageState::Blocked => false,
        // A stage cancelled before it began has nothing to show.
        StageState::Cancelled => stage.started_at.is_some(),
        _ => true,
    }
}

fn ranks(world: u32) -> String {
    match world {
        1 => "1 rank".into(),
        _ => format!("{world} ranks"),
    }
}

fn done(stage: &StageView) -> String {
    let took = stage.started_at.zip(stage.finished_at);
    took.map_or_else(
        || "done".into(),
        |(from, to)| format!("done in {}", duration(seconds_between(from, to))),
    )
}

/// Means of the losses that the stage's objective has.
fn losses(rows: &VecDeque<StepMetrics>) -> Option<String> {
    let mean = |loss: fn(&StepMetrics) -> f64| rows.iter().map(loss).sum::<f64>() / rows.len() as f64;
    let all = [
        ("itc", mean(|m| m.itc)),
        ("itm", mean(|m| m.itm)),
        ("lm", mean(|m| m.lm)),
    ];
    let present = all.iter().filter(|(_, value)| value.is_finite() && *value != 0.0);
    let said: Vec<String> = present.map(|(name, value)| format!("{name} {value:.3}")).collect();
    (!said.is_empty()).then(|| said.join("  "))
}

fn rate(pace: &VecDeque<(Duration, u64)>) -> Option<f64> {
    let ((from, before), (to, after)) = pace.front().zip(pace.back())?;
    let seconds = to.saturating_sub(*from).as_secs_f64();
    (seconds > 0.0 && after > before).then(|| (after - before) as f64 / seconds)
}

fn remaining(left: u64, rate: f64) -> Option<String> {
    let seconds = left as f64 / rate;
    (seconds >= 10.0).then(|| format!("{} left", duration(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;
    use medley_protocol::stage::StageKind;

    fn running(done: u64) -> JobDetail {
        let mut job = fake::job("j");
        let mut stage = fake::stage("pretrain-0", StageKind::Pretrain, StageState::Running);
        stage.id = StageId::from_uuid(uuid::Uuid::nil());
        (stage.done, stage.total, stage.world) = (done, Some(1000), 4);
        job.stages = vec![stage];
        job
    }

    fn row(step: u64, itc: f64, lm: f64) -> StepMetrics {
        fake::metrics(step, itc, 0.0, lm)
    }

    #[test]
    fn a_running_stage_shows_losses_rate_and_time_left() {
        let mut progress = Progress::default();
        progress.see(&running(100), Duration::from_secs(10));
        progress.see(&running(150), Duration::from_secs(15));
        let stage = running(0).stages[0].id;
        progress.measure(stage, &[row(148, 2.0, 1.0), row(149, 3.0, 2.0)]);
        let bars = progress.bars(&running(150));
        let whole = "itc 2.500  lm 1.500  10.0 steps/s  1m 25s left  4 ranks";
        let (losses, narrow) = whole.split_at(whole.find("10.0").unwrap());
        for (room, text) in [
            (None, whole),
            (Some(whole.len()), whole),
            (Some(whole.len() - 1), narrow),
        ] {
            assert_eq!(bars[0].text(room), text);
        }
        assert_eq!(bars[0].losses, losses.trim_end());
        assert_eq!((bars[0].done, bars[0].total, bars[0].over), (150, Some(1000), false));
    }

    #[test]
    fn going_back_to_a_checkpoint_is_not_a_negative_rate() {
        let mut progress = Progress::default();
        progress.see(&running(100), Duration::from_secs(0));
        progress.see(&running(40), Duration::from_secs(5));
        assert_eq!(progress.bars(&running(40))[0].note, "4 ranks");
        progress.see(&running(50), Duration::from_secs(10));
        assert!(progress.bars(&running(50))[0].note.starts_with("2.0 steps/s"));
    }

    #[test]
    fn rates_forget_what_is_long_past() {
        let mut progress = Progress::default();
        for second in 0..100u64 {
            let done = if second < 60 { 0 } else { (second - 60) * 2 };
            progress.see(&running(done), Duration::from_secs(second));
        }
        assert!(progress.bars(&running(78))[0].note.starts_with("2.0 steps/s"));
    }

    #[test]
    fn blocked_stages_have_no_bar_and_waiting_ones_say_why() {
        let mut job = running(0);
        job.stages[0].state = StageState::Waiting;
        job.stages[0].reason = "no node is alive".into();
        job.stages
            .push(fake::stage("pretrain-1", StageKind::Pretrain, StageState::Blocked));
        let bars = Progress::default().bars(&job);
        assert_eq!(bars.len(), 1);
        assert_eq!(bars[0].note, "waits: no node is alive");
    }
}
