//! The job table: the only module with SQL, one file per table.
//!
//! Every transition is one guarded `UPDATE` together with its event, so concurrent coordinators and late messages
//! cannot take a step twice.

mod aggregate;
mod checkpoint_parts;
mod checkpoint_requests;
mod checkpoints;
mod datasets;
mod doubts;
mod epochs;
mod events;
mod gauges;
mod idempotency;
mod jobs;
mod leader;
mod ledger;
mod metrics;
mod nodes;
mod retention;
mod retry;
mod schedule;
mod stages;
mod tasks;
mod tokens;
mod value;

use sqlx::PgPool;
use sqlx::migrate::Migrator;

pub use checkpoint_parts::PartOutcome;
pub use checkpoints::DamageOutcome;
pub use idempotency::Earlier;
pub use jobs::Submission;
pub use metrics::MetricsOutcome;
pub use retention::Ripe;
pub use schedule::{Saved, Scheduling};
pub use tasks::{Claim, MAX_ATTEMPTS, MAX_LEASES};
pub use tokens::TokenRow;

/// The schema, forward only.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Access to the job table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    /// A store on a database whose schema is [`MIGRATIONS`].
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Waits for an answer of the database.
    ///
    /// # Errors
    /// When there is none.
    pub async fn ping(&self) -> sqlx::Result<()> {
        sqlx::query("SELECT 1").execute(&self.pool).await.map(drop)
    }
}
