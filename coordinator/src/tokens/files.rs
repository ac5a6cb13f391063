//! The two tokens that a coordinator makes for itself: the first administrator's, and the nodes'.

use super::{Role, Token};
use crate::state_dir::{StateDir, write_private};
use crate::store::Store;
use anyhow::Context;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Makes the tokens in `tokens/admin` and `tokens/node` if they are missing, and lets them in.
///
/// A file is written before its token is let in, so a start that is cut short between the two is made good by the next.
///
/// # Errors
/// When a file cannot be read or written, or the database does not answer.
pub async fn ensure(state: &StateDir, store: &Store) -> anyhow::Result<()> {
    for role in [Role::Admin, Role::Node] {
        let path = state.token_file(role);
        let token = match read(&path)? {
            Some(token) => token,
            None => make(&path, role)?,
        };
        let name = format!("state directory's {role}");
        store
            .add_token(token.hash(), role, &name)
            .await
            .context("cannot store a token")?;
    }
    Ok(())
}

fn make(path: &Path, role: Role) -> anyhow::Result<Token> {
    let token = Token::generate(role);
    write_private(path, &format!("{}\n", token.reveal()))?;
    tracing::info!(%role, file = %path.display(), "made a token");
    Ok(token)
}

/// The token in a file; none if there is no file.
fn read(path: &Path) -> anyhow::Result<Option<Token>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot read the token in {}", path.display())),
    };
    if text.trim().len() < Token::MIN_BYTES {
        anyhow::bail!(
            "the token in {} is too short to be safe: remove the file to have a new one made",
            path.display()
        );
    }
    let open = std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0);
    if open {
        tracing::warn!(file = %path.display(), "others may read this token: make the file's mode 0600");
    }
    Ok(Some(Token::received(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_database;

    #[tokio::test]
    async fn the_tokens_in_the_files_are_let_in_and_stay_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let store = Store::new(test_database::fresh().await);
        ensure(&state, &store).await.unwrap();
        let first = read(&state.token_file(Role::Node)).unwrap().unwrap();
        ensure(&state, &store).await.unwrap();
        assert_eq!(read(&state.token_file(Role::Node)).unwrap().unwrap(), first);
        let holder = store.holder_of_token(first.hash()).await.unwrap().unwrap();
        assert_eq!(holder.role, Role::Node);
        assert_eq!(store.list_tokens().await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_token_that_can_be_guessed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        write_private(&state.token_file(Role::Admin), "secret\n").unwrap();
        let store = Store::new(test_database::fresh().await);
        let error = ensure(&state, &store).await.unwrap_err();
        assert!(error.to_string().contains("too short"), "{error}");
    }
}
