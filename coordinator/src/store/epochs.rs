//! Table `epochs`.

use super::value::{count, stored};
use crate::domain::course::Course;
use medley_protocol::ids::StageId;
use medley_protocol::rest::EpochView;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Makes the rows of a stage's epochs, once.
pub(super) async fn open(connection: &mut PgConnection, stage: StageId, course: Course) -> sqlx::Result<()> {
    let (mut numbers, mut firsts, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
    for epoch in course.epochs() {
        numbers.push(stored(epoch.epoch));
        firsts.push(stored(epoch.first_step));
        lengths.push(stored(epoch.steps));
    }
    sqlx::query(
        "INSERT INTO epochs (stage, epoch, first_step, steps)
         SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::bigint[])
         ON CONFLICT DO NOTHING",
    )
    .bind(stage.as_uuid())
    .bind(numbers)
    .bind(firsts)
    .bind(lengths)
    .execute(connection)
    .await
    .map(drop)
}

/// Closes epochs whose steps are all among the first `through`, with the means of their stored steps.
pub(super) async fn close_through(connection: &mut PgConnection, stage: StageId, through: i64) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE epochs
         SET done = true, mean_itc = means.itc, mean_itm = means.itm, mean_lm = means.lm
         FROM (SELECT e.epoch, avg(m.itc) AS itc, avg(m.itm) AS itm, avg(m.lm) AS lm
               FROM epochs e
               LEFT JOIN metrics m
                 ON m.stage = e.stage AND m.step >= e.first_step AND m.step < e.first_step + e.steps
               WHERE e.stage = $1 AND NOT e.done AND e.first_step + e.steps <= $2
               GROUP BY e.epoch) AS means
         WHERE epochs.stage = $1 AND epochs.epoch = means.epoch",
    )
    .bind(stage.as_uuid())
    .bind(through)
    .execute(connection)
    .await
    .map(drop)
}

/// Epochs with steps after the first `through` are not done.
pub(super) async fn reopen_from(connection: &mut PgConnection, stage: StageId, through: u64) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE epochs
         SET done = false, mean_itc = NULL, mean_itm = NULL, mean_lm = NULL
         WHERE stage = $1 AND done AND first_step + steps > $2",
    )
    .bind(stage.as_uuid())
    .bind(stored(through))
    .execute(connection)
    .await
    .map(drop)
}

#[derive(sqlx::FromRow)]
struct Row {
    stage: Uuid,
    epoch: i64,
    first_step: i64,
    steps: i64,
    done: bool,
    mean_itc: Option<f64>,
    mean_itm: Option<f64>,
    mean_lm: Option<f64>,
}

/// Epochs of a job's stages, in order.
pub(super) async fn of_job(
    connection: &mut PgConnection,
    job: Uuid,
) -> sqlx::Result<BTreeMap<StageId, Vec<EpochView>>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT stage, epoch, first_step, steps, done, mean_itc, mean_itm, mean_lm
         FROM epochs
         WHERE stage IN (SELECT id FROM stages WHERE job = $1)
         ORDER BY stage, epoch",
    )
    .bind(job)
    .fetch_all(connection)
    .await?;
    let mut epochs: BTreeMap<StageId, Vec<EpochView>> = BTreeMap::new();
    for row in rows {
        epochs
            .entry(StageId::from_uuid(row.stage))
            .or_default()
            .push(EpochView {
                epoch: count(row.epoch)?,
                first_step: count(row.first_step)?,
                steps: count(row.steps)?,
                done: row.done,
                mean_itc: row.mean_itc,
                mean_itm: row.mean_itm,
                mean_lm: row.mean_lm,
            });
    }
    Ok(epochs)
}
