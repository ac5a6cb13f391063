//! What becomes of a training whose shards are away for a while.

use medley_tests::bits::{Computed, Outcome, corpus, document};
use medley_tests::programs::{Running, Scratch};
use std::fs;

#[tokio::test]
async fn shards_that_are_away_for_a_while_cost_a_generation_and_no_bit() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    corpus(&data);
    let document = document(&data);
    let undisturbed = Computed::undisturbed(&scratch.path("undisturbed"), &document);

    let state_dir = scratch.path("away");
    let mut running = Running::up(&state_dir, 1, 2).await;
    let job = running.submit(&document).await;
    let trains = async |running: &Running| {
        running.client()?;
        (!running.checkpoints(job).await.is_empty()).then_some(())
    };
    running.until("a checkpoint is whole", trains).await;
    // A rank that has a shard open reads on in it wherever it is moved: others have to begin.
    running.kill();
    let (human, away) = (data.join("human"), data.join("away"));
    fs::rename(&human, &away).expect("a set can be moved");
    running = Running::up(&state_dir, 1, 2).await;
    let gives_up = async |running: &Running| {
        running.client()?;
        let events = running.events(job).await;
        let said = |kind, word| {
            events
                .iter()
                .any(|event| event.kind == kind && event.message.contains(word))
        };
        said("generation-over", "put it back").then_some(())
    };
    running
        .until("it is told which shard a rank has waited for", gives_up)
        .await;
    assert!(running.rank_logs().contains("it is tried again for 30 s"));
    fs::rename(&away, &human).expect("a set can be moved back");
    Outcome::of(&mut running, job).await.is_that_of(&undisturbed);
}
