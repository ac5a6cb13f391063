//! Counts over the job table, for monitoring.

use super::Store;

impl Store {
    /// Number of jobs in each state that occurs.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_jobs(&self) -> sqlx::Result<Vec<(String, i64)>> {
        sqlx::query_as(
            "SELECT state, count(*)
             FROM jobs
             GROUP BY state
             ORDER BY state",
        )
        .fetch_all(&self.pool)
        .await
    }

    /// Connections to the database: open, and idle among them.
    pub fn connections(&self) -> (u32, usize) {
        (self.pool.size(), self.pool.num_idle())
    }
}
