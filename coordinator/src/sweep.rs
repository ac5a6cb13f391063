//! Deletes objects of checkpoints that were given up, while this coordinator leads. What may go is the store's decision.

use crate::reconcile::Control;
use crate::store::Store;
use medley_protocol::store::explain;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Time between two looks.
const PAUSE: Duration = Duration::from_secs(10);
/// Longest time for which a stage's row is held: the database ends what idles much longer.
const HOLD: Duration = Duration::from_secs(3);

/// Sweeps again and again until `stop`. `grace` is the time for whoever still reads.
pub async fn run(
    store: Store,
    objects: Arc<dyn ObjectStore>,
    control: Control,
    grace: Duration,
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            () = tokio::time::sleep(PAUSE.min(grace.max(Duration::from_secs(1)))) => {}
        }
        if !control.leads() {
            continue;
        }
        // A batch is short, and stopping in its middle only repeats it.
        if let Err(error) = sweep(&store, objects.as_ref(), grace).await {
            tracing::warn!("objects that nothing needs are not deleted now: {error}");
        }
    }
}

/// Deletes all that may go. Returns how many objects were dealt with.
///
/// # Errors
/// Those of the database.
pub async fn sweep(store: &Store, objects: &dyn ObjectStore, grace: Duration) -> sqlx::Result<usize> {
    let mut all = 0;
    while let Some(ripe) = store.ripe_objects(grace).await? {
        let (mut deleted, end) = (Vec::new(), Instant::now() + HOLD);
        for key in &ripe.keys {
            match delete(objects, key, end).await {
                Ok(()) => {
                    tracing::info!("object {key} is deleted: no checkpoint that is kept needs it");
                    deleted.push(key.clone());
                }
                Err(Trouble::Refused(error)) => {
                    tracing::warn!("object {key} cannot be deleted: {}", explain(&error));
                }
                // The rest is for later: the stage of these objects is not kept from being placed any longer.
                Err(Trouble::Silent) => break,
            }
        }
        let settled = ripe.settle(&deleted).await?;
        all += settled;
        if settled == 0 {
            // What cannot be deleted now is tried again later.
            break;
        }
    }
    Ok(all)
}

/// Why an object may still be there.
enum Trouble {
    Refused(object_store::Error),
    Silent,
}

async fn delete(objects: &dyn ObjectStore, key: &str, end: Instant) -> Result<(), Trouble> {
    let path = Path::from(key);
    match tokio::time::timeout_at(end, objects.delete(&path)).await {
        Ok(Ok(()) | Err(object_store::Error::NotFound { .. })) => Ok(()),
        Ok(Err(error)) => Err(Trouble::Refused(error)),
        Err(_) => Err(Trouble::Silent),
    }
}
