//! Registration and beats: when to call the coordinator, and when to call it again.
//!
//! One call is under way at a time, so answers cannot overtake each other. Orders come with the answers, and where something
//! happens more follows soon: for a while after news, in either direction, beats come one upon the other. Failures slow the calls down, but never
//! beyond a fraction of the silence after which the coordinator would give the node up: when it is back, or one that
//! took over counts from the beginning, a beat is there in time.

use medley_protocol::agent::{Register, Registered};
use medley_protocol::ids::NodeId;
use std::time::Duration;

/// First pause after a registration failed, doubled each time.
const REGISTER_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between two registrations.
const MAX_REGISTER_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause between two beats while the coordinator is away.
const MAX_BEAT_PAUSE: Duration = Duration::from_secs(2);
/// Shortest pause between two beats, however much there is to tell.
const MIN_BEAT_PAUSE: Duration = Duration::from_millis(50);
/// Time after news in which beats come one upon the other.
const LIVELY: Duration = Duration::from_secs(3);
/// Shortest and longest wait for the answer to a beat.
const BEAT_PATIENCE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) register: Register,
    terms: Option<Terms>,
    /// Whether `terms` still hold: the coordinator may have forgotten the node.
    registered: bool,
    /// A call is under way.
    calling: bool,
    called_at: Duration,
    next_at: Duration,
    /// Until then beats come one upon the other.
    lively_until: Duration,
    /// Calls in a row without success.
    failures: u32,
    /// Whether people know that the coordinator is away.
    warned: bool,
}

#[derive(Debug, Clone, Copy)]
struct Terms {
    node: NodeId,
    beat: Duration,
    silence: Duration,
}

/// A call that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Register,
    Beat { node: NodeId, patience: Duration },
}

impl Link {
    pub(super) fn new(register: Register) -> Self {
        Self {
            register,
            terms: None,
            registered: false,
            calling: false,
            called_at: Duration::ZERO,
            next_at: Duration::ZERO,
            lively_until: Duration::ZERO,
            failures: 0,
            warned: false,
        }
    }

    /// Whether the coordinator did not answer of late, or never yet.
    pub(super) fn is_away(&self) -> bool {
        self.warned || !self.registered
    }

    /// The node, known since the first registration.
    pub(super) fn node(&self) -> Option<NodeId> {
        self.terms.map(|terms| terms.node)
    }

    /// The call that is due, which counts as made. With `news` a beat comes early.
    pub(super) fn call(&mut self, news: bool, now: Duration) -> Option<Call> {
        let early = news && self.registered && self.failures == 0 && now >= self.called_at + MIN_BEAT_PAUSE;
        if self.calling || (now < self.next_at && !early) {
            return None;
        }
        if news {
            self.enliven(now);
        }
        self.calling = true;
        self.called_at = now;
        let terms = self.terms.filter(|_| self.registered);
        Some(terms.map_or(Call::Register, |terms| Call::Beat {
            node: terms.node,
            patience: (terms.silence / 2).clamp(BEAT_PATIENCE.0, BEAT_PATIENCE.1),
        }))
    }

    /// The coordinator knows the node: beat at once. True if it is another node than before.
    pub(super) fn registered(&mut self, answer: &Registered, now: Duration) -> bool {
        let changed = self.node().is_some_and(|node| node != answer.node);
        self.terms = Some(Terms {
            node: answer.node,
            beat: Duration::from_millis(answer.beat_ms.max(1)),
            silence: Duration::from_millis(answer.silence_ms.max(1)),
        });
        self.registered = true;
        self.calling = false;
        self.next_at = now;
        changed
    }

    /// A beat was answered. True if people thought that the coordinator was away.
    pub(super) fn beaten(&mut self) -> bool {
        self.calling = false;
        self.failures = 0;
        let beat = self.terms.map_or(REGISTER_PAUSE, |terms| terms.beat);
        let is_lively = self.called_at < self.lively_until;
        self.next_at = self.called_at + if is_lively { MIN_BEAT_PAUSE.min(beat) } else { beat };
        std::mem::take(&mut self.warned)
    }

    /// Something has happened that more may follow.
    pub(super) fn enliven(&mut self, now: Duration) {
        self.lively_until = now + LIVELY;
    }

    /// A call failed and is made again later. True if people do not know yet.
    pub(super) fn failed(&mut self, now: Duration) -> bool {
        self.calling = false;
        self.next_at = now + self.pause();
        self.failures = self.failures.saturating_add(1);
        !std::mem::replace(&mut self.warned, true)
    }

    /// The coordinator does not know the node: register again.
    pub(super) fn forgotten(&mut self, now: Duration) {
        self.registered = false;
        self.calling = false;
        self.next_at = now + self.pause();
        self.failures = self.failures.saturating_add(1);
    }

    fn pause(&self) -> Duration {
        let doubled = |first: Duration, most: Duration| first.saturating_mul(1 << self.failures.min(10)).min(most);
        match self.terms.filter(|_| self.registered) {
            Some(terms) => doubled(terms.beat, MAX_BEAT_PAUSE.min(terms.silence / 2).max(terms.beat)),
            None => doubled(REGISTER_PAUSE, MAX_REGISTER_PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_protocol::ids::IncarnationId;

    const MS: Duration = Duration::from_millis(1);

    fn link() -> Link {
        Link::new(Register {
            name: "n1".into(),
            incarnation: IncarnationId::generate(),
            host: "127.0.0.1".into(),
            devices: 1,
            threads: 1,
            fingerprint: "f".into(),
        })
    }

    fn registered() -> Registered {
        Registered {
            node: NodeId::generate(),
            beat_ms: 500,
            silence_ms: 5000,
        }
    }

    #[test]
    fn registration_is_tried_again_with_growing_pauses() {
        let mut link = link();
        let (mut now, mut pauses) = (Duration::ZERO, Vec::new());
        while pauses.len() < 7 {
            if link.call(false, now) == Some(Call::Register) {
                let told = link.failed(now);
                assert_eq!(told, pauses.is_empty(), "people are told once");
                pauses.push(link.next_at.saturating_sub(now).as_millis());
            }
            now += 50 * MS;
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 5000, 5000]);
    }

    #[test]
    fn beats_keep_their_rhythm_and_come_early_with_news() {
        let mut link = link();
        link.call(false, Duration::ZERO);
        link.registered(&registered(), 10 * MS);
        assert!(matches!(link.call(false, 10 * MS), Some(Call::Beat { .. })));
        assert_eq!(link.call(true, 400 * MS), None, "one call at a time");
        link.beaten();
        assert_eq!(link.call(false, 509 * MS), None);
        assert!(link.call(false, 510 * MS).is_some());
        link.beaten();
        assert_eq!(link.call(true, 550 * MS), None, "not faster than the shortest pause");
        assert!(link.call(true, 560 * MS).is_some());
        link.beaten();
        assert!(link.call(false, 610 * MS).is_some(), "an answer to the news may wait");
        link.beaten();
        let mut now = 4000 * MS;
        assert!(link.call(false, now).is_some());
        link.beaten();
        now += 499 * MS;
        assert_eq!(link.call(false, now), None, "nothing has happened for long");
    }

    #[test]
    fn a_long_absence_never_slows_beats_beyond_half_the_silence() {
        let mut link = link();
        link.call(false, Duration::ZERO);
        link.registered(&registered(), Duration::ZERO);
        let mut now = Duration::ZERO;
        for _ in 0..20 {
            assert!(link.call(false, now).is_some());
            link.failed(now);
            assert!(link.next_at <= now + 2000 * MS);
            now = link.next_at;
        }
        assert!(link.beaten(), "people are told that it is back");
    }

    #[test]
    fn a_coordinator_that_forgets_again_and_again_is_not_stormed() {
        let mut link = link();
        let (mut now, mut calls) = (Duration::ZERO, 0);
        while now < Duration::from_secs(20) {
            match link.call(true, now) {
                Some(Call::Register) => drop(link.registered(&registered(), now)),
                Some(Call::Beat { .. }) => link.forgotten(now),
                None => {}
            }
            calls += u32::from(link.called_at == now);
            now += 10 * MS;
        }
        assert!(calls < 30, "{calls} calls in 20 s");
    }
}
