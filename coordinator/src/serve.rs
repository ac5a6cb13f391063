//! `medley-coordinator serve`: puts database, scheduling and API together, and takes them apart again.
//!
//! The end has a budget: requests, connections and the database server get their share of fifteen seconds, then the
//! process ends in any case. Nothing is lost by that; the database recovers and agents come back.

use crate::api::{self, App};
use crate::connections::{Door, Limits};
use crate::database::{Database, Place};
use crate::reconcile::{self, Control, Settings};
use crate::state_dir::{StateDir, write_public};
use crate::store::Store;
use crate::{leftovers, objects, sweep, tokens};
use anyhow::Context;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Time for requests and the scheduler to end. Then connections close and the database server has ten seconds more.
const DRAIN: Duration = Duration::from_secs(2);
/// Time for connections to the database to end.
const CLOSE: Duration = Duration::from_secs(1);

/// Serves the cluster until it is told to stop.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Address to listen on; port 0 takes a free one.
    #[arg(
        long,
        env = "MEDLEY_LISTEN",
        default_value = "127.0.0.1:7700",
        value_name = "ADDRESS"
    )]
    listen: SocketAddr,
    /// Where datasets, checkpoints and results go: file:///var/lib/medley/store, or s3://bucket/folder, which is reached as
    /// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT, … say; the state directory by default.
    #[arg(long, env = "MEDLEY_STORE", value_name = "URL")]
    store: Option<String>,
    /// Seconds for which the objects of checkpoints that are not kept stay, for whoever still reads them.
    #[arg(long, env = "MEDLEY_OBJECT_GRACE_S", default_value_t = 600, value_name = "SECONDS")]
    object_grace_s: u64,
    /// Seconds that ranks try to connect with each other before their nodes count as cut off from each other.
    #[arg(long, env = "MEDLEY_REACH_LIMIT_S", default_value_t = 3, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    reach_limit_s: u64,
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// When the start fails, or something without which nothing can be served ends.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    let service = tokio::select! {
        service = Service::start(&args) => service?,
        name = stop.requested() => {
            tracing::info!("{name} while starting: stopped");
            return Ok(());
        }
    };
    service.serve(stop).await
}

/// The signals that end the service.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?,
        })
    }

    async fn requested(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Everything that a start gathers.
struct Service {
    state: StateDir,
    database: Database,
    listener: TcpListener,
    app: App,
    url: String,
    object_grace: Duration,
    /// Keeps other coordinators out of the state directory.
    _lock: File,
}

impl Service {
    async fn start(args: &Args) -> anyhow::Result<Self> {
        let state = StateDir::open(&args.place.state_dir)?;
        let lock = state.lock()?;
        // First, so that an address in use is noticed before anything is made.
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("cannot listen on {}: choose another --listen address", args.listen))?;
        let url = url(listener.local_addr().context("the listener has no address")?);
        let objects_url = match &args.store {
            Some(url) => url.clone(),
            None => objects::url_of_directory(&state.store()?)?,
        };
        let objects = objects::open(&objects_url).await?;
        let database = Database::open(&args.place, &state).await?;
        database.migrate().await?;
        let store = Store::new(database.pool.clone());
        tokens::files::ensure(&state, &store).await?;
        let app = App {
            store,
            objects,
            objects_url: objects_url.into(),
            control: Control::new(Settings {
                reach_limit: Duration::from_secs(args.reach_limit_s),
                ..Settings::default()
            }),
        };
        Ok(Self {
            state,
            database,
            listener,
            app,
            url,
            object_grace: Duration::from_secs(args.object_grace_s),
            _lock: lock,
        })
    }

    async fn serve(self, mut stop: Stop) -> anyhow::Result<()> {
        let Self {
            state,
            database,
            listener,
            app,
            url,
            object_grace,
            _lock,
        } = self;
        let (drain, draining) = watch::channel(false);
        let mut scheduler = tokio::spawn(reconcile::run(
            app.store.clone(),
            app.control.clone(),
            Arc::clone(&app.objects_url),
            is_set(draining.clone()),
        ));
        let sweeper = tokio::spawn(sweep::run(
            app.store.clone(),
            Arc::clone(&app.objects),
            app.control.clone(),
            object_grace,
            is_set(draining.clone()),
        ));
        let tidier = objects::directory(&app.objects_url).map(|directory| {
            let stop = is_set(draining.clone());
            tokio::spawn(leftovers::run(directory, app.control.clone(), stop))
        });
        let server = axum::serve(Door::new(listener, Limits::default()), api::router(app))
            .with_graceful_shutdown(is_set(draining));
        let mut server = tokio::spawn(std::future::IntoFuture::into_future(server));
        announce(&state, &url)?;

        let outcome = tokio::select! {
            name = stop.requested() => {
                tracing::info!("{name}: stopping");
                Ok(())
            }
            why = database.ended() => Err(anyhow::anyhow!("the database server is gone: {why}")),
            ended = &mut server => Err(anyhow::anyhow!("the HTTP server ended: {ended:?}")),
            ended = &mut scheduler => Err(anyhow::anyhow!("the scheduler ended: {ended:?}")),
        };
        drain.send_replace(true);
        finish("requests", server).await;
        finish("the scheduler", scheduler).await;
        finish("the sweeper", sweeper).await;
        if let Some(tidier) = tidier {
            finish("the tidier", tidier).await;
        }
        // Gone already if somebody cleaned up.
        let _ = std::fs::remove_file(state.url_file());
        database.close(CLOSE).await;
        tracing::info!("stopped");
        outcome
    }
}

/// Tells people and programs where the service is.
fn announce(state: &StateDir, url: &str) -> anyhow::Result<()> {
    write_public(&state.url_file(), &format!("{url}\n"))?;
    let mut out = std::io::stdout().lock();
    // Whoever started us may not be listening any more.
    let _ = writeln!(out, "listening on {url}").and_then(|()| out.flush());
    tracing::info!("listening on {url}");
    Ok(())
}

/// Waits for a task that was told to end, and cuts it off if it does not.
async fn finish<T>(what: &str, mut task: JoinHandle<T>) {
    if task.is_finished() {
        return;
    }
    if tokio::time::timeout(DRAIN, &mut task).await.is_err() {
        tracing::warn!("{what} did not end in {DRAIN:?} and are cut off");
        task.abort();
    }
}

async fn is_set(mut flag: watch::Receiver<bool>) {
    // An error means that nobody can set it any more, which is an end as well.
    let _ = flag.wait_for(|set| *set).await;
}

/// The URL under which this machine reaches the address; a listener on all addresses is reached on loopback.
fn url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_can_be_reached_from_this_machine() {
        assert_eq!(url(([127, 0, 0, 1], 7700).into()), "http://127.0.0.1:7700");
        assert_eq!(url(([0, 0, 0, 0], 80).into()), "http://127.0.0.1:80");
        assert_eq!(url(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 1)), "http://[::1]:1");
    }
}
