//! `medley jobs metrics`: losses by step.

use super::{JobName, detail, find};
use crate::connect::explain;
use crate::console::{Align, Table, print, print_json};
use anyhow::{Result, anyhow};
use medley_protocol::client::Client;
use medley_protocol::ids::JobId;
use medley_protocol::metrics::StepMetrics;
use medley_protocol::rest::{JobDetail, MetricsPage, StageView};

/// Rows of one request.
const MAX_ROWS: u64 = 500;

/// Arguments of `medley jobs metrics`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job: its id, the beginning or end of it, its name, or `latest`.
    #[arg(default_value = "latest")]
    job: JobName,
    /// The stage, such as pretrain-0 [default: the training stage that started last].
    #[arg(long)]
    stage: Option<String>,
    /// First step [default: so that the last ones are shown].
    #[arg(long)]
    from_step: Option<u64>,
    /// Most rows.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    limit: u64,
}

pub(super) async fn run(client: &Client, args: &Args, json: bool) -> Result<()> {
    let job = find(client, &args.job).await?;
    let detail = detail(client, job).await?;
    let stage = choose(&detail, args.stage.as_deref())?;
    let from = args.from_step.unwrap_or(stage.done.saturating_sub(args.limit));
    let rows = rows(client, job, stage, from, args.limit).await?;
    if json {
        return print_json(&rows);
    }
    if rows.is_empty() {
        return print(&format!("{} has no metrics from step {from} yet", stage.name));
    }
    print(&format!("{}\n{}", stage.name, table(&rows).plain()))
}

fn choose<'a>(job: &'a JobDetail, name: Option<&str>) -> Result<&'a StageView> {
    let training = || job.stages.iter().filter(|stage| stage.kind.is_training());
    let Some(name) = name else {
        return training()
            .filter(|stage| stage.started_at.is_some())
            .max_by_key(|stage| stage.started_at)
            .ok_or_else(|| {
                anyhow!(
                    "no training stage has started yet: see `medley jobs show {}`",
                    job.job.id
                )
            });
    };
    training().find(|stage| stage.name == name).ok_or_else(|| {
        let names: Vec<&str> = training().map(|stage| stage.name.as_str()).collect();
        anyhow!("--stage {name}: no such training stage; there are {}", names.join(", "))
    })
}

async fn rows(client: &Client, job: JobId, stage: &StageView, from: u64, limit: u64) -> Result<Vec<StepMetrics>> {
    let (mut rows, mut next) = (Vec::new(), from);
    while (rows.len() as u64) < limit {
        let count = (limit - rows.len() as u64).min(MAX_ROWS);
        let path = format!("/jobs/{job}/metrics?stage={}&from_step={next}&limit={count}", stage.id);
        let page: MetricsPage = client.get(&path).await.map_err(explain)?;
        if page.rows.is_empty() || page.next_step <= next {
            break;
        }
        next = page.next_step;
        rows.extend(page.rows);
    }
    Ok(rows)
}

fn table(rows: &[StepMetrics]) -> Table {
    let names = [
        "step",
        "epoch",
        "itc",
        "itm",
        "lm",
        "lr",
        "alpha",
        "temperature",
        "grad norm",
    ];
    let mut table = Table::new(&names.map(|name| (name, Align::Right)));
    for row in rows {
        table.row([
            row.step.to_string(),
            row.epoch.to_string(),
            format!("{:.4}", row.itc),
            format!("{:.4}", row.itm),
            format!("{:.4}", row.lm),
            format!("{:.3e}", row.lr),
            format!("{:.3}", row.alpha),
            format!("{:.4}", row.temperature),
            format!("{:.3}", row.grad_norm),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Coordinator};
    use medley_protocol::stage::{StageKind, StageState};

    fn job() -> JobDetail {
        let mut job = fake::job("j");
        job.stages = vec![
            fake::stage("index-0", StageKind::Index, StageState::Done),
            fake::stage("pretrain-0", StageKind::Pretrain, StageState::Running),
        ];
        job
    }

    #[test]
    fn the_stage_is_the_one_named_or_the_training_stage_that_started_last() {
        let job = job();
        assert_eq!(choose(&job, None).unwrap().name, "pretrain-0");
        let error = choose(&job, Some("index-0")).unwrap_err().to_string();
        assert!(error.contains("pretrain-0"), "{error}");
    }

    #[tokio::test]
    async fn more_rows_than_fit_in_one_answer_are_asked_for_again() {
        let coordinator = Coordinator::start().await;
        coordinator.put_metrics((0..1200).map(|step| fake::metrics(step, 1.0, 0.0, 0.0)).collect());
        let job = job();
        let all = rows(&coordinator.client(), job.job.id, &job.stages[1], 10, 5000)
            .await
            .unwrap();
        let steps: Vec<u64> = all.iter().map(|row| row.step).collect();
        assert_eq!(steps, (10..1200).collect::<Vec<u64>>());
    }
}
