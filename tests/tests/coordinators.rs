//! Two coordinators on one database: one leads, and whatever becomes of it, the training ends with the bytes of one that
//! nothing disturbed.

use blake3::Hash;
use medley_protocol::ids::JobId;
use medley_tests::programs::{Coordinator, Database, Service, Site, Training, Under, committed, has_committed};

/// Steps of a training: enough that it is still in its middle when another coordinator has taken over.
const STEPS: u64 = 3000;
const LEADS: &str = "this coordinator leads";

/// A training on two nodes, each with a rank, under the first of two coordinators.
struct Cluster {
    leader: Coordinator,
    other: Coordinator,
    agents: [Service; 2],
    job: JobId,
    undisturbed: Hash,
    _database: Database,
    _site: Site,
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
        let Training {
            agents,
            job,
            undisturbed,
        } = Training::start(&site, &under, STEPS).await;
        assert!(!other.service.log().contains(LEADS), "one leads at a time");
        Self {
            leader,
            other,
            agents,
            job,
            undisturbed,
            _database: database,
            _site: site,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_coordinator_takes_over_from_one_that_was_killed() {
    let cluster = Cluster::start().await;
    cluster.leader.service.kill();
    cluster.other.service.says(LEADS).await;
    let now = committed(&cluster.agents[0]);
    assert!(now < STEPS, "the training was over too soon: it has to be longer");
    let api = cluster.other.api();
    api.nodes_heard(2).await;
    assert_eq!(api.trained(cluster.job).await, cluster.undisturbed);
    assert_eq!(api.breaks(cluster.job).await, [""; 0], "no rank noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_told_to_end_gives_its_office_to_another() {
    let mut cluster = Cluster::start().await;
    cluster.leader.service.tell("-TERM");
    let ended = cluster.leader.service.ended().await;
    assert!(ended.success(), "{ended}");
    let log = cluster.leader.service.log();
    assert!(!log.contains("cut off") && !log.contains("was not given back"), "{log}");
    cluster.other.service.says(LEADS).await;
    let api = cluster.other.api();
    assert_eq!(api.trained(cluster.job).await, cluster.undisturbed);
    assert_eq!(api.breaks(cluster.job).await, [""; 0], "no rank noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_for_long_changes_nothing_when_it_goes_on() {
    let cluster = Cluster::start().await;
    let (leader, api) = (&cluster.leader, cluster.other.api());
    leader.service.tell("-STOP");
    cluster.other.service.says(LEADS).await;
    api.nodes_heard(2).await;
    // Orders of a later revision, of which the stopped one knows nothing.
    cluster.agents[1].kill_a_child();
    api.event(cluster.job, "stage-placed", "generation 2").await;
    let held = committed(&cluster.agents[0]);
    has_committed(&cluster.agents[0], held + 5).await;
    leader.service.tell("-CONT");
    leader.service.says("another coordinator").await;
    assert_eq!(api.trained(cluster.job).await, cluster.undisturbed);
    let breaks = api.breaks(cluster.job).await;
    assert_eq!(
        breaks.len(),
        1,
        "only the rank that was killed ended a generation: {breaks:?}"
    );
    assert_eq!(leader.api().events(cluster.job).await, api.events(cluster.job).await);
}
