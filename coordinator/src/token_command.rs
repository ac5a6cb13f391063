//! `medley-coordinator token`: credentials, made and taken back where the state directory is.

use crate::database::{Database, Place};
use crate::state_dir::StateDir;
use crate::store::Store;
use crate::tokens::{Role, Token};
use anyhow::Context;
use medley_protocol::text::is_plain;
use std::time::Duration;

/// Makes, lists and revokes tokens.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token and print it; it cannot be shown again.
    Create {
        /// What it allows.
        #[arg(long, value_enum)]
        role: Role,
        /// Who or what will hold it.
        #[arg(long)]
        name: String,
    },
    /// List roles, names and dates of all tokens.
    List,
    /// Shut out every token of a name.
    Revoke {
        /// The name given when it was made.
        #[arg(long)]
        name: String,
    },
}

/// Carries out one command; the coordinator may be serving meanwhile.
///
/// # Errors
/// When the database cannot be reached, or there is nothing to revoke.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let state = StateDir::open(&args.place.state_dir)?;
    let database = Database::share(&args.place, &state).await?;
    let result = act(&database, args.action).await;
    database.close(Duration::from_secs(2)).await;
    result
}

async fn act(database: &Database, action: Action) -> anyhow::Result<()> {
    database.migrate().await?;
    let store = Store::new(database.pool.clone());
    match action {
        Action::Create { role, name } => {
            anyhow::ensure!(
                !name.trim().is_empty() && is_plain(&name),
                "--name must say in one line who will hold the token"
            );
            let token = Token::generate(role);
            store
                .add_token(token.hash(), role, &name)
                .await
                .context("cannot store the token")?;
            println!("{}", token.reveal());
        }
        Action::List => {
            println!("{:<10} {:<24} NAME", "ROLE", "MADE");
            for token in store.list_tokens().await.context("cannot list tokens")? {
                let made = token.created_at.format("%Y-%m-%d %H:%M:%S UTC");
                println!("{:<10} {made:<24} {}", token.role.name(), token.name);
            }
        }
        Action::Revoke { name } => {
            let revoked = store.revoke_tokens(&name).await.context("cannot revoke tokens")?;
            anyhow::ensure!(
                revoked > 0,
                "no token has the name {name:?}: `token list` shows all names"
            );
            println!("revoked {revoked}");
        }
    }
    Ok(())
}
