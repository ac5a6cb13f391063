//! Ranks that leave by plan, between two steps.
//!
//! A generation follows another one in which it has no place for all ranks. Both are listed until all of the new one train and
//! the others have left, with all that they wrote handed in. If the old one breaks before that it is the present one again,
//! and ends as any other.
//!
//! The generation that follows may have no ranks at all. Then the stage waits, from the moment that the checkpoint is whole
//! which its ranks have left.

use super::decide::Pass;
use super::evidence::Verdict;
use crate::domain::stage::{Generation, Seat};
use crate::domain::{Event, InvalidTransition, Job, Stage};
use medley_protocol::agent::RankState;

impl Pass<'_> {
    /// A generation follows `former`, of which ranks leave.
    pub(super) fn change_over(
        &mut self,
        job: &Job,
        stage: &Stage,
        generation: &Generation,
        former: &Generation,
    ) -> Result<Option<Stage>, InvalidTransition> {
        let is_over = if generation.seats.is_empty() {
            self.left_at(stage, former)
                .is_some_and(|step| stage.checkpoint_step() >= step)
        } else {
            let leaving = former.beyond(generation);
            self.have_begun(stage, generation) && leaving.iter().all(|seat| self.is_gone(stage, former, seat))
        };
        if is_over {
            let why = self.leaving([former].into_iter());
            let why = why.map_or("its nodes were drained".into(), |leaving| leaving.reason);
            return self.let_go(job, stage, &why).map(Some);
        }
        if self.have_begun(stage, generation) && !generation.seats.is_empty() {
            return Ok(None);
        }
        match self.evidence.judge(stage, former) {
            Verdict::Sound | Verdict::Unexplained => Ok(None),
            Verdict::Hopeless { reason } => self.fail(job, stage.clone(), reason).map(Some),
            Verdict::Over(end) => {
                self.doubted.extend(&end.silent);
                let back = stage.clone().take_back()?;
                let ended = self.end(job, &back, former, end)?;
                Ok(Some(ended.unwrap_or(back)))
            }
        }
    }

    /// The ranks that leave are not waited for any more. A stage of which nobody stays waits.
    pub(super) fn let_go(&mut self, job: &Job, stage: &Stage, why: &str) -> Result<Stage, InvalidTransition> {
        let name = &stage.name;
        let next = if stage.world == 0 {
            let reason = format!("paused at step {}: {why}", stage.checkpoint_step());
            let next = stage.clone().part(&reason)?;
            self.tell(job, &next, "stage-paused", format!("{name} is {reason}"));
            next
        } else {
            let message = format!("{name}: the ranks that had to leave have left, because {why}");
            let next = stage.clone().part(why)?;
            self.tell(job, &next, "stage-left", message);
            next
        };
        Ok(next)
    }

    /// Says what became of a stage, and that its job has changed.
    pub(super) fn tell(&mut self, job: &Job, stage: &Stage, kind: &'static str, message: String) {
        self.decision.events.push(Event::of_stage(job.id, stage, kind, message));
        self.decision.changed.insert(job.id);
    }

    /// Whether all ranks of a generation train in it, or have already finished.
    fn have_begun(&self, stage: &Stage, generation: &Generation) -> bool {
        generation.seats.iter().all(|seat| {
            let state = self.state(stage, generation, seat);
            matches!(state, Some(RankState::Running { .. } | RankState::Finished { .. }))
        })
    }

    /// Whether a rank that leaves is not waited for: it has left, or it cannot any more.
    fn is_gone(&self, stage: &Stage, former: &Generation, seat: &Seat) -> bool {
        let state = self.state(stage, former, seat);
        !matches!(
            state,
            Some(RankState::Starting | RankState::Listening { .. } | RankState::Running { .. })
        )
    }

    /// The step at which all ranks of a generation have left, or come to the end of the stage, if they have.
    fn left_at(&self, stage: &Stage, former: &Generation) -> Option<u64> {
        let left = former.seats.iter().map(|seat| match self.state(stage, former, seat) {
            Some(RankState::Left { committed } | RankState::Finished { committed }) => Some(*committed),
            _ => None,
        });
        left.collect::<Option<Vec<u64>>>()?.into_iter().max()
    }

    /// What a rank does, as its node says that is heard.
    fn state(&self, stage: &Stage, generation: &Generation, seat: &Seat) -> Option<&RankState> {
        let seen = self.evidence.sight.nodes.get(&seat.node)?;
        let is_heard = self.evidence.now.saturating_sub(seen.heard_at) <= self.evidence.settings.silence;
        let report = self.evidence.report(stage, generation, seat);
        report.filter(|_| is_heard).map(|report| &report.state)
    }
}
