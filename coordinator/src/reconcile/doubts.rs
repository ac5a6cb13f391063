//! Generations whose ranks have found that their states differ.
//!
//! Such a generation ends as any other, but nobody's memory goes on from it, and the stage goes back to what is proven. What that
//! is only the job table knows, once it has given up what is not; so it is asked for that first. From then on it knows that all
//! generations up to the last one made are doubtful, and each of them ends, whoever has heard why.

use super::decide::Pass;
use super::evidence::Evidence;
use super::findings::End;
use crate::domain::decision::Effect;
use crate::domain::{Event, Job, Stage};
use medley_protocol::agent::RankState;
use medley_protocol::doubt::{COMPARED_WITHIN, Doubt};
use std::cmp::Reverse;

impl Evidence<'_> {
    /// How the generation of this number ends whose states are doubtful: its ranks have found that they differ, or those of one
    /// from whose memory it has gone on.
    pub(super) fn doubt(&self, stage: &Stage, generation: u64) -> Option<End> {
        let doubted = stage.facts.doubted;
        let is_known = generation <= doubted;
        let reports = self.sight.nodes.values().flat_map(|seen| &seen.ranks);
        let said = reports.filter_map(|((of, number, _), report)| match &report.state {
            RankState::Doubtful { doubt } if *of == stage.id && *number <= generation => Some((*number, doubt)),
            _ => None,
        });
        let last = said
            .filter(|(number, _)| is_known || *number > doubted)
            .max_by_key(|(number, doubt)| (*number, Reverse(doubt.proven)));
        if last.is_none() && !is_known {
            return None;
        }
        let reason = last.map_or_else(
            || "the states of its ranks differed".to_owned(),
            |(number, doubt)| self.doubtful(stage, number, doubt),
        );
        Some(End {
            reason,
            is_doubtful: true,
            doubt: last.map(|(_, doubt)| doubt.clone()),
            ..End::default()
        })
    }

    /// Whose state differs, and what it costs, in words.
    fn doubtful(&self, stage: &Stage, number: u64, doubt: &Doubt) -> String {
        let of = |rank: u32| {
            let mut nodes = self.sight.nodes.values();
            let on = nodes.find(|seen| seen.ranks.contains_key(&(stage.id, number, rank)));
            on.map_or_else(
                || format!("rank {rank}"),
                |seen| format!("rank {rank} on {}", seen.node.name),
            )
        };
        let minority: Vec<String> = doubt.minority.iter().map(|rank| of(*rank)).collect();
        let whose = if minority.is_empty() {
            "none has a majority".to_owned()
        } else {
            format!("that of {} is not the majority's", minority.join(", "))
        };
        let (from, to) = (stage.checkpoint_step(), doubt.step);
        let again = if from < to {
            format!("steps {from} to {} are computed again", to - 1)
        } else {
            "no step is computed again".to_owned()
        };
        format!("{doubt}: {whose}; {again}")
    }
}

impl Pass<'_> {
    /// Has what is doubtful given up, if the states of a generation's ranks differ and the job table does not know. What the stage
    /// goes on from is known after that.
    pub(super) fn mark_doubtful(&mut self, job: &Job, stage: &Stage, generation: u64, end: &End) -> bool {
        let Some(doubt) = end.doubt.clone().filter(|_| stage.facts.doubted < generation) else {
            return false;
        };
        let message = format!(
            "{}: {doubt}; a bit may have flipped {} steps before, so checkpoints after step {} are not used any more",
            stage.name, COMPARED_WITHIN, doubt.proven
        );
        self.decision.effects.push(Effect::Doubt {
            stage: stage.id,
            generation: stage.generation,
            doubt,
            event: Event::of_stage(job.id, stage, "checkpoint-damaged", message),
        });
        self.unsettled.insert(stage.id);
        true
    }
}
