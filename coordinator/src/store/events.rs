//! Table `events`.
//!
//! What happened is told in the words of many, ranks and users' files among them. Every message is made [`plain`] here once more,
//! so that none of them keeps a transaction from being written.

use super::Store;
use crate::domain::Event;
use chrono::{DateTime, Utc};
use medley_protocol::ids::{JobId, NodeId, StageId};
use medley_protocol::rest::EventView;
use medley_protocol::text::plain;
use sqlx::PgConnection;
use uuid::Uuid;

/// Longest message: it may hold several reasons.
const MAX_MESSAGE: usize = 16_000;

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    at: DateTime<Utc>,
    job: Option<Uuid>,
    stage: Option<Uuid>,
    node: Option<Uuid>,
    kind: String,
    message: String,
}

impl Row {
    fn view(self) -> EventView {
        EventView {
            id: self.id,
            at: self.at,
            job: self.job.map(JobId::from_uuid),
            stage: self.stage.map(StageId::from_uuid),
            node: self.node.map(NodeId::from_uuid),
            kind: self.kind,
            message: self.message,
        }
    }
}

impl Store {
    /// Events of a job, and those of nodes since it was submitted, oldest first, after the event `after`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn events_of_job(&self, job: JobId, after: i64, limit: i64) -> sqlx::Result<Vec<EventView>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, at, job, stage, node, kind, message
             FROM events
             WHERE id > $2
               AND (job = $1
                    OR (job IS NULL
                        AND at >= (SELECT submitted_at FROM jobs WHERE id = $1)
                        AND at <= (SELECT coalesce(finished_at, 'infinity') FROM jobs WHERE id = $1)))
             ORDER BY id
             LIMIT $3",
        )
        .bind(job.as_uuid())
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(Row::view).collect())
    }
}

/// Adds events in order.
pub(super) async fn add(connection: &mut PgConnection, events: &[Event]) -> sqlx::Result<()> {
    for event in events {
        sqlx::query("INSERT INTO events (job, stage, node, kind, message) VALUES ($1, $2, $3, $4, $5)")
            .bind(event.job.map(JobId::as_uuid))
            .bind(event.stage.map(StageId::as_uuid))
            .bind(event.node.map(NodeId::as_uuid))
            .bind(event.kind)
            .bind(plain(&event.message, MAX_MESSAGE))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
