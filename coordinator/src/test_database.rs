//! A database of its own for every test.
//!
//! [`fresh`] copies a template that has the present schema, which takes some ten milliseconds. The template is named by
//! a hash of the migrations, made once and used by all test processes of a server; it is complete if it has its name,
//! because it gets it last. The server is the one of `TEST_DATABASE_URL`.

use crate::store::MIGRATIONS;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool};
use std::str::FromStr;
use uuid::Uuid;

/// Names the server that tests use.
pub const TEST_DATABASE_URL: &str = "TEST_DATABASE_URL";

/// Connections of one test.
const MAX_CONNECTIONS: u32 = 8;
/// Key of the advisory lock under which a template is made.
const TEMPLATE_LOCK: i64 = 0x6d65_646c_6579;

/// A new database with the present schema. It is left behind for whoever ends the server.
///
/// # Panics
/// Without a database a test can say nothing, so every failure is a panic that tells what to do.
pub async fn fresh() -> PgPool {
    let server = server();
    match copy_of_template(&server).await {
        Ok(pool) => pool,
        Err(error) => panic!("no test database could be made: {error}"),
    }
}

fn server() -> PgConnectOptions {
    let url = std::env::var(TEST_DATABASE_URL)
        .expect("TEST_DATABASE_URL names the server to test with: run `medley-coordinator with-postgres -- COMMAND`");
    PgConnectOptions::from_str(&url).expect("TEST_DATABASE_URL is a postgres:// URL")
}

async fn copy_of_template(server: &PgConnectOptions) -> sqlx::Result<PgPool> {
    let mut connection = server.connect().await?;
    let template = template(server, &mut connection).await?;
    let name = format!("t_{}", Uuid::now_v7().simple());
    let create = format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY");
    sqlx::query(AssertSqlSafe(create)).execute(&mut connection).await?;
    connection.close().await?;
    PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .connect_with(server.clone().database(&name))
        .await
}

/// Name of the template for the present schema, made if there is none yet.
async fn template(server: &PgConnectOptions, connection: &mut PgConnection) -> sqlx::Result<String> {
    let name = format!("medley_{}", schema_hash());
    if exists(connection, &name).await? {
        return Ok(name);
    }
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(&mut *connection)
        .await?;
    let made = if exists(connection, &name).await? {
        Ok(())
    } else {
        make(server, connection, &name).await
    };
    sqlx::query("SELECT pg_advisory_unlock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(&mut *connection)
        .await?;
    made.map(|()| name)
}

async fn exists(connection: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(name)
        .fetch_one(connection)
        .await
}

async fn make(server: &PgConnectOptions, connection: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    let draft = format!("draft_{}", Uuid::now_v7().simple());
    let create = format!("CREATE DATABASE {draft}");
    sqlx::query(AssertSqlSafe(create)).execute(&mut *connection).await?;
    let mut inside = server.clone().database(&draft).connect().await?;
    MIGRATIONS.run(&mut inside).await?;
    inside.close().await?;
    let rename = format!("ALTER DATABASE {draft} RENAME TO {name}");
    sqlx::query(AssertSqlSafe(rename)).execute(connection).await.map(drop)
}

fn schema_hash() -> String {
    let mut hasher = blake3::Hasher::new();
    for migration in MIGRATIONS.iter() {
        hasher.update(&migration.version.to_le_bytes());
        hasher.update(&migration.checksum);
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_tests_do_not_see_each_other() {
        let (one, two) = (fresh().await, fresh().await);
        let count = "SELECT count(*) FROM tokens";
        sqlx::query("INSERT INTO tokens VALUES (decode(repeat('ab', 32), 'hex'), 'viewer', 'x')")
            .execute(&one)
            .await
            .unwrap();
        assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&one).await.unwrap(), 1);
        assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&two).await.unwrap(), 0);
    }
}
