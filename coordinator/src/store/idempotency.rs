//! Table `idempotency_keys`.

use sqlx::PgConnection;
use uuid::Uuid;

/// What an idempotency key has been used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// Nothing: it is this request's now.
    Nothing,
    /// The same request, which made this job.
    Same(Uuid),
    /// Another request.
    Other,
}

/// Uses a key for a job that is inserted in the same transaction; waits for whoever uses it at the same time.
pub(super) async fn claim(
    connection: &mut PgConnection,
    key: &str,
    body: &[u8; 32],
    job: Uuid,
) -> sqlx::Result<Earlier> {
    let inserted = sqlx::query(
        "INSERT INTO idempotency_keys (key, body_blake3, job)
         VALUES ($1, $2, $3)
         ON CONFLICT (key) DO NOTHING",
    )
    .bind(key)
    .bind(&body[..])
    .bind(job)
    .execute(&mut *connection)
    .await?;
    if inserted.rows_affected() == 1 {
        return Ok(Earlier::Nothing);
    }
    earlier(connection, key, body).await
}

/// What a key has been used for.
pub(super) async fn earlier(connection: &mut PgConnection, key: &str, body: &[u8; 32]) -> sqlx::Result<Earlier> {
    let row: Option<(Vec<u8>, Uuid)> = sqlx::query_as("SELECT body_blake3, job FROM idempotency_keys WHERE key = $1")
        .bind(key)
        .fetch_optional(connection)
        .await?;
    Ok(match row {
        None => Earlier::Nothing,
        Some((known, job)) if known == body => Earlier::Same(job),
        Some(_) => Earlier::Other,
    })
}
