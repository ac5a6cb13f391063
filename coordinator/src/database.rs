//! Which database the coordinator uses: the operator's, or its own.

use crate::postgres::{self, Durability, Health, Server};
use crate::state_dir::StateDir;
use anyhow::Context;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection, PgPool};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Connections that one coordinator opens at most.
const MAX_CONNECTIONS: u32 = 24;
/// Longest wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Tries to reach a database that may be starting itself.
const TRIES: u32 = 6;
/// Longest time that a transaction may stand still. A leader that is paused in the middle of one holds the row that names
/// the leader: without this limit nobody could take over.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);
/// Statements that take longer are logged.
const SLOW_STATEMENT: Duration = Duration::from_secs(1);

/// Where the coordinator keeps its state.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// Directory for everything that the coordinator keeps on its own disk.
    #[arg(long, env = "MEDLEY_STATE_DIR", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// A PostgreSQL 15 or newer to use instead of a private one, such as postgres://user:password@host/medley.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
}

/// A database that answers, and the server behind it if it is our own.
#[derive(Debug)]
pub struct Database {
    /// Connections, shared by everything.
    pub pool: PgPool,
    server: Option<Server>,
}

impl Database {
    /// Reaches the operator's database, or starts our own.
    ///
    /// # Errors
    /// When there is none; the text says what to do.
    pub async fn open(place: &Place, state: &StateDir) -> anyhow::Result<Self> {
        if let Some(url) = &place.database_url {
            return Ok(Self {
                pool: reach(foreign(url)?).await?,
                server: None,
            });
        }
        let server = Server::start(&state.postgres(), Durability::Full).await?;
        let pool = reach(server.connect_options()).await?;
        Ok(Self {
            pool,
            server: Some(server),
        })
    }

    /// Reaches the database also if another process of this machine runs it.
    ///
    /// # Errors
    /// As for [`Database::open`].
    pub async fn share(place: &Place, state: &StateDir) -> anyhow::Result<Self> {
        if place.database_url.is_none()
            && let Some(options) = postgres::running(&state.postgres())?
        {
            return Ok(Self {
                pool: reach(options).await?,
                server: None,
            });
        }
        Self::open(place, state).await
    }

    /// Waits until our own server is gone for good; for ever if the server is not our own. The text says why.
    pub async fn ended(&self) -> String {
        let Some(server) = &self.server else {
            return std::future::pending().await;
        };
        let mut health = server.health();
        let ended = health.wait_for(|health| matches!(health, Health::Ended(_))).await;
        match ended.as_deref() {
            Ok(Health::Ended(why)) => why.clone(),
            _ => "its supervisor is gone".into(),
        }
    }

    /// Closes all connections and stops our own server.
    pub async fn close(self, patience: Duration) {
        if tokio::time::timeout(patience, self.pool.close()).await.is_err() {
            tracing::warn!("some statements did not end in {patience:?} and are cut off");
        }
        if let Some(server) = self.server {
            server.stop().await;
        }
    }
}

fn foreign(url: &str) -> anyhow::Result<PgConnectOptions> {
    let postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
    let options = postgres.then(|| PgConnectOptions::from_str(url).ok()).flatten();
    // The URL is not quoted, and neither is the cause: they hold a password.
    options.context("--database-url (DATABASE_URL) is not a URL such as postgres://user:password@host/medley")
}

async fn reach(options: PgConnectOptions) -> anyhow::Result<PgPool> {
    let options = options
        .application_name("medley-coordinator")
        .log_slow_statements(tracing::log::LevelFilter::Warn, SLOW_STATEMENT);
    let place = format!(
        "{} at {}",
        options.get_database().unwrap_or("(of the user's name)"),
        options.get_host()
    );
    let pool = PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(|connection, _| Box::pin(limit(connection)))
        .connect_lazy_with(options);
    for attempt in 1..=TRIES {
        match pool.acquire().await {
            Ok(_) => return Ok(pool),
            Err(e) if attempt < TRIES && is_passing(&e) => {
                tracing::warn!(attempt, cause = %e, "the database {place} does not answer yet");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(e) => return Err(e).with_context(|| format!("cannot connect to the database {place}")),
        }
    }
    anyhow::bail!("the database {place} does not answer")
}

/// Puts limits on what a connection may do to others.
async fn limit(connection: &mut PgConnection) -> sqlx::Result<()> {
    // Not among the options of the connection itself, which poolers refuse.
    sqlx::query("SELECT set_config('idle_in_transaction_session_timeout', $1, false)")
        .bind(IDLE_IN_TRANSACTION.as_millis().to_string())
        .execute(connection)
        .await
        .map(drop)
}

/// Whether the database may only be starting.
fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        // Class 57P: starting up, or shutting down.
        sqlx::Error::Database(e) => e.code().is_some_and(|code| code.starts_with("57P")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_database;

    #[test]
    fn a_url_of_another_kind_is_refused_without_showing_its_password() {
        for url in [
            "mysql://user:hunter2@host/x",
            "hunter2",
            "postgres://user:hunter2@host:port/x",
        ] {
            let error = foreign(url).unwrap_err().to_string();
            assert!(
                error.contains("--database-url") && !error.contains("hunter2"),
                "{error}"
            );
        }
        assert!(foreign("postgres://user:hunter2@host/x").is_ok());
    }

    #[tokio::test]
    async fn a_transaction_that_stands_still_makes_nobody_wait_for_long() {
        const LOCK: &str = "SELECT pg_advisory_xact_lock(4712)";
        let pool = reach(test_database::server().await).await.unwrap();
        let mut standing = pool.begin().await.unwrap();
        sqlx::query(LOCK).execute(&mut *standing).await.unwrap();
        let other = sqlx::query(LOCK).execute(&pool);
        let other = tokio::time::timeout(3 * IDLE_IN_TRANSACTION, other).await;
        other.expect("the lock is free again").unwrap();
        standing.commit().await.unwrap_err();
    }
}
