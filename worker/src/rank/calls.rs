//! The generations that a rank is called to: what its agent has told it, without IO.
//!
//! A rank may outlive its generation. While it works in one it can be called to the next, and to a later one instead; only
//! the latest call counts.

use medley_protocol::agent::{Assignment, Member, ToRank};

/// A place in a generation.
#[derive(Debug, Clone)]
pub struct Call {
    /// The assignment.
    pub assignment: Box<Assignment>,
    /// The rank's number.
    pub rank: u32,
    /// All members in rank order; empty until everyone listens.
    pub members: Vec<Member>,
}

impl Call {
    /// Ranks of each node, in order; members of one node follow each other.
    pub fn ranks_of_nodes(&self) -> Vec<u32> {
        let nodes = self.members.chunk_by(|a, b| a.node == b.node);
        nodes.map(|ranks| ranks.len() as u32).collect()
    }
}

/// What came of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing new.
    Nothing,
    /// There is a new call: this rank should say that it listens.
    Called,
    /// The members of the latest call are known.
    Ready,
}

/// The latest call.
#[derive(Debug, Clone)]
pub struct Calls {
    latest: Call,
    /// The generation before which the rank leaves for good, and whether it leaves a checkpoint.
    leave: Option<(u64, bool)>,
    /// A checkpoint was asked for, once so many steps are committed.
    wanted: Option<u64>,
}

impl Calls {
    /// A rank's first call.
    pub fn new(assignment: Box<Assignment>, rank: u32) -> Self {
        let members = Vec::new();
        Self {
            latest: Call {
                assignment,
                rank,
                members,
            },
            leave: None,
            wanted: None,
        }
    }

    /// The number of committed steps at which a checkpoint was asked for, once.
    pub fn take_wanted(&mut self) -> Option<u64> {
        self.wanted.take()
    }

    /// The latest call's generation.
    pub fn generation(&self) -> u64 {
        self.latest.assignment.generation
    }

    /// The latest call, if it is later than `joined` and its members are known.
    pub fn ready_after(&self, joined: u64) -> Option<&Call> {
        let is_ready = self.generation() > joined && !self.latest.members.is_empty();
        is_ready.then_some(&self.latest)
    }

    /// The generation after `joined` that this rank is ready for: it knows the members, or that it has no part.
    pub fn next_after(&self, joined: u64) -> Option<u64> {
        let leave = self.leave.map(|(next, _)| next).filter(|next| *next > joined);
        let call = self.ready_after(joined).map(|call| call.assignment.generation);
        leave.max(call)
    }

    /// Whether the rank has no part in this generation, and then whether it leaves a checkpoint.
    pub fn leaves_before(&self, generation: u64) -> Option<bool> {
        self.leave
            .filter(|(next, _)| *next == generation)
            .map(|(_, saves)| saves)
    }

    /// Takes an order in.
    ///
    /// # Errors
    /// What does not fit, for people.
    pub fn hear(&mut self, order: ToRank) -> Result<Heard, String> {
        match order {
            ToRank::Regroup { assignment, rank, .. } => {
                if assignment.generation <= self.generation() {
                    return Ok(Heard::Nothing);
                }
                let (wanted, leave) = (self.wanted, self.leave);
                *self = Self {
                    leave,
                    wanted,
                    ..Self::new(assignment, rank)
                };
                Ok(Heard::Called)
            }
            ToRank::Connect { generation, members } if generation == self.generation() => {
                let world = self.latest.assignment.world;
                if !members.iter().map(|member| member.rank).eq(0..world) {
                    return Err(format!(
                        "expected the {world} members of the generation in order, not {members:?}"
                    ));
                }
                self.latest.members = members;
                Ok(Heard::Ready)
            }
            // Of a generation that another call has replaced.
            ToRank::Connect { generation, .. } if generation < self.generation() => Ok(Heard::Nothing),
            ToRank::Leave { next, saves } => {
                self.leave = Some((next, saves));
                Ok(Heard::Nothing)
            }
            ToRank::CheckpointAfter { wanted } => {
                let step = wanted.step;
                self.wanted = Some(self.wanted.map_or(step, |earlier| earlier.min(step)));
                Ok(Heard::Nothing)
            }
            other => Err(format!("a rank that trains does not expect {other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_protocol::agent::StageInputs;
    use medley_protocol::ids::{JobId, NodeId, StageId};
    use medley_protocol::spec::Spec;
    use medley_protocol::stage::StageKind;

    fn assignment(generation: u64) -> Box<Assignment> {
        let document = serde_json::json!({"name": "t", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"}});
        Box::new(Assignment {
            job: JobId::generate(),
            stage: StageId::generate(),
            stage_name: "pretrain-0".into(),
            kind: StageKind::Pretrain,
            generation,
            ranks: vec![0],
            world: 1,
            members: Vec::new(),
            secret: "s".into(),
            spec: Spec::from_document(&document).unwrap(),
            store: "file:///s".into(),
            inputs: StageInputs::default(),
            checkpoint_after: None,
            without: Vec::new(),
            distrusts: 0,
            parting: None,
        })
    }

    fn regroup(generation: u64) -> ToRank {
        ToRank::Regroup {
            assignment: assignment(generation),
            rank: 0,
            at_once: true,
        }
    }

    fn connect(generation: u64, ranks: u32) -> ToRank {
        let member = |rank| Member {
            rank,
            node: NodeId::generate(),
            address: "a:1".into(),
        };
        ToRank::Connect {
            generation,
            members: (0..ranks).map(member).collect(),
        }
    }

    #[test]
    fn only_the_latest_call_counts() {
        let mut calls = Calls::new(assignment(2), 0);
        assert!(calls.ready_after(0).is_none());
        assert_eq!(calls.hear(connect(2, 1)), Ok(Heard::Ready));
        assert_eq!(calls.ready_after(1).map(|call| call.rank), Some(0));
        assert_eq!(calls.hear(regroup(4)), Ok(Heard::Called));
        assert!(calls.ready_after(2).is_none(), "its members are not known");
        assert_eq!(calls.hear(regroup(3)), Ok(Heard::Nothing));
        assert_eq!(calls.hear(connect(2, 1)), Ok(Heard::Nothing));
        assert_eq!(calls.hear(connect(4, 1)), Ok(Heard::Ready));
        assert!(calls.ready_after(2).is_some() && calls.ready_after(4).is_none());
    }

    #[test]
    fn a_rank_is_ready_to_leave_without_members_and_a_later_call_counts_more() {
        let mut calls = Calls::new(assignment(2), 0);
        calls.hear(connect(2, 1)).unwrap();
        let leave = ToRank::Leave { next: 3, saves: true };
        assert_eq!(calls.hear(leave), Ok(Heard::Nothing));
        assert_eq!((calls.next_after(2), calls.next_after(3)), (Some(3), None));
        assert_eq!((calls.leaves_before(3), calls.leaves_before(4)), (Some(true), None));
        calls.hear(regroup(4)).unwrap();
        assert_eq!(calls.next_after(2), Some(3), "its members are not known");
        calls.hear(connect(4, 1)).unwrap();
        assert_eq!(calls.next_after(2), Some(4));
    }

    #[test]
    fn members_that_do_not_make_a_generation_are_refused() {
        let mut calls = Calls::new(assignment(2), 0);
        assert!(calls.hear(connect(2, 2)).unwrap_err().contains("the 1 members"));
        assert!(calls.hear(connect(3, 1)).is_err());
        assert!(calls.hear(ToRank::Lease { lease: None }).is_err());
    }

    #[test]
    fn members_are_counted_node_by_node() {
        let nodes: Vec<NodeId> = (0..3).map(|_| NodeId::generate()).collect();
        let members: Vec<Member> = [0, 0, 1, 2, 2, 2]
            .iter()
            .zip(0..)
            .map(|(node, rank)| Member {
                rank,
                node: nodes[*node],
                address: String::new(),
            })
            .collect();
        let call = Call {
            assignment: assignment(1),
            rank: 0,
            members,
        };
        assert_eq!(call.ranks_of_nodes(), [2, 1, 3]);
    }
}
