//! What happened, for people and machines.

use super::{Job, Stage};
use medley_protocol::ids::{JobId, NodeId, StageId};

/// One line of what happened and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The job.
    pub job: Option<JobId>,
    /// The stage.
    pub stage: Option<StageId>,
    /// The node.
    pub node: Option<NodeId>,
    /// What happened, as machines read it: `stage-placed`.
    pub kind: &'static str,
    /// What happened and why, in words.
    pub message: String,
}

impl Event {
    /// About a job.
    pub fn of_job(job: &Job, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            job: Some(job.id),
            stage: None,
            node: None,
            kind,
            message: message.into(),
        }
    }

    /// About a stage of a job.
    pub fn of_stage(job: JobId, stage: &Stage, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            job: Some(job),
            stage: Some(stage.id),
            node: None,
            kind,
            message: message.into(),
        }
    }

    /// About a node.
    pub fn of_node(node: NodeId, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            job: None,
            stage: None,
            node: Some(node),
            kind,
            message: message.into(),
        }
    }
}
