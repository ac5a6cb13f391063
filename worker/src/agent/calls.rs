//! The agent's calls to the coordinators, each with a deadline.
//!
//! Of several coordinators one leads, and the others refuse to be registered with and to be beaten at. So each beat is tried
//! at one after the other, beginning with the one that answered last; facts go to that one too, although any would take them.

use super::core::{Reply, Request, Trouble};
use medley_protocol::agent::{Beat, Orders, Register, Registered};
use medley_protocol::client::{Client, Error};
use medley_protocol::error::Code;
use medley_protocol::rest::LeaseAnswer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Longest wait for the answer to anything but a beat.
const PATIENCE: Duration = Duration::from_secs(20);

/// The coordinators of a cluster. Cheap to clone; all clones know which one answered last.
#[derive(Clone)]
pub struct Coordinators {
    clients: Arc<[Client]>,
    /// The one that answered last.
    found: Arc<AtomicUsize>,
}

impl Coordinators {
    /// Coordinators at these URLs, which take the same token.
    pub fn new(urls: &[String], token: &str) -> Self {
        Self {
            clients: urls.iter().map(|url| Client::new(url, token)).collect(),
            found: Arc::default(),
        }
    }

    /// Registers the node.
    ///
    /// # Errors
    /// [`Trouble`], as every call here.
    pub async fn register(&self, body: &Register) -> Result<Registered, Trouble> {
        self.ask("/agent/register", body, PATIENCE).await
    }

    /// Beats, and waits so long for the orders.
    pub async fn beat(&self, body: &Beat, patience: Duration) -> Result<Orders, Trouble> {
        self.ask("/agent/beat", body, patience).await
    }

    /// Sends a request.
    pub async fn send(&self, request: &Request) -> Result<Reply, Trouble> {
        let client = &self.clients[self.found.load(Ordering::Relaxed)];
        within(PATIENCE, exchange(client, request)).await
    }

    /// Asks one coordinator after the other until one answers; all together get `patience`.
    async fn ask<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        patience: Duration,
    ) -> Result<T, Trouble> {
        let (first, count) = (self.found.load(Ordering::Relaxed), self.clients.len());
        let share = patience / u32::try_from(count).unwrap_or(u32::MAX);
        let mut told = Vec::new();
        for i in (first..first + count).map(|i| i % count) {
            match within(share, self.clients[i].post(path, body)).await {
                Err(
                    Trouble::Away(detail)
                    | Trouble::Refused {
                        code: Code::Unavailable,
                        detail,
                    },
                ) => told.push(detail),
                answer => {
                    self.found.store(i, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        Err(Trouble::Away(told.join("; ")))
    }
}

async fn exchange(client: &Client, request: &Request) -> Result<Reply, Error> {
    match request {
        Request::MetricsThrough { stage } => {
            let path = format!("/stages/{stage}/metrics/through");
            client.get(&path).await.map(Reply::Through)
        }
        Request::Metrics { stage, chunk } => {
            let path = format!("/stages/{stage}/metrics");
            client.post(&path, chunk).await.map(Reply::Through)
        }
        Request::Lease { stage, body, .. } => {
            let path = format!("/stages/{stage}/tasks/lease");
            let answer: LeaseAnswer = client.post(&path, body).await?;
            Ok(Reply::Lease(answer.lease))
        }
        Request::Part { stage, body } => {
            let path = format!("/stages/{stage}/checkpoints/parts");
            client.tell(&path, body).await.map(|()| Reply::Done)
        }
        Request::Refused { stage, body } => {
            let path = format!("/stages/{stage}/checkpoints/refused");
            client.tell(&path, body).await.map(|()| Reply::Done)
        }
        Request::Renew { task, body } => {
            let path = format!("/tasks/{task}/renew");
            client.tell(&path, body).await.map(|()| Reply::Done)
        }
        Request::Finish { task, body } => {
            let path = format!("/tasks/{task}/finish");
            client.tell(&path, body).await.map(|()| Reply::Done)
        }
        Request::Fail { task, body } => {
            let path = format!("/tasks/{task}/fail");
            client.tell(&path, body).await.map(|()| Reply::Done)
        }
    }
}

async fn within<T>(patience: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
    match tokio::time::timeout(patience, call).await {
        Ok(answer) => answer.map_err(trouble),
        Err(_) => Err(Trouble::Away(format!(
            "no answer from the coordinator within {} ms",
            patience.as_millis()
        ))),
    }
}

fn trouble(error: Error) -> Trouble {
    match error {
        Error::Refused(problem) => Trouble::Refused {
            code: problem.code,
            detail: problem.to_string(),
        },
        // The innermost cause, such as a refused connection, is the one that helps.
        Error::Unreachable { url, source } => {
            let mut cause: &dyn std::error::Error = &source;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            Trouble::Away(format!("no answer from the coordinator at {url}: {cause}"))
        }
    }
}
