//! Who may call: one extractor per role, each of which is the whole check.
//!
//! A handler that takes [`Submitter`] runs only for holders of a token whose role includes it. [`NodeToken`] stands
//! apart: agents cannot do what people do, nor the other way round.

use super::{App, Error};
use crate::tokens::{Holder, Role, Token};
use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use medley_protocol::error::Code;

macro_rules! role {
    ($(#[$doc:meta])* $name:ident) => {
        role!($(#[$doc])* $name, $name);
    };
    ($(#[$doc:meta])* $name:ident, $role:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name(pub Holder);

        impl FromRequestParts<App> for $name {
            type Rejection = Error;

            async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
                authorize(parts, app, Role::$role).await.map(Self)
            }
        }
    };
}

role!(
    /// May read.
    Viewer
);
role!(
    /// May submit and cancel jobs.
    Submitter
);
role!(
    /// May ask for checkpoints and drain nodes.
    Operator
);
role!(
    /// May make tokens.
    Admin
);
role!(
    /// Is an agent.
    NodeToken,
    Node
);

async fn authorize(parts: &Parts, app: &App, needed: Role) -> Result<Holder, Error> {
    let token = bearer(parts)?;
    let Some(holder) = app.store.holder_of_token(token.hash()).await? else {
        return Err(Error::new(
            Code::Unauthorized,
            "this token is not known here; use the one in the file tokens/admin of the coordinator's state directory, \
             or have one made with `medley-coordinator token create`",
        ));
    };
    if holder.role.includes(needed) {
        return Ok(holder);
    }
    let Holder { role, name } = holder;
    let detail = format!("this needs the role {needed}; the token of {name:?} has the role {role}");
    Err(Error::new(Code::Forbidden, detail))
}

fn bearer(parts: &Parts) -> Result<Token, Error> {
    let missing = || {
        let detail = "no token came with the request; send the header `Authorization: Bearer TOKEN`";
        Error::new(Code::Unauthorized, detail)
    };
    let header = parts.headers.get(AUTHORIZATION).ok_or_else(missing)?;
    let text = header.to_str().map_err(|_| missing())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return Err(missing());
    }
    Ok(Token::received(token))
}
