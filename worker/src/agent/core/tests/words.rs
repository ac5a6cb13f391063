//! What ranks may say without harm.

use super::world::stage;
use super::*;
use medley_protocol::agent::Connecting;
use medley_protocol::checkpoint::Damage;
use medley_protocol::doubt::Doubt;
use medley_protocol::text::is_plain;

/// Bytes of a beat that are surely few for the coordinator, which reads 4 MiB.
const FEW: usize = 2 << 20;

fn long() -> String {
    "a\0\"b".repeat(1 << 20)
}

#[test]
fn a_beat_is_small_whatever_ranks_say() {
    let damage = Damage {
        checkpoint: id(1),
        step: 7,
        object: Some(long()),
        cause: long(),
    };
    let doubt = Doubt {
        step: 7,
        proven: 1,
        minority: vec![u32::MAX; 1 << 20],
    };
    let (reason, address) = (long(), long());
    for state in [
        RankState::Failed { reason, retry: false },
        RankState::Broken {
            committed: 1,
            reason: "木".repeat(1 << 20),
        },
        RankState::Listening {
            address,
            committed: None,
        },
        RankState::Damaged { damage },
        RankState::Doubtful { doubt },
    ] {
        let ranks: Vec<u32> = (0..200).collect();
        let mut agent = Agent::registered(200);
        agent.obey(orders(1, vec![assignment(7, 1, &ranks, StageKind::Pretrain)]));
        for process in (0..200).map(ProcessId) {
            let connecting = Connecting {
                generation: 1,
                lacks: vec![u32::MAX; 1 << 16],
                for_ms: 1,
            };
            agent.say(
                process,
                FromRank::Pulse {
                    doing: None,
                    connecting: Some(connecting),
                },
            );
            agent.say(process, reached(1, state.clone()));
        }
        let beat = agent.beat();
        assert_eq!(beat.ranks.len(), 200);
        let bytes = serde_json::to_vec(&beat).unwrap().len();
        assert!(bytes < FEW, "{bytes} bytes of {:?}", beat.ranks[0].state);
    }
}

#[test]
fn a_reason_stays_whole_where_there_is_room_and_is_plain() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let reason = "its tensors (a\0b)".to_owned();
    agent.say(ProcessId(0), reached(1, RankState::Failed { reason, retry: false }));
    let reason = r"its tensors (a\0b)".to_owned();
    assert_eq!(states(&agent), [RankState::Failed { reason, retry: false }]);
}

#[test]
fn the_failure_of_a_task_is_told_in_words_that_can_be_stored() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Index)]));
    agent.say(ProcessId(0), running(0));
    let failed = FromRank::TaskFailed {
        lease: lease(1),
        reason: long(),
        retry: false,
    };
    let (_, request) = only_request(&agent.say(ProcessId(0), failed));
    let Request::Fail { body, .. } = request else {
        panic!("{request:?}")
    };
    assert!(body.reason.len() < FEW && is_plain(&body.reason));
    let refused = FromRank::PartRefused {
        step: 3,
        reason: long(),
    };
    let (_, request) = only_request(&agent.say(ProcessId(0), refused));
    let Request::Refused { stage: of, body } = request else {
        panic!("{request:?}")
    };
    assert!(of == stage(7) && body.reason.len() < FEW && is_plain(&body.reason));
}
