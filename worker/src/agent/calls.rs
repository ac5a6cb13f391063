//! The agent's calls to the coordinator, each with a deadline.

use super::core::{Reply, Request, Trouble};
use medley_protocol::agent::{Beat, Orders, Register, Registered};
use medley_protocol::client::{Client, Error};
use medley_protocol::rest::LeaseAnswer;
use std::future::Future;
use std::time::Duration;

/// Longest wait for the answer to anything but a beat.
const PATIENCE: Duration = Duration::from_secs(20);

/// Registers the node.
///
/// # Errors
/// [`Trouble`], as every call here.
pub async fn register(client: &Client, body: &Register) -> Result<Registered, Trouble> {
    within(PATIENCE, client.post("/agent/register", body)).await
}

/// Beats, and waits so long for the orders.
pub async fn beat(client: &Client, body: &Beat, patience: Duration) -> Result<Orders, Trouble> {
    within(patience, client.post("/agent/beat", body)).await
}

/// Sends a request.
pub async fn send(client: &Client, request: &Request) -> Result<Reply, Trouble> {
    within(PATIENCE, exchange(client, request)).await
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
