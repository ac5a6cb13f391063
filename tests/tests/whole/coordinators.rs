//! Two coordinators on one database: one leads, and whatever becomes of it, the training has the bytes of one that nothing
//! disturbed, and ends when it is told to.

use medley_tests::programs::{Coordinator, Database, ENDLESS, Site, Training, Under, committed, has_committed, tree};

const LEADS: &str = "this coordinator leads";

/// A training on two nodes, each with a rank, under the first of two coordinators.
struct Cluster {
    leader: Coordinator,
    other: Coordinator,
    training: Training,
    _database: Database,
    site: Site,
}

impl Cluster {
    async fn start() -> Self {
        let site = Site::new();
        let database = Database::start(&site.path("postgres")).await;
        let coordinator = async |name| site.coordinator(name, "127.0.0.1:0", Some(database.url())).await;
        let leader = coordinator("one").await;
        leader.service.says(LEADS).await;
        let other = coordinator("two").await;
        let under = Under {
            leader: &leader,
            door: &other,
            // The one that does not lead comes first: agents find the other.
            coordinators: format!("{},{}", other.url(), leader.url()),
            machines: [None; 2],
            devices: 1,
        };
        let training = Training::start(&site, &under, ENDLESS).await;
        assert!(!other.service.log().contains(LEADS), "one leads at a time");
        Self {
            leader,
            other,
            training,
            _database: database,
            site,
        }
    }

    /// The other coordinator comes to lead, and the training goes on undisturbed.
    async fn is_taken_over(&self) {
        self.other.service.says(LEADS).await;
        let api = self.other.api();
        api.nodes_heard(2).await;
        self.training.all_go_on(20).await;
        self.training.is_undisturbed(&self.site, &api).await;
        assert_eq!(api.breaks(self.training.job).await, [""; 0], "no rank noticed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_coordinator_takes_over_from_one_that_was_killed() {
    let cluster = Cluster::start().await;
    tree::kill(cluster.leader.service.pid());
    cluster.is_taken_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_told_to_end_gives_its_office_to_another() {
    let mut cluster = Cluster::start().await;
    cluster.leader.service.tell("-TERM");
    let ended = cluster.leader.service.ended().await;
    assert!(ended.success(), "{ended}");
    let log = cluster.leader.service.log();
    assert!(!log.contains("cut off") && !log.contains("was not given back"), "{log}");
    cluster.is_taken_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_for_long_changes_nothing_when_it_goes_on() {
    let cluster = Cluster::start().await;
    let (leader, training, api) = (&cluster.leader, &cluster.training, cluster.other.api());
    leader.service.tell("-STOP");
    cluster.other.service.says(LEADS).await;
    api.nodes_heard(2).await;
    // Orders of a later revision, of which the stopped one knows nothing.
    training.agents[1].kill_a_child();
    api.event(training.job, "stage-placed", "generation 2").await;
    let held = committed(&training.agents[0]);
    has_committed(&training.agents[0], held + 5).await;
    leader.service.tell("-CONT");
    leader.service.says("another coordinator").await;
    training.all_go_on(20).await;
    training.is_undisturbed(&cluster.site, &api).await;
    let breaks = api.breaks(training.job).await;
    assert_eq!(
        breaks.len(),
        1,
        "only the rank that was killed ended a generation: {breaks:?}"
    );
    assert_eq!(leader.api().events(training.job).await, api.events(training.job).await);
}
