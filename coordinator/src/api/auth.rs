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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::{Control, Settings};
    use crate::store::Store;
    use crate::test_database;
    use axum::http::Request;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    async fn app() -> App {
        App {
            store: Store::new(test_database::fresh().await),
            objects: Arc::new(InMemory::new()),
            objects_url: "memory:///".into(),
            control: Control::new(Settings::default()),
        }
    }

    async fn let_in(app: &App, role: Role) -> String {
        let token = Token::generate(role);
        app.store.add_token(token.hash(), role, "somebody").await.unwrap();
        token.reveal().to_owned()
    }

    async fn ask<T: FromRequestParts<App, Rejection = Error>>(app: &App, header: &str) -> Result<(), Code> {
        let request = Request::builder().header(AUTHORIZATION, header).body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        T::from_request_parts(&mut parts, app)
            .await
            .map(drop)
            .map_err(|e| e.code())
    }

    #[tokio::test]
    async fn a_role_opens_what_it_includes_and_nothing_else() {
        let app = app().await;
        let submitter = format!("Bearer {}", let_in(&app, Role::Submitter).await);
        assert_eq!(ask::<Viewer>(&app, &submitter).await, Ok(()));
        assert_eq!(ask::<Submitter>(&app, &submitter).await, Ok(()));
        assert_eq!(ask::<Operator>(&app, &submitter).await, Err(Code::Forbidden));
        assert_eq!(ask::<Admin>(&app, &submitter).await, Err(Code::Forbidden));
        assert_eq!(ask::<NodeToken>(&app, &submitter).await, Err(Code::Forbidden));

        let node = format!("bearer {}", let_in(&app, Role::Node).await);
        assert_eq!(ask::<NodeToken>(&app, &node).await, Ok(()));
        assert_eq!(ask::<Viewer>(&app, &node).await, Err(Code::Forbidden));
    }

    #[tokio::test]
    async fn without_a_known_bearer_token_nobody_gets_in() {
        let app = app().await;
        let admin = let_in(&app, Role::Admin).await;
        let cut = &admin[..admin.len() - 1];
        for header in [
            "",
            "Bearer",
            "Bearer ",
            &admin,
            &format!("Basic {admin}"),
            &format!("Bearer {cut}"),
        ] {
            assert_eq!(ask::<Viewer>(&app, header).await, Err(Code::Unauthorized), "{header:?}");
        }
    }
}
