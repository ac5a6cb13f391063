//! `medley checkpoints verify`: reads every object of checkpoints and compares it with what was written.
//!
//! The bytes come from the coordinator, which reads them in the object store; length and BLAKE3 are computed here. So what is
//! verified is the whole way that a checkpoint has to take when it is needed. What cannot be read just now is an error of the
//! command, and no damage. Ranks have listed the hashes of tensors too, so that the damaged ones can be named.

use super::tensors::{Passing, listed};
use crate::Ending;
use crate::connect::explain;
use crate::console::{Align, Screen, Table, bytes, print, print_json};
use crate::jobs::{JobName, find, find_only, pages};
use anyhow::{Result, bail};
use indicatif::ProgressBar;
use medley_protocol::checkpoint::CheckpointPart;
use medley_protocol::client::Client;
use medley_protocol::error::Code;
use medley_protocol::ids::{CheckpointId, StageId};
use medley_protocol::rest::{CheckpointView, DamageFound};
use serde::Serialize;

/// Damaged tensors of a checkpoint that people are shown.
const TENSORS_SHOWN: usize = 20;
/// Jobs whose checkpoints are looked through.
const SEARCHED: usize = 1000;

/// Arguments of `medley checkpoints verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A checkpoint's id; or a job: its id, the beginning or end of it, its name, or `latest`.
    #[arg(default_value = "latest", conflicts_with = "all")]
    what: String,
    /// Verify the checkpoints of all jobs.
    #[arg(long)]
    all: bool,
    /// Give up those that are damaged, so that nothing starts from them (operator).
    #[arg(long)]
    mark: bool,
}

/// What was found.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Verified {
    checkpoint: CheckpointId,
    stage: StageId,
    stage_name: String,
    step: u64,
    objects: usize,
    bytes: u64,
    damage: Vec<Damaged>,
    /// The tensors whose bytes are damaged, as far as they can be told.
    tensors: Vec<String>,
}

/// An object that is not what was written.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Damaged {
    part: u32,
    object: String,
    cause: String,
}

/// Runs the command.
///
/// # Errors
/// When something cannot be read, or the coordinator refuses.
pub(super) async fn run(client: &Client, args: &Args, json: bool) -> Result<Ending> {
    let screen = Screen::stderr();
    let checkpoints = chosen(client, args).await?;
    let verified = verify(client, &checkpoints, &screen).await?;
    let damaged: Vec<&Verified> = verified.iter().filter(|one| !one.damage.is_empty()).collect();
    if args.mark {
        for one in &damaged {
            mark(client, one).await?;
        }
    }
    if json {
        print_json(&verified)?;
    } else if verified.is_empty() {
        print("no checkpoint yet: take one with `medley checkpoints take`")?;
    } else {
        print(&table(&verified).plain())?;
    }
    if damaged.is_empty() {
        return Ok(Ending::Success);
    }
    for one in &damaged {
        for Damaged { object, cause, .. } in &one.damage {
            screen.line(&format!("object {object} {cause}"));
        }
        for tensor in one.tensors.iter().take(TENSORS_SHOWN) {
            screen.line(&format!("  tensor {tensor} is damaged"));
        }
        if let Some(more) = one.tensors.len().checked_sub(TENSORS_SHOWN).filter(|more| *more > 0) {
            screen.line(&format!("  and {more} more: --json lists them"));
        }
    }
    screen.line(&advice(damaged.len(), verified.len(), args.mark));
    Ok(Ending::NotWhole)
}

fn advice(damaged: usize, all: usize, marked: bool) -> String {
    let then = if marked {
        "nothing starts from them any more; stages that train go on from earlier ones"
    } else {
        "put the objects back from a copy, or run this again with --mark so that nothing starts from them"
    };
    format!("{damaged} of {all} checkpoints are damaged: {then}")
}

/// The checkpoints that are asked for.
async fn chosen(client: &Client, args: &Args) -> Result<Vec<CheckpointView>> {
    if args.all {
        let mut all = Vec::new();
        for job in pages(client, SEARCHED).await? {
            all.extend(super::list(client, job.id).await?);
        }
        return Ok(all);
    }
    if let Ok(id) = args.what.parse::<CheckpointId>() {
        return of_id(client, id).await;
    }
    let Ok(name) = args.what.parse::<JobName>();
    let job = if args.mark {
        find_only(client, &name).await?
    } else {
        find(client, &name).await?
    };
    super::list(client, job).await
}

/// The checkpoint of an id, or those of the job of that id.
///
/// # Errors
/// When there is neither.
pub(super) async fn of_id(client: &Client, id: CheckpointId) -> Result<Vec<CheckpointView>> {
    for job in pages(client, SEARCHED).await? {
        let checkpoints = super::list(client, job.id).await?;
        if job.id.as_uuid() == id.as_uuid() {
            return Ok(checkpoints);
        }
        if let Some(found) = checkpoints.into_iter().find(|checkpoint| checkpoint.id == id) {
            return Ok(vec![found]);
        }
    }
    bail!("no job and no checkpoint that is kept has the id {id}: see `medley checkpoints list`")
}

async fn verify(client: &Client, checkpoints: &[CheckpointView], screen: &Screen) -> Result<Vec<Verified>> {
    let parts = checkpoints.iter().flat_map(|checkpoint| &checkpoint.parts);
    let total = parts.map(|part| part.object.size_bytes).sum();
    let bar = screen.bar("verifying", Some(total));
    let mut verified = Vec::new();
    for checkpoint in checkpoints {
        bar.set_message(format!("{} at step {}", checkpoint.stage_name, checkpoint.step));
        let mut damage = Vec::new();
        let mut tensors = Passing::new(listed(client, checkpoint).await?);
        for part in &checkpoint.parts {
            let wrong = read(client, part, &mut tensors, &bar).await?;
            let CheckpointPart { part, object, .. } = part;
            damage.extend(wrong.map(|cause| Damaged {
                part: *part,
                object: object.key.clone(),
                cause,
            }));
        }
        verified.push(Verified {
            checkpoint: checkpoint.id,
            stage: checkpoint.stage,
            stage_name: checkpoint.stage_name.clone(),
            step: checkpoint.step,
            objects: checkpoint.parts.len(),
            bytes: checkpoint.state_bytes,
            damage,
            tensors: tensors.damaged(),
        });
    }
    bar.finish_and_clear();
    Ok(verified)
}

/// Reads a part; what is wrong with its object, if something is.
async fn read(
    client: &Client,
    part: &CheckpointPart,
    tensors: &mut Passing,
    bar: &ProgressBar,
) -> Result<Option<String>> {
    let object = &part.object;
    let mut download = match client.download(&format!("/objects/{}", object.key)).await {
        Ok(download) => download,
        Err(error) if error.code() == Some(Code::NotFound) => return Ok(Some("is missing".into())),
        Err(error) => return Err(explain(error)),
    };
    let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
    while let Some(chunk) = download.chunk().await.map_err(explain)? {
        let fitting = object.size_bytes.saturating_sub(size).min(chunk.len() as u64);
        tensors.pass(part.offset_bytes + size, &chunk[..fitting as usize]);
        size += chunk.len() as u64;
        hasher.update(&chunk);
        bar.inc(chunk.len() as u64);
    }
    if size != object.size_bytes {
        return Ok(Some(format!("has {size} bytes instead of {}", object.size_bytes)));
    }
    let is_sound = hasher.finalize().to_hex().as_str() == object.blake3;
    Ok((!is_sound).then(|| "has another BLAKE3 than the one recorded".into()))
}

async fn mark(client: &Client, damaged: &Verified) -> Result<()> {
    let Some(Damaged { part, object, cause }) = damaged.damage.first() else {
        return Ok(());
    };
    let found = DamageFound {
        object: object.clone(),
        cause: format!("part {part} {cause}"),
    };
    let path = format!("/checkpoints/{}/damage", damaged.checkpoint);
    client.tell(&path, &found).await.map_err(explain)
}

fn table(verified: &[Verified]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("checkpoint", Left),
        ("stage", Left),
        ("step", Right),
        ("objects", Right),
        ("size", Right),
        ("result", Left),
    ]);
    for one in verified {
        let result = match one.damage.len() {
            0 => "sound".into(),
            damaged => format!("{damaged} of {} objects damaged", one.objects),
        };
        table.row([
            one.checkpoint.to_string(),
            one.stage_name.clone(),
            one.step.to_string(),
            one.objects.to_string(),
            bytes(one.bytes),
            result,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::tensors::tests::tensor;
    use super::*;
    use crate::fake::{self, Coordinator};
    use medley_protocol::checkpoint::ObjectRef;
    use medley_protocol::stage::{StageKind, StageState};

    /// A checkpoint of three parts, which the coordinator has.
    fn checkpoint(coordinator: &Coordinator, step: u64) -> CheckpointView {
        let stage = fake::stage("pretrain-0", StageKind::Pretrain, StageState::Done);
        let put = |kind: &str, part: u32, bytes: Vec<u8>| {
            let object = ObjectRef {
                key: format!("checkpoints/{step}-{kind}-{part}"),
                blake3: blake3::hash(&bytes).to_hex().to_string(),
                size_bytes: bytes.len() as u64,
            };
            coordinator.put_object(&object.key, bytes);
            object
        };
        let parts = (0..3).map(|part| {
            let bytes = vec![part as u8; 1000];
            let begin = u64::from(part) * 1000;
            let hashes = [
                tensor("params", &format!("{part}.first"), begin, &bytes[..500]),
                tensor("params", &format!("{part}.last"), begin + 900, &bytes[900..]),
            ];
            let tensors = serde_json::to_vec(&hashes).unwrap();
            CheckpointPart {
                step,
                part,
                parts: 3,
                offset_bytes: begin,
                state_bytes: 3000,
                object: put("part", part, bytes),
                tensors: Some(put("tensors", part, tensors)),
            }
        });
        let checkpoint = CheckpointView {
            parts: parts.collect(),
            state_bytes: 3000,
            ..fake::checkpoint(&stage, step)
        };
        coordinator.put_checkpoint(&checkpoint);
        checkpoint
    }

    fn args(what: &str, mark: bool) -> Args {
        Args {
            what: what.into(),
            all: false,
            mark,
        }
    }

    #[tokio::test]
    async fn each_kind_of_damage_is_named_and_marked_if_asked_for() {
        let coordinator = Coordinator::start().await;
        let client = coordinator.client();
        coordinator.put_job(&fake::job("a"));
        let (sound, harmed) = (checkpoint(&coordinator, 5), checkpoint(&coordinator, 10));
        let all = chosen(&client, &args("a", false)).await.unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(run(&client, &args("a", false), true).await.unwrap(), Ending::Success);

        let key = |part: usize| harmed.parts[part].object.key.as_str();
        let mut flipped = vec![0; 1000];
        flipped[999] = 1;
        coordinator.put_object(key(0), flipped);
        coordinator.put_object(key(1), vec![1; 999]);
        coordinator.remove_object(key(2));
        let verified = verify(&client, &all, &Screen::captured().0).await.unwrap();
        assert_eq!((verified[0].checkpoint, verified[0].damage.len()), (sound.id, 0));
        let causes: Vec<&str> = verified[1].damage.iter().map(|one| one.cause.as_str()).collect();
        assert!(causes[0].contains("another BLAKE3"), "{causes:?}");
        assert_eq!(causes[1..], ["has 999 bytes instead of 1000", "is missing"]);
        assert_eq!(
            verified[1].tensors,
            ["params 0.last"],
            "of others bytes are missing, or sound"
        );

        let only_sound = args(&sound.id.to_string(), false);
        assert_eq!(run(&client, &only_sound, true).await.unwrap(), Ending::Success);
        assert_eq!(run(&client, &args("a", false), false).await.unwrap(), Ending::NotWhole);
        assert_eq!(coordinator.reported(), []);
        let harmed = args(&harmed.id.to_string(), true);
        assert_eq!(run(&client, &harmed, true).await.unwrap(), Ending::NotWhole);
        let reported = coordinator.reported();
        assert!(
            reported.len() == 1 && reported[0].cause.starts_with("part 0 has another"),
            "{reported:?}"
        );
    }

    #[tokio::test]
    async fn what_cannot_be_read_now_is_no_damage() {
        let coordinator = Coordinator::start().await;
        coordinator.put_job(&fake::job("a"));
        let all = [checkpoint(&coordinator, 5)];
        coordinator.set_away(true);
        let error = verify(&coordinator.client(), &all, &Screen::captured().0).await;
        assert!(error.unwrap_err().to_string().contains("away"));
    }
}
