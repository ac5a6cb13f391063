//! Counts over the job table, for monitoring.

use super::Store;

impl Store {
    /// Number of jobs in each state that occurs. Those that run but for all of their stages wait.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_jobs(&self) -> sqlx::Result<Vec<(String, i64)>> {
        sqlx::query_as(
            "WITH told AS (
                SELECT CASE WHEN j.state = 'running'
                             AND EXISTS (SELECT FROM stages s WHERE s.job = j.id AND s.state = 'waiting')
                             AND NOT EXISTS (SELECT FROM stages s
                                             WHERE s.job = j.id AND s.state IN ('starting', 'running'))
                            THEN 'waiting' ELSE j.state END AS state
                FROM jobs j
             )
             SELECT state, count(*)
             FROM told
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
