//! Which database the coordinator uses: the operator's, or its own.

use crate::postgres::{self, Durability, Health, Server};
use crate::state_dir::StateDir;
use crate::store::MIGRATIONS;
use anyhow::Context;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Connections that one coordinator opens at most.
const MAX_CONNECTIONS: u32 = 24;
/// Longest wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Tries to reach a database that may be starting itself.
const TRIES: u32 = 6;
/// Statements that take longer are logged.
const SLOW_STATEMENT: Duration = Duration::from_secs(1);
/// What the server ends by itself, so that nothing waits for a coordinator that is paused or cut off. A transaction that
/// idles may hold the leader's row, and the takeover waits for that.
const LIMITS: [(&str, &str); 3] = [
    ("statement_timeout", "20s"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "5s"),
];

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

    /// Brings the schema up to date, which may take longer than any other statement.
    ///
    /// # Errors
    /// When a migration fails, or the database has been migrated by a newer coordinator.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        // Not one of the pool's: those have limits.
        let connecting = self.pool.connect_options().connect().await;
        let mut connection = connecting.context("cannot connect to the database")?;
        MIGRATIONS
            .run(&mut connection)
            .await
            .context("cannot bring the database's schema up to date")?;
        connection
            .close()
            .await
            .context("cannot close a connection to the database")
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

/// Puts [`LIMITS`] on a connection. They are not among its options, which poolers refuse.
async fn limit(connection: &mut PgConnection) -> sqlx::Result<()> {
    let (names, values): (Vec<&str>, Vec<&str>) = LIMITS.into_iter().unzip();
    sqlx::query("SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS limits (name, value)")
        .bind(names)
        .bind(values)
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
    use std::time::Instant;

    #[tokio::test]
    async fn a_coordinator_that_stands_still_in_a_transaction_keeps_nobody_from_leading() {
        let fresh = test_database::fresh().await;
        let pool = reach((*fresh.connect_options()).clone()).await.unwrap();
        let mut paused = pool.begin().await.unwrap();
        sqlx::query("SELECT term FROM leader FOR SHARE")
            .execute(&mut *paused)
            .await
            .unwrap();

        let since = Instant::now();
        sqlx::query("UPDATE leader SET term = term + 1")
            .execute(&pool)
            .await
            .unwrap();
        assert!(since.elapsed() > Duration::from_secs(1), "it waited for the paused one");
        let late = sqlx::query("UPDATE leader SET term = term + 1")
            .execute(&mut *paused)
            .await;
        assert!(late.is_err(), "the paused one's transaction is over");
    }

    #[tokio::test]
    async fn migrations_have_no_limits() {
        let fresh = test_database::fresh().await;
        let pool = reach((*fresh.connect_options()).clone()).await.unwrap();
        let database = Database { pool, server: None };
        database.migrate().await.unwrap();
        let limit: String = sqlx::query_scalar("SHOW statement_timeout")
            .fetch_one(&database.pool)
            .await
            .unwrap();
        assert_eq!(limit, "20s", "of all others");
    }

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
}
