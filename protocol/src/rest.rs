//! Bodies of the REST API under `/api/v1`.
//!
//! | method and path | body → answer | role |
//! |---|---|---|
//! | `POST /jobs` (`Idempotency-Key`) | job document → [`JobDetail`] | submitter |
//! | `POST /jobs/dry-run` | job document → [`DryRun`] | submitter |
//! | `GET /jobs?limit&cursor` | → [`Page`] of [`JobView`] | viewer |
//! | `GET /jobs/{job}` | → [`JobDetail`] | viewer |
//! | `POST /jobs/{job}/cancel` | → [`JobView`] | submitter |
//! | `POST /jobs/{job}/retry` | → [`JobView`] | submitter |
//! | `GET /jobs/{job}/metrics?stage&from_step&limit` | → [`MetricsPage`] | viewer |
//! | `GET /jobs/{job}/ledger?stage&from_step&limit` | → [`LedgerPage`] | viewer |
//! | `GET /jobs/{job}/checkpoints` | `?damaged` → list of [`CheckpointView`] | viewer |
//! | `POST /checkpoints/{checkpoint}/damage` | [`DamageFound`] | operator |
//! | `POST /jobs/{job}/checkpoints` | → [`CheckpointRequestView`] | operator |
//! | `GET /jobs/{job}/datasets` | → list of [`DatasetView`] | viewer |
//! | `GET /jobs/{job}/events?after&limit` | → list of [`EventView`] | viewer |
//! | `GET /nodes` | → list of [`NodeView`] | viewer |
//! | `POST /nodes/{name}/duty` | [`DutyChange`] → [`NodeView`] | operator |
//! | `GET /objects/{key}` | → bytes | viewer |
//! | `POST /agent/register` | [`Register`](crate::agent::Register) → [`Registered`](crate::agent::Registered) | node |
//! | `POST /agent/beat` | [`Beat`](crate::agent::Beat) → [`Orders`](crate::agent::Orders) | node |
//! | `GET /stages/{stage}/metrics/through` | → [`MetricsThrough`](crate::metrics::MetricsThrough) | node |
//! | `POST /stages/{stage}/metrics` | [`MetricsChunk`](crate::metrics::MetricsChunk) → [`MetricsThrough`](crate::metrics::MetricsThrough) | node |
//! | `POST /stages/{stage}/checkpoints/parts` | [`PartHandedIn`] → 204 | node |
//! | `POST /stages/{stage}/checkpoints/refused` | [`PartRefused`] → 204 | node |
//! | `POST /stages/{stage}/tasks/lease` | [`LeaseRequest`] → [`LeaseAnswer`] | node |
//! | `POST /tasks/{task}/renew` | [`TaskRenewal`] → 204 | node |
//! | `POST /tasks/{task}/finish` | [`TaskFinished`] → 204 | node |
//! | `POST /tasks/{task}/fail` | [`TaskGivenUp`] → 204 | node |

mod jobs;
mod nodes;
mod ranks;
mod records;

pub use jobs::{DryRun, EpochView, JobDetail, JobView, Placed, StageView, Straggler};
pub use nodes::{Duty, DutyChange, NodeView};
pub use ranks::{LeaseAnswer, LeaseRequest, PartHandedIn, PartRefused, TaskFinished, TaskGivenUp, TaskRenewal};
pub use records::{
    CheckpointRequestView, CheckpointView, DamageFound, DatasetView, EventView, LedgerPage, MetricsPage,
};

use serde::{Deserialize, Serialize};

/// One page of a list, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Give this as `cursor` to get the next page; none on the last.
    pub next: Option<String>,
}
