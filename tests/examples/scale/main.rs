//! What a coordinator has to do for a large cluster: the product's own decisions and beats, on nodes that are only played.
//!
//! `cargo run --release -p medley-tests --example scale -- --nodes 1000 --devices 16` fills the cluster with training jobs, lets a
//! node fall silent each so many seconds and come back later, and says how long a decision takes, what a beat costs in time
//! and bytes, and how much memory it all needs. Times are those that a core computes, whatever else the machine does. The job table
//! is left out: its part is one transaction for each decision.

mod measure;

use anyhow::{Context, Result, bail};
use measure::{Times, memory_mib};
use medley_coordinator::domain::graph::{Shards, new_job};
use medley_coordinator::domain::job::Dataset;
use medley_coordinator::domain::node::KnownNode;
use medley_coordinator::domain::stage::State;
use medley_coordinator::domain::{CountingMint, Job};
use medley_coordinator::reconcile::decide::{Memory, decide};
use medley_coordinator::reconcile::{Control, Settings, orders};
use medley_protocol::agent::{Beat, Doing, Orders, Probe, RankReport, RankState, StepPhase};
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::hardware::Hardware;
use medley_protocol::ids::{IncarnationId, NodeId};
use medley_protocol::spec::Spec;
use medley_protocol::stage::StageState;
use medley_protocol::tasks::Counts;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Lanes of a job, and most ranks.
const LANES: u32 = 512;
/// How long a node that fell silent stays away.
const AWAY: Duration = Duration::from_secs(15);

/// What is asked for.
struct Asked {
    nodes: u64,
    devices: u32,
    seconds: u64,
    fault_every_s: u64,
}

impl Asked {
    fn read() -> Result<Self> {
        let mut asked = Self {
            nodes: 1000,
            devices: 16,
            seconds: 60,
            fault_every_s: 5,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(flag) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{flag}: give a number"))?;
            let value: u64 = value.parse().with_context(|| format!("{flag} {value}: no number"))?;
            match flag.as_str() {
                "--nodes" => asked.nodes = value,
                "--devices" => asked.devices = value.try_into().context("--devices: too many")?,
                "--seconds" => asked.seconds = value,
                "--fault-every" => asked.fault_every_s = value.max(1),
                _ => bail!("{flag}: use --nodes, --devices, --seconds (virtual) or --fault-every (seconds)"),
            }
        }
        Ok(asked)
    }
}

struct Node {
    known: KnownNode,
    /// Silent until then.
    away_until: Duration,
    revision: u64,
    orders: Option<Arc<Orders>>,
    /// Whom its agent is to try to reach.
    probes: Vec<Probe>,
}

struct Cluster {
    clock: Arc<AtomicU64>,
    control: Control,
    memory: Memory,
    jobs: Vec<Job>,
    mint: CountingMint,
    nodes: Vec<Node>,
    revision: u64,
    decisions: Times,
    publishing: Times,
    beats: Times,
    beat_bytes: u64,
    answer_bytes: u64,
}

impl Cluster {
    fn new(asked: &Asked) -> Result<Self> {
        let clock = Arc::new(AtomicU64::new(1_000_000));
        let read = Arc::clone(&clock);
        let control = Control::with_clock(Settings::default(), move || {
            Duration::from_micros(read.load(Ordering::Relaxed))
        });
        let node = |number: u64| Node {
            known: KnownNode {
                id: NodeId::from_uuid(Uuid::from_u128(u128::from(number) + 1)),
                name: format!("node-{number}"),
                incarnation: IncarnationId::from_uuid(Uuid::from_u128(1)),
                devices: asked.devices,
                fingerprint: "same".into(),
            },
            away_until: Duration::ZERO,
            probes: Vec::new(),
            revision: 0,
            orders: None,
        };
        let mut cluster = Self {
            clock,
            control,
            memory: Memory::default(),
            jobs: Vec::new(),
            mint: CountingMint(1 << 64),
            nodes: (0..asked.nodes).map(node).collect(),
            revision: 0,
            decisions: Times::default(),
            publishing: Times::default(),
            beats: Times::default(),
            beat_bytes: 0,
            answer_bytes: 0,
        };
        cluster
            .control
            .lead(cluster.nodes.iter().map(|node| node.known.clone()).collect());
        let devices = asked.nodes * u64::from(asked.devices);
        for _ in 0..devices.div_ceil(u64::from(LANES)) {
            cluster.submit()?;
        }
        Ok(cluster)
    }

    /// A pre-training whose index is done.
    fn submit(&mut self) -> Result<()> {
        let document = json!({
            "name": "scale", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"},
            "lanes": {"count": LANES, "batch": 2}, "model": {"queue": 2 * LANES}, "cluster": {"max_ranks": LANES},
        });
        let spec = Spec::from_document(&document)?;
        let shards = Shards {
            human: vec!["h.tar".into()],
            ..Shards::default()
        };
        let (mut job, _) = new_job(spec, &shards, chrono::DateTime::UNIX_EPOCH, &mut self.mint);
        job.stages[0].state = State::Done;
        let object = ObjectRef {
            key: "o".into(),
            blake3: String::new(),
            size_bytes: 1,
        };
        job.datasets.push(Dataset {
            version: 0,
            object: object.clone(),
            vocab: object,
            counts: Counts::from([("pairs".into(), 1 << 20)]),
        });
        self.jobs.push(job);
        Ok(())
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.clock.load(Ordering::Relaxed))
    }

    fn pass(&self, time: Duration) {
        self.clock.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// What the ranks of a node do that do as they are told.
    fn reports(&self, node: &Node) -> Vec<RankReport> {
        let committed = self.now().as_millis() as u64 / 100;
        let mut reports = Vec::new();
        for listed in node.orders.iter().flat_map(|orders| &orders.assignments) {
            for rank in &listed.ranks {
                let trains = !listed.members.is_empty();
                let doing = Doing {
                    step: committed,
                    phase: StepPhase::Computing,
                    collective: 0,
                    for_ms: 40,
                    usual_step_ms: Some(100),
                    lane_us: Some(90_000 + u64::from(*rank)),
                };
                reports.push(RankReport {
                    stage: listed.stage,
                    generation: listed.generation,
                    rank: *rank,
                    state: if trains {
                        RankState::Running { committed }
                    } else {
                        RankState::Listening {
                            address: format!("10.0.0.1:{}", 40_000 + rank),
                            committed: None,
                        }
                    },
                    doing: trains.then_some(doing),
                    quiet_ms: None,
                    connecting: None,
                });
            }
        }
        reports
    }

    /// Every node that is not silent beats once, over JSON as in truth.
    fn beat(&mut self) -> Result<()> {
        let now = self.now();
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if now < node.away_until {
                continue;
            }
            let beat = Beat {
                node: node.known.id,
                incarnation: node.known.incarnation,
                revision: node.revision,
                ranks: self.reports(node),
                leaves_in_ms: None,
                address: Some(node.known.name.clone()),
                reached: node.probes.iter().map(|probe| probe.node).collect(),
                hardware: Hardware::default(),
            };
            let sent = serde_json::to_vec(&beat)?;
            let control = &self.control;
            let answer = self.beats.time(|| -> Result<Vec<u8>> {
                let beat: Beat = serde_json::from_slice(&sent)?;
                let orders = control.beat(beat).map_err(|unheard| anyhow::anyhow!("{unheard:?}"))?;
                Ok(serde_json::to_vec(&*orders)?)
            })?;
            self.beat_bytes += sent.len() as u64;
            self.answer_bytes += answer.len() as u64;
            let orders: Orders = serde_json::from_slice(&answer)?;
            let node = &mut self.nodes[i];
            node.probes.clone_from(&orders.probes);
            if orders.revision > node.revision {
                node.revision = orders.revision;
                node.orders = Some(Arc::new(orders));
            }
        }
        Ok(())
    }

    fn decide(&mut self) -> Result<()> {
        let (now, settings) = (self.now(), self.control.settings().clone());
        let jobs = std::mem::take(&mut self.jobs);
        let memory = std::mem::take(&mut self.memory);
        let (control, mint) = (&self.control, &mut self.mint);
        let (sight, decided) = self.decisions.time(|| {
            let sight = control.sight();
            let decided = decide(memory, &sight, jobs, now, &settings, mint);
            (sight, decided)
        });
        let (mut memory, decision) = decided?;
        let revision = &mut self.revision;
        self.publishing.time(|| {
            let desired = orders::desired(&decision.jobs, &sight, "file:///store");
            let mut next = |node: NodeId| {
                *revision += 1;
                (node, *revision)
            };
            let concerned = memory.told.concerned(&desired, sight.nodes.keys().copied());
            let revisions: BTreeMap<NodeId, u64> = concerned.into_iter().map(&mut next).collect();
            memory.told.tell(desired, &revisions);
            control.publish(&memory.told, memory.reach.probes(&sight), &sight);
        });
        (self.memory, self.jobs) = (memory, decision.jobs);
        Ok(())
    }

    /// A beat and the decisions until the next.
    fn round(&mut self) -> Result<()> {
        self.beat()?;
        let settings = self.control.settings().clone();
        let mut passed = Duration::ZERO;
        while passed < settings.beat {
            self.decide()?;
            self.pass(settings.tick);
            passed += settings.tick;
        }
        Ok(())
    }

    fn running(&self) -> usize {
        let stages = self.jobs.iter().flat_map(|job| &job.stages);
        stages
            .filter(|stage| stage.state.label() == StageState::Running)
            .count()
    }

    /// A node falls silent; a new life of its agent comes back later.
    fn lose(&mut self, number: usize) {
        let until = self.now() + AWAY;
        self.nodes[number].away_until = until;
    }

    fn come_back(&mut self) {
        let now = self.now();
        let is_back = |node: &&mut Node| node.away_until > Duration::ZERO && node.away_until <= now;
        for node in self.nodes.iter_mut().filter(is_back) {
            node.away_until = Duration::ZERO;
            let life = node.known.incarnation.as_uuid().as_u128() + 1;
            node.known.incarnation = IncarnationId::from_uuid(Uuid::from_u128(life));
            (node.revision, node.orders) = (0, None);
            self.control.meet(node.known.clone());
        }
    }
}

fn main() -> Result<()> {
    let asked = Asked::read()?;
    let mut cluster = Cluster::new(&asked)?;
    let started = Instant::now();
    while cluster.running() < cluster.jobs.len() {
        cluster.round()?;
        if cluster.now() > Duration::from_mins(5) {
            bail!(
                "{} of {} jobs run after 5 virtual minutes",
                cluster.running(),
                cluster.jobs.len()
            );
        }
    }
    let jobs = cluster.jobs.len();
    println!(
        "{} nodes of {} devices, {jobs} jobs of {LANES} lanes: all run after {:.1} virtual s",
        asked.nodes,
        asked.devices,
        cluster.now().as_secs_f64() - 1.0
    );
    cluster.decisions.line("decision, while placing");
    cluster.publishing.line("orders, while placing");

    let (began, mut faults) = (cluster.now(), 0);
    for times in [&mut cluster.decisions, &mut cluster.publishing, &mut cluster.beats] {
        times.0.clear();
    }
    (cluster.beat_bytes, cluster.answer_bytes) = (0, 0);
    while cluster.now() < began + Duration::from_secs(asked.seconds) {
        let passed = cluster.now().saturating_sub(began).as_secs();
        if passed / asked.fault_every_s > faults {
            faults = passed / asked.fault_every_s;
            cluster.lose((faults * 37 % asked.nodes) as usize);
        }
        cluster.come_back();
        cluster.round()?;
    }
    println!(
        "\n{} virtual s with {faults} nodes lost, one each {} s; {} jobs run at the end",
        asked.seconds,
        asked.fault_every_s,
        cluster.running()
    );
    cluster.decisions.line("decision");
    cluster.publishing.line("orders");
    cluster.beats.line("beat with its answer");
    let beats = cluster.beats.0.len() as u64;
    let busy: Duration = cluster.beats.0.iter().sum();
    println!(
        "bytes of a beat              {:9}   of its answer {:9}",
        cluster.beat_bytes / beats.max(1),
        cluster.answer_bytes / beats.max(1)
    );
    println!(
        "beats a second               {:9.0}   one core could take {:9.0}",
        beats as f64 / asked.seconds as f64,
        beats as f64 / busy.as_secs_f64()
    );
    println!(
        "resident now                 {:9} MiB   most {:9} MiB, nodes included",
        memory_mib("VmRSS"),
        memory_mib("VmHWM")
    );
    println!("real time                    {:9.1} s", started.elapsed().as_secs_f64());
    Ok(())
}
