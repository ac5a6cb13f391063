//! The whole agent against a small coordinator, with shell scripts as ranks.

mod coordinator;

use super::*;
use coordinator::{Coordinator, Told, assignment, orders};
use medley_protocol::agent::{RankReport, RankState};
use medley_protocol::error::Code;
use medley_protocol::hardware::Gpu;
use medley_protocol::ids::IncarnationId;
use medley_protocol::stage::StageKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A deadline that a healthy machine never meets.
const LONG: Duration = Duration::from_mins(1);
const NAP: &str = "exec sleep 600";

/// An agent that runs in this process.
struct Running {
    dir: tempfile::TempDir,
    leave: Option<oneshot::Sender<()>>,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Result<(), Halted>>,
}

impl Running {
    /// `ranks` is the body of a shell script; `$dir` is a folder for its marks.
    fn start(url: &str, ranks: &str) -> Self {
        Self::start_among(&[url.to_owned()], ranks)
    }

    /// An agent that knows several coordinators.
    fn start_among(urls: &[String], ranks: &str) -> Self {
        Self::start_on(urls, ranks, Vec::new())
    }

    /// One whose ranks are on these GPUs, which are hotter each time that they are read.
    fn start_on(urls: &[String], ranks: &str, gpus: Vec<Gpu>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("worker");
        std::fs::write(&program, format!("#!/bin/sh\ndir={}\n{ranks}\n", dir.path().display())).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let settings = Settings {
            coordinators: Coordinators::new(urls, "token"),
            register: Register {
                name: "n1".into(),
                incarnation: IncarnationId::generate(),
                host: "127.0.0.1".into(),
                devices: 2,
                threads: 1,
                fingerprint: "f".into(),
            },
            source: (!gpus.is_empty()).then(|| Box::new(Oven(40)) as Box<dyn Source>),
            hardware: Hardware {
                memory_bytes: None,
                gpus,
            },
            program,
            log_dir: Some(dir.path().to_owned()),
            grace: LONG,
        };
        let signal = || {
            let (signal, heard) = oneshot::channel();
            (Some(signal), async { drop(heard.await) })
        };
        let ((leave, left), (stop, stopped)) = (signal(), signal());
        let ended = tokio::spawn(serve(settings, left, stopped));
        Self {
            dir,
            leave,
            stop,
            ended,
        }
    }

    fn leave(&mut self) {
        drop(self.leave.take());
    }

    async fn stop(mut self) -> (tempfile::TempDir, Result<(), Halted>) {
        drop(self.stop.take());
        self.end().await
    }

    async fn end(self) -> (tempfile::TempDir, Result<(), Halted>) {
        let result = tokio::time::timeout(LONG, self.ended).await.unwrap().unwrap();
        (self.dir, result)
    }
}

/// Where GPUs get hotter.
struct Oven(u32);

impl Source for Oven {
    fn find(&mut self) -> Result<Vec<Gpu>, String> {
        Err("nobody looks for them again".into())
    }

    fn read(&mut self, gpus: &mut [Gpu]) {
        self.0 += 1;
        gpus.iter_mut().for_each(|gpu| gpu.celsius = Some(self.0));
    }
}

#[tokio::test]
async fn gpus_are_dealt_to_ranks_and_read_for_every_beat() {
    let coordinator = Coordinator::start().await;
    coordinator.order(orders(1, vec![assignment(7, 1, &[0, 1], StageKind::Capfilt)]));
    let gpu = |uuid: &str| Gpu {
        uuid: uuid.into(),
        ..Gpu::default()
    };
    let sees = format!("echo \"$CUDA_VISIBLE_DEVICES\" >&2\n{SAY_RUNNING}\n{NAP}");
    let gpus = vec![gpu("GPU-a"), gpu("GPU-b")];
    let agent = Running::start_on(std::slice::from_ref(&coordinator.url), &sees, gpus);
    let read = |told: &Told| {
        let beat = told.beats.last()?;
        let run = |report: &RankReport| matches!(report.state, RankState::Running { .. });
        (beat.ranks.len() == 2 && beat.ranks.iter().all(run)).then_some(())?;
        let gpus = &beat.hardware.gpus;
        let is_read = !gpus.is_empty() && gpus.iter().all(|gpu| gpu.celsius >= Some(41));
        is_read.then(|| gpus.iter().map(|gpu| gpu.uuid.clone()).collect::<Vec<String>>())
    };
    assert_eq!(coordinator.until(read).await, ["GPU-a", "GPU-b"]);
    let (dir, result) = agent.stop().await;
    assert_eq!(result, Ok(()));
    for (log, uuid) in [("rank-0.log", "GPU-a\n"), ("rank-1.log", "GPU-b\n")] {
        assert_eq!(std::fs::read_to_string(dir.path().join(log)).unwrap(), uuid);
    }
}

/// Whether the process whose id a script has written to a file is gone.
fn is_gone(pid_file: &Path) -> bool {
    let pid = std::fs::read_to_string(pid_file).unwrap();
    !Path::new("/proc").join(pid.trim()).exists()
}

fn running(told: &Told) -> bool {
    told.beats
        .last()
        .is_some_and(|beat| matches!(beat.ranks[..], [ref only] if matches!(only.state, RankState::Running { .. })))
}

const SAY_RUNNING: &str = r#"echo '{"from":"state","generation":1,"state":{"state":"running","committed":0}}'"#;

/// A rank of a training stage: listens, connects, commits two steps, hands in a part, finishes.
const TRAIN: &str = r#"
read -r start
echo '{"from":"state","generation":1,"state":{"state":"listening","address":"127.0.0.1:9"}}'
read -r connect
case "$connect" in *'"to":"connect"'*) ;; *) exit 9 ;; esac
echo '{"from":"state","generation":1,"state":{"state":"running","committed":0}}'
row='"epoch":0,"itc":1.5,"itm":0.5,"lm":2.0,"lr":0.1,"alpha":0.4,"temperature":0.07,"grad_norm":1.0'
echo "{\"from\":\"committed\",\"metrics\":{\"step\":0,$row}}"
echo "{\"from\":\"committed\",\"metrics\":{\"step\":1,$row}}"
object='{"key":"c/p","blake3":"00","size_bytes":1}'
echo "{\"from\":\"part\",\"part\":{\"step\":2,\"part\":0,\"parts\":1,\"offset_bytes\":0,\"state_bytes\":1,\"object\":$object}}"
echo '{"from":"state","generation":1,"state":{"state":"finished","committed":2}}'
echo "rank log" >&2
"#;

#[tokio::test]
async fn a_stage_is_trained_and_its_facts_arrive() {
    let coordinator = Coordinator::start().await;
    let mut listed = assignment(7, 1, &[0], StageKind::Pretrain);
    coordinator.order(orders(1, vec![listed.clone()]));
    let agent = Running::start(&coordinator.url, TRAIN);
    let listening = |told: &Told| {
        let state = told.beats.last()?.ranks.first()?.state.clone();
        matches!(state, RankState::Listening { .. }).then_some(())
    };
    coordinator.until(listening).await;
    listed.members = coordinator::members(1);
    coordinator.order(orders(2, vec![listed]));
    let finished = |told: &Told| {
        let report = told.beats.last()?.ranks.first()?.clone();
        (report.state == RankState::Finished { committed: 2 } && !told.parts.is_empty()).then(|| told.parts.clone())
    };
    let parts = coordinator.until(finished).await;
    assert_eq!((parts[0].generation, parts[0].part.step), (1, 2));
    let rows = coordinator.until(|told| Some(told.rows.clone())).await;
    assert_eq!(rows.iter().map(|row| row.step).collect::<Vec<_>>(), [0, 1]);
    let (dir, result) = agent.stop().await;
    assert_eq!(result, Ok(()));
    assert_eq!(
        std::fs::read_to_string(dir.path().join("rank-0.log")).unwrap(),
        "rank log\n"
    );
}

#[tokio::test]
async fn the_coordinator_that_leads_is_found_among_several() {
    let (one, two) = (Coordinator::start().await, Coordinator::start().await);
    let nowhere = "http://127.0.0.1:9".to_owned();
    one.change(|told| told.refuse_registration = Some(Code::Unavailable));
    one.change(|told| told.refuse_beats = Some(Code::Unavailable));
    let agent = Running::start_among(&[nowhere, one.url.clone(), two.url.clone()], NAP);
    two.until(|told| told.beats.last().map(drop)).await;
    // Another one takes over: it knows the node from the job table.
    two.change(|told| told.refuse_beats = Some(Code::Unavailable));
    one.change(|told| told.refuse_beats = None);
    one.until(|told| (told.beats.len() > 3).then_some(())).await;
    let registrations = one.until(|told| Some(told.registrations.len())).await;
    assert_eq!(registrations, 0, "a beat is enough");
    agent.stop().await.1.unwrap();
}

/// A rank of a stage of tasks that does one task.
const TASK: &str = r#"
read -r start
echo '{"from":"lease-wanted"}'
while read -r line; do
  lease=${line#'{"to":"lease","lease":'}
  lease=${lease%'}'}
  test "$lease" = null && continue
  object='{"key":"o/x","blake3":"00","size_bytes":1}'
  echo "{\"from\":\"task-done\",\"lease\":$lease,\"output\":{\"output\":\"shard\",\"object\":$object,\"counts\":{}}}"
done
"#;

#[tokio::test]
async fn a_task_is_leased_once_there_is_one_and_its_result_handed_in() {
    let coordinator = Coordinator::start().await;
    coordinator.order(orders(1, vec![assignment(7, 1, &[0], StageKind::Capfilt)]));
    let agent = Running::start(&coordinator.url, TASK);
    coordinator.until(|told| (told.lease_requests >= 2).then_some(())).await;
    coordinator.change(|told| told.lease = Some(coordinator::lease(4)));
    let finished = coordinator.until(|told| told.finished.first().cloned()).await;
    assert_eq!(finished.token, coordinator::lease(4).token);
    agent.stop().await.1.unwrap();
}

#[tokio::test]
async fn a_slow_request_delays_no_beat() {
    let coordinator = Coordinator::start().await;
    coordinator.change(|told| told.lease = Some(coordinator::lease(4)));
    coordinator.order(orders(1, vec![assignment(7, 1, &[0], StageKind::Capfilt)]));
    // The answer to the result is given only after twenty more beats.
    coordinator.change(|told| told.beats_before_finish = 20);
    let agent = Running::start(&coordinator.url, TASK);
    coordinator.until(|told| told.finished.first().cloned()).await;
    agent.stop().await.1.unwrap();
}

#[tokio::test]
async fn ranks_go_on_while_the_coordinator_is_away_and_facts_arrive_afterwards() {
    let coordinator = Coordinator::start().await;
    let mut listed = assignment(7, 1, &[0], StageKind::Pretrain);
    listed.members = coordinator::members(1);
    coordinator.order(orders(1, vec![listed]));
    let ranks = format!("echo $$ >$dir/pid\n{TRAIN}\n{NAP}");
    let ranks = ranks.replace(
        "read -r connect",
        "read -r connect; while test ! -e $dir/go; do sleep 0.02; done",
    );
    let agent = Running::start(&coordinator.url, &ranks);
    coordinator.until(|told| (!told.beats.is_empty()).then_some(())).await;
    coordinator.change(|told| told.away = true);
    std::fs::write(agent.dir.path().join("go"), "").unwrap();
    // It is asked in vain for beats and for facts.
    coordinator.until(|told| (told.turned_away >= 6).then_some(())).await;
    assert!(!is_gone(&agent.dir.path().join("pid")));
    coordinator.change(|told| told.away = false);
    let all = |told: &Told| (told.rows.len() == 2 && !told.parts.is_empty()).then_some(());
    coordinator.until(all).await;
    agent.stop().await.1.unwrap();
}

#[tokio::test]
async fn an_agent_waits_for_a_coordinator_that_is_not_there_yet() {
    let place = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let agent = Running::start(&format!("http://{address}"), NAP);
    let coordinator = Coordinator::start_at(address).await;
    coordinator.until(|told| (!told.beats.is_empty()).then_some(())).await;
    agent.stop().await.1.unwrap();
}

#[tokio::test]
async fn a_new_generation_takes_over_from_the_old_one() {
    let coordinator = Coordinator::start().await;
    coordinator.order(orders(1, vec![assignment(7, 1, &[0], StageKind::Capfilt)]));
    let rank = r#"
read -r start
case "$start" in *'"generation":1,'*) generation=1 ;; *) generation=2 ;; esac
echo $$ >>$dir/pids
echo "{\"from\":\"state\",\"generation\":$generation,\"state\":{\"state\":\"running\",\"committed\":0}}"
"#;
    let agent = Running::start(&coordinator.url, &format!("{rank}\n{NAP}"));
    coordinator.until(|told| running(told).then_some(())).await;
    let first = agent.dir.path().join("first");
    std::fs::copy(agent.dir.path().join("pids"), &first).unwrap();
    coordinator.order(orders(2, vec![assignment(7, 2, &[0], StageKind::Capfilt)]));
    let of_second = |told: &Told| (running(told) && told.beats.last()?.ranks[0].generation == 2).then_some(());
    coordinator.until(of_second).await;
    assert!(is_gone(&first));
    coordinator.order(orders(3, vec![]));
    let none = |told: &Told| {
        let beat = told.beats.last()?;
        (beat.revision == 3 && beat.ranks.is_empty()).then_some(())
    };
    coordinator.until(none).await;
    agent.stop().await.1.unwrap();
}

#[tokio::test]
async fn stopping_leaves_no_rank_behind() {
    let coordinator = Coordinator::start().await;
    coordinator.order(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let agent = Running::start(&coordinator.url, &format!("echo $$ >$dir/pid\n{SAY_RUNNING}\n{NAP}"));
    coordinator.until(|told| running(told).then_some(())).await;
    let (dir, result) = agent.stop().await;
    assert_eq!(result, Ok(()));
    assert!(is_gone(&dir.path().join("pid")));
}

#[tokio::test]
async fn an_agent_that_leaves_ends_once_its_rank_is_not_listed_any_more() {
    let coordinator = Coordinator::start().await;
    coordinator.order(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let mut agent = Running::start(&coordinator.url, &format!("echo $$ >$dir/pid\n{SAY_RUNNING}\n{NAP}"));
    coordinator.until(|told| running(told).then_some(())).await;
    agent.leave();
    let leaves = |told: &Told| told.beats.last()?.leaves_in_ms;
    coordinator.until(leaves).await;
    assert!(!is_gone(&agent.dir.path().join("pid")));
    coordinator.order(orders(2, vec![]));
    let (dir, result) = agent.end().await;
    assert_eq!(result, Ok(()));
    assert!(is_gone(&dir.path().join("pid")));
}

#[tokio::test]
async fn an_agent_that_was_replaced_ends_with_its_ranks_and_says_why() {
    let coordinator = Coordinator::start().await;
    coordinator.order(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let agent = Running::start(&coordinator.url, &format!("echo $$ >$dir/pid\n{SAY_RUNNING}\n{NAP}"));
    coordinator.until(|told| running(told).then_some(())).await;
    coordinator.change(|told| told.refuse_beats = Some(Code::Stale));
    let (dir, result) = agent.end().await;
    let reason = result.unwrap_err().to_string();
    assert!(reason.contains("another agent has registered as node n1"), "{reason}");
    assert!(is_gone(&dir.path().join("pid")));
}

#[tokio::test]
async fn a_refused_token_ends_the_agent_and_names_the_flag() {
    let coordinator = Coordinator::start().await;
    coordinator.change(|told| told.refuse_registration = Some(Code::Unauthorized));
    let (_, result) = Running::start(&coordinator.url, NAP).end().await;
    let reason = result.unwrap_err().to_string();
    assert!(reason.contains("--token-file"), "{reason}");
}

#[tokio::test]
async fn an_agent_that_was_forgotten_registers_again_in_the_same_life() {
    let coordinator = Coordinator::start().await;
    let agent = Running::start(&coordinator.url, NAP);
    coordinator.until(|told| (!told.beats.is_empty()).then_some(())).await;
    coordinator.change(|told| told.refuse_beats = Some(Code::NotFound));
    let again = |told: &Told| (told.registrations.len() >= 2).then(|| told.registrations.clone());
    let registrations = coordinator.until(again).await;
    assert_eq!(registrations[0].incarnation, registrations[1].incarnation);
    agent.stop().await.1.unwrap();
}

#[tokio::test]
async fn a_rank_that_cannot_be_started_is_reported() {
    let coordinator = Coordinator::start().await;
    coordinator.order(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let agent = Running::start(&coordinator.url, NAP);
    std::fs::remove_file(agent.dir.path().join("worker")).unwrap();
    let failed = |told: &Told| match &told.beats.last()?.ranks.first()?.state {
        RankState::Failed { reason, retry: true } => Some(reason.clone()),
        _ => None,
    };
    let reason = coordinator.until(failed).await;
    assert!(reason.contains("could not be started"), "{reason}");
    agent.stop().await.1.unwrap();
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let coordinator = Coordinator::start().await;
    let other = Coordinator::start().await;
    coordinator.change(|told| told.redirect_to = Some(other.url.clone()));
    let agent = Running::start(&coordinator.url, NAP);
    coordinator.until(|told| (told.turned_away >= 2).then_some(())).await;
    assert!(other.until(|told| Some(told.registrations.is_empty())).await);
    agent.stop().await.1.unwrap();
}
