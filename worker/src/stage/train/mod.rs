//! Training in lock-step: all ranks of a generation commit the same steps of the same model.
//!
//! [`setup`] loads data, model and state; [`batches`] reads ahead; [`step`] computes a step from a rank's own lanes and
//! its peers' sums; [`trainer`] commits steps when the membership says go.

mod batches;
mod setup;
mod step;
mod trainer;

use crate::collective::reduce::Plan;
use crate::collective::tcp::{Hello, Mesh, Timing};
use crate::rank;
use crate::rank::failure::Failure;
use crate::rank::process::Context;
use medley_protocol::agent::{Member, RankState, ToRank};
use setup::Setup;
use std::net::TcpListener;
use std::time::Duration;
use trainer::Trainer;

/// Time for all members of a generation to load data and weights, from when this one has.
const MEMBERS_PATIENCE: Duration = Duration::from_mins(10);

/// Runs the rank's part of a training stage to its end.
///
/// # Errors
/// Why the rank gives up; peers are told, or notice at once.
pub fn run(context: Context) -> Result<(), Failure> {
    let setup = Setup::load(&context)?;
    let listener = TcpListener::bind((context.host.as_str(), 0))
        .map_err(|e| Failure::passing(format!("cannot listen on {}: {e}", context.host)))?;
    let port = listener.local_addr()?.port();
    let address = if context.host.contains(':') {
        format!("[{}]:{port}", context.host)
    } else {
        format!("{}:{port}", context.host)
    };
    context.voice.state(RankState::Listening { address });
    let members = await_members(&context)?;
    let deal = setup.deal(&members)?;
    let plan = Plan::new(&deal, context.rank, setup.gradient_len());
    let limits = plan.limits(setup.gradient_len(), setup.share_bytes(&deal));
    let addresses: Vec<String> = members.into_iter().map(|member| member.address).collect();
    let mesh = Mesh::connect(&listener, &hello(&context, &setup), &addresses, Timing::default(), limits)
        .map_err(|e| Failure::passing(e.to_string()))?;
    Trainer::new(context, setup, deal, plan, mesh)?.run()
}

/// Waits until every member listens.
fn await_members(context: &Context) -> Result<Vec<Member>, Failure> {
    let world = context.assignment.world;
    match context.orders.next(MEMBERS_PATIENCE) {
        Some(ToRank::Connect { members }) => {
            let in_order = members.iter().map(|member| member.rank).eq(0..world);
            if !in_order {
                return Err(Failure::passing(format!("the members are not ranks 0 to {} in order", world - 1)));
            }
            Ok(members)
        }
        Some(other) => Err(Failure::passing(format!("expected the members of the generation, not {other:?}"))),
        None => Err(Failure::passing(format!(
            "the other members did not come within {} s",
            MEMBERS_PATIENCE.as_secs()
        ))),
    }
}

fn hello(context: &Context, setup: &Setup) -> Hello {
    let assignment = &context.assignment;
    Hello {
        stage: assignment.stage,
        generation: assignment.generation,
        secret: assignment.secret.clone(),
        committed: setup.state.step,
        prepared: false,
        rank: context.rank,
        world: assignment.world,
        fingerprint: rank::fingerprint(),
    }
}
