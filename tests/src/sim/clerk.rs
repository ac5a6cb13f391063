//! A rank of a stage of tasks: asks for a task, does it, hands in the result, asks for the next.
//!
//! Results are functions of the task alone, as in truth.

use super::objects::Objects;
use super::process::{Alarm, Deed, Heard, PULSE, Tools, pulse};
use medley_protocol::agent::{FromRank, RankState, ToRank};
use medley_protocol::tasks::{Counts, Lease, ShardName, ShardObject, TaskOutput, TaskWork};

/// Pairs of each shard.
const PAIRS: u64 = 40;

pub(super) struct Clerk {
    generation: u64,
    lease: Option<Lease>,
}

impl Clerk {
    pub(super) fn start(generation: u64, tools: &mut Tools) -> (Self, Vec<Deed>) {
        let starting = FromRank::State {
            generation,
            state: RankState::Starting,
        };
        let loaded = Deed::Later {
            after: tools.dice.ms(100, 800),
            alarm: Alarm::Loaded,
        };
        let clerk = Self {
            generation,
            lease: None,
        };
        let pulse = Deed::Later {
            after: PULSE,
            alarm: Alarm::Pulse,
        };
        (clerk, vec![Deed::Say(starting), loaded, pulse])
    }

    pub(super) fn hear(&mut self, heard: Heard, tools: &mut Tools) -> Vec<Deed> {
        match heard {
            Heard::Alarm(Alarm::Loaded) => {
                let running = FromRank::State {
                    generation: self.generation,
                    state: RankState::Running { committed: 0 },
                };
                vec![Deed::Say(running), Deed::Say(FromRank::LeaseWanted)]
            }
            Heard::Alarm(Alarm::Pulse) => pulse(None, None),
            Heard::Order(ToRank::Lease { lease: Some(lease) }) => {
                self.lease = Some(lease);
                vec![work_on(false, tools)]
            }
            Heard::Alarm(Alarm::Worked { whole }) => self.worked(whole, tools),
            _ => Vec::new(),
        }
    }

    fn worked(&mut self, whole: bool, tools: &mut Tools) -> Vec<Deed> {
        if !whole {
            let lease = self.lease.clone();
            let progress = lease.map(|lease| FromRank::TaskProgress {
                lease,
                done: 1,
                total: 2,
            });
            return progress
                .map(Deed::Say)
                .into_iter()
                .chain([work_on(true, tools)])
                .collect();
        }
        let Some(lease) = self.lease.take() else {
            return Vec::new();
        };
        match perform(&lease.work, tools.objects) {
            Ok(output) => {
                let done = FromRank::TaskDone {
                    lease,
                    output,
                    peak_bytes: None,
                };
                vec![Deed::Say(done), Deed::Say(FromRank::LeaseWanted)]
            }
            Err(what) => vec![Deed::Accuse(what)],
        }
    }
}

fn work_on(whole: bool, tools: &mut Tools) -> Deed {
    Deed::Later {
        after: tools.dice.ms(200, 1500),
        alarm: Alarm::Worked { whole },
    }
}

fn perform(work: &TaskWork, objects: &mut Objects) -> Result<TaskOutput, String> {
    match work {
        TaskWork::IndexShard { shard } => Ok(shard_output("index", shard, objects)),
        TaskWork::CapfiltShard { shard } => Ok(shard_output("overlay", shard, objects)),
        TaskWork::IndexMerge { shards } | TaskWork::CapfiltMerge { overlays: shards } => merge(shards, objects),
        TaskWork::Evaluate => Err("nothing is evaluated here".into()),
    }
}

fn shard_output(folder: &str, shard: &ShardName, objects: &mut Objects) -> TaskOutput {
    let text = format!("{folder} {} {}", shard.set.name(), shard.file);
    TaskOutput::Shard {
        object: objects.put(folder, text.as_bytes()),
        counts: Counts::from([("pairs".into(), PAIRS)]),
    }
}

fn merge(shards: &[ShardObject], objects: &mut Objects) -> Result<TaskOutput, String> {
    let mut text = String::new();
    for part in shards {
        let Some(bytes) = objects.get(&part.object) else {
            return Err(format!("the object of {} is not in the store", part.shard.file));
        };
        text.push_str(&String::from_utf8_lossy(bytes));
    }
    let pairs = shards.len() as u64 * PAIRS;
    Ok(TaskOutput::Dataset {
        dataset: objects.put("dataset", text.as_bytes()),
        vocab: objects.put("vocab", b"words"),
        counts: Counts::from([("pairs".into(), pairs), ("pairs.human".into(), PAIRS)]),
    })
}
