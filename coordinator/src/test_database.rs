//! A database of its own for every test.
//!
//! [`fresh`] copies a template that has the present schema, which takes some ten milliseconds. The template is named by
//! a hash of the migrations, made once and used by all test processes of a server; it is complete if it has its name,
//! because it gets it last.
//!
//! The server is the one of `TEST_DATABASE_URL`, which `medley-coordinator with-postgres` sets. Without it, the test
//! process starts one of its own, which ends with the process.

use crate::postgres::{Durability, Server};
use crate::store::MIGRATIONS;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tokio::sync::OnceCell;
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
    let server = server().await;
    match copy_of_template(&server).await {
        Ok(pool) => pool,
        Err(error) => panic!("no test database could be made: {error}"),
    }
}

async fn server() -> PgConnectOptions {
    match std::env::var(TEST_DATABASE_URL) {
        Ok(url) => PgConnectOptions::from_str(&url).expect("TEST_DATABASE_URL is a postgres:// URL"),
        Err(_) => own_server().await.connect_options(),
    }
}

/// This process's own server. The kernel ends it with the process; its files go when the next one is started.
async fn own_server() -> &'static Server {
    static SERVER: OnceCell<(Scratch, Server)> = OnceCell::const_new();
    let start = || async {
        let scratch = Scratch::make().expect("a directory for the test database can be made");
        match Server::start(scratch.path(), Durability::None).await {
            Ok(server) => (scratch, server),
            Err(error) => panic!("no test database: {error}"),
        }
    };
    &SERVER.get_or_init(start).await.1
}

/// A directory for the files of a server that nobody will miss; removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    /// Tells that the directory is in use for as long as this process lives.
    _lock: File,
}

impl Scratch {
    /// Beginning of the directories' names.
    const PREFIX: &str = "medley-scratch-";
    /// A file in the directory that is locked while it is in use.
    const LOCK: &str = "in-use";

    /// Makes a directory, and removes those whose process is gone.
    pub(crate) fn make() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        Self::sweep(&parent);
        let path = parent.join(format!("{}{}", Self::PREFIX, Uuid::now_v7().simple()));
        fs::create_dir(&path)?;
        // The user that the server runs as passes through.
        fs::set_permissions(&path, Permissions::from_mode(0o711))?;
        // It gets its name once it is locked, so that no sweeper sees it unlocked.
        let draft = path.join("draft");
        let lock = File::create(&draft)?;
        lock.lock()?;
        fs::rename(&draft, path.join(Self::LOCK))?;
        Ok(Self { path, _lock: lock })
    }

    /// Where the server's files go.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn sweep(parent: &Path) {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            if !entry.file_name().to_string_lossy().starts_with(Self::PREFIX) {
                continue;
            }
            let unused = File::open(entry.path().join(Self::LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
            if unused {
                // Somebody else may sweep the same directory.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left here is swept later.
        let _ = fs::remove_dir_all(&self.path);
    }
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
