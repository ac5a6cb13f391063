//! The core without a database: a world of jobs, nodes that beat or do not, and a clock.

mod apart;
mod breaks;
mod damage;
mod doubt;
mod drain;
mod growth;
mod nodes;
mod random;
mod rules;
mod standstill;
mod stragglers;
mod waiting;
mod world;

use super::*;
use crate::domain::stage::MAX_SETBACKS;
use crate::reconcile::needs::needs;
use crate::reconcile::sight::Report;
use medley_protocol::agent::{Beat, RankReport};
use medley_protocol::hardware::Hardware;
use medley_protocol::stage::JobState;
use serde_json::json;
use world::{World, node};
