//! What ranks say, made fit for the coordinator.
//!
//! A reason may hold what a user's files hold: names of any length and any characters. A beat that is too large, or that the
//! coordinator cannot store, would take the whole node away, and a fact of that kind would be said again and again. So
//! texts are made [`plain`] when they are heard, and what all ranks together say in a beat is bounded.

use medley_protocol::agent::{FromRank, RankReport, RankState};
use medley_protocol::text::{MAX_REASON, plain};

/// Most characters, and numbers in lists, that the reports of a beat have in each place where they may have many: 16 full reasons,
/// and far less than the 4 MiB that the coordinator reads.
const MAX_IN_BEAT: usize = 1 << 16;

/// What a rank has said, its texts made plain.
pub(super) fn heard(message: FromRank) -> FromRank {
    match message {
        FromRank::State { generation, state } => FromRank::State {
            generation,
            state: fit(state, MAX_REASON),
        },
        FromRank::PartRefused { step, reason } => FromRank::PartRefused {
            step,
            reason: plain(&reason, MAX_REASON),
        },
        FromRank::TaskFailed { lease, reason, retry } => FromRank::TaskFailed {
            lease,
            reason: plain(&reason, MAX_REASON),
            retry,
        },
        other => other,
    }
}

/// The reports of a beat, each with its share of what a beat may say.
pub(super) fn in_beat(mut reports: Vec<RankReport>) -> Vec<RankReport> {
    let share = (MAX_IN_BEAT / reports.len().max(1)).min(MAX_REASON);
    for report in &mut reports {
        let state = std::mem::replace(&mut report.state, RankState::Starting);
        report.state = fit(state, share);
        if let Some(connecting) = &mut report.connecting {
            connecting.lacks.truncate(share);
        }
    }
    reports
}

fn fit(mut state: RankState, most: usize) -> RankState {
    match &mut state {
        RankState::Listening { address, .. } => *address = plain(address, most),
        RankState::Broken { reason, .. } | RankState::Failed { reason, .. } => *reason = plain(reason, most),
        RankState::Damaged { damage } => {
            damage.cause = plain(&damage.cause, most);
            damage.object = damage.object.as_deref().map(|object| plain(object, most));
        }
        RankState::Doubtful { doubt } => doubt.minority.truncate(most),
        RankState::Starting | RankState::Running { .. } | RankState::Finished { .. } | RankState::Left { .. } => {}
    }
    state
}
