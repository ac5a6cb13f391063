//! Why a rank gives up, and whether starting again may help.

use crate::checkpoint;
use crate::collective::deal;
use crate::objects;
use crate::stage::patience;
use medley_data::loader::Fault;
use medley_model::blip::LaneError;
use medley_model::device::{DeviceError, NoDevice};
use medley_protocol::agent::RankState;
use medley_protocol::checkpoint::Damage;
use medley_protocol::doubt::Doubt;

/// A rank's last words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// Why, for people.
    pub reason: String,
    /// Whether starting again may help: false for errors of the spec or the data.
    pub retry: bool,
    /// The checkpoint that the stage cannot go on from, if that is why: an earlier one helps.
    pub damage: Option<Damage>,
    /// What is to be doubted of the stage, if that is why.
    pub doubt: Option<Box<Doubt>>,
}

impl Failure {
    /// Something that another start may not meet: a peer, a file system, a deadline.
    pub fn passing(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry: true,
            damage: None,
            doubt: None,
        }
    }

    /// Something that stays wrong until a person changes the spec or the data.
    pub fn lasting(reason: impl Into<String>) -> Self {
        Self {
            retry: false,
            ..Self::passing(reason)
        }
    }

    /// One of these, by whether another start may help.
    pub fn new(reason: impl Into<String>, retry: bool) -> Self {
        Self {
            retry,
            ..Self::passing(reason)
        }
    }

    /// The checkpoint that the stage was to go on from is damaged.
    pub fn damaged(damage: Damage) -> Self {
        Self {
            damage: Some(damage.clone()),
            ..Self::passing(damage.to_string())
        }
    }

    /// The ranks' states differ.
    pub fn doubtful(reason: String, doubt: Doubt) -> Self {
        Self {
            doubt: Some(doubt.into()),
            ..Self::passing(reason)
        }
    }

    /// The state of a rank that fails so.
    pub fn state(&self) -> RankState {
        match (self.doubt.clone(), self.damage.clone()) {
            (Some(doubt), _) => RankState::Doubtful { doubt: *doubt },
            (None, Some(damage)) => RankState::Damaged { damage },
            (None, None) => RankState::Failed {
                reason: self.reason.clone(),
                retry: self.retry,
            },
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::passing(error.to_string())
    }
}

impl From<deal::Error> for Failure {
    fn from(error: deal::Error) -> Self {
        Self::lasting(error.to_string())
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        Self::passing(error.to_string())
    }
}

impl From<NoDevice> for Failure {
    fn from(error: NoDevice) -> Self {
        Self::passing(error.to_string())
    }
}

impl From<LaneError> for Failure {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::Device(error) => error.into(),
            LaneError::WriteCount(error) => Self::lasting(format!("a fault of the model's code: {error}")),
        }
    }
}

impl From<checkpoint::Error> for Failure {
    fn from(error: checkpoint::Error) -> Self {
        Self::new(error.to_string(), error.may_pass())
    }
}

impl From<objects::Error> for Failure {
    fn from(error: objects::Error) -> Self {
        let retry = matches!(error, objects::Error::Failed { .. } | objects::Error::Missing { .. });
        Self::new(error.to_string(), retry)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let retry = patience::fault_may_pass(&fault, false);
        Self::new(fault.to_string(), retry)
    }
}
