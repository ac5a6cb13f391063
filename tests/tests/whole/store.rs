//! What a store does to checkpoints: it damages them, it is full, it is to be tidied up. The training goes on to the same bits.

use futures_util::StreamExt;
use medley_protocol::ids::JobId;
use medley_protocol::rest::{CheckpointView, JobDetail};
use medley_protocol::store;
use medley_tests::bits::{CHECKPOINT_EVERY, Computed, KEPT, Outcome, STEPS, corpus, document};
use medley_tests::programs::{Running, S3, Scratch, program};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What becomes of an object while nobody looks.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Flip,
    Cut,
    Remove,
}

impl Harm {
    fn befall(self, file: &Path) {
        let mut bytes = fs::read(file).expect("a part lies in the store");
        match self {
            Self::Flip => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(file, bytes).expect("a test may write");
            }
            Self::Cut => {
                let file = File::options().write(true).open(file).expect("a test may write");
                file.set_len(bytes.len() as u64 - 1).expect("a file can be cut");
            }
            Self::Remove => fs::remove_file(file).expect("a test may remove"),
        }
    }

    /// How it is noticed.
    fn trace(self) -> &'static str {
        match self {
            Self::Flip => "its BLAKE3 differs",
            Self::Cut => "bytes instead of",
            Self::Remove => "is missing",
        }
    }
}

/// Waits until the store holds the objects of checkpoints that are kept, and no others of checkpoints. Writers that were killed
/// leave unfinished files, which have no name of an object and stay for an hour.
/// What was written of a step `has_gone_by` before it was a checkpoint stays as well: nothing ever named it.
async fn only_kept_objects_are_left(
    running: &mut Running,
    store: &Path,
    job: JobId,
    has_gone_by: impl Fn(u64) -> bool,
) {
    let kept = running.checkpoints(job).await;
    assert_eq!(kept.len(), KEPT);
    let parts = kept.iter().flat_map(|checkpoint| &checkpoint.parts);
    let kept: BTreeSet<PathBuf> = parts
        .flat_map(|part| [Some(&part.object), part.tensors.as_ref()])
        .map(|object| store.join(&object.expect("tensors are listed").key))
        .collect();
    let folder = kept
        .first()
        .and_then(|path| path.parent())
        .expect("objects lie in folders")
        .to_owned();
    let look = async |_: &Running| {
        let entries = fs::read_dir(&folder).ok()?;
        let there = entries.flatten().map(|entry| entry.path());
        let is_whole = |path: &PathBuf| !path.to_string_lossy().contains('#');
        let is_due = |path: &PathBuf| {
            let step: Option<u64> = path
                .file_name()
                .and_then(|name| name.to_str()?.split('-').next()?.parse().ok());
            kept.contains(path) || !step.is_some_and(&has_gone_by)
        };
        let there: BTreeSet<PathBuf> = there.filter(is_whole).filter(is_due).collect();
        (there == kept).then_some(())
    };
    running.until("objects that nothing needs are deleted", look).await;
}

/// `medley checkpoints verify`: its exit status and the damaged tensors of each damaged checkpoint that it lists.
fn verified(state_dir: &Path, job: JobId) -> (bool, Vec<usize>) {
    let said = Command::new(program("medley"))
        .args([
            "checkpoints",
            "verify",
            &job.to_string(),
            "--mark",
            "--json",
            "--state-dir",
        ])
        .arg(state_dir)
        .output()
        .expect("medley can be started");
    let listed: Vec<serde_json::Value> = serde_json::from_slice(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    let is_damaged = |one: &&serde_json::Value| one["damage"] != serde_json::json!([]);
    let tensors = |one: &serde_json::Value| one["tensors"].as_array().map_or(0, Vec::len);
    (
        said.status.success(),
        listed.iter().filter(is_damaged).map(tensors).collect(),
    )
}

/// Verifying finds nothing, then what is done to one object, and gives that checkpoint up.
async fn verify(running: &Running, (state_dir, store): (&Path, &Path), job: JobId) {
    assert_eq!(verified(state_dir, job), (true, vec![]));
    let harmed = running.checkpoints(job).await.swap_remove(1);
    Harm::Flip.befall(&store.join(&harmed.parts[0].object.key));
    assert_eq!(verified(state_dir, job), (false, vec![1]));
    let left = running.checkpoints(job).await;
    assert!(
        left.iter().all(|checkpoint| checkpoint.id != harmed.id),
        "it is given up"
    );
    assert_eq!(verified(state_dir, job), (true, vec![]));
}

/// Waits for a checkpoint after this step that others precede; the newest is first.
async fn checkpoints_after(running: &mut Running, job: JobId, step: u64) -> Vec<CheckpointView> {
    let look = async |running: &Running| {
        running.client()?;
        let checkpoints = running.checkpoints(job).await;
        let newest = checkpoints.first().map_or(0, |checkpoint| checkpoint.step);
        (newest > step && checkpoints.len() >= 3).then_some(checkpoints)
    };
    running.until("checkpoints are whole", look).await
}

#[tokio::test]
async fn damaged_checkpoints_are_left_aside_and_the_bits_stay_the_same() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    corpus(&data);
    let document = document(&data);
    let undisturbed = Computed::undisturbed(&scratch.path("undisturbed"), &document);

    let state_dir = scratch.path("damaged");
    let store = state_dir.join("store");
    let mut running = Running::up(&state_dir, 1, 2).await;
    let job = running.submit(&document).await;
    let mut harmed: Vec<(Harm, CheckpointView, String)> = Vec::new();
    let mut newest = 0;
    for harms in [&[Harm::Flip][..], &[Harm::Cut], &[Harm::Remove, Harm::Flip]] {
        checkpoints_after(&mut running, job, newest).await;
        running.kill();
        // There may be a newer one by now.
        let mut idle = Running::up(&state_dir, 0, 1).await;
        let checkpoints = checkpoints_after(&mut idle, job, newest).await;
        idle.kill();
        newest = checkpoints[0].step;
        assert!(newest < STEPS, "the run has to be longer to be killed in its middle");
        for (harm, (turn, checkpoint)) in harms.iter().zip(checkpoints.into_iter().enumerate()) {
            let key = checkpoint.parts[turn % 2].object.key.clone();
            harm.befall(&store.join(&key));
            harmed.push((*harm, checkpoint, key));
        }
        running = Running::up(&state_dir, 1, 2).await;
    }
    let ended = Outcome::of(&mut running, job).await;
    ended.is_that_of(&undisturbed);
    only_kept_objects_are_left(&mut running, &store, job, |_| false).await;
    verify(&running, (&state_dir, &store), job).await;
    let said = ended.story("checkpoint-damaged");
    assert_eq!(said.len(), harmed.len(), "{said:#?}");
    for ((harm, checkpoint, key), said) in harmed.iter().zip(said) {
        let step = format!("the checkpoint at step {} is damaged", checkpoint.step);
        for word in [&step, key.as_str(), harm.trace(), "node-"] {
            assert!(said.contains(word), "no {word:?} in {said}");
        }
    }
}

#[tokio::test]
async fn a_bucket_serves_as_a_directory_does_and_is_not_missed_while_it_is_away() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    corpus(&data);
    let document = document(&data);
    let undisturbed = Computed::undisturbed(&scratch.path("undisturbed"), &document);
    let mut s3 = S3::start(&scratch.path("s3"));
    let (state_dir, store) = (scratch.path("bucket"), s3.folder());
    let mut environment = s3.environment();
    environment.push(("MEDLEY_STORE".into(), s3.url()));

    let mut running = Running::up_in(&state_dir, 1, 2, &environment).await;
    let job = running.submit(&document).await;
    checkpoints_after(&mut running, job, 0).await;
    running.kill();
    let mut idle = Running::up_in(&state_dir, 0, 1, &environment).await;
    let harmed = checkpoints_after(&mut idle, job, 0).await.swap_remove(0);
    idle.kill();
    Harm::Flip.befall(&store.join(&harmed.parts[0].object.key));

    running = Running::up_in(&state_dir, 1, 2, &environment).await;
    checkpoints_after(&mut running, job, harmed.step).await;
    s3.kill();
    let refused = async |running: &Running| {
        running.client()?;
        let events = running.events(job).await;
        let said = events.iter().any(|event| event.kind == "checkpoint-not-written");
        said.then_some(())
    };
    running.until("it is made known that the bucket is away", refused).await;
    let before = done(&running, job).await.unwrap_or(0);
    let goes_on = async |running: &Running| {
        let done = done(running, job).await?;
        (done == STEPS || done >= before + CHECKPOINT_EVERY).then_some(())
    };
    running.until("the training goes on without the bucket", goes_on).await;
    s3.revive();
    let ended = Outcome::of(&mut running, job).await;
    ended.is_that_of(&undisturbed);
    let committed = ended.story("checkpoint-committed");
    let has_gone_by = |step: u64| {
        let whole = format!("checkpoint at step {step} is whole");
        !committed.iter().any(|said| said.contains(&whole))
    };
    only_kept_objects_are_left(&mut running, &store, job, has_gone_by).await;
    verify(&running, (&state_dir, &store), job).await;
    let damaged = ended.story("checkpoint-damaged");
    assert!(
        damaged.len() == 1 && damaged[0].contains(&harmed.parts[0].object.key),
        "{damaged:#?}"
    );
    assert!(!state_dir.join("store").exists(), "all is in the bucket");
}

#[tokio::test]
async fn large_objects_go_to_a_bucket_and_come_from_it_in_pieces() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch.path("s3"));
    let opened = store::open_in(&s3.url(), s3.environment()).expect("it names a store");
    let path = object_store::path::Path::from("large/object");
    let bytes: Vec<u8> = (0..store::PIECE * 2 + 777).map(|i| (i / 1000) as u8).collect();
    let bytes = bytes::Bytes::from(bytes);
    for _ in 0..2 {
        let written = store::write(opened.as_ref(), &path, &bytes).await;
        written.unwrap_or_else(|error| panic!("{}", store::explain(&error)));
    }
    assert!(fs::read(s3.folder().join("large/object")).expect("it lies in the bucket") == bytes);
    let pieces: Vec<_> = store::read(opened, path, bytes.len() as u64, store::PIECE)
        .collect()
        .await;
    let pieces: Vec<_> = pieces.into_iter().map(|piece| piece.expect("it can be read")).collect();
    assert!(pieces.len() == 3 && pieces.concat() == bytes);
    let left = fs::read_dir(scratch.path("s3")).expect("our own folder").flatten();
    let uploads = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(".upload"));
    assert_eq!(uploads.count(), 0, "no piece is left behind");
}

#[tokio::test]
async fn a_bucket_that_cannot_be_used_is_told_at_the_start() {
    let scratch = Scratch::new();
    let s3 = S3::start(&scratch.path("s3"));
    let fails = |url: &str, changed: Option<(&str, &str)>| {
        let said = Command::new(program("medley-coordinator"))
            .args(["serve", "--listen", "127.0.0.1:0", "--store", url, "--state-dir"])
            .arg(scratch.path("state"))
            .envs(s3.environment())
            .envs(changed)
            .output()
            .expect("the coordinator can be started");
        assert!(!said.status.success());
        String::from_utf8_lossy(&said.stderr).into_owned()
    };
    for (url, changed, expected) in [
        ("s3://nowhere/a", None, "no such bucket"),
        (
            "s3://bucket/a",
            Some(("AWS_SECRET_ACCESS_KEY", "wrong")),
            "check AWS_ACCESS_KEY_ID",
        ),
        (
            "s3://bucket/a",
            Some(("AWS_ENDPOINT", "http://127.0.0.1:1")),
            "check AWS_ENDPOINT",
        ),
    ] {
        let said = fails(url, changed);
        assert!(
            said.contains(&format!("--store {url}")) && said.contains(expected),
            "{said}"
        );
    }
}

/// Steps that a job's training has done.
async fn done(running: &Running, job: JobId) -> Option<u64> {
    let job: JobDetail = running.client()?.get(&format!("/jobs/{job}")).await.ok()?;
    Some(job.stages[1].done)
}

/// A small file system in memory, unmounted in the end.
struct Disk(PathBuf);

impl Disk {
    /// None if this machine or user may not mount one.
    fn mount(at: &Path, mib: u32) -> Option<Self> {
        fs::create_dir_all(at).expect("a test may make folders");
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .output();
        mounted
            .is_ok_and(|said| said.status.success())
            .then(|| Self(at.to_owned()))
    }

    /// Waits until nobody writes, if it is to be read-only.
    fn set_writable(&self, writable: bool) {
        let options = if writable { "remount,rw" } else { "remount,ro" };
        let remounted = || Command::new("mount").args(["-o", options]).arg(&self.0).output();
        let done = (0..500).any(|_| remounted().is_ok_and(|said| said.status.success()));
        assert!(done, "{options} fails");
    }

    /// Takes all room that is left.
    fn fill(&self) {
        let ballast = File::options().create(true).append(true).open(self.0.join("ballast"));
        let full = std::io::copy(&mut std::io::repeat(7), &mut ballast.expect("there is room for a name"));
        assert!(full.is_err(), "it has an end");
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("ballast")).expect("the ballast can be thrown off");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_and_a_read_only_one_stop_no_training() {
    let scratch = Scratch::new();
    let state_dir = scratch.path("full");
    let Some(disk) = Disk::mount(&state_dir.join("store"), 64) else {
        eprintln!("skipped: only root can mount the small file system that this test fills");
        return;
    };
    let data = scratch.path("data");
    corpus(&data);
    let document = document(&data);
    let undisturbed = Computed::undisturbed(&scratch.path("undisturbed"), &document);
    let mut running = Running::up(&state_dir, 1, 2).await;
    let job = running.submit(&document).await;
    let refused = async |running: &Running| -> Option<usize> {
        running.client()?;
        let events = running.events(job).await;
        let said = events.iter().filter(|event| event.kind == "checkpoint-not-written");
        Some(said.count())
    };
    checkpoints_after(&mut running, job, 0).await;
    let goes_on = async |running: &Running| {
        // Objects of checkpoints that are not kept make room.
        disk.fill();
        refused(running).await.filter(|said| *said >= 2)
    };
    running.until("the training goes on on a full disk", goes_on).await;
    disk.make_room();
    let newest = running.checkpoints(job).await[0].step;
    checkpoints_after(&mut running, job, newest).await;
    disk.set_writable(false);
    let before = refused(&running).await;
    let said = async |running: &Running| refused(running).await.filter(|said| Some(*said) > before);
    running.until("a read-only disk is made known", said).await;
    // The last checkpoint is waited for.
    let all_steps = async |running: &Running| (done(running, job).await? == STEPS).then_some(());
    running.until("all steps are done", all_steps).await;
    disk.set_writable(true);
    let ended = Outcome::of(&mut running, job).await;
    ended.is_that_of(&undisturbed);
    assert!(ended.story("generation-over").is_empty(), "{:#?}", ended.events);
    let said = ended.story("checkpoint-not-written");
    assert!(said.iter().any(|said| said.contains("No space left")), "{said:#?}");
    assert!(said.iter().any(|said| said.contains("Read-only")), "{said:#?}");
    drop(running);
}
