//! Table `tokens`.

use super::Store;
use crate::tokens::{Hash, Holder, Role};
use chrono::{DateTime, Utc};

/// A token as the table knows it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct TokenRow {
    /// What it allows.
    pub role: Role,
    /// Who or what holds it.
    pub name: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl Store {
    /// Lets a token in. Harmless if it is in already.
    ///
    /// # Errors
    /// Those of the database, as every method here.
    pub async fn add_token(&self, hash: Hash, role: Role, name: &str) -> sqlx::Result<()> {
        sqlx::query(
            "INSERT INTO tokens (hash, role, name)
             VALUES ($1, $2, $3)
             ON CONFLICT (hash) DO NOTHING",
        )
        .bind(&hash.0[..])
        .bind(role)
        .bind(name)
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// Who holds the token of this hash; none if it is not known.
    pub async fn holder_of_token(&self, hash: Hash) -> sqlx::Result<Option<Holder>> {
        sqlx::query_as("SELECT role, name FROM tokens WHERE hash = $1")
            .bind(&hash.0[..])
            .fetch_optional(&self.pool)
            .await
    }

    /// All tokens, oldest first.
    pub async fn list_tokens(&self) -> sqlx::Result<Vec<TokenRow>> {
        sqlx::query_as("SELECT role, name, created_at FROM tokens ORDER BY created_at, name")
            .fetch_all(&self.pool)
            .await
    }

    /// Shuts out every token of this name; returns how many there were.
    pub async fn revoke_tokens(&self, name: &str) -> sqlx::Result<u64> {
        sqlx::query("DELETE FROM tokens WHERE name = $1")
            .bind(name)
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_database;
    use crate::tokens::Token;

    #[tokio::test]
    async fn a_token_is_found_by_its_hash_until_it_is_revoked() {
        let store = Store::new(test_database::fresh().await);
        let token = Token::generate(Role::Operator);
        assert_eq!(store.holder_of_token(token.hash()).await.unwrap(), None);

        store
            .add_token(token.hash(), Role::Operator, "night shift")
            .await
            .unwrap();
        store
            .add_token(token.hash(), Role::Operator, "night shift")
            .await
            .unwrap();
        let holder = store.holder_of_token(token.hash()).await.unwrap().unwrap();
        assert_eq!((holder.role, holder.name.as_str()), (Role::Operator, "night shift"));
        assert_eq!(store.list_tokens().await.unwrap().len(), 1);

        assert_eq!(store.revoke_tokens("night shift").await.unwrap(), 1);
        assert_eq!(store.holder_of_token(token.hash()).await.unwrap(), None);
    }
}
