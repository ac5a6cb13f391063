//! What a rank is doing, told by one thread to another: the one that computes notes it, the one that pulses reads it.

use medley_protocol::agent::{Connecting, Doing, StepPhase};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Steps whose times make the usual one.
const STEPS: usize = 15;
/// Steps before there is a usual one.
const FEWEST: usize = 5;

/// What a rank is doing. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Activity(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    now: Option<(Doing, Instant)>,
    /// When the last step was committed.
    committed: Option<Instant>,
    /// Times of the last steps.
    steps: VecDeque<Duration>,
    /// Time that this step was computed for so far, without what it waited for others.
    computed: Duration,
    /// Such times of the last steps, per lane.
    lanes: VecDeque<Duration>,
    /// Own lanes of a step.
    own_lanes: u32,
    /// Usual time of a step of the generation before, and own lanes in it.
    before: Option<(Duration, u32)>,
    /// The connections that are being made: their generation, the ranks without one, and since when.
    connecting: Option<(u64, BTreeSet<u32>, Instant)>,
}

impl Activity {
    /// The rank makes the connections of a generation, and has none with these ranks yet.
    pub fn lacks(&self, generation: u64, ranks: &BTreeSet<u32>) {
        self.inner().connecting = Some((generation, ranks.clone(), Instant::now()));
    }

    /// A generation begins, in which this rank has so many lanes.
    pub fn begin(&self, lanes: u32) {
        self.inner().own_lanes = lanes;
    }

    /// A part of a step begins, in which this collective of the generation is the present one or the next.
    pub fn enter(&self, step: u64, phase: StepPhase, collective: u64) {
        let mut inner = self.inner();
        let now = Instant::now();
        let doing = Doing {
            step,
            phase,
            collective,
            for_ms: 0,
            usual_step_ms: None,
            lane_us: None,
        };
        inner.connecting = None;
        let before = inner.now.replace((doing, now));
        if let Some((_, since)) = before.filter(|(before, _)| before.phase == StepPhase::Computing) {
            inner.computed += now - since;
        }
    }

    /// The rank waits for samples that cannot be read yet, or computes on: the part of the step is the same otherwise.
    pub fn waits_for_samples(&self, waits: bool) {
        let (from, to) = if waits {
            (StepPhase::Computing, StepPhase::Reading)
        } else {
            (StepPhase::Reading, StepPhase::Computing)
        };
        let now = self.inner().now;
        if let Some((doing, _)) = now.filter(|(doing, _)| doing.phase == from) {
            self.enter(doing.step, to, doing.collective);
        }
    }

    /// A step was committed.
    pub fn committed(&self) {
        let mut inner = self.inner();
        let now = Instant::now();
        if let Some(before) = inner.committed.replace(now) {
            keep(&mut inner.steps, now - before);
        }
        let computed = std::mem::take(&mut inner.computed);
        let per_lane = computed / inner.own_lanes.max(1);
        keep(&mut inner.lanes, per_lane);
    }

    /// The rank does not train at present. Among other ranks a step will take another time; until some were made, it is
    /// expected from how long it took before, and from the lanes.
    pub fn rest(&self) {
        let mut inner = self.inner();
        // What was only expected is not measured by expecting it once more.
        let measured = median(&inner.steps).map(|usual| (usual, inner.own_lanes));
        *inner = Inner {
            before: measured.or(inner.before),
            ..Inner::default()
        };
    }

    /// What is done now; none if the rank does not train.
    pub fn look(&self) -> Option<Doing> {
        let inner = self.inner();
        let (doing, since) = inner.now?;
        Some(Doing {
            for_ms: since.elapsed().as_millis() as u64,
            usual_step_ms: inner.usual().map(|usual| usual.as_millis() as u64),
            lane_us: median(&inner.lanes).map(|usual| usual.as_micros() as u64),
            ..doing
        })
    }

    /// How far the rank is with its connections; none if it makes none.
    pub fn connecting(&self) -> Option<Connecting> {
        let inner = self.inner();
        let (generation, lacks, since) = inner.connecting.as_ref()?;
        Some(Connecting {
            generation: *generation,
            lacks: lacks.iter().copied().collect(),
            for_ms: since.elapsed().as_millis() as u64,
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change above is complete before anything that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn usual(&self) -> Option<Duration> {
        let expected = || {
            let (usual, lanes) = self.before?;
            Some(usual * self.own_lanes.max(lanes) / lanes.max(1))
        };
        median(&self.steps).or_else(expected)
    }
}

fn keep(times: &mut VecDeque<Duration>, time: Duration) {
    times.push_back(time);
    if times.len() > STEPS {
        times.pop_front();
    }
}

fn median(times: &VecDeque<Duration>) -> Option<Duration> {
    let mut times: Vec<Duration> = times.iter().copied().collect();
    times.sort_unstable();
    times.get(times.len() / 2).filter(|_| times.len() >= FEWEST).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_thread_notes_another_one_reads() {
        let activity = Activity::default();
        assert_eq!(activity.look(), None);
        let noted = activity.clone();
        std::thread::spawn(move || noted.enter(7, StepPhase::Exchanging, 3))
            .join()
            .unwrap();
        let doing = activity.look().unwrap();
        assert_eq!(
            (doing.step, doing.phase, doing.collective, doing.usual_step_ms),
            (7, StepPhase::Exchanging, 3, None)
        );
        activity.rest();
        assert_eq!(activity.look(), None);
    }

    #[test]
    fn time_that_samples_are_waited_for_is_not_computed() {
        let activity = Activity::default();
        activity.waits_for_samples(true);
        assert_eq!(activity.look(), None, "it does not train");
        activity.begin(1);
        let (begun, waited) = (Instant::now(), Duration::from_millis(20));
        activity.enter(7, StepPhase::Computing, 3);
        activity.waits_for_samples(true);
        std::thread::sleep(waited);
        let doing = activity.look().unwrap();
        assert_eq!((doing.step, doing.phase, doing.collective), (7, StepPhase::Reading, 3));
        activity.waits_for_samples(false);
        assert_eq!(activity.look().unwrap().phase, StepPhase::Computing);
        assert!(activity.inner().computed + waited <= begun.elapsed());
    }

    #[test]
    fn a_rank_makes_connections_until_it_trains_or_rests() {
        let activity = Activity::default();
        assert_eq!(activity.connecting(), None);
        activity.lacks(4, &BTreeSet::from([0, 2]));
        let connecting = activity.connecting().unwrap();
        assert_eq!((connecting.generation, connecting.lacks), (4, vec![0, 2]));
        activity.enter(7, StepPhase::Computing, 0);
        assert_eq!(activity.connecting(), None);
        activity.lacks(5, &BTreeSet::new());
        assert!(activity.connecting().is_some(), "it may be fed before it trains");
        activity.rest();
        assert_eq!(activity.connecting(), None);
    }

    #[test]
    fn after_some_steps_there_is_a_usual_time() {
        let activity = Activity::default();
        activity.begin(1);
        activity.enter(0, StepPhase::Computing, 0);
        for _ in 0..FEWEST {
            activity.committed();
        }
        assert_eq!(
            activity.look().unwrap().usual_step_ms,
            None,
            "four steps lie between five commits"
        );
        activity.committed();
        assert!(activity.look().unwrap().usual_step_ms.is_some());
    }

    #[test]
    fn until_a_generation_has_a_usual_time_it_is_expected_from_the_one_before() {
        let activity = Activity::default();
        let usual = |lanes| {
            activity.rest();
            activity.begin(lanes);
            activity.enter(0, StepPhase::Computing, 0);
            activity.look().unwrap().usual_step_ms
        };
        assert_eq!(usual(2), None);
        let long = Duration::from_millis(10);
        for _ in 0..=FEWEST {
            activity.committed();
            std::thread::sleep(long);
        }
        let first = usual(2).unwrap();
        assert!(u128::from(first) >= long.as_millis());
        let more = usual(5).unwrap();
        assert!(
            more >= first * 2,
            "five lanes take longer than two: {more} ms, {first} ms"
        );
        assert_eq!(
            usual(1),
            Some(first),
            "fewer lanes are not faster where others have more"
        );
        // Generations that make no step, some without lanes.
        activity.rest();
        activity.rest();
        assert_eq!(usual(5), Some(more), "what is expected does not grow by being expected");
        assert_eq!(activity.look().unwrap().lane_us, None, "nothing was measured here");
    }

    #[test]
    fn only_own_computing_counts_for_the_time_of_a_lane() {
        let activity = Activity::default();
        activity.begin(2);
        let long = Duration::from_millis(20);
        for step in 0..FEWEST as u64 {
            activity.enter(step, StepPhase::Computing, 0);
            std::thread::sleep(Duration::from_millis(4));
            activity.enter(step, StepPhase::Exchanging, 0);
            std::thread::sleep(long);
            activity.enter(step, StepPhase::Computing, 0);
            activity.committed();
        }
        let lane = Duration::from_micros(activity.look().unwrap().lane_us.unwrap());
        assert!(
            lane >= Duration::from_millis(2),
            "two lanes were computed in at least 4 ms: {lane:?}"
        );
        assert!(lane < long, "what the others took does not count: {lane:?}");
        activity.rest();
        activity.enter(9, StepPhase::Computing, 0);
        assert_eq!(activity.look().unwrap().lane_us, None);
    }
}
