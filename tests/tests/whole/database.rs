//! A database that is away, dies or ends connections in the middle of transactions, while a training runs: ranks go on, the
//! coordinator waits, and the training has the bytes of one that nothing disturbed.

use medley_protocol::client::Error;
use medley_protocol::rest::JobDetail;
use medley_tests::programs::{
    Coordinator, Database, ENDLESS, Site, Training, Under, Way, committed, has_committed, until,
};
use std::time::Duration;

/// Steps of a training whose coordinator loses its connections until it is over.
const STEPS: u64 = 600;
/// Longer than everything that waits: a connection (5 s), a decision (10 s), the silence of a node (5 s), and the answer to
/// what an agent hands in (20 s).
const AWAY: Duration = Duration::from_secs(22);
/// Time between two ends of all connections.
const ROUND: Duration = Duration::from_millis(70);

/// A training on two nodes, each with a rank.
struct Cluster {
    database: Database,
    coordinator: Coordinator,
    training: Training,
    site: Site,
}

impl Cluster {
    async fn start(steps: u64) -> Self {
        let site = Site::new();
        let database = Database::start(&site.path("postgres")).await;
        let coordinator = site.coordinator("one", "127.0.0.1:0", Some(database.url())).await;
        let training = Training::start(&site, &Under::one(&coordinator), steps).await;
        Self {
            database,
            coordinator,
            training,
            site,
        }
    }

    /// What the coordinator says of whether it can serve: nothing if it can.
    async fn why_not_ready(&self) -> Option<String> {
        // The client asks below the API's prefix, so the path leads out of it again.
        match self.coordinator.api().0.get::<serde_json::Value>("/../../readyz").await {
            Err(Error::Refused(problem)) => Some(format!("{} {}", problem.status, problem.detail)),
            // It says so in a word that is not JSON.
            _ => None,
        }
    }

    async fn is_undisturbed(&mut self) {
        self.training.is_undisturbed(&self.site, &self.coordinator.api()).await;
        assert!(self.coordinator.service.is_alive(), "the coordinator never ended");
    }
}

async fn a_rank_dies_while_the_database_is_away(way: Way) {
    let mut cluster = Cluster::start(ENDLESS).await;
    let (job, [survivor, other]) = (cluster.training.job, &cluster.training.agents);
    cluster.database.way.set(way);
    let back = tokio::time::sleep(AWAY);
    has_committed(survivor, committed(survivor) + 20).await;
    other.kill_a_child();
    survivor.says("the generation is over").await;
    let reason = until("the coordinator says that it cannot serve", async || {
        cluster.why_not_ready().await
    });
    let reason = reason.await;
    assert!(
        reason.starts_with("503") && reason.contains("the database does not answer"),
        "{reason}"
    );
    back.await;
    let held = committed(survivor);
    cluster.database.way.set(Way::Open);
    let api = cluster.coordinator.api();
    api.event(job, "stage-placed", "from memory").await;
    // The coordinator may have heard of an earlier step last.
    survivor.says(&format!("goes on from memory committed={held}")).await;
    assert_eq!(cluster.why_not_ready().await, None);
    cluster.training.all_go_on(20).await;
    assert_eq!(api.breaks(job).await.len(), 1, "one generation broke, once");
    cluster.is_undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survivors_hold_their_state_while_the_database_refuses_connections() {
    a_rank_dies_while_the_database_is_away(Way::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survivors_hold_their_state_while_the_database_does_not_answer() {
    a_rank_dies_while_the_database_is_away(Way::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_dies_and_starts_again_disturbs_no_rank() {
    let mut cluster = Cluster::start(ENDLESS).await;
    cluster.database.restart().await;
    cluster.training.all_go_on(20).await;
    let (job, api) = (cluster.training.job, cluster.coordinator.api());
    cluster.is_undisturbed().await;
    assert_eq!(api.breaks(job).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_in_the_middle_of_transactions_leave_nothing_half_done() {
    let mut cluster = Cluster::start(STEPS).await;
    let path = format!("/jobs/{}", cluster.training.job);
    let mut ended = 0;
    loop {
        let detail: Result<JobDetail, Error> = cluster.coordinator.api().0.get(&path).await;
        if detail.is_ok_and(|detail| detail.job.state.is_final()) {
            break;
        }
        ended += cluster.database.end_connections().await;
        tokio::time::sleep(ROUND).await;
    }
    assert!(ended > 20, "only {ended} connections were ended");
    cluster
        .training
        .succeeds_undisturbed(&cluster.site, &cluster.coordinator.api())
        .await;
    assert!(cluster.coordinator.service.is_alive(), "the coordinator never ended");
}
