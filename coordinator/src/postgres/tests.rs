//! The supervisor with a real server.

use super::{Durability, Error, Health, Server, running, system};
use sqlx::{ConnectOptions, Connection, PgConnection};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_mins(2);

/// A directory that other users can pass through.
fn open_place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
    dir
}

async fn start(root: &Path) -> Server {
    Server::start(root, Durability::Full).await.unwrap()
}

async fn connect(server: &Server) -> PgConnection {
    server.connect_options().connect().await.unwrap()
}

async fn remember(server: &Server, number: i64) {
    let mut connection = connect(server).await;
    for sql in [
        "CREATE TABLE IF NOT EXISTS kept (number bigint)",
        "INSERT INTO kept VALUES ($1)",
    ] {
        let query = sqlx::query(sql);
        let query = if sql.contains("$1") { query.bind(number) } else { query };
        query.execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
}

async fn remembered(server: &Server) -> Vec<i64> {
    let mut connection = connect(server).await;
    sqlx::query_scalar("SELECT number FROM kept ORDER BY number")
        .fetch_all(&mut connection)
        .await
        .unwrap()
}

/// Whether this machine lets processes make user namespaces.
fn makes_namespaces() -> bool {
    let made = std::process::Command::new("unshare").args(["--user", "true"]).status();
    made.is_ok_and(|status| status.success())
}

fn pid(server: &Server) -> u32 {
    match *server.health().borrow() {
        Health::Ready { pid } => pid,
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_was_stored_is_there_at_the_next_start() {
    let dir = open_place();
    let server = start(dir.path()).await;
    remember(&server, 1).await;
    let fsync: String = sqlx::query_scalar("SHOW fsync")
        .fetch_one(&mut connect(&server).await)
        .await
        .unwrap();
    assert_eq!(fsync, "on");
    server.stop().await;

    let server = start(dir.path()).await;
    assert_eq!(remembered(&server).await, [1]);
    server.stop().await;
}

#[tokio::test]
async fn a_killed_server_is_started_again_without_loss() {
    let dir = open_place();
    let server = start(dir.path()).await;
    let mut health = server.health();
    for round in 0..2 {
        remember(&server, round).await;
        let killed = pid(&server);
        system::signal(killed, system::KILL);
        let back = health.wait_for(|health| matches!(health, Health::Ready { pid } if *pid != killed));
        tokio::time::timeout(PATIENCE, back).await.unwrap().unwrap();
        assert_eq!(remembered(&server).await, (0..=round).collect::<Vec<_>>());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_second_supervisor_is_refused_and_can_connect_to_the_first_ones_server() {
    let dir = open_place();
    assert!(running(dir.path()).unwrap().is_none());
    let server = start(dir.path()).await;
    let refused = Server::start(dir.path(), Durability::Full).await.unwrap_err();
    assert!(matches!(refused, Error::InUse(_)), "{refused}");

    remember(&server, 7).await;
    let mut connection = running(dir.path()).unwrap().unwrap().connect().await.unwrap();
    let number: i64 = sqlx::query_scalar("SELECT number FROM kept")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(number, 7);
    drop(connection);
    server.stop().await;
    assert!(running(dir.path()).unwrap().is_none());
}

#[tokio::test]
async fn strangers_without_the_password_are_refused() {
    let dir = open_place();
    let server = start(dir.path()).await;
    let wrong = server.connect_options().password("guessed");
    let error = wrong.connect().await.unwrap_err();
    let code = error.as_database_error().unwrap().code().unwrap().into_owned();
    assert_eq!(code, "28P01", "{error}");
    let mut through_url: PgConnection = PgConnection::connect(server.url()).await.unwrap();
    through_url.ping().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn closed_deep_and_oddly_named_places_serve_too() {
    for name in ["odd %&, \" name".to_owned(), "deep".repeat(30)] {
        let dir = tempfile::tempdir().unwrap();
        // Closed to everybody else, as /root is.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        let started = Server::start(&dir.path().join(name), Durability::Full).await;
        // Some containers let nobody make a user namespace: then it is said which directory has to be opened.
        if let Err(Error::NoIdentity { blocked, .. }) = &started
            && !makes_namespaces()
        {
            assert_eq!(blocked, dir.path());
            continue;
        }
        let server = started.unwrap();
        remember(&server, 3).await;
        let mut through_url: PgConnection = PgConnection::connect(server.url()).await.unwrap();
        through_url.ping().await.unwrap();
        server.stop().await;
    }
}

#[tokio::test]
async fn data_of_another_version_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("PG_VERSION"), "9\n").unwrap();
    let error = Server::start(dir.path(), Durability::Full).await.unwrap_err();
    assert!(matches!(error, Error::OtherVersion { made_by: 9, .. }), "{error}");
}
