//! `medley-coordinator token`: credentials, made and taken back where the state directory is.

use crate::database::{Database, Place};
use crate::state_dir::StateDir;
use crate::store::Store;
use crate::tokens::{Role, Token};
use anyhow::Context;
use medley_protocol::text::is_plain;
use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Makes, lists and revokes tokens.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the coordinator's state.
    #[arg(long, env = "MEDLEY_STATE_DIR", value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,
    /// The PostgreSQL that the coordinator uses instead of a private one.
    #[arg(
        long,
        env = "DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        global = true
    )]
    database_url: Option<String>,
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
    // An argument that may stand before the command and after it cannot be a required one.
    let state_dir = args.state_dir.context("give --state-dir, or MEDLEY_STATE_DIR")?;
    let state = StateDir::open(&state_dir)?;
    let place = Place {
        state_dir,
        database_url: args.database_url,
    };
    let database = Database::share(&place, &state).await?;
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
            say(token.reveal())?;
        }
        Action::List => {
            say(format_args!("{:<10} {:<24} NAME", "ROLE", "MADE"))?;
            for token in store.list_tokens().await.context("cannot list tokens")? {
                let made = token.created_at.format("%Y-%m-%d %H:%M:%S UTC");
                say(format_args!("{:<10} {made:<24} {}", token.role.name(), token.name))?;
            }
        }
        Action::Revoke { name } => {
            let revoked = store.revoke_tokens(&name).await.context("cannot revoke tokens")?;
            anyhow::ensure!(
                revoked > 0,
                "no token has the name {name:?}: `token list` shows all names"
            );
            say(format_args!("revoked {revoked}"))?;
        }
    }
    Ok(())
}

fn say(text: impl Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let said = writeln!(out, "{text}").and_then(|()| out.flush());
    said.context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::path::Path;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_state_directory_may_stand_before_the_command_and_after_it() {
        for line in [
            "token --state-dir /d create --role viewer --name ada",
            "token create --state-dir /d --role viewer --name ada",
            "token create --role viewer --name ada --state-dir /d",
        ] {
            let args = Cli::try_parse_from(line.split(' ')).unwrap().args;
            assert_eq!(args.state_dir.as_deref(), Some(Path::new("/d")), "{line}");
            assert!(matches!(args.action, Action::Create { .. }));
        }
    }

    #[tokio::test]
    async fn a_state_directory_that_is_not_given_is_asked_for() {
        let args = Args {
            state_dir: None,
            database_url: None,
            action: Action::List,
        };
        assert!(
            Box::pin(run(args))
                .await
                .unwrap_err()
                .to_string()
                .contains("--state-dir")
        );
    }
}
