//! Requests that wait for the coordinator's answer, kept until they have it.
//!
//! Requests travel in lanes: one at a time and in order within a lane, independently between lanes. So a rank's result
//! arrives before it asks for its next task, and nothing slow holds up anything else. While the coordinator is away,
//! one request at a time tries whether it is back, another lane's each time.

use super::message::{ProcessId, Request, RequestId};
use medley_protocol::ids::{LeaseToken, StageId};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Requests under way at once.
const MAX_UNDER_WAY: usize = 8;
/// First pause after the coordinator did not answer, doubled each time.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(4);

/// Requests of one lane arrive in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Metrics(StageId),
    Parts(StageId),
    Rank(StageId, u32),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Courier {
    lanes: BTreeMap<Lane, Queue>,
    next_id: u64,
    /// The lane served last: the next one is looked at first.
    last: Option<Lane>,
    not_before: Duration,
    /// Requests in a row that found the coordinator away.
    failures: u32,
}

#[derive(Debug, Clone, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    under_way: Option<(RequestId, Request)>,
}

#[derive(Debug, Clone)]
struct Waiting {
    not_before: Duration,
    request: Request,
}

impl Courier {
    /// Adds a request at the end of its lane.
    pub(super) fn push(&mut self, lane: Lane, request: Request) {
        self.push_later(lane, request, Duration::ZERO);
    }

    /// Adds a request at the end of its lane that is not sent before a certain time; others may pass it.
    pub(super) fn push_later(&mut self, lane: Lane, request: Request, not_before: Duration) {
        let queue = self.lanes.entry(lane).or_default();
        queue.waiting.push_back(Waiting { not_before, request });
    }

    /// Whether a lane has nothing waiting or under way.
    pub(super) fn is_clear(&self, lane: Lane) -> bool {
        !self.lanes.contains_key(&lane)
    }

    /// Whether nothing that must arrive is left.
    pub(super) fn has_delivered_facts(&self) -> bool {
        let is_fact = |request: &Request| {
            matches!(
                request,
                Request::Part { .. } | Request::Finish { .. } | Request::Fail { .. }
            )
        };
        self.requests().all(|request| !is_fact(request))
    }

    fn requests(&self) -> impl Iterator<Item = &Request> {
        self.lanes.values().flat_map(|queue| {
            let waiting = queue.waiting.iter().map(|waiting| &waiting.request);
            waiting.chain(queue.under_way.iter().map(|(_, request)| request))
        })
    }

    /// Requests to be sent now; `held` ones stay.
    pub(super) fn dispatch(&mut self, now: Duration, held: impl Fn(&Request) -> bool) -> Vec<(RequestId, Request)> {
        if now < self.not_before {
            return Vec::new();
        }
        let most = if self.failures > 0 { 1 } else { MAX_UNDER_WAY };
        let mut under_way = self.lanes.values().filter(|queue| queue.under_way.is_some()).count();
        let mut sent = Vec::new();
        for lane in self.lanes_in_turn() {
            if under_way >= most {
                break;
            }
            let Some(queue) = self.lanes.get_mut(&lane) else {
                continue;
            };
            let id = RequestId(self.next_id);
            if let Some(request) = queue.take_ready(now, &held, id) {
                self.next_id += 1;
                self.last = Some(lane);
                under_way += 1;
                sent.push((id, request));
            }
        }
        sent
    }

    /// All lanes, beginning after the one that was served last.
    fn lanes_in_turn(&self) -> Vec<Lane> {
        let (mut first, then): (Vec<Lane>, Vec<Lane>) = self.lanes.keys().partition(|lane| Some(**lane) > self.last);
        first.extend(then);
        first
    }

    /// A request was answered, well or not: it is handed back and no longer kept.
    pub(super) fn answered(&mut self, id: RequestId) -> Option<(Lane, Request)> {
        let is_it = |queue: &Queue| queue.under_way.as_ref().is_some_and(|(under_way, _)| *under_way == id);
        let lane = *self.lanes.iter().find(|(_, queue)| is_it(queue))?.0;
        let (_, request) = self.lanes.get_mut(&lane)?.under_way.take()?;
        self.sweep();
        Some((lane, request))
    }

    /// The coordinator answered something, if only to refuse it.
    pub(super) fn reached(&mut self) {
        self.failures = 0;
    }

    /// The coordinator is away: the request is kept as the next of its lane, and everything waits.
    pub(super) fn missed(&mut self, lane: Lane, request: Request, now: Duration) {
        let not_before = Duration::ZERO;
        let queue = self.lanes.entry(lane).or_default();
        queue.waiting.push_front(Waiting { not_before, request });
        self.not_before = now + PAUSE.saturating_mul(1 << self.failures.min(10)).min(MAX_PAUSE);
        self.failures = self.failures.saturating_add(1);
    }

    /// A process is gone: nobody waits for its task, and its lease need not be renewed.
    pub(super) fn forget_process(&mut self, process: ProcessId) {
        self.discard(|request| matches!(request, Request::Lease { process: of, .. } if *of == process));
    }

    /// A lease has ended: it need not be renewed.
    pub(super) fn forget_renewals(&mut self, token: LeaseToken) {
        self.discard(|request| matches!(request, Request::Renew { body, .. } if body.token == token));
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
    }

    /// Drops waiting requests; those under way are not called back.
    pub(super) fn discard(&mut self, unwanted: impl Fn(&Request) -> bool) {
        for queue in self.lanes.values_mut() {
            queue.waiting.retain(|waiting| !unwanted(&waiting.request));
        }
        self.sweep();
    }

    fn sweep(&mut self) {
        self.lanes
            .retain(|_, queue| queue.under_way.is_some() || !queue.waiting.is_empty());
    }
}

impl Queue {
    /// The first request that may be sent, if none is under way; it is under way then.
    fn take_ready(&mut self, now: Duration, held: &impl Fn(&Request) -> bool, id: RequestId) -> Option<Request> {
        if self.under_way.is_some() {
            return None;
        }
        let ready = |waiting: &Waiting| waiting.not_before <= now && !held(&waiting.request);
        let index = self.waiting.iter().position(ready)?;
        let request = self.waiting.remove(index)?.request;
        self.under_way = Some((id, request.clone()));
        Some(request)
    }
}
