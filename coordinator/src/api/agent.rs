//! Endpoints for registration and heartbeats of agents.

use super::auth::NodeToken;
use super::extract::Body;
use super::{App, Error, Result, beats};
use crate::reconcile::control::Unheard;
use crate::reconcile::sight::Refused;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use medley_protocol::agent::{Beat, Orders, Register, Registered};
use medley_protocol::error::Code;
use medley_protocol::text::is_plain;

/// Most devices of a node.
pub(super) const MAX_DEVICES: u32 = 64;
/// Most threads of a rank.
const MAX_THREADS: u32 = 1024;

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
    check_name(&register.name)?;
    let host = &register.host;
    let is_word = is_plain(host) && !host.contains(char::is_whitespace);
    if !(1..=255).contains(&host.len()) || !is_word {
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
    if !(1..=1000).contains(&register.fingerprint.len()) || !is_plain(&register.fingerprint) {
        return Err(Error::invalid(
            "fingerprint",
            "must have 1 to 1000 characters in one line",
        ));
    }
    Ok(())
}

/// Refuses names that no node has.
pub(super) fn check_name(name: &str) -> Result<()> {
    let simple = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=63).contains(&name.len()) && name.chars().all(simple) {
        return Ok(());
    }
    Err(Error::invalid("name", "use 1 to 63 of the characters a-z, 0-9 and -"))
}

async fn beat(_: NodeToken, State(app): State<App>, Body(beat): Body<Beat>) -> Result<Json<Orders>> {
    let orders = app.control.beat(beats::admit(beat)?).map_err(unheard)?;
    Ok(Json((*orders).clone()))
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
