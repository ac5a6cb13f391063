//! Table `leader`: which coordinator schedules, by the database's clock.

use super::Store;
use sqlx::PgConnection;
use uuid::Uuid;

impl Store {
    /// Takes over if nobody has led for five seconds, or who did will seem to for ever, because the clock was set back since.
    /// Returns the new term.
    ///
    /// # Errors
    /// Those of the database, as every method here.
    pub async fn try_to_lead(&self, holder: Uuid) -> sqlx::Result<Option<i64>> {
        sqlx::query_scalar(
            "UPDATE leader
             SET term = term + 1, holder = $1, beat_at = clock_timestamp()
             WHERE holder IS NULL OR holder = $1
                OR beat_at NOT BETWEEN clock_timestamp() - interval '5 seconds' AND clock_timestamp() + interval '5 seconds'
             RETURNING term",
        )
        .bind(holder)
        .fetch_optional(&self.pool)
        .await
    }

    /// Says that `holder` still leads in `term`; false if it does not.
    pub async fn prove_leadership(&self, holder: Uuid, term: i64) -> sqlx::Result<bool> {
        sqlx::query("UPDATE leader SET beat_at = clock_timestamp() WHERE holder = $1 AND term = $2")
            .bind(holder)
            .bind(term)
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected() == 1)
    }

    /// Gives leadership up.
    pub async fn resign(&self, holder: Uuid, term: i64) -> sqlx::Result<()> {
        sqlx::query("UPDATE leader SET holder = NULL WHERE holder = $1 AND term = $2")
            .bind(holder)
            .bind(term)
            .execute(&self.pool)
            .await
            .map(drop)
    }
}

/// Whether `term` is the present one. It stays so until the transaction ends: a takeover waits for it.
pub(super) async fn is_term(connection: &mut PgConnection, term: i64) -> sqlx::Result<bool> {
    let present: i64 = sqlx::query_scalar("SELECT term FROM leader FOR SHARE")
        .fetch_one(connection)
        .await?;
    Ok(present == term)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_database;

    #[tokio::test]
    async fn one_coordinator_leads_until_it_is_silent_or_resigns() {
        let store = Store::new(test_database::fresh().await);
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let first = store.try_to_lead(one).await.unwrap().unwrap();
        assert_eq!(store.try_to_lead(two).await.unwrap(), None);

        sqlx::query("UPDATE leader SET beat_at = now() - interval '6 seconds'")
            .execute(&store.pool)
            .await
            .unwrap();
        let second = store.try_to_lead(two).await.unwrap().unwrap();
        assert!(second > first);
        assert!(!store.prove_leadership(one, first).await.unwrap());
        assert!(store.prove_leadership(two, second).await.unwrap());

        sqlx::query("UPDATE leader SET beat_at = now() + interval '4 seconds'")
            .execute(&store.pool)
            .await
            .unwrap();
        assert_eq!(store.try_to_lead(one).await.unwrap(), None, "clocks are set by little");
        assert!(store.prove_leadership(two, second).await.unwrap());

        store.resign(one, first).await.unwrap();
        assert!(
            store.prove_leadership(two, second).await.unwrap(),
            "a deposed leader cannot resign for another"
        );
        store.resign(two, second).await.unwrap();
        assert!(store.try_to_lead(one).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_keeps_nobody_from_leading() {
        let store = Store::new(test_database::fresh().await);
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let first = store.try_to_lead(one).await.unwrap().unwrap();
        sqlx::query("UPDATE leader SET beat_at = now() + interval '1 hour'")
            .execute(&store.pool)
            .await
            .unwrap();
        let second = store.try_to_lead(two).await.unwrap();
        assert_eq!(second, Some(first + 1));
        assert_eq!(
            store.try_to_lead(one).await.unwrap(),
            None,
            "it has beaten by the clock as it is"
        );
    }
}
