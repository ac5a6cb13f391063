//! Table `dataset_versions`.

use super::Store;
use super::value::{json, read};
use crate::domain::job::Dataset;
use chrono::{DateTime, Utc};
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::ids::{DatasetId, JobId, StageId};
use medley_protocol::rest::DatasetView;
use medley_protocol::tasks::Counts;
use serde_json::Value;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    job: Uuid,
    version: i32,
    parent: Option<Uuid>,
    stage: Uuid,
    object: Value,
    vocab: Value,
    counts: Value,
    created_at: DateTime<Utc>,
}

impl Store {
    /// The dataset versions of a job, by number.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_datasets(&self, job: JobId) -> sqlx::Result<Vec<DatasetView>> {
        let mut connection = self.pool.acquire().await?;
        let view = |row: Row| {
            Ok(DatasetView {
                id: DatasetId::from_uuid(row.id),
                parent: row.parent.map(DatasetId::from_uuid),
                stage: StageId::from_uuid(row.stage),
                version: row.version.unsigned_abs(),
                object: read(row.object)?,
                vocab: read(row.vocab)?,
                counts: read(row.counts)?,
                created_at: row.created_at,
            })
        };
        rows_of_jobs(&mut connection, &[job.as_uuid()])
            .await?
            .into_iter()
            .map(view)
            .collect()
    }
}

/// Dataset versions of these jobs, by job and number.
pub(super) async fn of_jobs(
    connection: &mut PgConnection,
    jobs: &[Uuid],
) -> sqlx::Result<BTreeMap<Uuid, Vec<Dataset>>> {
    let mut datasets: BTreeMap<Uuid, Vec<Dataset>> = BTreeMap::new();
    for row in rows_of_jobs(connection, jobs).await? {
        datasets.entry(row.job).or_default().push(Dataset {
            version: row.version.unsigned_abs(),
            object: read(row.object)?,
            vocab: read(row.vocab)?,
            counts: read(row.counts)?,
        });
    }
    Ok(datasets)
}

async fn rows_of_jobs(connection: &mut PgConnection, jobs: &[Uuid]) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as(
        "SELECT id, job, version, parent, stage, object, vocab, counts, created_at
         FROM dataset_versions
         WHERE job = ANY($1)
         ORDER BY job, version",
    )
    .bind(jobs)
    .fetch_all(connection)
    .await
}

/// Records the version that a merge of `stage` has made. Its parent is the version before it.
pub(super) async fn insert(
    connection: &mut PgConnection,
    job: Uuid,
    stage: Uuid,
    version: i32,
    object: &ObjectRef,
    vocab: &ObjectRef,
    counts: &Counts,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO dataset_versions (id, job, version, parent, stage, object, vocab, counts)
         VALUES ($1, $2, $3, (SELECT id FROM dataset_versions WHERE job = $2 AND version = $3 - 1), $4, $5, $6, $7)",
    )
    .bind(DatasetId::generate().as_uuid())
    .bind(job)
    .bind(version)
    .bind(stage)
    .bind(json(object)?)
    .bind(json(vocab)?)
    .bind(json(counts)?)
    .execute(connection)
    .await
    .map(drop)
}
