//! Endpoints for registration and heartbeats of agents.

use super::auth::NodeToken;
use super::extract::Body;
use super::{App, Error, Result};
use crate::reconcile::control::Unheard;
use crate::reconcile::sight::Refused;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use medley_protocol::agent::{Beat, Orders, Register, Registered};
use medley_protocol::error::Code;
use medley_protocol::hardware::Gpu;
use std::collections::BTreeSet;

/// Most devices of a node.
const MAX_DEVICES: u32 = 64;
/// Most threads of a rank.
const MAX_THREADS: u32 = 1024;
/// Most ranks in a beat: present ones, and those that an agent has not been told to forget.
const MAX_REPORTS: usize = 4096;

/// Longest name or UUID of a GPU.
const MAX_GPU_NAME: usize = 100;

/// The endpoints of this file.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/agent/register", post(register))
        .route("/agent/beat", post(beat))
}

async fn register(_: NodeToken, State(app): State<App>, Body(register): Body<Register>) -> Result<Json<Registered>> {
    check(&register)?;
    if !app.control.leads() {
        return Err(not_leading());
    }
    let node = app.store.register_node(&register).await?;
    let settings = app.control.settings();
    let registered = Registered {
        node: node.id,
        beat_ms: settings.beat.as_millis() as u64,
        silence_ms: settings.silence.as_millis() as u64,
    };
    app.control.meet(node);
    Ok(Json(registered))
}

fn check(register: &Register) -> Result<()> {
    let name = &register.name;
    let simple = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 63 || !name.chars().all(simple) {
        return Err(Error::invalid("name", "use 1 to 63 of the characters a-z, 0-9 and -"));
    }
    if register.host.is_empty() || register.host.len() > 255 || register.host.contains(char::is_whitespace) {
        return Err(Error::invalid(
            "host",
            "give the host name or address under which other nodes reach this one",
        ));
    }
    if !(1..=MAX_DEVICES).contains(&register.devices) {
        return Err(Error::invalid(
            "devices",
            format!("use a number from 1 to {MAX_DEVICES}"),
        ));
    }
    if !(1..=MAX_THREADS).contains(&register.threads) {
        return Err(Error::invalid(
            "threads",
            format!("use a number from 1 to {MAX_THREADS}"),
        ));
    }
    if register.fingerprint.is_empty() || register.fingerprint.len() > 1000 {
        return Err(Error::invalid("fingerprint", "must have 1 to 1000 characters"));
    }
    Ok(())
}

async fn beat(_: NodeToken, State(app): State<App>, Body(beat): Body<Beat>) -> Result<Json<Orders>> {
    if beat.ranks.len() > MAX_REPORTS {
        return Err(Error::invalid(
            "ranks",
            format!("at most {MAX_REPORTS} ranks fit in a beat"),
        ));
    }
    check_gpus(&beat.hardware.gpus)?;
    let orders = app.control.beat(beat).map_err(unheard)?;
    Ok(Json((*orders).clone()))
}

fn check_gpus(gpus: &[Gpu]) -> Result<()> {
    let refused = |message: String| Err(Error::invalid("hardware.gpus", message));
    if gpus.len() > MAX_DEVICES as usize {
        return refused(format!("at most {MAX_DEVICES} GPUs fit in a beat"));
    }
    let is_word = |text: &str| (1..=MAX_GPU_NAME).contains(&text.len()) && !text.contains(char::is_control);
    for gpu in gpus {
        if !is_word(&gpu.uuid) || !is_word(&gpu.name) {
            return refused(format!(
                "uuid and name must have 1 to {MAX_GPU_NAME} characters in one line"
            ));
        }
        if gpu.utilisation_percent > Some(100) {
            return refused("utilisation_percent is a share of 100".into());
        }
    }
    let uuids: BTreeSet<&str> = gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
    if uuids.len() < gpus.len() {
        return refused("two GPUs have the same uuid".into());
    }
    Ok(())
}

fn unheard(reason: Unheard) -> Error {
    match reason {
        Unheard::NotLeading => not_leading(),
        Unheard::Refused(Refused::Unknown) => Error::not_found("no node of this id is known; register first"),
        Unheard::Refused(Refused::Stale) => {
            Error::stale("another agent has registered under this node's name; one of the two has to stop")
        }
    }
}

fn not_leading() -> Error {
    Error::new(
        Code::Unavailable,
        "this coordinator does not lead at present; try again, or ask another one",
    )
}
