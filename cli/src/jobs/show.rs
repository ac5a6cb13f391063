//! `medley jobs show`: one job with all that is known of it.

use super::detail;
use crate::connect::explain;
use crate::console::{
    Align, Table, ago, bytes, duration, number, percent, print, print_json, seconds_between, stdout_width, wire_name,
};
use crate::foreseen::memory;
use anyhow::Result;
use chrono::{DateTime, Utc};
use medley_protocol::client::Client;
use medley_protocol::ids::JobId;
use medley_protocol::rest::{DatasetView, JobDetail, StageView, Straggler};
use medley_protocol::stage::StageState;
use medley_protocol::tasks::Recall;
use serde_json::json;
use std::fmt::Write;

pub(super) async fn run(client: &Client, job: JobId, json: bool) -> Result<()> {
    let job = detail(client, job).await?;
    let datasets: Vec<DatasetView> = client
        .get(&format!("/jobs/{}/datasets", job.job.id))
        .await
        .map_err(explain)?;
    if json {
        return print_json(&json!({ "job": job, "datasets": datasets }));
    }
    print(&page(&job, &datasets, Utc::now(), stdout_width()))
}

fn page(job: &JobDetail, datasets: &[DatasetView], now: DateTime<Utc>, width: Option<usize>) -> String {
    let mut page = head(job, now);
    if !job.stages.is_empty() {
        let _ = write!(page, "\n{}", stages(&job.stages, now).within(width));
    }
    for straggler in job.stages.iter().flat_map(|stage| &stage.stragglers) {
        let _ = write!(page, "\n{}", straggler_line(straggler));
    }
    let to_come = |stage: &StageView| stage.peak_rank_bytes.is_none() && !stage.state.is_final();
    let foreseen = memory(job.memory.iter().filter(|estimate| {
        let mut of_kind = job.stages.iter().filter(|stage| stage.kind == estimate.stage);
        of_kind.any(to_come)
    }));
    if !foreseen.is_empty() {
        let _ = write!(page, "\n{foreseen}");
    }
    let figures = figures(&job.stages);
    if !figures.is_empty() {
        let _ = write!(page, "\n{}", figures.plain());
    }
    for dataset in datasets {
        let _ = write!(page, "\ndataset version {}: {}", dataset.version, counts(dataset));
    }
    page
}

fn head(job: &JobDetail, now: DateTime<Utc>) -> String {
    let view = &job.job;
    let spec = &job.spec;
    let mut head = format!(
        "job        {}\nname       {}\nkind       {}, preset {}, {} lanes of {}\nstate      {}\nsubmitted  {}\n",
        view.id,
        view.name,
        wire_name(&view.kind),
        spec.preset.name(),
        spec.lanes.count,
        spec.lanes.batch,
        wire_name(&view.state),
        ago(view.submitted_at, now),
    );
    if !view.reason.is_empty() {
        let _ = writeln!(head, "reason     {}", view.reason);
    }
    head
}

fn stages(stages: &[StageView], now: DateTime<Utc>) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("stage", Left),
        ("state", Left),
        ("done", Right),
        ("ranks", Right),
        ("memory of a rank", Right),
        ("generation", Right),
        ("time", Right),
        ("left, about", Right),
        ("reason", Left),
    ]);
    for stage in stages {
        let total = stage.total.map_or_else(String::new, |total| format!("/{total}"));
        let end = stage.finished_at.unwrap_or(now);
        let time = stage.started_at.map(|start| duration(seconds_between(start, end)));
        table.row([
            stage.name.clone(),
            wire_name(&stage.state),
            format!("{}{total}", stage.done),
            stage.world.to_string(),
            stage.peak_rank_bytes.map(bytes).unwrap_or_default(),
            stage.generation.to_string(),
            time.unwrap_or_default(),
            left(stage, now).map(duration).unwrap_or_default(),
            stage.reason.clone(),
        ]);
    }
    table
}

/// Seconds until a running stage ends at its average pace.
fn left(stage: &StageView, now: DateTime<Utc>) -> Option<f64> {
    let (start, total) = stage.started_at.zip(stage.total)?;
    let is_known = stage.state == StageState::Running && stage.done > 0;
    is_known.then(|| seconds_between(start, now) * total.saturating_sub(stage.done) as f64 / stage.done as f64)
}

fn straggler_line(straggler: &Straggler) -> String {
    format!(
        "straggler: rank {} on {} takes {:.1} ms for a lane, the middle of its generation is {:.1} ms",
        straggler.rank, straggler.node_name, straggler.lane_ms, straggler.usual_lane_ms
    )
}

fn figures(stages: &[StageView]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("evaluation", Left),
        ("retrieval", Left),
        ("R@1", Right),
        ("R@5", Right),
        ("R@10", Right),
        ("95 % interval of R@1", Left),
    ]);
    let evaluated = stages
        .iter()
        .filter_map(|stage| Some((&stage.name, stage.evaluation.as_ref()?)));
    for (name, found) in evaluated {
        for (what, recall) in [
            ("text to image, ITC", &found.text_to_image_itc),
            ("image to text, ITC", &found.image_to_text_itc),
            ("text to image, re-ranked", &found.text_to_image_itm),
            ("image to text, re-ranked", &found.image_to_text_itm),
        ] {
            table.row(figures_row(name, what, recall));
        }
    }
    table
}

fn figures_row(stage: &str, what: &str, recall: &Recall) -> [String; 6] {
    [
        stage.into(),
        what.into(),
        percent(recall.at_1.value),
        percent(recall.at_5.value),
        percent(recall.at_10.value),
        format!("{} to {}", percent(recall.at_1.low), percent(recall.at_1.high)),
    ]
}

fn counts(dataset: &DatasetView) -> String {
    let counts = dataset
        .counts
        .iter()
        .map(|(name, count)| format!("{name} {}", number(*count)));
    counts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, moment};
    use medley_protocol::estimate::Estimate;
    use medley_protocol::stage::StageKind;

    #[test]
    fn a_job_is_shown_with_its_stages_and_why_they_wait() {
        let mut job = fake::job("shapes");
        let mut done = fake::stage("index-0", StageKind::Index, StageState::Done);
        (done.done, done.total) = (9, Some(9));
        let mut waiting = fake::stage("pretrain-0", StageKind::Pretrain, StageState::Waiting);
        (waiting.started_at, waiting.reason) = (None, "no node is alive".into());
        job.stages = vec![done, waiting];
        let page = page(&job, &[], moment(100), None);
        assert!(
            page.contains("index-0     done      9/9      4           300 MiB           1  1m 00s"),
            "{page}"
        );
        assert!(page.contains("no node is alive"), "{page}");
    }

    #[test]
    fn what_is_still_to_come_is_foreseen() {
        let mut job = fake::job("shapes");
        let mut running = fake::stage("pretrain-0", StageKind::Pretrain, StageState::Running);
        (running.done, running.total) = (30, Some(90));
        let mut blocked = fake::stage("captioner-0", StageKind::Captioner, StageState::Blocked);
        (blocked.started_at, blocked.peak_rank_bytes) = (None, None);
        job.stages = vec![running, blocked];
        job.memory = Estimate::of_job(&job.spec, 4);
        let page = page(&job, &[], moment(40), None);
        let row = page.lines().find(|line| line.starts_with("pretrain-0")).unwrap();
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert!(cells.ends_with(&["30s", "1m", "00s"]), "{page}");
        let (_, foreseen) = page.split_once("memory of a rank, about:\n").unwrap();
        let stages = foreseen.lines().skip(1).map(|line| line.split(' ').next().unwrap());
        assert_eq!(stages.collect::<Vec<_>>(), ["captioner"], "{page}");
    }

    #[test]
    fn a_straggler_is_shown_with_its_node() {
        let mut job = fake::job("shapes");
        let mut stage = fake::stage("pretrain-0", StageKind::Pretrain, StageState::Running);
        stage.stragglers.push(Straggler {
            stage: stage.id,
            generation: 1,
            rank: 3,
            node: medley_protocol::ids::NodeId::generate(),
            node_name: "gpu-7".into(),
            lane_ms: 30.0,
            usual_lane_ms: 10.04,
        });
        job.stages = vec![stage];
        let page = page(&job, &[], moment(100), None);
        assert!(
            page.contains("rank 3 on gpu-7 takes 30.0 ms for a lane, the middle of its generation is 10.0 ms"),
            "{page}"
        );
    }
}
