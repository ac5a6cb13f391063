//! What may be in a beat: it goes into the leader's memory, and every decision is made of that.
//!
//! Numbers that no rank can have are refused with the field named: decisions count with them. Texts that ranks say are made
//! [`plain`], because they hold what users' files hold, and become reasons and events.

use super::agent::MAX_DEVICES;
use super::{Error, MAX_COUNT, Result};
use medley_protocol::agent::{Beat, Connecting, Doing, RankReport, RankState};
use medley_protocol::checkpoint::Damage;
use medley_protocol::doubt::Doubt;
use medley_protocol::hardware::{Gpu, Hardware};
use medley_protocol::spec::{Problem, Problems};
use medley_protocol::text::{MAX_REASON, is_plain, plain};
use std::collections::BTreeSet;
use std::fmt::Display;

/// Most ranks in a beat: present ones, and those that an agent has not been told to forget. A generation has no more, nor has a
/// cluster more nodes.
const MAX_REPORTS: usize = 4096;
/// Longest name or UUID of a GPU.
const MAX_GPU_NAME: usize = 100;
/// Longest `host:port`.
const MAX_ADDRESS: usize = 300;

type Checked = std::result::Result<(), Problem>;

/// The beat as it is taken in.
///
/// # Errors
/// The field that cannot be.
pub(super) fn admit(mut beat: Beat) -> Result<Beat> {
    check(&mut beat).map_err(|problem| Error::from(Problems(vec![problem])))?;
    Ok(beat)
}

fn check(beat: &mut Beat) -> Checked {
    few("ranks", beat.ranks.len())?;
    few("reached", beat.reached.len())?;
    count("revision", Some(beat.revision))?;
    count("leaves_in_ms", beat.leaves_in_ms)?;
    if let Some(address) = &beat.address {
        check_address("address", address)?;
    }
    for (i, rank) in beat.ranks.iter_mut().enumerate() {
        check_report(rank).map_err(within(format_args!("ranks[{i}]")))?;
    }
    check_hardware(&beat.hardware).map_err(within("hardware"))
}

fn check_report(report: &mut RankReport) -> Checked {
    count("generation", Some(report.generation))?;
    count("quiet_ms", report.quiet_ms)?;
    if let Some(doing) = &report.doing {
        check_doing(doing).map_err(within("doing"))?;
    }
    if let Some(connecting) = &report.connecting {
        check_connecting(connecting).map_err(within("connecting"))?;
    }
    check_state(&mut report.state).map_err(within("state"))
}

fn check_doing(doing: &Doing) -> Checked {
    count("step", Some(doing.step))?;
    count("collective", Some(doing.collective))?;
    count("for_ms", Some(doing.for_ms))?;
    count("usual_step_ms", doing.usual_step_ms)?;
    count("lane_us", doing.lane_us)
}

fn check_connecting(connecting: &Connecting) -> Checked {
    count("generation", Some(connecting.generation))?;
    count("for_ms", Some(connecting.for_ms))?;
    few("lacks", connecting.lacks.len())
}

fn check_state(state: &mut RankState) -> Checked {
    match state {
        RankState::Starting => Ok(()),
        RankState::Listening { address, committed } => {
            check_address("address", address)?;
            count("committed", *committed)
        }
        RankState::Running { committed } | RankState::Finished { committed } | RankState::Left { committed } => {
            count("committed", Some(*committed))
        }
        RankState::Broken { committed, reason } => {
            *reason = plain(reason, MAX_REASON);
            count("committed", Some(*committed))
        }
        RankState::Failed { reason, .. } => {
            *reason = plain(reason, MAX_REASON);
            Ok(())
        }
        RankState::Damaged { damage } => check_damage(damage).map_err(within("damage")),
        RankState::Doubtful { doubt } => check_doubt(doubt).map_err(within("doubt")),
    }
}

fn check_damage(damage: &mut Damage) -> Checked {
    damage.cause = plain(&damage.cause, MAX_REASON);
    damage.object = damage.object.as_deref().map(|key| plain(key, MAX_REASON));
    count("step", Some(damage.step))
}

fn check_doubt(doubt: &Doubt) -> Checked {
    few("minority", doubt.minority.len())?;
    count("step", Some(doubt.step))?;
    require(doubt.proven <= doubt.step, "proven", || {
        "is beyond the step at which states differ".into()
    })
}

fn check_hardware(hardware: &Hardware) -> Checked {
    count("memory_bytes", hardware.memory_bytes)?;
    let gpus = &hardware.gpus;
    let require = |ok, message: fn() -> String| require(ok, "gpus", message);
    require(gpus.len() <= MAX_DEVICES as usize, || {
        format!("at most {MAX_DEVICES} GPUs fit in a beat")
    })?;
    let is_word = |text: &str| (1..=MAX_GPU_NAME).contains(&text.len()) && is_plain(text);
    require(gpus.iter().all(|gpu| is_word(&gpu.uuid) && is_word(&gpu.name)), || {
        format!("uuid and name must have 1 to {MAX_GPU_NAME} characters in one line")
    })?;
    require(gpus.iter().all(|gpu| gpu.utilisation_percent <= Some(100)), || {
        "utilisation_percent is a share of 100".into()
    })?;
    let bytes = |gpu: &Gpu| gpu.memory_bytes.max(gpu.used_bytes.unwrap_or(0));
    require(gpus.iter().all(|gpu| bytes(gpu) <= MAX_COUNT), || {
        "a GPU has more memory than any real one".into()
    })?;
    let uuids: BTreeSet<&str> = gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
    require(uuids.len() == gpus.len(), || "two GPUs have the same uuid".into())
}

fn count(path: &str, count: Option<u64>) -> Checked {
    require(count <= Some(MAX_COUNT), path, || {
        "is larger than any real count".into()
    })
}

fn few(path: &str, len: usize) -> Checked {
    require(len <= MAX_REPORTS, path, || {
        format!("at most {MAX_REPORTS} fit in a beat")
    })
}

fn check_address(path: &str, address: &str) -> Checked {
    let is_word = is_plain(address) && !address.contains(char::is_whitespace);
    require(is_word && (1..=MAX_ADDRESS).contains(&address.len()), path, || {
        "must be host:port".into()
    })
}

fn require(ok: bool, path: &str, message: impl FnOnce() -> String) -> Checked {
    if ok {
        return Ok(());
    }
    Err(Problem {
        path: path.into(),
        message: message(),
    })
}

/// A problem of a part, as one of the whole.
fn within(part: impl Display) -> impl FnOnce(Problem) -> Problem {
    move |problem| Problem {
        path: format!("{part}.{}", problem.path),
        ..problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A beat of one rank in this state, with these fields beside.
    fn beat(state: &Value, beside: &Value) -> Beat {
        let mut beat = json!({
            "node": uuid::Uuid::nil(), "incarnation": uuid::Uuid::nil(), "revision": 1,
            "ranks": [{"stage": uuid::Uuid::nil(), "generation": 1, "rank": 0, "state": state}],
        });
        for (name, value) in beside.as_object().into_iter().flatten() {
            match beat["ranks"][0].get_mut(name) {
                Some(field) => *field = value.clone(),
                None if matches!(name.as_str(), "doing" | "quiet_ms" | "connecting") => {
                    beat["ranks"][0][name] = value.clone();
                }
                None => beat[name] = value.clone(),
            }
        }
        serde_json::from_value(beat).unwrap()
    }

    fn refused(state: &Value, beside: &Value) -> String {
        let mut beat = beat(state, beside);
        check(&mut beat).unwrap_err().path
    }

    #[test]
    fn numbers_that_no_rank_has_are_refused_with_their_field() {
        let huge = u64::MAX;
        let running = json!({"state": "running", "committed": 5});
        for (state, field) in [
            (json!({"state": "running", "committed": huge}), "committed"),
            (json!({"state": "finished", "committed": huge}), "committed"),
            (json!({"state": "left", "committed": huge}), "committed"),
            (json!({"state": "broken", "committed": huge, "reason": ""}), "committed"),
            (
                json!({"state": "listening", "committed": huge, "address": "a:1"}),
                "committed",
            ),
            (
                json!({"state": "listening", "committed": 1, "address": "a\0:1"}),
                "address",
            ),
            (
                json!({"state": "doubtful", "doubt": {"step": 5, "proven": huge, "minority": []}}),
                "doubt.proven",
            ),
            (
                json!({"state": "doubtful", "doubt": {"step": huge, "proven": huge, "minority": []}}),
                "doubt.step",
            ),
            (
                json!({"state": "doubtful", "doubt": {"step": 5, "proven": 1, "minority": vec![0; 5000]}}),
                "doubt.minority",
            ),
        ] {
            assert_eq!(refused(&state, &json!({})), format!("ranks[0].state.{field}"));
        }
        let doing = |field: &str| {
            let mut doing = json!({"step": 1, "phase": "computing", "for_ms": 1, "usual_step_ms": 1});
            doing[field] = json!(huge);
            json!({"doing": doing})
        };
        for field in ["step", "collective", "for_ms", "usual_step_ms", "lane_us"] {
            assert_eq!(refused(&running, &doing(field)), format!("ranks[0].doing.{field}"));
        }
        for (beside, path) in [
            (json!({"generation": huge}), "ranks[0].generation"),
            (json!({"quiet_ms": huge}), "ranks[0].quiet_ms"),
            (
                json!({"connecting": {"generation": 1, "lacks": [1], "for_ms": huge}}),
                "ranks[0].connecting.for_ms",
            ),
            (json!({"revision": huge}), "revision"),
            (json!({"leaves_in_ms": huge}), "leaves_in_ms"),
            (json!({"address": "two words"}), "address"),
            (json!({"hardware": {"memory_bytes": huge}}), "hardware.memory_bytes"),
        ] {
            assert_eq!(refused(&running, &beside), path);
        }
    }

    #[test]
    fn what_ranks_say_is_made_plain() {
        let mut failed = beat(
            &json!({"state": "failed", "reason": "a\0b".repeat(5000), "retry": true}),
            &json!({}),
        );
        check(&mut failed).unwrap();
        let RankState::Failed { reason, .. } = &failed.ranks[0].state else {
            panic!("{failed:?}")
        };
        assert!(
            reason.starts_with(r"a\0ba\0b") && reason.chars().count() == MAX_REASON,
            "{reason}"
        );
        let damage = json!({"checkpoint": uuid::Uuid::nil(), "step": 1, "object": "a\0", "cause": "b\0"});
        let mut damaged = beat(&json!({"state": "damaged", "damage": damage}), &json!({}));
        check(&mut damaged).unwrap();
        let RankState::Damaged { damage } = &damaged.ranks[0].state else {
            panic!("{damaged:?}")
        };
        assert!(is_plain(&damage.to_string()), "{damage}");
    }
}
