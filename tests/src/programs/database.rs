//! A database server that is no coordinator's own, and the way to it.

use super::{Proxy, Target, tree};
use medley_coordinator::postgres::{Durability, Health, Server};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use std::fs;
use std::path::Path;

/// A server with a proxy before it.
#[derive(Debug)]
pub struct Database {
    /// The way that coordinators take.
    pub way: Proxy,
    server: Server,
    url: String,
}

impl Database {
    /// Starts a server on files in a folder.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(folder: &Path) -> Self {
        // It is going to be killed: what it said that it has must still be there.
        let server = Server::start(folder, Durability::Full).await;
        let server = server.unwrap_or_else(|error| panic!("no database: {error}"));
        let options = server.connect_options();
        let sockets = options.get_socket().expect("the server has a socket");
        let way = Proxy::start(Target::Socket(sockets.join(".s.PGSQL.5432")));
        let password = fs::read_to_string(folder.join("password")).expect("the server has a password");
        let user = options.get_username();
        let url = format!("postgres://{user}:{}@{}/postgres", password.trim(), way.address);
        Self { way, server, url }
    }

    /// Its URL, by the proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Kills the server with all that it was doing; it is started again.
    ///
    /// # Panics
    /// When it was not running.
    pub async fn restart(&self) {
        let mut health = self.server.health();
        let Health::Ready { pid: killed } = *health.borrow() else {
            panic!("the server runs");
        };
        tree::kill(killed);
        let is_another = |health: &Health| matches!(health, Health::Ready { pid } if *pid != killed);
        health.wait_for(is_another).await.expect("it is started again");
    }

    /// Ends all connections of coordinators, whatever they are doing; how many there were.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn end_connections(&self) -> usize {
        let options: PgConnectOptions = self.server.connect_options();
        let mut connection = PgConnection::connect_with(&options).await.expect("the server answers");
        let ended = sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'medley-coordinator'",
        );
        let ended = ended.fetch_all(&mut connection).await;
        ended.expect("a superuser may end connections").len()
    }
}
